"""The interface for Python programs, from every kind of program."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamasr
from streamasr import (
    AudioError,
    ConfigError,
    ModelError,
    Segment,
    StreamASRError,
    Transcriber,
    transcribe,
)
from streamasr.audio.file import open_audio
from streamasr.models import tiny
from tests.support.embedded import EmbeddedModel
from tests.support.errors import raises
from tests.support.fakes import talk
from tests.support.marking import unmarked
from tests.support.processes import wait_gone
from tests.support.punctuation import write_punctuation

TEXT = tiny.DEMO.with_suffix(".txt").read_text("utf-8").splitlines()
TIMEOUT_S = 120.0


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home without settings and models."""
    directory = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(directory / name))
        patch.delenv("STREAMASR_CONFIG", raising=False)
        yield


def children() -> list[int]:
    """Child processes of this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has just ended
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = set(children())
    yield
    for pid in {*children()} - before:
        wait_gone(pid)


# What it gives


@pytest.fixture(scope="module")
def segments(embedded: EmbeddedModel) -> list[Segment]:
    return list(transcribe(tiny.DEMO, model=embedded.name, threads=1))


def test_a_file_becomes_segments_with_times_and_words(
    segments: list[Segment], embedded: EmbeddedModel
) -> None:
    assert [segment.text for segment in segments] == [final.text for final in embedded.demo]
    for before, after in pairwise(segments):
        assert before.start < before.end <= after.start
    for segment in segments:
        assert segment.language in ("English", "Chinese", None)
        assert segment.language or not embedded.has_decoder
        assert re.sub(r"\s", "", segment.text) == "".join(word.text for word in segment.words)
        for word in segment.words:
            assert segment.start <= word.start <= word.end <= segment.end
            assert word.confidence is None or 0 <= word.confidence <= 1


def test_samples_in_memory_become_the_same(
    segments: list[Segment], embedded: EmbeddedModel
) -> None:
    with open_audio(tiny.DEMO) as file:
        samples = np.concatenate(list(file.blocks()))
    assert list(transcribe(samples, model=embedded.name, threads=1)) == segments


def test_a_part_of_a_file_has_the_times_of_the_file(
    segments: list[Segment], embedded: EmbeddedModel
) -> None:
    last = segments[-1]
    begin = last.start - 0.5
    [part] = transcribe(tiny.DEMO, model=embedded.name, threads=1, start=begin, words=False)
    assert part.text == last.text
    assert part.start == pytest.approx(last.start, abs=0.3)
    assert part.words == ()


def test_options_come_to_the_model() -> None:
    with Transcriber("tiny", threads=1, languages=["zh"], words=False) as transcriber:
        assert {part.language for part in transcriber.transcribe(tiny.DEMO)} == {"Chinese"}
    forced = transcribe(tiny.DEMO, model="tiny", threads=1, language="en", words=False)
    assert {part.language for part in forced} == {"English"}


def test_a_model_may_be_named_that_punctuates(tmp_path: Path) -> None:
    marks = write_punctuation(tmp_path / "marks")
    options: dict[str, Any] = {"model": "tiny-paraformer", "threads": 1}
    plain = list(transcribe(tiny.DEMO, punctuation="none", **options))
    marked = list(transcribe(tiny.DEMO, punctuation=marks, **options))
    assert [unmarked(each.text) for each in marked] == [each.text.lower() for each in plain]
    assert any(unmarked(each.text) != each.text.lower() for each in marked)
    for segment in marked:
        assert re.sub(r"\s", "", segment.text) == "".join(word.text for word in segment.words)


def test_one_transcriber_serves_several_threads(
    segments: list[Segment], embedded: EmbeddedModel
) -> None:
    found: dict[int, list[Segment]] = {}
    with Transcriber(embedded.name, threads=1) as transcriber:

        def run(number: int) -> None:
            found[number] = list(transcriber.transcribe(tiny.DEMO))

        threads = [threading.Thread(target=run, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == dict.fromkeys(range(3), segments)


# Errors


def test_errors_are_those_of_the_package(tmp_path: Path) -> None:
    with raises(ModelError, "unknown_model"):
        next(transcribe(tiny.DEMO, model="no-such-model"))
    with raises(ConfigError, "unknown_language"):
        next(transcribe(tiny.DEMO, model="tiny", language="Klingon"))
    with Transcriber("tiny", threads=1, words=False) as transcriber:
        with raises(AudioError, "no_such_file"):
            next(transcriber.transcribe(tmp_path / "none.wav"))
        with raises(AudioError, "audio_type"):
            next(transcriber.transcribe(np.zeros(16000)))  # type: ignore[arg-type]
    with raises(StreamASRError, "closed"):
        next(transcriber.transcribe(tiny.DEMO))


def test_the_interface_is_loaded_on_first_use_only() -> None:
    program = (
        "import sys, streamasr; print(*sorted(n for n in sys.modules if n.startswith('streamasr')))"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert result.stdout.split() == [b"streamasr"]
    assert set(streamasr.__all__) <= {
        *dir(streamasr.api),
        *dir(streamasr),
        *dir(streamasr.core.errors),
    }
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = streamasr.no_such_name


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(streamasr.__file__).with_name("py.typed").exists()


# Ends


def test_leaving_the_loop_ends_the_children(embedded: EmbeddedModel) -> None:
    for segment in transcribe(tiny.DEMO, model=embedded.name, threads=1):
        running = children()
        assert segment.text == embedded.demo[0].text
        break
    assert len(running) == len(embedded.children)
    assert not set(running) & set(children())


def test_an_error_in_the_loop_ends_the_children() -> None:
    running: list[int] = []

    def fail_in_the_loop() -> None:
        for _ in transcribe(tiny.DEMO, model="tiny", threads=1):
            running.extend(children())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_loop()
    assert len(running) == 2
    assert not set(running) & set(children())


def test_closing_a_transcriber_ends_the_loops_of_other_threads() -> None:
    failures: list[StreamASRError] = []
    has_begun = threading.Event()

    def run() -> None:
        try:
            for _ in transcriber.transcribe(np.tile(talk(2, 2), 50)):
                has_begun.set()
        except StreamASRError as error:
            failures.append(error)

    with Transcriber("tiny", threads=1) as transcriber:
        thread = threading.Thread(target=run)
        thread.start()
        assert has_begun.wait(TIMEOUT_S)
    thread.join(TIMEOUT_S)
    assert [error.code for error in failures] == ["engine_stopped"]


def test_a_forgotten_generator_and_a_forgotten_transcriber_end_their_children() -> None:
    generator = transcribe(tiny.DEMO, model="tiny", threads=1)
    next(generator)
    running = children()
    del generator
    assert not set(running) & set(children())
    transcriber = Transcriber("tiny", threads=1)
    next(transcriber.transcribe(tiny.DEMO))
    running = children()
    del transcriber
    assert not set(running) & set(children())


# Programs of every kind

PROGRAM = """
print("program begins")
from streamasr import transcribe
for segment in transcribe({clip!r}, model={model!r}, threads=1):
    print(segment.start, segment.text)
print("program ends")
"""


def expected(lines: list[str], segments: list[Segment]) -> None:
    assert lines == [
        "program begins",
        *(f"{segment.start} {segment.text}" for segment in segments),
        "program ends",
    ]


@pytest.fixture
def program(embedded: EmbeddedModel) -> str:
    return PROGRAM.format(clip=str(tiny.DEMO), model=embedded.name)


def test_a_script_needs_no_guard(tmp_path: Path, program: str, segments: list[Segment]) -> None:
    script = tmp_path / "script.py"
    script.write_text(program)
    result = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    expected(result.stdout.splitlines(), segments)


def test_a_program_may_come_from_standard_input(program: str, segments: list[Segment]) -> None:
    result = subprocess.run(
        [sys.executable, "-"], input=program, check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    expected(result.stdout.splitlines(), segments)


def test_a_cell_of_a_notebook_has_no_file(program: str, segments: list[Segment]) -> None:
    notebook = f"import sys; del sys.modules['__main__'].__spec__\nexec({program!r}, {{}})"
    result = subprocess.run(
        [sys.executable, "-c", notebook], check=False, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    expected(result.stdout.splitlines(), segments)


def test_a_thread_of_a_script_may_transcribe(
    tmp_path: Path, program: str, segments: list[Segment]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import threading\n"
        f"thread = threading.Thread(target=exec, args=[{program!r}, {{}}])\n"
        "thread.start()\nthread.join()\n"
    )
    result = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    expected(result.stdout.splitlines(), segments)


def test_an_interactive_session_may_leave_the_loop_in_the_middle() -> None:
    lines = [
        "from streamasr import transcribe",
        f"for segment in transcribe({str(tiny.DEMO)!r}, model='tiny', threads=1):",
        "    print('text:', segment.text)",
        "    1 / 0",
        "",
        "import subprocess, os",
        "print('children', subprocess.run(['pgrep', '-c', '-P', str(os.getpid()), 'streamasr'],"
        " capture_output=True, text=True).stdout)",
        "exit()",
    ]
    shown = interact([sys.executable, "-i", "-q"], lines)
    assert f"text: {TEXT[0]}" in shown
    assert "ZeroDivisionError" in shown
    assert "children 0" in shown
    assert "Error" not in shown.replace("ZeroDivisionError", "")


def interact(command: list[str], lines: list[str]) -> str:
    """Run a program in a terminal and give it lines; return everything that it shows."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "PYTHON_BASIC_REPL": "1"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        for line in lines:
            os.write(ours, line.encode() + b"\n")
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the program has ended
                break
            if not piece:
                break
            shown += piece
        process.wait(TIMEOUT_S)
    os.close(ours)
    return shown.decode()
