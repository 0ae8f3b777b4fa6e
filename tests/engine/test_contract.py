"""Contract of engines and channels, held by the real engine and by those that stand in for it."""

import queue
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from streamasr.core.events import Aligned, Answer, PassAbandoned, Punctuated, Recognised
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Align,
    Order,
    Pass,
    Promote,
    Punctuate,
    Rank,
    Recognise,
    Release,
    SpreadWords,
)
from streamasr.core.transcript import join_words
from streamasr.core.units import SAMPLE_RATE, Samples
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine
from streamasr.engine.ports import ChannelSource
from streamasr.models.embedded import EMBEDDED
from tests.support import toy_family
from tests.support.embedded import EMBEDDED_MODELS
from tests.support.fakes import FakeEngine, PatientEngine, talk
from tests.support.punctuation import write_punctuation

SAMPLES = talk(1.0)[: SAMPLE_RATE * 2]
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], LocalEngine]]:
    """Return a function that starts the engine of a model, once for all tests."""
    toy = toy_family.write_bundle(tmp_path_factory.mktemp("toy") / "loudness")
    configs = {model.name: model.config for model in EMBEDDED_MODELS}
    configs["toy"] = EngineConfig(toy, hardware=Hardware(threads=1))
    marks = write_punctuation(tmp_path_factory.mktemp("marks") / "marks")
    configs["toy with marks"] = replace(configs["toy"], punctuation=marks)
    with toy_family.registered(), ExitStack() as stack:
        yield cache(lambda name: stack.enter_context(LocalEngine(configs[name])))


@pytest.fixture(params=[*EMBEDDED, "toy", "toy with marks", "fake", "patient"])
def engine(request: pytest.FixtureRequest, start: Callable[[str], LocalEngine]) -> ChannelSource:
    match request.param:
        case "fake":
            return FakeEngine()
        case "patient":
            return PatientEngine()
        case name:
            return start(name)


class Conversation:
    """A channel and its answers."""

    def __init__(self, engine: ChannelSource) -> None:
        self._engine = engine
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._channel = engine.channel(self._answers.put)

    def order(self, *orders: Order) -> None:
        for order in orders:
            self._channel.perform(order)

    def receive(self, n_answers: int) -> list[Answer]:
        """Wait for so many answers; no others come."""
        if isinstance(self._engine, PatientEngine):
            self._engine.answer()
        answers = [self._answers.get(timeout=TIMEOUT_S) for _ in range(n_answers)]
        self.check_silence()
        return answers

    def check_silence(self) -> None:
        """Check that nothing else is answered, after a pass of another channel."""
        other: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        channel = self._engine.channel(other.put)
        channel.perform(Recognise(Pass(1, 1, Rank.PARTIAL), SAMPLES))
        if isinstance(self._engine, PatientEngine):
            self._engine.answer()
        other.get(timeout=TIMEOUT_S)
        channel.close()
        assert self._answers.empty()

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def conversation(engine: ChannelSource) -> Iterator[Conversation]:
    conversation = Conversation(engine)
    yield conversation
    conversation.close()


def passes(n: int, rank: Rank = Rank.FINAL) -> list[Pass]:
    return [Pass(number, number, rank) for number in range(1, n + 1)]


def align(segment: int, text: str = "one two") -> Align:
    return Align(segment, Samples(16_000), SAMPLES, text, "English")


class TestEngine:
    """Rules that sessions rely on."""

    def test_each_pass_is_answered_once_under_its_own_name(
        self, conversation: Conversation
    ) -> None:
        ordered = passes(5, Rank.PARTIAL)
        conversation.order(*(Recognise(of, SAMPLES) for of in ordered))
        answers = conversation.receive(5)
        assert Counter(a.of for a in answers if isinstance(a, Recognised)) == Counter(ordered)

    def test_a_hypothesis_is_consistent_in_itself(self, conversation: Conversation) -> None:
        options = SessionOptions(language="English", context="names", words=False)
        conversation.order(Recognise(passes(1)[0], SAMPLES, options))
        [answer] = conversation.receive(1)
        assert isinstance(answer, Recognised)
        found, n_tokens = answer.hypothesis, len(answer.hypothesis.tokens)
        assert len(found.ends) in (0, n_tokens)
        assert len(found.times) in (0, n_tokens)
        assert list(found.ends) == sorted(found.ends)
        assert all(0 <= end <= len(found.text) for end in found.ends)
        assert answer.costs.total >= 0
        assert answer.waited >= 0

    def test_each_text_is_answered_once_with_marks_in_the_order_of_its_words(
        self, conversation: Conversation
    ) -> None:
        ordered = passes(4)
        conversation.order(*(Punctuate(of, "one two three", None) for of in ordered))
        answers = [a for a in conversation.receive(4) if isinstance(a, Punctuated)]
        assert Counter(answer.of for answer in answers) == Counter(ordered)
        for answer in answers:
            ends = [mark.end for mark in answer.marks.each]
            assert ends in ([], [3, 7, 13])
            assert answer.waited >= 0
            assert (answer.costs.total > 0) == bool(ends)

    def test_an_abandoned_pass_is_answered_once_too(self, conversation: Conversation) -> None:
        ordered = passes(6, Rank.PARTIAL)
        for of in ordered:
            conversation.order(Recognise(of, SAMPLES), AbandonPass(of), AbandonPass(of))
        answers = conversation.receive(6)
        kinds = Recognised | PassAbandoned
        assert Counter(a.of for a in answers if isinstance(a, kinds)) == Counter(ordered)

    def test_abandoning_an_answered_or_unknown_pass_is_not_answered(
        self, conversation: Conversation
    ) -> None:
        [of] = passes(1)
        conversation.order(AbandonPass(of), Recognise(of, SAMPLES))
        conversation.receive(1)
        conversation.order(AbandonPass(of))
        conversation.receive(0)

    def test_promotion_and_release_are_not_answered(self, conversation: Conversation) -> None:
        of = Pass(1, 1, Rank.SPECULATIVE)
        conversation.order(Recognise(of, SAMPLES), Promote(Pass(1, 1, Rank.FINAL)))
        [answer] = conversation.receive(1)
        assert isinstance(answer, Recognised)
        assert answer.of == of
        conversation.order(Release(1), Release(2))
        conversation.receive(0)

    def test_words_spell_their_text_within_their_segment(self, conversation: Conversation) -> None:
        texts = {1: "one two", 2: "零一", 3: "seven, two."}
        conversation.order(*(align(segment, text) for segment, text in texts.items()))
        for answer in conversation.receive(3):
            assert isinstance(answer, Aligned)
            assert join_words(answer.words) == texts.pop(answer.segment)
            edges = [edge for word in answer.words for edge in (word.start, word.end)]
            assert edges == sorted(edges)
            assert edges[0] >= 16_000
            assert edges[-1] <= 16_000 + len(SAMPLES)
        assert not texts

    def test_words_that_are_late_are_answered_all_the_same(
        self, conversation: Conversation
    ) -> None:
        conversation.order(*(align(segment) for segment in range(8)), SpreadWords())
        answers = conversation.receive(8)
        segments = sorted(answer.segment for answer in answers if isinstance(answer, Aligned))
        assert segments == list(range(8))

    def test_a_closed_channel_delivers_nothing(
        self, engine: ChannelSource, conversation: Conversation
    ) -> None:
        conversation.order(*(Recognise(of, SAMPLES) for of in passes(3)), align(9))
        conversation.close()
        closed_with = conversation._answers.qsize()
        conversation.order(Recognise(Pass(8, 8, Rank.FINAL), SAMPLES), align(8))
        conversation.close()
        for _ in range(closed_with):
            conversation._answers.get()
        conversation.check_silence()

    def test_the_samples_of_a_pass_are_only_read(self, conversation: Conversation) -> None:
        samples = SAMPLES.copy()
        samples.flags.writeable = False
        conversation.order(Recognise(passes(1)[0], samples))
        [answer] = conversation.receive(1)
        assert isinstance(answer, Recognised)
        np.testing.assert_array_equal(samples, SAMPLES)
