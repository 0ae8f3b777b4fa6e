"""Who imports whom, read from the sources; and what the main process never loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamasr
from tests.support.fakes import talk, write_wav

ROOT = Path(streamasr.__file__).parent
BASE = frozenset({"units", "errors", "events"})
STAGES = ("audio", "segmentation", "features", "decoder", "session", "alignment")
CHILDREN = BASE | {"alignment", "config", "decoder", "features", "models", "transcript"}

ALLOWED = {
    "units": frozenset[str](),
    "errors": frozenset[str](),
    "events": frozenset({"transcript", "units"}),  # the words of a final, and the unit of time
    "transcript": frozenset({"alignment", "units"}),
    **dict.fromkeys(STAGES, BASE),
    "models": BASE | {"decoder", "features", "memory"},
    "formats": frozenset({"alignment", "errors", "transcript", "units"}),
    "config": frozenset({"catalogue", "errors", "segmentation"}),  # of the catalogue, its form
    "workers": CHILDREN,
    "stream": BASE | {"segmentation", "session"},
    "protocols": BASE,
    "storage": BASE | {"transcript"},
    "client": BASE | {"protocols"},
    "dictation": BASE | {"audio", "client", "protocols"},  # a program like its users' own
    "mailbox": frozenset({"protocols"}),
    "service": frozenset({"errors"}),
    "scheduling": frozenset({"events"}),
    "metrics": frozenset({"units"}),
    "memory": frozenset[str](),
    "writing": frozenset({"dictation", "errors", "transcript"}),  # of dictation, what an edit is
}
"""Each part of the package, and which others it may import; those not named here are its top."""


def modules() -> Iterator[Path]:
    return (path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem != "__init__")


def part(path: Path) -> str:
    """The part of the package that a file belongs to: `audio/file.py` -> `audio`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """All modules that a file names in import statements, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module
            # `from streamasr.models import tiny` names a module too; of others we need the root.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(path: Path) -> set[str]:
    """The parts of our package that a file imports, its own left out."""
    names = (name.split(".") for name in imported(path))
    return {name[1] for name in names if name[0] == "streamasr"} - {part(path)}


@pytest.mark.parametrize("path", sorted(modules()), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    if part(path) in ALLOWED:
        assert own_parts(path) <= ALLOWED[part(path)]


def test_importing_is_reached_by_commands_and_the_catalogue_alone() -> None:
    users = {part(path) for path in modules() if "importing" in own_parts(path)}
    assert users == {"commands", "catalogue"}


def test_nothing_but_its_command_needs_the_bench() -> None:
    users = {part(path) for path in modules() if "bench" in own_parts(path)}
    assert users == {"cli", "commands"}  # the command line knows its options


def test_only_its_command_knows_the_daemon() -> None:
    users = {path.relative_to(ROOT) for path in modules() if "daemon" in own_parts(path)}
    assert users == {Path("commands/run.py")}


@pytest.mark.parametrize(
    ("package", "users"),
    [
        ("onnxruntime", {"models/onnx.py"}),  # with what keeps it quiet
        ("onnx", {"importing/graphs.py", "importing/onnx_file.py"}),
        (
            "gguf",
            {"importing/gguf_file.py", "importing/gguf_writer.py", "importing/tokenizer.py"},
        ),
        (
            "requests",
            {
                "catalogue/connection.py",
                "catalogue/download.py",
                "catalogue/fetch.py",
                "catalogue/hub.py",
                "catalogue/remote_file.py",
            },
        ),
        ("llama_cpp", {"decoder/llama.py"}),
        ("av", {"audio/decode.py", "audio/file.py"}),
        ("soxr", {"audio/resample.py"}),
        ("webrtcvad", {"segmentation/vad.py"}),
        (
            "rich",
            {
                "bench/report.py",
                "commands/bench.py",
                "commands/doctor.py",
                "commands/history.py",
                "commands/models.py",
                "commands/verify.py",
                "console.py",
            },
        ),
        ("sounddevice", {"audio/portaudio.py"}),
        ("text_to_num", {"writing/numbers/english.py"}),
        ("sqlite3", {"storage/journal.py"}),
        ("prometheus_client", {"bench/telemetry.py", "metrics.py"}),
        ("matplotlib", {"bench/plot.py"}),
        ("regex", {"dictation/edits.py"}),
        ("xcffib", {"dictation/x11.py"}),
    ],
)
def test_a_foreign_package_is_known_in_one_place(package: str, users: set[str]) -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in modules()
        if package in {name.split(".")[0] for name in imported(path)}
    }
    assert found <= users
    assert found


SPY = """
import sys
from streamasr.cli import main
try:
    main(sys.argv[1:])
finally:
    for name in ("onnxruntime", "onnx", "gguf", "torch", "streamasr.importing.pack"):
        assert name not in sys.modules, name
    assert "llama_cpp" in sys.modules
"""


def test_the_main_process_loads_no_onnxruntime(tmp_path: Path) -> None:
    clip = write_wav(tmp_path / "talk.wav", talk(0.7))
    command = [sys.executable, "-c", SPY, "transcribe", "--model", "tiny", "--threads", "1"]
    result = subprocess.run([*command, str(clip)], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
