"""A daemon whose texts are punctuated by a model of its own: all that clients and readers see."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from streamasr import client
from streamasr.client import v1
from streamasr.core.units import SAMPLE_RATE, Float32Array
from tests.support.daemons import RunningDaemon
from tests.support.live_sessions import check_guarantees, dictate, load_clip
from tests.support.marking import unmarked
from tests.support.punctuation import write_punctuation
from tests.support.waiting import wait_until

UNREVISED = '[live]\ncommit = "endpoint"\n'
"""Settings with which the text of a session is that of a file."""

HASTY = "[live]\ncommit_lag_tokens = 1\ncommit_lag_s = 0.1\n"
"""Settings with which much of a short segment becomes stable."""


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_punctuation(tmp_path_factory.mktemp("marks") / "marks"))


@pytest.fixture(scope="module")
def speech() -> Float32Array:
    pause = np.zeros(SAMPLE_RATE, np.float32)
    names = ("espeak_1.flac", "mandarin.flac", "espeak_joined.flac")
    return np.concatenate([part for name in names for part in (load_clip(name), pause)])


class MarkingDaemon(RunningDaemon):
    """A daemon of the embedded model without punctuation."""

    def __init__(self, directory: Path, marks: str, settings: str = "") -> None:
        options = ("--no-mic", "--punctuation", marks)
        super().__init__(directory, *options, settings=settings, model="tiny-paraformer")


def texts_of(events: list[client.Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, v1.Final) and event.text]


def has_marks(texts: list[str]) -> bool:
    return any(unmarked(text) != text.lower() for text in texts)


def kill(daemon: RunningDaemon, name: str) -> None:
    os.kill(daemon.children()[name], signal.SIGKILL)


async def test_finals_are_those_of_a_session_without_marks_and_the_history_has_them(
    tmp_path: Path, marks: str, speech: Float32Array
) -> None:
    found: list[list[str]] = []
    for name, model in (("with", marks), ("without", "none")):
        directory = tmp_path / name
        directory.mkdir()
        with MarkingDaemon(directory, model, UNREVISED) as daemon:
            events = await dictate(daemon.url, speech)
            check_guarantees(events)
            assert ("punctuator" in daemon.children()) == (model == marks)
            found.append(texts_of(events))
            entries = [json.loads(line) for line in daemon.history("json").splitlines()]
            assert [entry["text"] for entry in entries] == found[-1]
            lines = daemon.history("txt").splitlines()
            assert all(line.endswith(text) for line, text in zip(lines, found[-1], strict=True))
            subtitles = daemon.history("srt", "--session", entries[0]["session"])
            shown = "".join(line for line in subtitles.splitlines() if not re.match(r"\d", line))
            assert "".join(shown.split()) == "".join("".join(found[-1]).split())
    marked, plain = found
    assert [unmarked(text) for text in marked] == [text.lower() for text in plain]
    assert has_marks(marked)
    assert not has_marks(plain)
    assert all(text.endswith(tuple(".。?？")) for text in marked)


async def test_stable_marks_stay_in_live_text(
    tmp_path: Path, marks: str, speech: Float32Array
) -> None:
    with MarkingDaemon(tmp_path, marks, HASTY) as daemon:
        events = await dictate(daemon.url, speech, speed=4)
        check_guarantees(events)
        stable = [e.text[: e.stable] for e in events if isinstance(e, v1.Partial)]
        assert has_marks(stable), "marks become stable while a segment grows"
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.all_log


async def test_no_mark_is_lost_when_the_process_is_killed(
    tmp_path: Path, marks: str, speech: Float32Array
) -> None:
    with MarkingDaemon(tmp_path, marks, UNREVISED) as daemon:
        undisturbed = texts_of(await dictate(daemon.url, speech))
        killed: list[int] = []

        def kill_it(event: client.Event) -> None:
            number = daemon.children()["punctuator"]
            if isinstance(event, v1.Speech | v1.Final) and number not in killed:
                os.kill(number, signal.SIGKILL)
                killed.append(number)

        events = await dictate(daemon.url, speech, kill_it, speed=5)
        check_guarantees(events)
        assert texts_of(events) == undisturbed
        warnings = [event for event in events if isinstance(event, v1.Warning)]
        assert "worker_died" in {warning.code for warning in warnings}
        assert len(killed) >= 2
        restarts = ("streamasr_worker_restarts_total", "punctuator")
        await asyncio.to_thread(wait_until, lambda: daemon.metrics()[restarts] == len(killed))
        assert daemon.stop() == 0


async def test_a_model_that_is_gone_costs_the_marks_only(
    tmp_path: Path, speech: Float32Array
) -> None:
    marks = write_punctuation(tmp_path / "marks")
    with MarkingDaemon(tmp_path, str(marks), UNREVISED) as daemon:
        marked = texts_of(await dictate(daemon.url, speech))
        (marks / "model.onnx").unlink()
        kill(daemon, "punctuator")
        events = await dictate(daemon.url, speech)
        check_guarantees(events)
        plain = [text.lower() for text in texts_of(events)]
        assert plain == [unmarked(text) for text in marked]
        assert "texts are written without punctuation" in daemon.all_log
        assert daemon.stop() == 0


async def test_a_session_with_marks_continues_after_the_daemon_is_killed(
    tmp_path: Path, marks: str, speech: Float32Array
) -> None:
    with MarkingDaemon(tmp_path, marks, HASTY) as daemon:
        kills: list[client.Event] = []

        def kill_it(event: client.Event) -> None:
            is_marked = isinstance(event, v1.Partial) and has_marks([event.text[: event.stable]])
            if len(kills) < 2 and (is_marked or (kills and isinstance(event, v1.Final))):
                kills.append(event)
                daemon.kill()
                daemon.start()

        events = await dictate(daemon.url, speech, kill_it, speed=4)
        assert len(kills) == 2
        check_guarantees(events)
        assert has_marks(texts_of(events))


async def test_a_model_that_punctuates_itself_needs_no_process(
    tmp_path: Path, marks: str, speech: Float32Array
) -> None:
    options = ("--no-mic", "--punctuation", marks)
    with RunningDaemon(tmp_path, *options, model="tiny") as daemon:
        texts = texts_of(await dictate(daemon.url, speech))
        assert "punctuator" not in daemon.children()
        assert "is not used: the recogniser punctuates its texts" in daemon.all_log
        assert ("streamasr_queue_length", "punctuator") not in daemon.metrics()
        assert not has_marks(texts)  # tiny was trained on text without marks
        assert daemon.stop() == 0
