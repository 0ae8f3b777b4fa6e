"""The command line: as functions where that is enough, else as the process that users start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import IO

import msgspec
import pytest

from streamasr import __version__
from streamasr.cli.main import COMMANDS, parse
from streamasr.cli.transcribe import (
    FORMATS,
    SEGMENTATION_HELP,
    engine_of,
    file_settings,
    formats_of,
    output_paths,
)
from streamasr.core import versions
from streamasr.core.errors import ConfigError, ModelError
from streamasr.models import tiny
from streamasr.segmentation.settings import ChunkerConfig, VadConfig
from streamasr.segmentation.vad import VoiceDetector
from tests.support.errors import raises
from tests.support.fakes import pcm, talk, write_wav
from tests.support.processes import wait_gone

COMMAND = [sys.executable, "-m", "streamasr"]
TRANSCRIBE = [*COMMAND, "transcribe", "--model", "tiny", "--threads", "1"]
READY = re.compile(r"is ready, process (\d+)")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("clips") / "talk.wav", talk(1, 1.5))


def run(*arguments: str | Path, given: bytes | None = None) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*TRANSCRIBE, *map(str, arguments)], input=given, capture_output=True, check=False
    )
    return subprocess.CompletedProcess(
        result.args,
        result.returncode,
        result.stdout.decode(),
        result.stderr.decode(),
    )


# Arguments


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


def test_formats_are_asked_for_once_each() -> None:
    options = parse(["transcribe", "a", "--output-dir", "x", *["--format", "srt"] * 2])
    assert formats_of(options) == ["srt"]
    assert formats_of(parse(["transcribe", "a"])) == ["txt"]


def test_options_become_configuration() -> None:
    arguments = "a --model tiny --language zh --context Ada --no-words --threads 3 --hangover 0.9"
    options = parse(["transcribe", *arguments.split(), "--aggressiveness", "3"])
    config = engine_of(options)
    wanted = config.options
    assert (wanted.language, wanted.context, wanted.words) == ("Chinese", "Ada", False)
    assert config.aligner is None
    assert (config.encoder_window_s, config.reuse, config.hardware.threads) == (8, True, 3)
    settings = file_settings(options, config)
    assert settings.options == wanted
    assert (settings.chunker.hangover, settings.vad.aggressiveness) == (0.9, 3)
    assert not settings.options.partials
    VoiceDetector(settings.vad)  # webrtcvad takes whole numbers alone


def test_settings_complete_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "config.toml"
    model = f'name = "{tiny.BUNDLE}"\naligner = "none"\nthreads = 5\nencoder_window_s = 4\n'
    settings.write_text(f'[model]\n{model}language = "German"\n')
    monkeypatch.setenv("STREAMASR_CONFIG", str(settings))
    config = engine_of(parse(["transcribe", "a"]))
    assert (config.model, config.aligner) == (tiny.BUNDLE, None)
    assert (config.hardware.threads, config.encoder_window_s) == (5, 4)
    assert config.options.language is None  # that of the microphone
    config = engine_of(parse(["transcribe", "a", "--threads", "1", "--model", "tiny"]))
    assert config.hardware.threads == 1


def test_the_encoder_and_its_reuse_can_be_set() -> None:
    config = engine_of(parse(["transcribe", "a", "--encoder-window", "2", "--no-reuse"]))
    assert (config.encoder_window_s, config.reuse) == (2, False)


@pytest.mark.parametrize(
    ("arguments", "layers", "gpu"),
    [
        ([], -1, None),
        (["--gpu-layers", "0"], 0, None),
        (["--gpu-layers", "-1", "--gpu", "CUDA0"], -1, "CUDA0"),
        (["--gpu-layers", "12", "--gpu", "1"], 12, 1),
        (["--gpu", "³"], -1, "³"),
    ],
)
def test_a_gpu_is_given_by_number_or_name(
    arguments: list[str], layers: int, gpu: int | str | None
) -> None:
    config = engine_of(parse(["transcribe", "a", *arguments]))
    assert (config.hardware.gpu_layers, config.hardware.gpu) == (layers, gpu)


@pytest.mark.parametrize("layers", ["-2", "1.5", "nan", "inf", "all", "100000"])
def test_other_numbers_of_layers_are_refused(
    layers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["transcribe", "a", f"--gpu-layers={layers}"])
    assert f"{layers} is not a number" in capsys.readouterr().err


def test_an_aligner_is_given_by_path_or_left_out(bundle: Path) -> None:
    def aligner(*arguments: str) -> Path | None:
        return engine_of(parse(["transcribe", "a", *arguments])).aligner

    assert aligner() == bundle / "aligner"
    assert aligner("--aligner", "none") is None
    assert aligner("--no-words") is None
    assert aligner("--aligner", str(bundle / "aligner")) == bundle / "aligner"
    with raises(ModelError, "unknown_model"):
        aligner("--aligner", "no-such-aligner")


def test_missing_hardware_is_warned_of_and_the_file_is_transcribed(clip: Path) -> None:
    result = run(clip, "--gpu", "3", "--provider", "CUDAExecutionProvider")
    assert result.returncode == 0
    assert result.stdout.strip()
    for sentence in (
        "streamasr: warning: no GPU matches 3: this build of llama.cpp finds none",
        "streamasr: warning: encoder: this build of onnxruntime has no CUDAExecutionProvider",
    ):
        assert result.stderr.count(sentence) == 1


def test_the_help_states_the_defaults_of_segmentation() -> None:
    defaults = msgspec.structs.asdict(VadConfig()) | msgspec.structs.asdict(ChunkerConfig())
    for name, text in SEGMENTATION_HELP.items():
        assert text.endswith(f"; default {defaults[name]:g}")


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


@pytest.mark.parametrize("command", ["transcribe", "run"])
def test_options_for_measurements_are_hidden(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    assert "reuse" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--language", "klingon"],
        ["--hangover", "-1"],
        ["--hangover", "nan"],
        ["--minimum-db", "9"],
        ["--max-segment", "1"],
    ],
)
def test_values_that_cannot_work_are_refused(arguments: list[str]) -> None:
    options = parse(["transcribe", "a", *arguments])
    with pytest.raises(ConfigError):
        file_settings(options, engine_of(options))


def test_one_file_per_input_and_format(tmp_path: Path) -> None:
    paths = output_paths(["d/a.wav", "-"], ["txt", "srt"], tmp_path / "new" / "directory")
    assert {name: [path.name for _, path in each] for name, each in paths.items()} == {
        "d/a.wav": ["a.txt", "a.srt"],
        "-": ["stdin.txt", "stdin.srt"],
    }
    assert (tmp_path / "new" / "directory").is_dir()


def test_inputs_of_the_same_stem_keep_their_endings(tmp_path: Path) -> None:
    paths = output_paths(["a.wav", "a.mp3", "b.wav"], ["txt"], tmp_path)
    assert [path.name for [(_, path)] in paths.values()] == ["a.wav.txt", "a.mp3.txt", "b.txt"]


@pytest.mark.parametrize("files", [["x/a.wav", "y/a.wav"], ["a.wav", "a.wav"]])
def test_inputs_of_the_same_name_are_refused(tmp_path: Path, files: list[str]) -> None:
    with raises(ConfigError, "inputs_with_one_name"):
        output_paths(files, ["txt"], tmp_path)


def test_an_output_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(ConfigError, "directory_not_made"):
        output_paths(["a"], ["txt"], tmp_path / "file")


# The process


def test_all_formats_are_written_and_nothing_else(clip: Path, tmp_path: Path) -> None:
    formats = [word for name in FORMATS for word in ("--format", name)]
    result = run(clip, *formats, "--output-dir", tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"talk.{name}" for name in FORMATS
    )
    document = json.loads((tmp_path / "talk.json").read_text())
    assert list(document) == ["file", "model", "language", "duration", "text", "segments"]
    assert (document["file"], document["model"]) == (str(clip), "tiny")
    assert document["duration"] == 5.5
    for segment in document["segments"]:
        assert list(segment) == ["id", "start", "end", "language", "text", "words"]
        for word in segment["words"]:
            assert list(word) == ["text", "start", "end", "score"]
            assert segment["start"] <= word["start"] < word["end"] <= segment["end"]
            assert 0 <= word["score"] <= 1
    assert (tmp_path / "talk.vtt").read_text().startswith("WEBVTT\n\n")


@pytest.mark.parametrize("form", ["txt", "json"])
def test_numbers_are_written_in_digits_where_that_is_asked_for(form: str) -> None:
    result = run("--itn", "--format", form, tiny.DEMO)
    assert result.returncode == 0
    assert "please open page 123" in result.stdout
    if form == "json":
        (first, *_) = json.loads(result.stdout)["segments"]
        assert [word["text"] for word in first["words"]][-2:] == ["page", "123"]
        assert first["words"][-1]["end"] > first["words"][-1]["start"] + 1


def test_bad_inputs_cost_a_sentence_each_and_the_others_are_done(
    clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("just text\n")
    (tmp_path / "empty.wav").touch()
    strange = tmp_path / "n\udcff.wav"
    shutil.copy(clip, strange)
    out = tmp_path / "out"
    files = [tmp_path / "missing.wav", tmp_path, tmp_path / "text.wav", clip]
    files += [tmp_path / "empty.wav", strange]
    result = run("--output-dir", out, "--format", "json", *files)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 4, result.stderr
    for line, name in zip(
        lines, ("missing.wav", tmp_path.name, "text.wav", "empty.wav"), strict=True
    ):
        assert line.startswith("streamasr: ")
        assert name in line
    assert len(list(out.iterdir())) == 2
    assert json.loads((out / "talk.json").read_text())["file"] == str(clip)


def test_raw_audio_comes_through_stdin_even_with_an_odd_byte() -> None:
    result = run("--format", "json", "-", given=pcm(talk(1)) + b"\x01")
    assert result.returncode == 0
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert (document["file"], document["duration"]) == ("-", 3.0)


def test_empty_stdin_is_a_bad_input() -> None:
    result = run("-", given=b"")
    assert result.returncode == 1
    assert result.stderr.startswith("streamasr: standard input contains no audio")


def test_times_stay_whole_with_a_start(clip: Path) -> None:
    result = run("--start", "2.5", "--format", "vtt", clip)
    assert result.returncode == 0
    for first, last in re.findall(r"00:00:([\d.]+) --> 00:00:([\d.]+)", result.stdout):
        assert float(first) >= 2.5
        assert float(last) - float(first) >= 0.02


def test_nothing_piped_holds_escape_sequences(clip: Path) -> None:
    result = run("--watch", clip)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert result.stderr == ""
    assert "final" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--model", "huge"], ["--language", "klingon"], ["--provider", "NoSuchProvider"]],
    ids=["model", "language", "provider"],
)
def test_a_wrong_configuration_is_one_sentence_and_code_78(
    clip: Path, arguments: list[str]
) -> None:
    result = run(*arguments, clip)
    assert result.returncode == 78, result.stderr
    assert result.stdout == ""
    [sentence] = result.stderr.splitlines()
    assert sentence.startswith("streamasr: ")
    assert "Traceback" not in sentence


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


def test_languages_are_checked_and_named_as_the_model_does() -> None:
    config = engine_of(parse(["transcribe", "a", "--languages", "en, Chinese,zh"]))
    assert config.options.languages == ("English", "Chinese")
    with raises(ConfigError, "unknown_language"):
        engine_of(parse(["transcribe", "a", "--languages", "en,klingon"]))
    with pytest.raises(SystemExit):
        parse(["transcribe", "a", "--languages", "en,"])


def test_a_reader_that_closes_the_pipe_ends_the_program_quietly(clip: Path) -> None:
    with subprocess.Popen(
        [*TRANSCRIBE, "--watch", str(clip)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (1, 141)


# Signals


class Started:
    """A transcription of what the test writes into its stdin, in a process group of its own."""

    def __init__(self, output_dir: Path) -> None:
        arguments = ["-v", "--output-dir", str(output_dir), "--format", "json", "-"]
        self.process = subprocess.Popen(
            [*TRANSCRIBE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.log = ""

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stderr(self) -> IO[bytes]:
        assert self.process.stderr is not None
        return self.process.stderr

    def wait_ready(self) -> list[int]:
        """The ids of both children, once they have loaded their models."""
        pids: list[int] = []
        while len(pids) < 2:
            line = self.stderr.readline().decode()
            assert line, self.log
            self.log += line
            pids += map(int, READY.findall(line))
        return pids

    def wait_children(self) -> list[int]:
        """The ids of both children, as soon as they exist."""
        pids: list[str] = []
        while len(pids) < 2:
            assert self.process.poll() is None
            tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
            pids = [pid for task in tasks for pid in read(task).split()]
        return [int(pid) for pid in pids]

    def end(self) -> int:
        """Wait for the end of everyone who can write to our pipes; the exit code."""
        self.log += self.stderr.read().decode()
        return self.process.wait()


def read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    running = Started(tmp_path / "out")
    with running.process:
        yield running
        running.process.kill()


@pytest.mark.parametrize(
    ("number", "code", "whole_group"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)],
    ids=["ctrl-c", "terminate"],
)
def test_a_signal_in_the_middle_leaves_nothing_behind(
    started: Started, tmp_path: Path, number: signal.Signals, code: int, whole_group: bool
) -> None:
    pids = started.wait_ready()
    started.stdin.write(pcm(talk(1, 1)))
    started.stdin.flush()
    send = os.killpg if whole_group else os.kill
    send(started.process.pid, number)
    assert started.end() == code
    for pid in pids:
        wait_gone(pid)
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" not in started.log


def test_ctrl_c_while_the_children_start_is_quiet_too(started: Started) -> None:
    pids = started.wait_children()
    os.killpg(started.process.pid, signal.SIGINT)
    assert started.end() == 130
    for pid in pids:
        wait_gone(pid)
    assert "Traceback" not in started.log


def test_children_that_are_killed_change_nothing(started: Started, tmp_path: Path) -> None:
    samples = talk(1, 1.5)
    pids = started.wait_ready()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    started.stdin.write(pcm(samples))
    started.stdin.close()
    assert started.end() == 0
    disturbed = json.loads((tmp_path / "out" / "stdin.json").read_text())
    undisturbed = json.loads(run("--format", "json", "-", given=pcm(samples)).stdout)
    assert disturbed == undisturbed
