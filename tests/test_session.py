"""The session: any order of answers gives one outcome per segment, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    AudioLost,
    Configured,
    Decode,
    Decoded,
    Encode,
    Encoded,
    End,
    Final,
    FinalRestored,
    Gap,
    Hypothesis,
    Partial,
    Pass,
    PassAbandoned,
    PassFailed,
    Promise,
    Publish,
    SessionEvent,
    Speech,
    SpeechContinued,
    SpeechEnded,
    SpeechStarted,
    StreamEnded,
    Wishes,
    Words,
)
from streamasr.session.hypothesis import CommitLag
from streamasr.session.session import Published, Session, SessionSettings
from streamasr.transcript import Word
from streamasr.units import SAMPLE_RATE, Float32Array, Samples

EMBEDDINGS = np.zeros((2, 4), np.float32)
INTERVAL = 100


def audio(start: int, end: int) -> Float32Array:
    """Samples that tell their position."""
    return np.arange(start, end, dtype=np.float32)


def new_session(
    *, partials: bool = True, words: bool = True, commit: CommitLag | None = None
) -> Session:
    settings = SessionSettings(Samples(INTERVAL), partial_load=None, commit=commit)
    return Session(settings, Wishes(partials=partials, words=words))


def started(segment: int, start: int) -> SpeechStarted:
    return SpeechStarted(segment, Samples(start))


def continued(segment: int, start: int, end: int) -> SpeechContinued:
    return SpeechContinued(segment, Samples(start), audio(start, end))


def ended(segment: int, start: int, end: int) -> SpeechEnded:
    return SpeechEnded(segment, Samples(start), Samples(end), "silence")


def hypothesis(text: str, language: str | None = "English") -> Hypothesis:
    return Hypothesis(text, language, (1, 2), (0, len(text)))


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
    assert partial == Partial(1, "one", 0, "English", Samples(0), Samples(100))
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
    assert final == Publish(Final(1, "one", "English", Samples(1000), Samples(1200), "silence"), 1)
    assert isinstance(align, Align)
    assert (align.segment, align.start, align.text, align.language) == (1, 1000, "one", "English")
    np.testing.assert_array_equal(align.samples, audio(1000, 1200))
    assert not session.is_settled
    words = (word("one"),)
    said = session.receive(Aligned(1, words, "aligned"))
    assert said == [Publish(Words(1, words, "aligned"), 2)]
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
    assert actions == [Publish(Gap(Samples(0), Samples(200), "the encoder died"), 1)]
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


def tokens_of(text: str) -> tuple[int, ...]:
    """One token for each character, behind a header of one."""
    return (0, *map(ord, text))


def heard(text: str) -> Hypothesis:
    """What a decoder says whose tokens are characters."""
    return Hypothesis(text, "English", tokens_of(text), tuple(range(len(text) + 1)))


def update(session: Session, hypothesis: Hypothesis, *, until: int) -> tuple[Partial, Decode]:
    """Feed segment 1 up to `until`; its next partial, and what the decoder was asked for."""
    [encode] = session.receive(continued(1, until - INTERVAL, until))
    assert isinstance(encode, Encode)
    [decode] = session.receive(Encoded(encode.of, EMBEDDINGS))
    assert isinstance(decode, Decode)
    [partial] = published(session.receive(Decoded(decode.of, hypothesis)))
    assert isinstance(partial, Partial)
    return partial, decode


def test_what_stands_long_enough_is_stable_and_forced() -> None:
    session = new_session(commit=CommitLag(tokens=2, audio=Samples(2 * INTERVAL)))
    session.receive(started(1, 0))
    stable, forced = [], []
    for n, text in enumerate(["on", "one tx", "one two", "one two th", "one two three"]):
        partial, decode = update(session, heard(text), until=(n + 1) * INTERVAL)
        stable.append(partial.text[: partial.stable])
        forced.append(decode.forced)
    assert stable == ["", "", "on", "one t", "one two"]
    assert forced == [(), (), (), tokens_of("on"), tokens_of("one t")]


def test_one_hypothesis_alone_commits_nothing() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(0)))
    session.receive(started(1, 0))
    partial, _ = update(session, heard("one two three"), until=INTERVAL)
    assert partial.stable == 0
    partial, _ = update(session, heard("one two four"), until=2 * INTERVAL)
    assert partial.text[: partial.stable] == "one two "


def test_a_suspicious_hypothesis_commits_nothing() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(0)))
    session.receive(started(1, 0))
    for n in range(4):
        hypothesis = replace(heard("la la la"), is_suspicious=True)
        partial, _ = update(session, hypothesis, until=(n + 1) * INTERVAL)
        assert partial.stable == 0


def test_the_final_is_forced_to_begin_with_what_is_stable() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(1)))
    session.receive(started(1, 0))
    for n in range(2):
        update(session, heard("one"), until=(n + 1) * INTERVAL)
    session.receive(ended(1, 0, 200))
    [decode] = session.receive(Encoded(final_of(1), EMBEDDINGS))
    assert isinstance(decode, Decode)
    assert decode.forced == tokens_of("one")


def test_a_final_that_breaks_the_promise_is_not_believed() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(1)), words=False)
    session.receive(started(1, 0))
    for n in range(2):
        update(session, heard("one"), until=(n + 1) * INTERVAL)
    session.receive(ended(1, 0, 200))
    [final] = published(session.receive(Decoded(final_of(1), heard("two"))))
    assert isinstance(final, Final)
    assert final.text == "one"


def promised_before(segment: int, start: int, text: str) -> Session:
    promise = Promise(segment, Samples(start), text, tokens_of(text))
    settings = SessionSettings(Samples(INTERVAL), partial_load=None)
    return Session(settings, Wishes(), Published(promise=promise))


def test_what_was_promised_before_a_restart_is_still_forced() -> None:
    session = promised_before(3, 0, "one tw")
    session.receive(started(3, 40))
    [encode] = orders(session.receive(continued(3, 40, 40 + INTERVAL)), Encode)
    [decode] = session.receive(Encoded(encode.of, EMBEDDINGS))
    assert isinstance(decode, Decode)
    assert decode.forced == tokens_of("one tw")
    [partial] = published(session.receive(Decoded(decode.of, heard("one two"))))
    assert isinstance(partial, Partial)
    assert partial.text[: partial.stable] == "one tw"
    assert session.promise(3) == Promise(3, Samples(40), "one tw", tokens_of("one tw"))


@pytest.mark.parametrize(("segment", "start"), [(4, 0), (3, SAMPLE_RATE)], ids=["number", "place"])
def test_a_promise_binds_no_other_segment(segment: int, start: int) -> None:
    session = promised_before(3, 0, "one tw")
    session.receive(started(segment, start))
    [encode] = orders(session.receive(continued(segment, start, start + INTERVAL)), Encode)
    [decode] = session.receive(Encoded(encode.of, EMBEDDINGS))
    assert isinstance(decode, Decode)
    assert decode.forced == ()
    assert session.promise(segment) is None


def test_a_failed_final_keeps_what_its_last_partial_had_heard() -> None:
    session = new_session()
    session.receive(started(1, 0))
    update(session, heard("one"), until=100)
    session.receive(continued(1, 100, 150))
    session.receive(ended(1, 0, 150))
    final, align, gap = session.receive(PassFailed(final_of(1), "the encoder died"))
    assert final == Publish(Final(1, "one", "English", Samples(0), Samples(100), "silence"), 1)
    assert isinstance(align, Align)
    np.testing.assert_array_equal(align.samples, audio(0, 100))
    assert gap == Publish(Gap(Samples(100), Samples(150), "the encoder died"), 2)


def test_partials_become_rarer_where_they_are_dear() -> None:
    settings = SessionSettings(Samples(SAMPLE_RATE // 2), partial_load=0.5)
    session = Session(settings)
    session.receive(started(1, 0))
    second = SAMPLE_RATE
    assert orders(session.receive(continued(1, 0, second)), Encode)
    session.receive(Encoded(partial_of(1), EMBEDDINGS, cost=0.7))
    session.receive(Decoded(partial_of(1), heard("one"), cost=0.3))
    assert session.receive(continued(1, second, 3 * second - 1)) == []
    assert orders(session.receive(continued(1, 3 * second - 1, 3 * second)), Encode)


def test_no_partial_is_due_while_a_final_is_owed() -> None:
    session = new_session()
    speak(session, 1, 0, 200)
    session.receive(started(2, 300))
    assert session.receive(continued(2, 300, 600)) == []
    session.receive(Decoded(final_of(1), heard("one")))
    assert orders(session.receive(continued(2, 600, 601)), Encode)


def test_wishes_hold_from_the_next_segment_on() -> None:
    session = new_session(words=False)
    session.receive(started(1, 0))
    session.receive(Configured(Wishes(language="German", context="Grüße", words=True)))
    session.receive(ended(1, 0, 0))
    [decode] = session.receive(Encoded(final_of(1), EMBEDDINGS))
    assert isinstance(decode, Decode)
    assert (decode.language, decode.context) == (None, "")
    assert not orders(session.receive(Decoded(final_of(1), heard("one"))), Align)
    session.receive(started(2, 10))
    session.receive(ended(2, 10, 10))
    [decode] = session.receive(Encoded(final_of(2), EMBEDDINGS))
    assert isinstance(decode, Decode)
    assert (decode.language, decode.context) == ("German", "Grüße")
    assert orders(session.receive(Decoded(final_of(2), heard("zwei"))), Align)


def test_lost_audio_is_reported_between_the_finals_of_its_time() -> None:
    session = new_session(words=False)
    speak(session, 1, 0, 200)
    assert session.receive(AudioLost(Samples(300), Samples(400), "unplugged")) == []
    [final, gap] = published(session.receive(Decoded(final_of(1), heard("one"))))
    assert isinstance(final, Final)
    assert gap == Gap(Samples(300), Samples(400), "unplugged")


def test_the_end_is_said_once_when_nothing_is_owed() -> None:
    session = new_session()
    speak(session, 1, 0, 200)
    assert session.receive(StreamEnded(Samples(500))) == []
    session.receive(Decoded(final_of(1), heard("one")))
    words, end = session.receive(Aligned(1, (word("one"),), "aligned"))
    assert words == Publish(Words(1, (word("one"),), "aligned"), 2)
    assert end == Publish(End(Samples(500), 1, 1), 3)
    assert session.receive(Aligned(1, (word("one"),), "aligned")) == []


def test_the_end_of_silence_comes_at_once() -> None:
    assert new_session().receive(StreamEnded(Samples(9))) == [Publish(End(Samples(9), 0, 0), 1)]


def test_a_session_goes_on_counting_after_a_restart() -> None:
    session = Session(SessionSettings(), Wishes(), Published(seq=7, segments=3, words=11))
    final = Final(3, "three", "English", Samples(10), Samples(20), "silence")
    [align] = session.receive(FinalRestored(final, audio(10, 20)))
    assert isinstance(align, Align)
    assert (align.segment, align.start, align.text) == (3, 10, "three")
    assert session.owed_from == 10
    assert session.receive(StreamEnded(Samples(30))) == []
    words, end = published(session.receive(Aligned(3, (word("three"),), "aligned")))
    assert words == Words(3, (word("three"),), "aligned")
    assert end == End(Samples(30), 3, 12)
    assert session.seq == 9


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
    n_durable: int = 0
    stable: dict[int, str] = field(default_factory=dict)
    lost: list[tuple[int, int]] = field(default_factory=list)
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)

    def tell(self, event: SessionEvent) -> None:
        for action in self.session.receive(event):
            match action:
                case Publish(message=message, seq=seq):
                    if isinstance(message, Final | Words | Gap | End):
                        self.n_durable += 1
                        assert seq == self.n_durable, "a hole in the numbers"
                    else:
                        assert seq is None
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
                    [final] = [
                        m for m in self.messages if isinstance(m, Final) and m.segment == segment
                    ]
                    np.testing.assert_array_equal(samples, audio(final.start, final.end))
                    self.pending.append(action)
                case _:
                    self.pending.append(action)

    def check_message(self, message: object) -> None:
        assert not any(isinstance(m, End) for m in self.messages), "something after the end"
        if isinstance(message, Partial):
            assert message.segment == self.open, "a partial of a segment that has ended"
            promised = self.stable.get(message.segment, "")
            assert message.text.startswith(promised)
            assert message.stable >= len(promised), "stable shrank"
            self.stable[message.segment] = message.text[: message.stable]
        if isinstance(message, Final):
            assert message.text.startswith(self.stable.get(message.segment, ""))
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

    def lose(self, n_samples: int) -> None:
        start, self.position = self.position, self.position + n_samples
        self.lost.append((start, self.position))
        self.tell(AudioLost(Samples(start), Samples(self.position), "unplugged"))

    def hypothesis_for(self, order: Decode, draw: int) -> Hypothesis:
        """Mostly what was said before; sometimes something else behind what is forced."""
        forced = "".join(map(chr, order.forced[1:]))
        said = f"text {order.of.segment} " + "abc"[draw % 3] * (draw % 7) + "x" * (draw % 2)
        text = said if said.startswith(forced) else forced + said
        return heard(text.strip() if not forced else text)

    def answer(self, index: int, outcome: str) -> None:
        match self.pending.pop(index % len(self.pending)):
            case Encode(of=of) | Decode(of=of) if outcome == "failed":
                self.tell(PassFailed(of, "it failed"))
            case Encode(of=of):
                self.tell(Encoded(of, EMBEDDINGS))
            case Decode(of=of) if outcome == "abandoned" and not of.is_final:
                self.tell(PassAbandoned(of))
            case Decode() as order if outcome == "silent" and not order.forced:
                self.tell(Decoded(order.of, hypothesis("", None)))
            case Decode() as order:
                self.tell(Decoded(order.of, self.hypothesis_for(order, index)))
            case Align(segment=segment):
                self.tell(Aligned(segment, (word(f"text {segment}"),), "aligned"))
            case other:
                raise AssertionError(other)

    def check_end(self) -> None:
        assert self.session.is_settled
        assert self.session.n_unfinished == 0
        assert not self.session.has_partial_in_flight
        outcomes = [m for m in self.messages if isinstance(m, Final | Gap)]
        assert sorted(outcomes, key=lambda m: m.start) == outcomes, "not in the order of time"
        finals = [m for m in outcomes if isinstance(m, Final)]
        assert len({m.segment for m in finals}) == len(finals), "two finals of one segment"
        covered = sorted([(m.start, m.end) for m in outcomes if m.end > m.start])
        assert merged(covered) == merged(sorted([*self.bounds.values(), *self.lost]))
        with_text = [m.segment for m in finals if m.text]
        words = [m.segment for m in self.messages if isinstance(m, Words)]
        assert sorted(words) == (with_text if self.wants_words else [])
        [end] = [m for m in self.messages if isinstance(m, End)]
        assert end == End(Samples(self.position), len(finals), len(words))


def merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, those that touch as one; they must not overlap."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        assert not joined or start >= joined[-1][1], "overlap"
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        elif end > start:
            joined.append((start, end))
    return joined


@settings(max_examples=300)
@given(
    script=st.lists(st.integers(0, 9999), max_size=80),
    partials=st.booleans(),
    words=st.booleans(),
    lag=st.none() | st.builds(CommitLag, st.integers(0, 3), st.integers(0, 300)),
)
def test_any_order_of_answers_gives_one_outcome_per_segment_in_order(
    script: list[int], partials: bool, words: bool, lag: CommitLag | None
) -> None:
    world = World(new_session(partials=partials, words=words, commit=lag), words)
    outcomes = ["good", "good", "good", "failed", "abandoned", "silent"]
    for number in script:
        steps: list[Callable[[int], None]] = []
        if world.open is None:
            steps.append(lambda _: world.start())
            steps.append(lambda n: world.lose(1 + n % 99))
        else:
            steps.append(lambda n: world.grow(1 + n % 250))
            steps.append(lambda n: world.grow(INTERVAL))
            steps.append(lambda n: world.end(n % 60))
        if world.pending:
            steps += 2 * [lambda n: world.answer(n, outcomes[n % len(outcomes)])]
        steps[number % len(steps)](number // len(steps))
    if world.open is not None:
        world.end(0)
    world.tell(StreamEnded(Samples(world.position)))
    while world.pending:
        world.answer(len(world.pending) - 1, "good")
    world.check_end()
