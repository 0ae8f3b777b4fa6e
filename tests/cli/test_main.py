"""The commands, their help and their arguments."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from streamasr import __version__
from streamasr.cli.main import COMMANDS, parse
from streamasr.core import versions

COMMAND = [sys.executable, "-m", "streamasr"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["transcribe"], "the following arguments are required: FILE"),
        (["transcribe", "a", "--format", "doc"], "invalid choice: 'doc'"),
        (["transcribe", "a", "--format", "srt", "--format", "vtt"], "stdout holds one format"),
        (["transcribe", "-", "-"], "can be read only once"),
        (["transcribe", "a", "--watch", "--format", "txt"], "--watch shows text"),
        (["transcribe", "a", "--watch", "--output-dir", "x"], "--watch shows text"),
        (["transcribe", "a", "--start", "-1"], "is not a time in seconds"),
        (["transcribe", "a", "--start", "nan"], "is not a time in seconds"),
        (["transcribe", "a", "--start", "inf"], "is not a time in seconds"),
        (["transcribe", "a", "--start", "soon"], "is not a number"),
        (["transcribe", "a", "--duration", "0"], "is not a time in seconds above 0"),
        (["transcribe", "a", "--duration", "x"], "is not a number"),
        (["transcribe", "a", "--threads", "0"], "is not a whole number from 1"),
        (["transcribe", "a", "--threads", "1.5"], "is not a whole number from 1"),
        (["transcribe", "a", "--hangover", "x"], "is not a number"),
        (["transcribe", "a", "--aggressiveness", "4"], "invalid choice: 4"),
        (["transcribe", "a", "--encoder-window", "3"], "invalid choice: 3"),
    ],
)
def test_wrong_arguments_end_with_a_sentence_and_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    if len(arguments) > 1:
        assert said.startswith(f"usage: streamasr {arguments[0]} "), "the usage of something else"


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse([*command, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def commands_in(text: str) -> list[str]:
    """The subcommands that a help text lists."""
    return re.findall(r"^ {4}([a-z]+)(?: |$)", text, re.MULTILINE)


def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    names = commands_in(help_of(capsys))
    for name in ("models", "service", "bench"):
        names += [f"{name} {part}" for part in commands_in(help_of(capsys, name))]
    assert {"history", "models path"} < set(names)
    for command in names:
        usage, description, *_ = help_of(capsys, *command.split()).split("\n\n")
        assert usage.startswith("usage: ")
        assert re.fullmatch(r"[A-Z](.|\n)+[.]", description), command


def test_every_command_is_a_module_with_arguments_and_run() -> None:
    for name in COMMANDS:
        module = import_module(
            f"streamasr.cli.{'control' if name in ('pause', 'resume') else name}"
        )
        assert callable(module.add_arguments)
        assert callable(module.run)
        assert "streamasr.cli.main" not in Path(module.__file__ or "").read_text("utf-8")


IMPORTS = """
import sys
before = set(sys.modules)
from streamasr.cli.main import main
try:
    main(sys.argv[1:])
finally:
    new = {name.partition(".")[0] for name in sys.modules.keys() - before}
    foreign = new - set(sys.stdlib_module_names)
    slow = new & {"asyncio", "multiprocessing", "sqlite3", "ssl"}
    ours = sorted(name for name in sys.modules if name.startswith("streamasr"))
    print(*sorted(foreign | slow), *ours)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["bench", "--help"]])
def test_help_loads_nothing_but_the_arguments(arguments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments], check=True, capture_output=True, text=True
    )
    assert {name for name in result.stdout.splitlines()[-1].split() if "." not in name} == {
        "streamasr"
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["models", "list", "no-such-model", "--json"], "unknown_model"),
        (["models", "verify", "no-such-model", "--json"], "unknown_model"),
        (["bench", "file", "no-such-file", "--json"], "no_such_file"),
        (["bench", "file", "--model", "no-such-model", "--json"], "unknown_model"),
    ],
)
def test_programs_that_read_json_get_the_code_of_an_error(arguments: list[str], code: str) -> None:
    result = subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True)
    error = json.loads(result.stdout)["error"]
    assert error["code"] == code
    assert result.stderr == f"streamasr: {error['message']}\n"
    assert result.returncode == (1 if code == "no_such_file" else 78)


def test_the_version_names_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--version"])
    assert caught.value.code == 0
    ours, *libraries = capsys.readouterr().out.splitlines()
    assert ours == f"streamasr {__version__}"
    assert [line.split()[0] for line in libraries] == ["onnxruntime", "llama-cpp-python"]
    assert all(re.fullmatch(r"[\w-]+ \d+\.\d+.*", line) for line in libraries)


def test_the_version_names_missing_libraries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda _package: None)
    with pytest.raises(SystemExit):
        parse(["--version"])
    assert "onnxruntime is not installed" in capsys.readouterr().out
