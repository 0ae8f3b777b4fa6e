"""The embedded Paraformer in live sessions, and with an aligner instead of its own times."""

import json
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.alignment.token_times import words_of_tokens
from streamasr.client import connect
from streamasr.core.events import Aligned, Answer, Costs, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.messages import End, Final, Gap, Message, Partial, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Align, Order, Rank, Recognise, Release
from streamasr.core.transcript import join_words
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples, to_seconds
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine
from streamasr.engine.ports import Deliver
from streamasr.importing.pack import import_model
from streamasr.models import tiny
from streamasr.models.embedded import EMBEDDED
from streamasr.models.family import Encoder, Utterance
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.family import PARAFORMER
from streamasr.models.paraformer.recogniser import load
from streamasr.pipeline.stream import Beginning, Stream, StreamSettings
from streamasr.pipeline.transcribe import FileSettings, transcribe
from streamasr.protocols import v1
from streamasr.segmentation.settings import ChunkerConfig
from streamasr.session.session import SessionSettings
from streamasr.session.stable_prefix import CommitLag
from tests.sources.paraformer.onnx_export import write_funasr_export
from tests.sources.paraformer.weights import Sizes, Weights
from tests.support.daemons import RunningDaemon
from tests.support.examples import examples
from tests.support.fakes import FakeEngine, FakeSource, pcm, talk
from tests.support.goldens import read_clip
from tests.support.paths import CLIPS
from tests.support.signals import signal, speechlike

BUNDLE = EMBEDDED["tiny-paraformer"]
ALIGNER = tiny.BUNDLE / "aligner"
SPOKEN = ("mandarin", "mandarin_joined", "espeak_1", "espeak_joined", "flite_joined_1", "noise")
COMMITTING = CommitLag(tokens=1, audio=to_samples(0.4))
"""Much of the text becomes stable early, and some of it is wrong."""


class InProcess(FakeEngine):
    """Engine that runs the model in this process, and says that encoding takes some time."""

    assert PARAFORMER.recognition is not None
    traits = PARAFORMER.recognition.traits

    def __init__(self, model: Encoder, seconds_per_second: float = 0.0) -> None:
        super().__init__()
        self._model = model
        self._cost = seconds_per_second
        self._utterances: dict[int, Utterance] = {}

    def perform(self, order: Order, deliver: Deliver) -> None:
        """Answer an order of any channel."""
        match order:
            case Recognise(samples=samples):
                self.orders.append(order)
                begun = self._utterances.get(order.of.segment)
                utterance = begun or self._model.begin(order.options)
                self._utterances[order.of.segment] = utterance
                if len(samples) > utterance.n_samples:
                    utterance.append(samples[utterance.n_samples :])
                found = utterance.update(len(samples)).result
                costs = Costs(encode=self._cost * to_seconds(Samples(len(samples))))
                deliver(Recognised(order.of, found, costs))
            case Release(segment=segment):
                self._utterances.pop(segment, None)
            case Align():
                deliver(Aligned(order.segment, words_of_tokens(order), "cif"))
            case _:
                super().perform(order, deliver)

    @property
    def partial_costs(self) -> list[float]:
        """Seconds of each partial pass."""
        return [
            self._cost * to_seconds(Samples(len(order.samples)))
            for order in self.orders
            if isinstance(order, Recognise) and order.of.rank is Rank.PARTIAL
        ]


@pytest.fixture(scope="module")
def model() -> Encoder:
    return load(BUNDLE, OnnxOptions(threads=1))


def live(engine: InProcess, samples: Float32Array, blocks: list[int]) -> list[Message]:
    """Feed blocks of these lengths in turn; return all messages."""
    session = SessionSettings(commit=COMMITTING)
    chunker = ChunkerConfig(max_segment=24.0)
    answers: list[Answer] = []
    stream = Stream(
        engine,
        StreamSettings(chunker=chunker, session=session),
        SessionOptions(),
        answers.append,
        Beginning(),
    )
    messages: list[Message] = []
    position, turn = 0, 0
    while position < len(samples):
        block = samples[position : position + blocks[turn % len(blocks)]]
        position, turn = position + len(block), turn + 1
        published = stream.feed(block)
        messages += [each.message for each in published]
        while answers:
            messages += [each.message for each in stream.receive(answers.pop(0))]
    messages += [each.message for each in stream.finish()]
    while answers:
        messages += [each.message for each in stream.receive(answers.pop(0))]
    return messages


def check(messages: list[Message]) -> dict[int, str]:
    """Check the guarantees of the protocol; return the texts of the segments."""
    stable: dict[int, str] = {}
    texts: dict[int, str] = {}
    for message in messages:
        match message:
            case Partial(segment=number, text=text, stable=n_stable):
                assert number not in texts
                assert text.startswith(stable.get(number, ""))
                assert n_stable >= len(stable.get(number, ""))
                stable[number] = text[:n_stable]
            case Final(segment=number, text=text):
                assert text.startswith(stable.get(number, ""))
                texts[number] = text
            case Words(segment=number, words=words):
                assert join_words(words) == texts[number]
                assert all(a.end <= b.start for a, b in pairwise(words))
            case Gap():
                raise AssertionError("nothing was lost")
    assert isinstance(messages[-1], End)
    return texts


@settings(max_examples=examples(12))
@given(
    names=st.lists(st.sampled_from(SPOKEN), min_size=1, max_size=3),
    pauses=st.lists(st.integers(0, SAMPLE_RATE), min_size=3, max_size=3),
    blocks=st.lists(st.integers(160, 12_000), min_size=1, max_size=5),
)
def test_stable_text_never_changes_whatever_is_said(
    model: Encoder, names: list[str], pauses: list[int], blocks: list[int]
) -> None:
    parts = [
        part
        for name, pause in zip(names, pauses, strict=False)
        for part in (read_clip(name), np.zeros(pause, np.float32))
    ]
    check(live(InProcess(model), np.concatenate(parts), blocks))


def test_text_becomes_stable_while_it_is_spoken(model: Encoder) -> None:
    clip = np.concatenate([read_clip("mandarin"), read_clip("mandarin_joined")])
    messages = live(InProcess(model), clip, [1600])
    check(messages)
    partials = [message for message in messages if isinstance(message, Partial)]
    assert max(partial.stable for partial in partials) >= 4


def test_partials_become_rare_where_encoding_is_slow(model: Encoder) -> None:
    """Each pass costs half as long as all of the segment so far."""
    clip = np.concatenate([read_clip("mandarin_joined"), read_clip("mandarin")] * 4)
    fast, slow = InProcess(model), InProcess(model, 0.5)
    texts = [check(live(engine, clip, [1600])) for engine in (fast, slow)]
    assert len(slow.partial_costs) < len(fast.partial_costs) / 2
    assert sum(slow.partial_costs) <= 0.6 * len(clip) / SAMPLE_RATE + max(slow.partial_costs)
    assert slow.partial_costs
    assert all(texts)


# Nothing said


@pytest.mark.parametrize("kind", ["silence", "noise", "loud", "offset", "speech"])
@pytest.mark.parametrize(
    "n_samples", [1, 159, 160, 399, 400, 401, 559, 560, 1199, 1359, 1360, 1361, 2319, 2320]
)
def test_what_is_too_short_gives_a_hypothesis_of_its_length(
    model: Encoder, kind: str, n_samples: int
) -> None:
    samples = {
        "silence": np.zeros(n_samples, np.float32),
        "noise": signal("noise", n_samples),
        "loud": np.resize(np.array([1, 1, -1, -1], np.float32), n_samples),
        "offset": np.full(n_samples, 0.5, np.float32),
        "speech": speechlike(n_samples),
    }[kind]
    utterance = model.begin(SessionOptions())
    utterance.append(samples)
    found = utterance.update(n_samples).result
    assert isinstance(found, Hypothesis)
    assert all(0 <= start <= end <= n_samples for start, end in found.times)
    if n_samples < 400 + 2 * 960:  # fewer than three rows
        assert found == Hypothesis("", None, ())


@pytest.mark.parametrize("n_samples", [1, 400, 16_000, 160_000])
def test_digital_silence_gives_no_text(model: Encoder, n_samples: int) -> None:
    utterance = model.begin(SessionOptions())
    utterance.append(np.zeros(n_samples, np.float32))
    assert utterance.update(n_samples).result == Hypothesis("", None, ())


@pytest.mark.parametrize("n_samples", [0, 1, 399, 400, 401, 16_000])
def test_a_file_without_speech_has_no_text(n_samples: int) -> None:
    with LocalEngine(EngineConfig(BUNDLE, None, Hardware(threads=1))) as engine:
        for samples in (np.zeros(n_samples, np.float32), signal("noise", n_samples)):
            messages = list(transcribe(engine, FakeSource(samples), FileSettings()))
            finals = [message for message in messages if isinstance(message, Final)]
            assert not any(final.text for final in finals)
            assert not any(isinstance(message, Gap) for message in messages)


# Hotwords


HOTWORDS = ("一丁", "七", "丁七一")


@pytest.fixture(scope="module")
def seaco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SeACo-Paraformer with random weights, whose hotwords replace much of the text."""
    sizes = Sizes(d_model=64, head="cnn_blstm", has_hotwords=True, vocab=60)
    folder = tmp_path_factory.mktemp("seaco")
    write_funasr_export(Weights(sizes), folder / "export")
    import_model(folder / "export", folder / "bundle")
    return folder / "bundle"


def segment_texts(messages: Iterable[object]) -> list[str]:
    return [message.text for message in messages if isinstance(message, Final)]


def test_hotwords_and_those_in_the_context_reach_the_model(seaco: Path) -> None:
    texts = []
    options = (
        SessionOptions(),
        SessionOptions(hotwords=HOTWORDS),
        SessionOptions(context="、".join(HOTWORDS)),
        SessionOptions(hotwords=HOTWORDS[:1], context=" ".join(HOTWORDS[1:])),
    )
    with LocalEngine(EngineConfig(seaco, None, Hardware(threads=1))) as engine:
        for each in options:
            found = transcribe(engine, FakeSource(talk(2.0)), FileSettings(each))
            texts.append(segment_texts(found))
    without, listed, *in_context = texts
    assert len(listed) == 1
    assert without != listed
    assert in_context == [listed, listed]


def test_hotwords_change_from_one_segment_to_the_next(seaco: Path) -> None:
    model = load(seaco, OnnxOptions(threads=1))
    options = (SessionOptions(), SessionOptions(hotwords=HOTWORDS), SessionOptions())
    answers: list[Answer] = []
    engine = InProcess(model)
    stream = Stream(engine, StreamSettings(), options[0], answers.append, Beginning())
    messages: list[object] = []
    for each in options:
        published = [*stream.configure(each), *stream.feed(talk(2.0))]
        while answers:
            published += stream.receive(answers.pop(0))
        messages += [action.message for action in published]
    orders = {each.of.segment: each for each in engine.orders if isinstance(each, Recognise)}
    assert [order.options for order in orders.values()] == list(options)
    texts = segment_texts(messages)
    assert len(set(texts)) > 1
    for order, text in zip(orders.values(), texts, strict=True):
        utterance = model.begin(order.options)
        utterance.append(order.samples)
        assert utterance.update(len(order.samples)).result.text == text


# The aligner


def run(*arguments: str) -> list[dict[str, object]]:
    """Transcribe a Mandarin clip with the command; return its words."""
    command = [sys.executable, "-m", "streamasr", "transcribe", "--threads", "1"]
    command += ["--model", "tiny-paraformer", "--format", "json", *arguments]
    command.append(str(CLIPS / "mandarin_joined.flac"))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return [word for segment in json.loads(result.stdout)["segments"] for word in segment["words"]]


def test_the_words_of_a_file_can_be_those_of_an_aligner() -> None:
    own, same, aligned = run(), run("--aligner", "none"), run("--aligner", str(ALIGNER))
    assert own == same
    assert [word["text"] for word in aligned] == [word["text"] for word in own]
    assert len(own) >= 4
    assert all(word["score"] is None for word in own)
    assert all(isinstance(word["score"], float) for word in aligned)


@pytest.mark.parametrize(
    ("options", "method"), [((), "cif"), (("--aligner", str(ALIGNER)), "aligned")]
)
async def test_the_words_of_a_session_can_be_those_of_an_aligner(
    tmp_path: Path, options: tuple[str, ...], method: str
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", *options, model="tiny-paraformer") as daemon:
        async with connect(daemon.url) as stream:
            await stream.send(pcm(read_clip("mandarin_joined")))
            await stream.stop()
            events = [event async for event in stream]
    finals = {event.segment: event.text for event in events if isinstance(event, v1.Final)}
    words = [event for event in events if isinstance(event, v1.Words)]
    assert words
    assert {event.method for event in words} == {method}
    for event in words:
        assert "".join(word.text for word in event.words) == finals[event.segment]
    assert ("aligner" in daemon.children()) == bool(options)
