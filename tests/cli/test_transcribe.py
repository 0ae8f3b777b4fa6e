"""`streamasr transcribe`, as the process that users start."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from streamasr.cli.transcribe import FORMATS
from streamasr.models import tiny
from tests.support.embedded import DEMO, EmbeddedModel
from tests.support.fakes import pcm, talk, write_wav
from tests.support.marking import unmarked
from tests.support.processes import wait_gone
from tests.support.punctuation import write_punctuation

COMMAND = [sys.executable, "-m", "streamasr"]
TRANSCRIBE = [*COMMAND, "transcribe", "--threads", "1"]
READY = re.compile(r"is ready, process (\d+)")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("clips") / "talk.wav", talk(1, 1.5))


def run(
    *arguments: str | Path, given: bytes | None = None, model: str = "tiny"
) -> subprocess.CompletedProcess[str]:
    command = [*TRANSCRIBE, "--model", model, *map(str, arguments)]
    result = subprocess.run(command, input=given, capture_output=True, check=False)
    return subprocess.CompletedProcess(
        result.args,
        result.returncode,
        result.stdout.decode(),
        result.stderr.decode(),
    )


def test_missing_hardware_is_warned_of_and_the_file_is_transcribed(clip: Path) -> None:
    result = run(clip, "--gpu", "3", "--provider", "CUDAExecutionProvider")
    assert result.returncode == 0
    assert result.stdout.strip()
    for sentence in (
        "streamasr: warning: no GPU matches 3: this build of llama.cpp finds none",
        "streamasr: warning: encoder: this build of onnxruntime has no CUDAExecutionProvider",
    ):
        assert result.stderr.count(sentence) == 1


def test_all_formats_are_written_and_nothing_else(tmp_path: Path, embedded: EmbeddedModel) -> None:
    formats = [word for name in FORMATS for word in ("--format", name)]
    result = run(DEMO, *formats, "--output-dir", tmp_path, model=embedded.name)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"demo.{name}" for name in FORMATS
    )
    document = json.loads((tmp_path / "demo.json").read_text())
    assert list(document) == ["file", "model", "language", "duration", "text", "segments"]
    assert (document["file"], document["model"]) == (str(DEMO), embedded.name)
    assert document["duration"] == pytest.approx(15.1, abs=0.1)
    texts = [final.text for final in embedded.demo]
    assert [segment["text"] for segment in document["segments"]] == texts
    for segment in document["segments"]:
        assert list(segment) == ["id", "start", "end", "language", "text", "words"]
        for word in segment["words"]:
            assert list(word) == ["text", "start", "end", "score"]
            assert segment["start"] <= word["start"] < word["end"] <= segment["end"]
            assert word["score"] is None or 0 <= word["score"] <= 1
    assert (tmp_path / "demo.txt").read_text().split() == " ".join(texts).split()
    assert (tmp_path / "demo.vtt").read_text().startswith("WEBVTT\n\n")
    for form in ("srt", "vtt"):
        subtitles = (tmp_path / f"demo.{form}").read_text()
        shown = "".join(line for line in subtitles.splitlines() if not re.match(r"[\d:.,]", line))
        assert "".join(texts[-1].split()) in "".join(shown.split())


def shown_in(subtitles: str) -> str:
    """The text of subtitles, without numbers, times and white space."""
    lines = (line for line in subtitles.splitlines() if not re.match(r"WEBVTT|\d+$|.*-->", line))
    return "".join("".join(lines).split())


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_punctuation(tmp_path_factory.mktemp("marks") / "marks")


@pytest.mark.parametrize("numbers", [[], ["--itn"]], ids=["words", "digits"])
def test_a_model_that_punctuates_is_heard_in_all_formats(
    tmp_path: Path, marks: Path, numbers: list[str]
) -> None:
    formats = [word for name in FORMATS for word in ("--format", name)]
    options = [*numbers, *formats, "--output-dir", str(tmp_path)]
    result = run(DEMO, "--punctuation", marks, *options, model="tiny-paraformer")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    plain = run(DEMO, "--punctuation", "none", model="tiny-paraformer").stdout
    document = json.loads((tmp_path / "demo.json").read_text("utf-8"))
    text = (tmp_path / "demo.txt").read_text("utf-8")
    assert document["text"].split() == text.split()
    if not numbers:
        assert unmarked(text) == plain.lower()
    assert unmarked(text) != text.lower(), "the text has marks"
    for segment in document["segments"]:
        assert segment["text"][-1] in ".。?？"
        words = [word["text"] for word in segment["words"]]
        assert "".join(words) == "".join(segment["text"].split())
    for form in ("srt", "vtt"):
        assert shown_in((tmp_path / f"demo.{form}").read_text("utf-8")) == "".join(text.split())


def test_a_model_that_punctuates_itself_gets_no_other_marks(marks: Path) -> None:
    result = run(DEMO, "--punctuation", marks)
    assert result.returncode == 0
    assert result.stdout == run(DEMO).stdout
    assert "is not used: the recogniser punctuates its texts" in result.stderr


@pytest.mark.parametrize("form", ["txt", "json"])
def test_numbers_are_written_in_digits_where_that_is_asked_for(form: str) -> None:
    result = run("--itn", "--format", form, tiny.DEMO)
    assert result.returncode == 0
    assert "please open page 123" in result.stdout
    if form == "json":
        (first, *_) = json.loads(result.stdout)["segments"]
        assert [word["text"] for word in first["words"]][-2:] == ["page", "123"]
        assert first["words"][-1]["end"] > first["words"][-1]["start"] + 1


def test_options_without_effect_on_a_model_are_warned_of(embedded: EmbeddedModel) -> None:
    result = run(DEMO, "--context", "names", "--no-words", model=embedded.name)
    assert result.returncode == 0
    expected = [] if embedded.has_decoder else [
        f"streamasr: warning: {embedded.name} takes no context; what is given has no effect."
    ]  # fmt: skip
    assert result.stderr.splitlines() == expected


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


def test_nothing_piped_holds_escape_sequences(clip: Path, embedded: EmbeddedModel) -> None:
    result = run("--watch", clip, model=embedded.name)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert ("score" in result.stdout) == bool(embedded.aligner)
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


def test_a_reader_that_closes_the_pipe_ends_the_program_quietly(clip: Path) -> None:
    with subprocess.Popen(
        [*TRANSCRIBE, "--model", "tiny", "--watch", str(clip)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (1, 141)


class Started:
    """A transcription of what the test writes into its stdin, in a process group of its own."""

    def __init__(self, output_dir: Path, model: EmbeddedModel) -> None:
        arguments = ["-v", "--output-dir", str(output_dir), "--format", "json", "-"]
        self.model = model
        self.process = subprocess.Popen(
            [*TRANSCRIBE, "--model", model.name, *arguments],
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
        """The ids of the children, once they have loaded their models."""
        pids: list[int] = []
        while len(pids) < len(self.model.children):
            line = self.stderr.readline().decode()
            assert line, self.log
            self.log += line
            pids += map(int, READY.findall(line))
        return pids

    def wait_children(self) -> list[int]:
        """The ids of the children, as soon as they exist."""
        pids: list[str] = []
        while len(pids) < len(self.model.children):
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
def started(tmp_path: Path, embedded: EmbeddedModel) -> Iterator[Started]:
    running = Started(tmp_path / "out", embedded)
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
    model = started.model.name
    undisturbed = json.loads(run("--format", "json", "-", given=pcm(samples), model=model).stdout)
    assert disturbed == undisturbed
