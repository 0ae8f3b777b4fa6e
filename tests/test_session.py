"""The session: any order of answers gives one outcome per segment, in order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.events import (
    AbandonPass,
    Action,
    Align,
    Aligned,
    Decode,
    Decoded,
    Encode,
    Encoded,
    Final,
    Gap,
    Hypothesis,
    Partial,
    Pass,
    PassAbandoned,
    PassFailed,
    Publish,
    SessionEvent,
    Speech,
    SpeechContinued,
    SpeechEnded,
    SpeechStarted,
    Words,
)
from streamasr.session.session import Session, SessionSettings
from streamasr.transcript import Word
from streamasr.units import Float32Array, Samples

EMBEDDINGS = np.zeros((2, 4), np.float32)
INTERVAL = 100


def audio(start: int, end: int) -> Float32Array:
    """Samples that tell their position."""
    return np.arange(start, end, dtype=np.float32)


def new_session(*, partials: bool = True, words: bool = True) -> Session:
    return Session(SessionSettings(Samples(INTERVAL) if partials else None, words))


def started(segment: int, start: int) -> SpeechStarted:
    return SpeechStarted(segment, Samples(start))


def continued(segment: int, start: int, end: int) -> SpeechContinued:
    return SpeechContinued(segment, Samples(start), audio(start, end))


def ended(segment: int, start: int, end: int) -> SpeechEnded:
    return SpeechEnded(segment, Samples(start), Samples(end), "silence")


def hypothesis(text: str, language: str | None = "English") -> Hypothesis:
    return Hypothesis(text, language, (1, 2))


def partial_of(segment: int) -> Pass:
    return Pass(segment, is_final=False)


def final_of(segment: int) -> Pass:
    return Pass(segment, is_final=True)


def word(text: str) -> Word:
    return Word(text, Samples(0), Samples(1), 1.0)


def published(actions: list[Action]) -> list[object]:
    return [action.message for action in actions if isinstance(action, Publish)]


def orders(actions: list[Action], kind: type[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def speak(session: Session, segment: int, start: int, end: int) -> list[Action]:
    """One whole segment, with 50 samples that belong to its hangover."""
    return [
        *session.receive(started(segment, start)),
        *session.receive(continued(segment, start, end + 50)),
        *session.receive(ended(segment, start, end)),
    ]


def test_speech_is_announced_when_it_starts() -> None:
    assert published(new_session().receive(started(1, 40))) == [Speech(1, Samples(40))]


def test_no_partial_is_due_before_its_interval() -> None:
    session = new_session()
    session.receive(started(1, 0))
    assert session.receive(continued(1, 0, INTERVAL - 1)) == []
    [encode] = session.receive(continued(1, INTERVAL - 1, INTERVAL))
    assert isinstance(encode, Encode)
    np.testing.assert_array_equal(encode.samples, audio(0, INTERVAL))


def test_no_partials_where_nobody_wants_them() -> None:
    session = new_session(partials=False)
    session.receive(started(1, 0))
    assert session.receive(continued(1, 0, 100 * INTERVAL)) == []


def test_only_one_partial_is_on_its_way_and_the_next_one_holds_all_audio() -> None:
    session = new_session()
    session.receive(started(1, 0))
    session.receive(continued(1, 0, 100))
    assert session.receive(continued(1, 100, 200)) == []
    assert session.receive(continued(1, 200, 300)) == []
    assert session.has_partial_in_flight
    [decode] = session.receive(Encoded(partial_of(1), EMBEDDINGS))
    assert isinstance(decode, Decode)
    [partial] = published(session.receive(Decoded(partial_of(1), hypothesis("one"))))
    assert partial == Partial(1, "one", "English", Samples(0), Samples(100))
    assert not session.has_partial_in_flight
    [encode] = orders(session.receive(continued(1, 300, 301)), Encode)
    np.testing.assert_array_equal(encode.samples, audio(0, 301))


def test_an_empty_partial_is_not_published() -> None:
    session = new_session()
    session.receive(started(1, 0))
    session.receive(continued(1, 0, 100))
    assert session.receive(Decoded(partial_of(1), hypothesis("", None))) == []


@pytest.mark.parametrize(
    "loss",
    [PassFailed(partial_of(1), "dead"), PassAbandoned(partial_of(1))],
    ids=["failed", "left"],
)
def test_a_lost_partial_makes_room_for_the_next(loss: SessionEvent) -> None:
    session = new_session()
    session.receive(started(1, 0))
    session.receive(continued(1, 0, 100))
    assert session.receive(loss) == []
    assert orders(session.receive(continued(1, 100, 200)), Encode)


def test_the_end_abandons_the_partial_and_encodes_exactly_the_segment() -> None:
    session = new_session()
    abandon, encode = speak(session, 1, 1000, 1200)[-2:]
    assert abandon == AbandonPass(partial_of(1))
    assert isinstance(encode, Encode)
    assert encode.of == final_of(1)
    np.testing.assert_array_equal(encode.samples, audio(1000, 1200))


def test_a_partial_that_comes_after_the_end_is_dropped() -> None:
    session = new_session()
    speak(session, 1, 0, 200)
    assert session.receive(Decoded(partial_of(1), hypothesis("on"))) == []
    assert not session.has_partial_in_flight


def test_a_partial_that_is_encoded_after_the_end_is_not_decoded() -> None:
    session = new_session()
    speak(session, 1, 0, 200)
    assert session.has_partial_in_flight
    assert session.receive(Encoded(partial_of(1), EMBEDDINGS)) == []
    assert not session.has_partial_in_flight


@pytest.mark.parametrize(
    "late",
    [
        Encoded(partial_of(1), EMBEDDINGS),
        Decoded(partial_of(1), hypothesis("on")),
        PassFailed(partial_of(1), "dead"),
        PassAbandoned(partial_of(1)),
    ],
    ids=["encoded", "decoded", "failed", "abandoned"],
)
def test_a_partial_that_comes_after_everything_is_dropped(late: SessionEvent) -> None:
    session = new_session(words=False)
    speak(session, 1, 0, 200)
    session.receive(Decoded(final_of(1), hypothesis("one")))
    assert session.is_settled
    assert session.receive(late) == []
    assert session.is_settled


def test_a_final_is_followed_by_its_words() -> None:
    session = new_session()
    speak(session, 1, 1000, 1200)
    final, align = session.receive(Decoded(final_of(1), hypothesis("one")))
    assert final == Publish(Final(1, "one", "English", Samples(1000), Samples(1200), "silence"))
    assert isinstance(align, Align)
    assert (align.segment, align.start, align.text, align.language) == (1, 1000, "one", "English")
    np.testing.assert_array_equal(align.samples, audio(1000, 1200))
    assert not session.is_settled
    words = (word("one"),)
    assert session.receive(Aligned(1, words, "aligned")) == [Publish(Words(1, words, "aligned"))]
    assert session.is_settled


def test_an_empty_final_is_published_without_words() -> None:
    session = new_session()
    speak(session, 1, 0, 200)
    [final] = published(session.receive(Decoded(final_of(1), hypothesis("", None))))
    assert final == Final(1, "", None, Samples(0), Samples(200), "silence")
    assert session.is_settled


def test_a_final_that_failed_becomes_a_gap() -> None:
    session = new_session()
    speak(session, 1, 0, 200)
    actions = session.receive(PassFailed(final_of(1), "the encoder died"))
    assert actions == [Publish(Gap(1, Samples(0), Samples(200), "the encoder died"))]
    assert session.is_settled


def test_a_final_waits_for_the_segments_before_it() -> None:
    session = new_session(words=False)
    for segment in (1, 2, 3):
        speak(session, segment, 1000 * segment, 1000 * segment + 200)
    assert session.receive(Decoded(final_of(3), hypothesis("three"))) == []
    assert session.receive(PassFailed(final_of(2), "dead")) == []
    messages = published(session.receive(Decoded(final_of(1), hypothesis("one"))))
    assert [type(message) for message in messages] == [Final, Gap, Final]
    assert session.is_settled


def test_words_of_one_segment_do_not_hold_up_the_final_of_the_next() -> None:
    session = new_session()
    for segment in (1, 2):
        speak(session, segment, 1000 * segment, 1000 * segment + 200)
    session.receive(Decoded(final_of(1), hypothesis("one")))
    [final] = published(session.receive(Decoded(final_of(2), hypothesis("two"))))
    assert isinstance(final, Final)
    assert session.n_unfinished == 2
    assert published(session.receive(Aligned(2, (), "spread")))
    assert published(session.receive(Aligned(1, (), "spread")))
    assert session.is_settled


def test_a_segment_of_no_samples_is_possible() -> None:
    session = new_session()
    session.receive(started(1, 10))
    [encode] = session.receive(ended(1, 10, 10))
    assert isinstance(encode, Encode)
    assert encode.samples.shape == (0,)
    assert encode.samples.dtype == np.float32


@dataclass
class World:
    """A session with everything it has asked for and not yet been answered."""

    session: Session
    wants_words: bool
    pending: list[Action] = field(default_factory=list)
    messages: list[object] = field(default_factory=list)
    open: int | None = None
    position: int = 0
    n_segments: int = 0
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)

    def tell(self, event: SessionEvent) -> None:
        for action in self.session.receive(event):
            match action:
                case Publish(message=message):
                    self.check_message(message)
                    self.messages.append(message)
                case AbandonPass(of=of):
                    assert not of.is_final
                    assert of.segment != self.open
                case Encode(of=of, samples=samples):
                    start, end = self.bounds[of.segment]
                    if of.is_final:
                        np.testing.assert_array_equal(samples, audio(start, end))
                    else:
                        assert of.segment == self.open
                        assert not any(
                            isinstance(other, Encode | Decode) and other.of == of
                            for other in self.pending
                        ), "a second partial in flight"
                        np.testing.assert_array_equal(samples, audio(start, self.position))
                    self.pending.append(action)
                case Align(segment=segment, samples=samples):
                    np.testing.assert_array_equal(samples, audio(*self.bounds[segment]))
                    self.pending.append(action)
                case _:
                    self.pending.append(action)

    def check_message(self, message: object) -> None:
        if isinstance(message, Partial):
            assert message.segment == self.open, "a partial of a segment that has ended"
        if isinstance(message, Words):
            finals = [m.segment for m in self.messages if isinstance(m, Final)]
            assert message.segment in finals, "words before their final"

    def start(self) -> None:
        self.n_segments += 1
        self.open = self.n_segments
        self.bounds[self.open] = (self.position, self.position)
        self.tell(started(self.open, self.position))

    def grow(self, n_samples: int) -> None:
        assert self.open
        event = continued(self.open, self.position, self.position + n_samples)
        self.position += n_samples
        self.tell(event)

    def end(self, n_trailing: int) -> None:
        assert self.open
        segment, start = self.open, self.bounds[self.open][0]
        end = max(start, self.position - n_trailing)
        self.bounds[segment] = (start, end)
        self.open = None
        self.position = end
        self.tell(ended(segment, start, end))

    def answer(self, index: int, outcome: str) -> None:
        match self.pending.pop(index % len(self.pending)):
            case Encode(of=of) | Decode(of=of) if outcome == "failed":
                self.tell(PassFailed(of, "it failed"))
            case Encode(of=of):
                self.tell(Encoded(of, EMBEDDINGS))
            case Decode(of=of) if outcome == "abandoned" and not of.is_final:
                self.tell(PassAbandoned(of))
            case Decode(of=of):
                text = "" if outcome == "silent" else f"text {of.segment}"
                self.tell(Decoded(of, hypothesis(text)))
            case Align(segment=segment):
                self.tell(Aligned(segment, (word(f"text {segment}"),), "aligned"))
            case other:
                raise AssertionError(other)

    def check_end(self) -> None:
        assert self.session.is_settled
        assert self.session.n_unfinished == 0
        assert not self.session.has_partial_in_flight
        outcomes = [m for m in self.messages if isinstance(m, Final | Gap)]
        assert [m.segment for m in outcomes] == list(range(1, self.n_segments + 1))
        assert {m.segment: (m.start, m.end) for m in outcomes} == self.bounds
        with_text = [m.segment for m in outcomes if isinstance(m, Final) and m.text]
        words = [m.segment for m in self.messages if isinstance(m, Words)]
        assert sorted(words) == (with_text if self.wants_words else [])


@settings(max_examples=200)
@given(script=st.lists(st.integers(0, 9999), max_size=60), partials=st.booleans(), words=...)
def test_any_order_of_answers_gives_one_outcome_per_segment_in_order(
    script: list[int], partials: bool, words: bool
) -> None:
    world = World(new_session(partials=partials, words=words), words)
    outcomes = ["good", "good", "good", "failed", "abandoned", "silent"]
    for number in script:
        steps: list[Callable[[int], None]] = []
        if world.open is None:
            steps.append(lambda _: world.start())
        else:
            steps.append(lambda n: world.grow(1 + n % 250))
            steps.append(lambda n: world.end(n % 60))
        if world.pending:
            steps += 2 * [lambda n: world.answer(n, outcomes[n % len(outcomes)])]
        steps[number % len(steps)](number // len(steps))
    if world.open is not None:
        world.end(0)
    while world.pending:
        world.answer(len(world.pending) - 1, "good")
    world.check_end()
