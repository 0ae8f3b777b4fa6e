"""A family that the package does not know, through all commands and protocols that matter."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streamasr import client
from streamasr.core.errors import ConfigError, ModelError
from streamasr.core.messages import Final, Partial, Words
from streamasr.core.options import SessionOptions
from streamasr.core.transcript import join_words
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine
from streamasr.models.bundle import open_bundle, read_bundle
from streamasr.models.family import Role
from streamasr.pipeline.transcribe import FileSettings, transcribe
from streamasr.protocols import v1
from tests.support import toy_family
from tests.support.daemons import RunningDaemon
from tests.support.errors import raises
from tests.support.fakes import FakeSource, pcm, talk, write_wav
from tests.support.marking import unmarked
from tests.support.punctuation import write_punctuation

COMMITTING = "[live]\ncommit_lag_tokens = 1\n"

BLOCK_S = 0.1
PACE = 4.0
"""Seconds of audio that are sent each second."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with toy_family.registered():
        yield toy_family.write_bundle(tmp_path_factory.mktemp("toy") / "loudness")


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[LocalEngine]:
    with LocalEngine(EngineConfig(model, hardware=Hardware(threads=1))) as engine:
        yield engine


@pytest.fixture(scope="module")
def speech() -> Float32Array:
    """Two segments that grow louder, as a 16-bit client sends them."""
    samples = talk(7.0, 4.0)
    louder = samples * np.geomspace(0.05, 4, len(samples), dtype=np.float32)
    return (np.frombuffer(pcm(louder), "<i2") / 32768).astype(np.float32)


def levels_in(samples: Float32Array, start: Samples, end: Samples) -> str:
    """The text that is right for a segment."""
    return toy_family.recognise(samples[start:end], (0.02, 0.08, 0.3), "English").text


# The engine


def test_its_role_follows_from_its_parts(model: Path) -> None:
    assert read_bundle(model, Role.RECOGNISER).family is toy_family.FAMILY
    with raises(ModelError, "wrong_model_role"):
        read_bundle(model, Role.ALIGNER)


def test_a_file_that_the_family_needs_is_missed(tmp_path: Path, model: Path) -> None:
    other = toy_family.write_bundle(tmp_path / "other")
    (other / toy_family.LEVELS_FILE).unlink()
    with raises(ModelError, "model_file_missing"):
        open_bundle(other).check_files()
    with raises(ModelError, "model_file_missing"):
        LocalEngine(EngineConfig(other))


def test_a_model_that_its_process_cannot_load_ends_the_start(tmp_path: Path, model: Path) -> None:
    other = toy_family.write_bundle(tmp_path / "other")
    (other / toy_family.LEVELS_FILE).write_text("loud")
    with raises(ModelError, "levels_unreadable"), LocalEngine(EngineConfig(other)):
        pass


def test_warnings_of_its_process_are_reported(tmp_path: Path, model: Path) -> None:
    other = toy_family.write_bundle(tmp_path / "other", (0.1, 0.2))
    troubles: list[tuple[str, str]] = []
    with LocalEngine(EngineConfig(other), on_trouble=lambda *each: troubles.append(each)):
        [(kind, sentence)] = troubles
    assert kind == "degraded"
    assert "2 levels instead of 3" in sentence


def test_it_needs_no_decoder(engine: LocalEngine) -> None:
    assert engine.is_ready
    assert engine.is_alive
    assert engine.pipeline.decoding is None
    assert engine.pulse is None
    assert engine.queue_lengths() == {"encoder": 0}
    assert list(engine.pids) == ["encoder"]
    engine.check_options(SessionOptions(context="any text " * 1000))
    assert engine.traits == toy_family.FAMILY.recognition.traits  # type: ignore[union-attr]
    assert (engine.facts.name, engine.facts.family) == ("loudness", "toy-loudness")
    assert engine.facts.languages == ("English", "Chinese")
    assert engine.languages.resolve("zh-CN") == "Chinese"
    with raises(ConfigError, "unknown_language"):
        engine.languages.resolve("German")


def test_its_process_has_a_name(engine: LocalEngine) -> None:
    title = Path(f"/proc/{engine.pids['encoder']}/cmdline").read_text().rstrip("\0 ")
    assert title == "streamasr: encoder"


# Files


def test_a_file_becomes_finals_with_its_own_words(
    engine: LocalEngine, speech: Float32Array
) -> None:
    messages = list(transcribe(engine, FakeSource(speech), FileSettings()))
    finals = [message for message in messages if isinstance(message, Final)]
    words = {message.segment: message for message in messages if isinstance(message, Words)}
    assert [final.text for final in finals] == [
        levels_in(speech, final.start, final.end) for final in finals
    ]
    assert len(finals) == len(words) == 2
    assert len({word for final in finals for word in final.text.split()}) >= 3
    for final in finals:
        timed = words[final.segment]
        assert timed.method == "cif"
        assert join_words(timed.words) == final.text
        seconds = range(final.start, final.end, SAMPLE_RATE)
        for word, second in zip(timed.words, seconds, strict=True):
            assert abs(word.start - second) <= SAMPLE_RATE // 2  # moved to a pause, perhaps
        assert final.end - SAMPLE_RATE <= timed.words[-1].end <= final.end


def test_options_reach_the_family(engine: LocalEngine, speech: Float32Array) -> None:
    options = SessionOptions(language="Chinese", partials=True)
    settings = FileSettings(options, partial_interval_s=0.5)
    messages = list(transcribe(engine, FakeSource(speech), settings))
    texts = [message.text for message in messages if isinstance(message, Final)]
    assert all(set(text) <= set(toy_family.WORDS["Chinese"]) for text in texts)
    partials = [message for message in messages if isinstance(message, Partial)]
    assert len(partials) > 10
    assert {partial.language for partial in partials} == {"Chinese"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", toy_family.PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_transcribes_with_it(
    model: Path, tmp_path: Path, speech: Float32Array
) -> None:
    clip = write_wav(tmp_path / "clip.wav", speech)
    result = run("transcribe", "--model", str(model), "--format", "json", str(clip))
    assert (result.returncode, result.stderr) == (0, "")
    transcript = json.loads(result.stdout)
    for segment in transcript["segments"]:
        start, end = to_samples(segment["start"]), to_samples(segment["end"])
        assert segment["text"] == levels_in(speech, start, end)
        assert " ".join(word["text"] for word in segment["words"]) == segment["text"]


def test_an_unknown_language_is_refused_with_those_of_the_family(
    model: Path, tmp_path: Path
) -> None:
    clip = write_wav(tmp_path / "clip.wav", talk(1))
    result = run("transcribe", "--model", str(model), "--language", "German", str(clip))
    assert result.returncode == 78
    assert "English (en), Chinese (zh)" in result.stderr


# The daemon


class LoudDaemon(RunningDaemon):
    """A daemon of a program that has the family."""

    def __init__(self, directory: Path, model: Path, *options: str) -> None:
        options = ("--no-mic", "--model", str(model), *options)
        super().__init__(directory, *options, settings=COMMITTING)
        at = self.command.index("-m")
        self.command[at : at + 2] = ["-c", toy_family.PROGRAM]


async def play(
    stream: client.AudioSession, speech: Float32Array, react: Callable[[client.Event], None]
) -> list[client.Event]:
    """Send all audio at `PACE` times the speed of speech; return all events."""

    async def send() -> None:
        data, block = pcm(speech), 2 * round(BLOCK_S * SAMPLE_RATE)
        for start in range(0, len(data), block):
            await stream.send(data[start : start + block])
            await asyncio.sleep(BLOCK_S / PACE)
        await stream.stop()

    events = []
    async with asyncio.timeout(200), asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        async for event in stream:
            events.append(event)
            react(event)
    return events


def check_guarantees(
    events: list[client.Event], speech: Float32Array, methods: tuple[str, ...] = ("cif",)
) -> None:
    """Check order, numbers, stable text, words and coverage; see the protocol."""
    stable: dict[int, str] = {}
    texts: dict[int, str] = {}
    for event in events:
        match event:
            case v1.Speech(segment=segment):
                assert segment not in texts
            case v1.Partial(segment=segment, text=text, stable=n_stable):
                assert segment not in texts
                assert text.startswith(stable.get(segment, ""))
                assert n_stable >= len(stable.get(segment, ""))
                stable[segment] = text[:n_stable]
            case v1.Final(segment=segment, text=text):
                assert segment not in texts
                assert text.startswith(stable.get(segment, ""))
                texts[segment] = text
            case v1.Words(segment=segment, words=words, method=method):
                assert method in methods
                assert " ".join(word.text for word in words) == texts[segment]
                assert all(a.end <= b.start for a, b in pairwise(words))
    durable = [e.seq for e in events if isinstance(e, v1.Final | v1.Words | v1.Gap | v1.End)]
    assert durable == list(range(1, len(durable) + 1))
    assert not any(isinstance(event, v1.Gap) for event in events)
    assert any(stable.values()), "a part of some partial became stable"
    finals = [event for event in events if isinstance(event, v1.Final)]
    for final in finals:
        right = levels_in(speech, to_samples(final.start), to_samples(final.end)).split()
        # A word that became stable before its second was over may stay wrong, but only that one.
        heard = unmarked(final.text).split()
        wrong = [a for a, b in zip(heard, right, strict=True) if a != b]
        assert len(wrong) <= 1


async def test_a_session_has_partials_stable_text_finals_and_words(
    tmp_path: Path, model: Path, speech: Float32Array
) -> None:
    with LoudDaemon(tmp_path, model) as daemon:
        async with client.connect(daemon.url) as stream:
            events = await play(stream, speech, lambda _: None)
            ready = stream.ready
        check_guarantees(events, speech)
        assert (ready.model, ready.family) == ("loudness", "toy-loudness")
        assert ready.languages == ("English", "Chinese")
        assert sum(isinstance(event, v1.Partial) for event in events) >= 4
        assert sum(isinstance(event, v1.Words) for event in events) == 2
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.all_log


async def test_a_session_continues_after_the_daemon_is_killed(
    tmp_path: Path, model: Path, speech: Float32Array
) -> None:
    with LoudDaemon(tmp_path, model) as daemon:
        kills: list[client.Event] = []

        def kill(event: client.Event) -> None:
            wanted = (v1.Partial, v1.Final)
            has_stable_text = not isinstance(event, v1.Partial) or event.stable
            if len(kills) < 2 and isinstance(event, wanted[len(kills)]) and has_stable_text:
                kills.append(event)
                daemon.kill()
                daemon.start()

        async with client.connect(daemon.url) as stream:
            events = await play(stream, speech, kill)
        assert len(kills) == 2
        # Times of tokens are not kept for a final whose words were not out when it was killed.
        check_guarantees(events, speech, ("cif", "spread"))


async def test_a_session_with_marks_continues_after_the_daemon_is_killed(
    tmp_path: Path, model: Path, speech: Float32Array
) -> None:
    marks = write_punctuation(tmp_path / "marks", toy_family.WORDS["English"])
    with LoudDaemon(tmp_path, model, "--punctuation", str(marks)) as daemon:
        kills: list[client.Event] = []

        def kill(event: client.Event) -> None:
            wanted = (v1.Partial, v1.Final)
            has_stable_text = not isinstance(event, v1.Partial) or event.stable
            if len(kills) < 2 and isinstance(event, wanted[len(kills)]) and has_stable_text:
                kills.append(event)
                daemon.kill()
                daemon.start()

        async with client.connect(daemon.url) as stream:
            events = await play(stream, speech, kill)
        assert len(kills) == 2
        check_guarantees(events, speech, ("cif", "spread"))
        finals = [event.text for event in events if isinstance(event, v1.Final)]
        assert any(unmarked(text) != text.lower() for text in finals)
        assert "streamasr: punctuator" in daemon.all_log


async def test_a_language_that_the_family_does_not_know_is_refused(
    tmp_path: Path, model: Path
) -> None:
    with LoudDaemon(tmp_path, model) as daemon:
        async with client.connect(daemon.url, language="Chinese") as stream:
            await stream.send(pcm(talk(2.0)))
            await stream.stop()
            events = [event async for event in stream]
        [final] = [event for event in events if isinstance(event, v1.Final)]
        assert set(final.text) <= set(toy_family.WORDS["Chinese"])
        with pytest.raises(client.StreamASRError, match="German"):
            async with client.connect(daemon.url, language="German") as stream:
                await stream.stop()
