"""Layers of the package, read from its import statements, and what the main process never loads.

Every import counts, also those inside functions and under `TYPE_CHECKING`: an import in a function
hides a dependency from Python, not from the reader.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import streamasr
from tests.support.fakes import talk, write_wav

ROOT = Path(streamasr.__file__).parent

STAGES = ("audio", "segmentation", "features", "decoder", "session", "alignment")

ENTRY_POINTS = ("__init__.py", "__main__.py")

ALLOWED: dict[str, set[str]] = {
    "core": set(),
    **{stage: {"core"} for stage in STAGES},
    "models": {"core", "alignment", "decoder", "features"},
    "storage": {"core"},
    "service": {"core"},
    "writing": {"core"},
    "protocols": {"core"},
    "engine": {"core", "alignment", "decoder", "models"},
    "pipeline": {"core", "alignment", "audio", "engine", "segmentation", "session"},
    "host": {"core", "audio", "engine", "pipeline", "segmentation", "session", "storage"},
    "server": {"core", "audio", "host", "protocols", "service"},
    "client": {"core", "protocols"},
    "dictation": {"core", "audio", "client", "writing"},
    "importing": {"core", "decoder", "features", "models"},
    "catalogue": {"core", "importing", "models"},
    "config": {"core", "catalogue", "segmentation"},
    "daemon": {
        "core", "audio", "config", "engine", "host", "pipeline", "server", "service", "session",
        "storage",
    },
    "bench": {
        "core", "alignment", "audio", "client", "engine", "models", "pipeline", "session",
    },
    "doctor": {
        "core", "audio", "catalogue", "config", "decoder", "engine", "models", "pipeline",
    },
    "api": {"core", "audio", "catalogue", "config", "engine", "pipeline"},
}  # fmt: skip
"""Each package, and the others that it may import. `cli` is the top and may import them all."""


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if name_of(path) not in ENTRY_POINTS)


def package(path: Path) -> str:
    """Return the package that a file belongs to: `audio/file.py` -> `audio`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield all modules that a file names in import statements, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module
            # `from streamasr.models import tiny` names a module; of others the root is enough.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[str]:
    """Return the packages of ours that a file imports, its own left out."""
    names = (name.split(".") for name in imported(path))
    return {name[1] for name in names if name[0] == "streamasr"} - {package(path), "__version__"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    if package(path) == "cli":
        return
    assert own_imports(path) <= ALLOWED[package(path)]


def test_packages_import_each_other_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for path in modules():
        graph.setdefault(package(path), set()).update(own_imports(path))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"packages import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_sessions_know_an_engine_by_its_ports_only(path: Path) -> None:
    """An engine may be elsewhere: in another process, or on another machine."""
    if package(path) in {"pipeline", "host", "daemon"}:
        found = {name for name in imported(path) if name.startswith("streamasr.engine.")}
        assert all(name.startswith("streamasr.engine.ports.") for name in found), found


@pytest.mark.parametrize(
    ("target", "users"),
    [
        ("daemon", {"cli/run.py"}),
        ("protocols", {"server", "client"}),
        ("importing", {"cli", "catalogue"}),
        ("bench", {"cli"}),
        ("cli", set[str]()),
    ],
)
def test_a_package_has_no_other_users(target: str, users: set[str]) -> None:
    found = {path for path in modules() if target in own_imports(path)}
    others = {path for path in found if not users & {name_of(path), package(path)}}
    assert not {name_of(path) for path in others}


@pytest.mark.parametrize(
    ("foreign", "users"),
    [
        ("onnxruntime", {"models/onnx.py"}),  # with what keeps it quiet
        ("onnx", {"importing/graph_writer.py", "importing/onnx_file.py"}),
        (
            "gguf",
            {
                "importing/gguf_file.py",
                "importing/qwen3/gguf_writer.py",
                "importing/qwen3/tokenizer.py",
            },
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
        ("h11", {"server/http.py"}),
        (
            "websockets",
            {
                "client/address.py",
                "client/audio_session.py",
                "client/resumable.py",
                "server/websocket.py",
            },
        ),
        ("kaldi_native_fbank", {"features/fbank.py"}),
        ("llama_cpp", {"decoder/native.py"}),
        ("av", {"audio/decode.py", "audio/file.py"}),
        ("soxr", {"audio/resample.py"}),
        ("webrtcvad", {"segmentation/vad.py"}),
        (
            "rich",
            {
                "cli/bench_tables.py",
                "cli/benchmarks.py",
                "cli/console.py",
                "cli/doctor.py",
                "cli/history.py",
                "cli/models_table.py",
                "cli/verify.py",
            },
        ),
        ("sounddevice", {"audio/portaudio.py"}),
        ("text_to_num", {"writing/numbers/english.py"}),
        ("sqlite3", {"storage/database.py"}),
        ("prometheus_client", {"bench/telemetry.py", "server/metrics.py"}),
        ("matplotlib", {"bench/plot.py"}),
        ("regex", {"writing/edits.py"}),
        ("xcffib", {"dictation/x11.py"}),
    ],
)
def test_a_foreign_package_is_known_in_one_place(foreign: str, users: set[str]) -> None:
    found = {
        name_of(path)
        for path in modules()
        if foreign in {name.split(".")[0] for name in imported(path)}
    }
    assert found <= users
    assert found


SPY = """
import sys
from streamasr.cli.main import main
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


def test_only_the_command_line_writes_to_the_terminal() -> None:
    """`print` and `rich` belong to `cli`: everything else returns values or reports events."""
    found = set()
    for path in modules():
        if package(path) == "cli":
            continue
        calls = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call))
        prints = any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
        draws = any(name.split(".")[0] == "rich" for name in imported(path))
        if prints or draws:
            found.add(name_of(path))
    assert not found


NAMES_FAMILIES: dict[str, str] = {
    "models/registry.py": "the list of families",
    "models/tiny/__init__.py": "says what the embedded model is, and which one to get instead",
    "alignment/words.py": "uses the word list of a Python package that is called like a family",
}
"""Modules outside the families' folders that may name one, and the reason."""


def test_a_family_is_named_in_its_own_folder_only() -> None:
    found = {
        name_of(path)
        for path in modules()
        if re.search(r"qwen", path.read_text("utf-8"), re.IGNORECASE)
        and not name_of(path).startswith(("models/qwen3/", "importing/"))
    }
    assert found == NAMES_FAMILIES.keys()
