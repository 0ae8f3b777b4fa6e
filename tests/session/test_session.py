"""The session: any order of answers gives one outcome per segment, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.events import (
    Aligned,
    AudioLost,
    Configured,
    Costs,
    FinalRestored,
    PassAbandoned,
    PassFailed,
    Recognised,
    SessionEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    StreamEnded,
)
from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.messages import Durable, End, Final, Gap, Partial, Speech, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Action,
    Align,
    Order,
    Pass,
    Promote,
    Publish,
    Rank,
    Recognise,
    Release,
)
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import Word
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples
from streamasr.session.session import Published, Session, SessionSettings
from streamasr.session.stable_prefix import CommitLag
from tests.support.examples import examples

INTERVAL = 100


def audio(start: int, end: int) -> Float32Array:
    """Samples that tell their position."""
    return np.arange(start, end, dtype=np.float32)


def new_session(
    *,
    partials: bool = True,
    words: bool = True,
    commit: CommitLag | None = None,
    speculates: bool = True,
) -> Session:
    settings = SessionSettings(
        Samples(INTERVAL), partial_load=None, commit=commit, speculates=speculates
    )
    return Session(settings, SessionOptions(partials=partials, words=words))


def started(segment: int, start: int) -> SpeechStarted:
    return SpeechStarted(segment, Samples(start))


def continued(segment: int, start: int, end: int) -> SpeechContinued:
    return SpeechContinued(segment, Samples(start), audio(start, end))


def ended(segment: int, start: int, end: int) -> SpeechEnded:
    return SpeechEnded(segment, Samples(start), Samples(end), "silence")


def hypothesis(text: str, language: str | None = "English") -> Hypothesis:
    return Hypothesis(text, language, (1, 2), (0, len(text)))


def paused(segment: int, end: int) -> SpeechPaused:
    return SpeechPaused(segment, Samples(end))


def word(text: str) -> Word:
    return Word(text, Samples(0), Samples(1), 1.0)


def published(actions: list[Action]) -> list[object]:
    return [action.message for action in actions if isinstance(action, Publish)]


def orders(actions: list[Action], kind: type[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def asked(actions: list[Action]) -> Pass:
    """The pass that begins."""
    [order] = orders(actions, Recognise)
    assert isinstance(order.of, Pass)
    return order.of


def speak(session: Session, segment: int, start: int, end: int) -> list[Action]:
    """One whole segment, with 50 samples that belong to its hangover."""
    return [
        *session.receive(started(segment, start)),
        *session.receive(continued(segment, start, end + 50)),
        *session.receive(ended(segment, start, end)),
    ]


def finish(session: Session, segment: int, start: int, end: int) -> Pass:
    """One whole segment; its final pass."""
    [*_, order] = speak(session, segment, start, end)
    assert isinstance(order, Recognise)
    return order.of


def test_speech_is_announced_when_it_starts() -> None:
    assert published(new_session().receive(started(1, 40))) == [Speech(1, Samples(40))]


def test_no_partial_is_due_before_its_interval() -> None:
    session = new_session()
    session.receive(started(1, 0))
    assert session.receive(continued(1, 0, INTERVAL - 1)) == []
    [order] = session.receive(continued(1, INTERVAL - 1, INTERVAL))
    assert isinstance(order, Recognise)
    np.testing.assert_array_equal(order.samples, audio(0, INTERVAL))


def test_a_client_that_wants_no_partials_gets_none() -> None:
    session = new_session(partials=False)
    session.receive(started(1, 0))
    assert session.receive(continued(1, 0, 100 * INTERVAL)) == []


def test_only_one_partial_is_on_its_way_and_the_next_one_holds_all_audio() -> None:
    session = new_session()
    session.receive(started(1, 0))
    of = asked(session.receive(continued(1, 0, 100)))
    assert of.rank is Rank.PARTIAL
    assert session.receive(continued(1, 100, 200)) == []
    assert session.receive(continued(1, 200, 300)) == []
    assert session.has_partial_in_flight
    [partial] = published(session.receive(Recognised(of, hypothesis("one"))))
    assert partial == Partial(1, "one", 0, "English", Samples(0), Samples(100))
    assert not session.has_partial_in_flight
    [order] = orders(session.receive(continued(1, 300, 301)), Recognise)
    np.testing.assert_array_equal(order.samples, audio(0, 301))


def test_an_empty_partial_is_not_published() -> None:
    session = new_session()
    session.receive(started(1, 0))
    of = asked(session.receive(continued(1, 0, 100)))
    assert session.receive(Recognised(of, hypothesis("", None))) == []


FAILED: Callable[[Pass], SessionEvent] = lambda of: PassFailed(of, "dead")  # noqa: E731


@pytest.mark.parametrize("loss", [FAILED, PassAbandoned], ids=["failed", "abandoned"])
def test_a_lost_partial_makes_room_for_the_next(loss: Callable[[Pass], SessionEvent]) -> None:
    session = new_session()
    session.receive(started(1, 0))
    of = asked(session.receive(continued(1, 0, 100)))
    assert session.receive(loss(of)) == []
    assert orders(session.receive(continued(1, 100, 200)), Recognise)


def test_the_end_abandons_the_partial_and_recognises_exactly_the_segment() -> None:
    session = new_session()
    _, partial, abandon, order = speak(session, 1, 1000, 1200)
    assert isinstance(partial, Recognise)
    assert abandon == AbandonPass(partial.of)
    assert isinstance(order, Recognise)
    assert order.of != partial.of
    assert order.of.rank is Rank.FINAL
    np.testing.assert_array_equal(order.samples, audio(1000, 1200))
    assert not session.has_partial_in_flight


LATE: dict[str, Callable[[Pass], SessionEvent]] = {
    "recognised": lambda of: Recognised(of, hypothesis("on")),
    "failed": FAILED,
    "abandoned": PassAbandoned,
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
@pytest.mark.parametrize("is_over", [False, True], ids=["before the final", "after the final"])
def test_what_is_answered_about_an_old_pass_is_ignored(
    late: Callable[[Pass], SessionEvent], is_over: bool
) -> None:
    session = new_session(words=False)
    _, partial, _, order = speak(session, 1, 0, 200)
    assert isinstance(partial, Recognise)
    assert isinstance(order, Recognise)
    if is_over:
        session.receive(Recognised(order.of, hypothesis("one")))
    assert session.receive(late(partial.of)) == []
    assert session.is_settled == is_over


def test_a_final_is_followed_by_its_words() -> None:
    session = new_session()
    of = finish(session, 1, 1000, 1200)
    release, final, align = session.receive(Recognised(of, hypothesis("one")))
    assert release == Release(1)
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
    of = finish(session, 1, 0, 200)
    [final] = published(session.receive(Recognised(of, hypothesis("", None))))
    assert final == Final(1, "", None, Samples(0), Samples(200), "silence")
    assert session.is_settled


def test_a_final_that_failed_becomes_a_gap() -> None:
    session = new_session()
    of = finish(session, 1, 0, 200)
    release, gap = session.receive(PassFailed(of, "the encoder died"))
    assert release == Release(1)
    assert gap == Publish(Gap(Samples(0), Samples(200), "the encoder died"), 1)
    assert session.is_settled


def test_a_final_waits_for_the_segments_before_it() -> None:
    session = new_session(words=False)
    one, two, three = (finish(session, n, 1000 * n, 1000 * n + 200) for n in (1, 2, 3))
    assert session.receive(Recognised(three, hypothesis("three"))) == [Release(3)]
    assert session.receive(PassFailed(two, "dead")) == [Release(2)]
    messages = published(session.receive(Recognised(one, hypothesis("one"))))
    assert [type(message) for message in messages] == [Final, Gap, Final]
    assert session.is_settled


def test_words_of_one_segment_do_not_hold_up_the_final_of_the_next() -> None:
    session = new_session()
    one, two = (finish(session, n, 1000 * n, 1000 * n + 200) for n in (1, 2))
    session.receive(Recognised(one, hypothesis("one")))
    [final] = published(session.receive(Recognised(two, hypothesis("two"))))
    assert isinstance(final, Final)
    assert session.n_unfinished == 2
    assert published(session.receive(Aligned(2, (), "spread")))
    assert published(session.receive(Aligned(1, (), "spread")))
    assert session.is_settled


def test_a_segment_of_no_samples_is_possible() -> None:
    session = new_session()
    session.receive(started(1, 10))
    [order] = session.receive(ended(1, 10, 10))
    assert isinstance(order, Recognise)
    assert order.samples.shape == (0,)
    assert order.samples.dtype == np.float32


def tokens_of(text: str) -> tuple[int, ...]:
    """One token for each character, behind a header of one."""
    return (0, *map(ord, text))


def heard(text: str) -> Hypothesis:
    """Hypothesis of a decoder whose tokens are characters."""
    return Hypothesis(text, "English", tokens_of(text), tuple(range(len(text) + 1)))


def timed(hypothesis: Hypothesis) -> Hypothesis:
    """The same with times: ten samples for each token."""
    edges = [Samples(10 * n) for n in range(len(hypothesis.tokens) + 1)]
    return replace(hypothesis, times=tuple(pairwise(edges)))


def update(session: Session, hypothesis: Hypothesis, *, until: int) -> tuple[Partial, Recognise]:
    """Feed segment 1 up to `until`; its next partial, and the order that it answers."""
    [order] = session.receive(continued(1, until - INTERVAL, until))
    assert isinstance(order, Recognise)
    [partial] = published(session.receive(Recognised(order.of, hypothesis)))
    assert isinstance(partial, Partial)
    return partial, order


def test_what_stands_long_enough_is_stable_and_forced() -> None:
    session = new_session(commit=CommitLag(tokens=2, audio=Samples(2 * INTERVAL)))
    session.receive(started(1, 0))
    stable, forced = [], []
    for n, text in enumerate(["on", "one tx", "one two", "one two th", "one two three"]):
        partial, order = update(session, heard(text), until=(n + 1) * INTERVAL)
        stable.append(partial.text[: partial.stable])
        forced.append(order.forced)
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
    [order] = session.receive(ended(1, 0, 200))
    assert isinstance(order, Recognise)
    assert order.forced == tokens_of("one")


def test_a_final_that_contradicts_the_stable_text_is_not_used() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(1)), words=False)
    session.receive(started(1, 0))
    for n in range(2):
        update(session, heard("one"), until=(n + 1) * INTERVAL)
    of = asked(session.receive(ended(1, 0, 200)))
    [final] = published(session.receive(Recognised(of, heard("two"))))
    assert isinstance(final, Final)
    assert final.text == "one"


def restored(segment: int, start: int, text: str) -> Session:
    stable = StableText(segment, Samples(start), text, tokens_of(text))
    settings = SessionSettings(Samples(INTERVAL), partial_load=None)
    return Session(settings, SessionOptions(), Published(stable=stable))


def test_text_that_was_stable_before_a_restart_is_still_forced() -> None:
    session = restored(3, 0, "one tw")
    session.receive(started(3, 40))
    [order] = orders(session.receive(continued(3, 40, 40 + INTERVAL)), Recognise)
    assert order.forced == tokens_of("one tw")
    [partial] = published(session.receive(Recognised(order.of, heard("one two"))))
    assert isinstance(partial, Partial)
    assert partial.text[: partial.stable] == "one tw"
    assert session.stable_text(3) == StableText(3, Samples(40), "one tw", tokens_of("one tw"))


@pytest.mark.parametrize(("segment", "start"), [(4, 0), (3, SAMPLE_RATE)], ids=["number", "place"])
def test_stable_text_belongs_to_its_own_segment(segment: int, start: int) -> None:
    session = restored(3, 0, "one tw")
    session.receive(started(segment, start))
    [order] = orders(session.receive(continued(segment, start, start + INTERVAL)), Recognise)
    assert order.forced == ()
    assert session.stable_text(segment) is None


def test_a_failed_final_keeps_what_its_last_partial_had_heard() -> None:
    session = new_session()
    session.receive(started(1, 0))
    update(session, heard("one"), until=100)
    session.receive(continued(1, 100, 150))
    of = asked(session.receive(ended(1, 0, 150)))
    _, final, align, gap = session.receive(PassFailed(of, "the encoder died"))
    assert final == Publish(Final(1, "one", "English", Samples(0), Samples(100), "silence"), 1)
    assert isinstance(align, Align)
    np.testing.assert_array_equal(align.samples, audio(0, 100))
    assert gap == Publish(Gap(Samples(100), Samples(150), "the encoder died"), 2)


def test_partials_become_rarer_where_they_are_dear() -> None:
    settings = SessionSettings(Samples(SAMPLE_RATE // 2), partial_load=0.5)
    session = Session(settings)
    session.receive(started(1, 0))
    second = SAMPLE_RATE
    of = asked(session.receive(continued(1, 0, second)))
    session.receive(Recognised(of, heard("one"), Costs(encode=0.2, prefill=0.2), waited=0.3))
    assert session.receive(continued(1, second, 3 * second - 1)) == []
    assert orders(session.receive(continued(1, 3 * second - 1, 3 * second)), Recognise)


def test_no_partial_is_due_while_a_final_is_owed() -> None:
    session = new_session()
    of = finish(session, 1, 0, 200)
    session.receive(started(2, 300))
    assert session.receive(continued(2, 300, 600)) == []
    session.receive(Recognised(of, heard("one")))
    assert orders(session.receive(continued(2, 600, 601)), Recognise)


def test_options_hold_from_the_next_segment_on() -> None:
    session = new_session(words=False)
    session.receive(started(1, 0))
    options = SessionOptions(language="German", context="Grüße", hotwords=("Ada",), words=True)
    session.receive(Configured(options))
    [order] = session.receive(ended(1, 0, 0))
    assert isinstance(order, Recognise)
    assert order.options == SessionOptions(words=False)
    assert not orders(session.receive(Recognised(order.of, heard("one"))), Align)
    session.receive(started(2, 10))
    [order] = session.receive(ended(2, 10, 10))
    assert isinstance(order, Recognise)
    assert order.options == options
    assert orders(session.receive(Recognised(order.of, heard("zwei"))), Align)


def test_lost_audio_is_reported_between_the_finals_of_its_time() -> None:
    session = new_session(words=False)
    of = finish(session, 1, 0, 200)
    assert session.receive(AudioLost(Samples(300), Samples(400), "unplugged")) == []
    [final, gap] = published(session.receive(Recognised(of, heard("one"))))
    assert isinstance(final, Final)
    assert gap == Gap(Samples(300), Samples(400), "unplugged")


def test_the_end_is_said_once_when_nothing_is_owed() -> None:
    session = new_session()
    of = finish(session, 1, 0, 200)
    assert session.receive(StreamEnded(Samples(500))) == []
    session.receive(Recognised(of, heard("one")))
    words, end = session.receive(Aligned(1, (word("one"),), "aligned"))
    assert words == Publish(Words(1, (word("one"),), "aligned"), 2)
    assert end == Publish(End(Samples(500), 1, 1), 3)
    assert session.receive(Aligned(1, (word("one"),), "aligned")) == []


def test_the_end_of_silence_comes_at_once() -> None:
    assert new_session().receive(StreamEnded(Samples(9))) == [Publish(End(Samples(9), 0, 0), 1)]


def test_a_session_goes_on_counting_after_a_restart() -> None:
    session = Session(SessionSettings(), SessionOptions(), Published(seq=7, segments=3, words=11))
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


def restore(traits: FamilyTraits) -> tuple[Session, list[Action]]:
    """A session after a restart, whose third final has no words yet."""
    session = Session(SessionSettings(), published=Published(seq=3, segments=3), traits=traits)
    final = Final(3, "three", "English", Samples(10), Samples(20), "silence")
    return session, session.receive(FinalRestored(final, audio(10, 20)))


@pytest.mark.parametrize(
    ("answer", "has_times"),
    [
        (lambda of: Recognised(of, timed(heard("three"))), True),
        (lambda of: Recognised(of, timed(heard("free"))), False),
        (FAILED, False),
        (PassAbandoned, False),
    ],
    ids=["same text", "other text", "failed", "abandoned"],
)
def test_a_restored_final_is_recognised_again_for_the_times_of_its_words(
    answer: Callable[[Pass], SessionEvent], has_times: bool
) -> None:
    session, actions = restore(FamilyTraits(can_force=False, word_method="ctc"))
    of = asked(actions)
    assert of.rank is Rank.FINAL
    assert not session.has_partial_in_flight
    release, align = session.receive(answer(of))
    assert release == Release(3)
    assert isinstance(align, Align)
    assert (align.text, align.start, bool(align.times)) == ("three", 10, has_times)
    assert published(session.receive(Aligned(3, (word("three"),), "ctc")))
    assert session.is_settled


# Drafts and samples


def test_the_draft_is_the_last_hypothesis() -> None:
    session = new_session()
    session.receive(started(1, 0))
    drafts = []
    for n, text in enumerate(["on", "one", "one two"]):
        _, order = update(session, heard(text), until=(n + 1) * INTERVAL)
        drafts.append(order.draft)
    assert drafts == [(), tokens_of("on"), tokens_of("one")]
    [final] = orders(session.receive(ended(1, 0, 3 * INTERVAL)), Recognise)
    assert final.draft == tokens_of("one two")


def test_a_hypothesis_that_contradicts_the_stable_text_is_not_a_draft() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(1)))
    session.receive(started(1, 0))
    for n in range(2):
        update(session, heard("one"), until=(n + 1) * INTERVAL)
    of = asked(session.receive(continued(1, 2 * INTERVAL, 3 * INTERVAL)))
    assert session.receive(Recognised(of, heard("two"))) == []
    [order] = session.receive(continued(1, 3 * INTERVAL, 4 * INTERVAL))
    assert isinstance(order, Recognise)
    assert (order.forced, order.draft) == (tokens_of("one"), ())


def test_samples_that_were_handed_out_never_change() -> None:
    session = new_session()
    session.receive(started(1, 0))
    handed_out: list[Float32Array] = []
    for start in range(0, 20 * SAMPLE_RATE, 1600):
        for order in orders(session.receive(continued(1, start, start + 1600)), Recognise):
            handed_out.append(order.samples)
            session.receive(Recognised(order.of, heard("one")))
    assert len(handed_out) == 200
    for samples in handed_out:
        np.testing.assert_array_equal(samples, audio(0, len(samples)))
        with pytest.raises(ValueError, match="read-only"):
            samples[0] = 1.0


def test_an_update_copies_nothing_of_a_long_segment() -> None:
    session = new_session()
    session.receive(started(1, 0))
    buffers = set()
    for start in range(0, 20 * SAMPLE_RATE, 1600):
        for order in orders(session.receive(continued(1, start, start + 1600)), Recognise):
            buffers.add(id(order.samples.base))
            session.receive(Recognised(order.of, heard("one")))
    assert len(buffers) < 6


# The speculative final


def pause(session: Session, end: int = 150) -> list[Action]:
    """Segment 1 from 0, and a pause in it whose silence reaches 50 samples beyond `end`."""
    session.receive(started(1, 0))
    before = session.receive(continued(1, 0, end + 50))
    return [*before, *session.receive(paused(1, end))]


def test_a_pause_puts_the_would_be_final_in_the_place_of_the_partial() -> None:
    partial, abandon, order = pause(new_session())
    assert isinstance(partial, Recognise)
    assert abandon == AbandonPass(partial.of)
    assert isinstance(order, Recognise)
    assert order.of.rank is Rank.SPECULATIVE
    np.testing.assert_array_equal(order.samples, audio(0, 150))


def test_a_prepared_final_is_published_at_the_endpoint() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    [partial] = published(session.receive(Recognised(of, hypothesis("one"))))
    assert partial == Partial(1, "one", 0, "English", Samples(0), Samples(150))
    assert session.receive(continued(1, 200, 900)) == []
    release, final, align = session.receive(ended(1, 0, 150))
    assert release == Release(1)
    assert final == Publish(Final(1, "one", "English", Samples(0), Samples(150), "silence"), 1)
    assert isinstance(align, Align)


def test_a_pass_that_prepares_the_final_is_promoted_at_the_endpoint() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    [promote] = session.receive(ended(1, 0, 150))
    assert promote == Promote(of)
    assert not session.has_partial_in_flight
    [final] = published(session.receive(Recognised(of, hypothesis("one"))))
    assert final == Final(1, "one", "English", Samples(0), Samples(150), "silence")


def test_another_end_than_the_announced_one_takes_another_pass() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    abandon, order = session.receive(ended(1, 0, 140))
    assert abandon == AbandonPass(of)
    assert isinstance(order, Recognise)
    assert order.of.rank is Rank.FINAL
    np.testing.assert_array_equal(order.samples, audio(0, 140))


def test_a_prepared_final_of_another_end_is_not_used() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    session.receive(Recognised(of, hypothesis("one")))
    assert asked(session.receive(ended(1, 0, 140))).rank is Rank.FINAL


def test_speech_that_comes_back_makes_a_partial_of_the_prepared_final() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    assert session.receive(SpeechResumed(1)) == []
    assert session.receive(continued(1, 200, 249)) == []
    [partial] = published(session.receive(Recognised(of, hypothesis("one"))))
    assert partial == Partial(1, "one", 0, "English", Samples(0), Samples(150))
    assert asked(session.receive(continued(1, 249, 250))).rank is Rank.PARTIAL


def test_what_was_prepared_before_speech_came_back_is_not_the_final() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    session.receive(Recognised(of, hypothesis("one")))
    session.receive(SpeechResumed(1))
    session.receive(continued(1, 200, 220))
    assert asked(session.receive(ended(1, 0, 220))).rank is Rank.FINAL


def test_the_next_pause_takes_the_place_of_the_last_one() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    session.receive(SpeechResumed(1))
    session.receive(continued(1, 200, 240))
    abandon, order = session.receive(paused(1, 240))
    assert abandon == AbandonPass(of)
    assert isinstance(order, Recognise)
    np.testing.assert_array_equal(order.samples, audio(0, 240))


def test_no_partial_is_due_in_a_pause() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    assert session.receive(continued(1, 200, 900)) == []
    session.receive(Recognised(of, hypothesis("one")))
    assert session.receive(continued(1, 900, 1900)) == []


def test_the_final_is_prepared_without_partials_too() -> None:
    session = new_session(partials=False)
    of = asked(pause(session))
    assert session.receive(Recognised(of, hypothesis("one"))) == []
    [final] = published(session.receive(ended(1, 0, 150)))
    assert isinstance(final, Final)


def test_a_pass_for_neither_final_nor_partial_is_abandoned() -> None:
    session = new_session(partials=False)
    of = asked(pause(session))
    assert session.receive(SpeechResumed(1)) == [AbandonPass(of)]


def test_nothing_becomes_stable_without_partials() -> None:
    session = new_session(partials=False, commit=CommitLag(tokens=0, audio=Samples(0)))
    of = asked(pause(session))
    for end in (300, 450):
        session.receive(Recognised(of, heard("one")))
        session.receive(SpeechResumed(1))
        session.receive(continued(1, end - 100, end))
        of = asked(session.receive(paused(1, end)))
    assert session.stable_text(1) is None


def test_a_final_of_silence_is_prepared_too() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    assert session.receive(Recognised(of, hypothesis("", None))) == []
    [final] = published(session.receive(ended(1, 0, 150)))
    assert final == Final(1, "", None, Samples(0), Samples(150), "silence")


def test_a_preparation_that_failed_is_not_tried_again_before_the_end() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    assert session.receive(PassFailed(of, "dead")) == []
    assert session.receive(continued(1, 200, 900)) == []
    assert asked(session.receive(ended(1, 0, 150))).rank is Rank.FINAL


def test_a_preparation_that_made_way_for_others_is_tried_again() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    assert session.receive(PassAbandoned(of)) == []
    again = asked(session.receive(continued(1, 200, 210)))
    assert again != of
    assert again.rank is Rank.SPECULATIVE


def test_a_final_that_was_abandoned_before_its_promotion_is_begun_again() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    session.receive(ended(1, 0, 150))
    again = asked(session.receive(PassAbandoned(of)))
    assert again.rank is Rank.FINAL
    [final] = published(session.receive(Recognised(again, hypothesis("one"))))
    assert isinstance(final, Final)


def test_a_promoted_pass_that_fails_fails_the_final() -> None:
    session = new_session()
    of = asked(pause(session)[-1:])
    session.receive(ended(1, 0, 150))
    [gap] = published(session.receive(PassFailed(of, "dead")))
    assert gap == Gap(Samples(0), Samples(150), "dead")


def test_a_prepared_final_that_contradicts_the_stable_text_is_not_used() -> None:
    session = new_session(commit=CommitLag(tokens=0, audio=Samples(1)))
    session.receive(started(1, 0))
    for n in range(2):
        update(session, heard("one"), until=(n + 1) * INTERVAL)
    of = asked(session.receive(paused(1, 150)))
    assert session.receive(Recognised(of, heard("two"))) == []
    assert session.receive(continued(1, 200, 900)) == []
    assert asked(session.receive(ended(1, 0, 150))).rank is Rank.FINAL


def test_nothing_is_prepared_before_what_is_owed() -> None:
    session = new_session()
    owed = finish(session, 1, 0, 200)
    session.receive(started(2, 300))
    session.receive(continued(2, 300, 500))
    assert session.receive(paused(2, 500)) == []
    session.receive(Recognised(owed, hypothesis("one")))
    assert asked(session.receive(continued(2, 500, 510))).rank is Rank.SPECULATIVE


def test_nothing_is_prepared_where_it_is_not_worth_its_cost() -> None:
    session = new_session(partials=False, speculates=False)
    assert orders(pause(session), Recognise) == []
    assert session.receive(SpeechResumed(1)) == []
    assert session.receive(paused(1, 150)) == []
    assert asked(session.receive(ended(1, 0, 150))).rank is Rank.FINAL


# Everything in any order


class OrderBook:
    """Orders of a session as its engine sees them; each must be consistent with those before."""

    def __init__(self) -> None:
        self.passes: dict[int, Pass] = {}  # by segment: the one that is on its way
        self.n_passes = 0
        self.released: set[int] = set()

    def note(self, order: Order) -> None:
        """Take the next order.

        Raises:
            AssertionError: it contradicts those before.
        """
        match order:
            case Recognise(of=of):
                n_forced = len(order.forced)
                assert order.draft[:n_forced] in ((), order.forced), (
                    "a draft contradicts the forced tokens"
                )
                assert of.segment not in self.released, f"a pass after the release: {of}"
                assert of.segment not in self.passes, f"a second pass over a segment: {of}"
                self.n_passes += 1
                assert of.number == self.n_passes, f"not the next number: {of}"
                self.passes[of.segment] = of
            case Promote(of=of):
                self._check_newest(of)
                assert self.passes[of.segment].rank is Rank.SPECULATIVE, f"no need to: {of}"
                self.passes[of.segment] = of
            case AbandonPass(of=of):
                self._check_newest(of)
                del self.passes[of.segment]
            case Release(segment=segment):
                assert segment not in self.released, f"released twice: {segment}"
                assert segment not in self.passes, f"released under {self.passes.get(segment)}"
                self.released.add(segment)
            case Align():
                pass

    def land(self, of: Pass) -> None:
        """Its pass has been answered for good."""
        self._check_newest(of)
        del self.passes[of.segment]

    def _check_newest(self, of: Pass) -> None:
        assert self.passes.get(of.segment) == of, f"{of} is not what the segment waits for"


AboutPass = Recognised | PassFailed | PassAbandoned

FORCED = FamilyTraits()
JOINED = FamilyTraits(can_force=False)


@dataclass
class World:
    """A session with everything it has asked for and not yet been answered."""

    session: Session
    wants_words: bool
    speculates: bool
    traits: FamilyTraits = FORCED
    pending: list[Action] = field(default_factory=list)
    messages: list[object] = field(default_factory=list)
    book: OrderBook = field(default_factory=OrderBook)
    passes: dict[int, Recognise] = field(default_factory=dict)  # by the number of their pass
    prepared: Pass | None = None
    disappointed: set[int] = field(default_factory=set)
    open: int | None = None
    pause: int | None = None  # its announced end
    position: int = 0
    n_segments: int = 0
    n_durable: int = 0
    stable: dict[int, str] = field(default_factory=dict)
    lost: list[tuple[int, int]] = field(default_factory=list)
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)

    def tell(self, event: SessionEvent) -> None:
        is_old = isinstance(event, AboutPass) and self.book.passes.get(event.of.segment) != event.of
        actions = self.session.receive(event)
        assert not (is_old and actions), "an old pass matters"
        if isinstance(event, AboutPass) and not is_old:
            self.book.land(event.of)
            self.note_outcome(event)
        for action in actions:
            if isinstance(action, AbandonPass):
                assert isinstance(event, SpeechPaused | SpeechResumed | SpeechEnded)
            if isinstance(action, Publish):
                self.check_message(action.message, action.seq)
                self.messages.append(action.message)
            else:
                self.book.note(action)
                self.check_order(action)

    def note_outcome(self, event: AboutPass) -> None:
        of = event.of
        stable = self.stable.get(of.segment, "")
        keeps = isinstance(event, Recognised) and event.hypothesis.text.startswith(stable)
        if not keeps and (self.traits.can_force or not isinstance(event, Recognised)):
            self.disappointed.add(of.segment)
        elif of.segment == self.open and self.pause is not None and of.rank is Rank.SPECULATIVE:
            self.prepared = of

    def check_order(self, order: Action) -> None:
        match order:
            case Recognise(of=of, samples=samples, forced=forced):
                self.check_samples(of, samples)
                stable = self.stable.get(of.segment, "")
                # The header may be settled before any text is.
                if self.traits.can_force:
                    assert forced == tokens_of(stable) or (forced, stable) == ((), "")
                else:
                    assert forced == ()
                self.passes[of.number] = order
                self.pending.append(order)
            case Promote(of=of):
                assert of.segment != self.open, "no final is owed"
            case Release(segment=segment):
                assert segment != self.open, "released in the middle"
            case Align(segment=segment, samples=samples):
                [final] = [
                    m for m in self.messages if isinstance(m, Final) and m.segment == segment
                ]
                np.testing.assert_array_equal(samples, audio(final.start, final.end))
                self.pending.append(order)

    def check_samples(self, of: Pass, samples: Float32Array) -> None:
        start, end = self.bounds[of.segment]
        match of.rank:
            case Rank.FINAL:
                assert of.segment != self.open
            case Rank.SPECULATIVE:
                assert of.segment == self.open
                assert self.pause is not None
                end = self.pause
            case Rank.PARTIAL:
                assert of.segment == self.open
                assert self.pause is None or not self.speculates
                end = self.position
        np.testing.assert_array_equal(samples, audio(start, end))

    def check_message(self, message: object, seq: int | None) -> None:
        self.n_durable += isinstance(message, Durable)
        assert seq == (self.n_durable if isinstance(message, Durable) else None), "a hole"
        assert not any(isinstance(m, End) for m in self.messages), "something after the end"
        if isinstance(message, Partial):
            assert message.segment == self.open, "a partial of a segment that has ended"
            stable = self.stable.get(message.segment, "")
            assert message.text.startswith(stable)
            assert message.stable >= len(stable), "stable shrank"
            self.stable[message.segment] = message.text[: message.stable]
        if isinstance(message, Final):
            assert message.text.startswith(self.stable.get(message.segment, ""))
            self.check_audio(message)
        if isinstance(message, Words):
            finals = [m.segment for m in self.messages if isinstance(m, Final)]
            assert message.segment in finals, "words before their final"

    def check_audio(self, final: Final) -> None:
        """Its text was heard in exactly its audio; what failed may have heard more."""
        if not final.text:
            return
        if not self.traits.can_force and final.text == self.stable.get(final.segment):
            return  # the last hypothesis had nothing to add
        number = int(final.text.rpartition("#")[2])
        n_heard, n_samples = len(self.passes[number].samples), final.end - final.start
        assert n_heard == n_samples or (n_heard > n_samples and final.segment in self.disappointed)

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

    def pause_or_resume(self, n_trailing: int) -> None:
        assert self.open
        self.prepared = None
        if self.pause is None:
            self.pause = max(self.bounds[self.open][0], self.position - n_trailing)
            self.tell(paused(self.open, self.pause))
        else:
            self.pause = None
            self.tell(SpeechResumed(self.open))

    def end(self, n_trailing: int) -> None:
        """End the segment; after a pause, three times in four, just there."""
        assert self.open
        segment, start = self.open, self.bounds[self.open][0]
        end = max(start, self.position - n_trailing)
        if self.pause is not None and n_trailing % 4:
            end = self.pause
        self.bounds[segment] = (start, end)
        useful = self.prepared or self.book.passes.get(segment)
        self.open = self.pause = self.prepared = None
        self.position = end
        n_passes = len(self.passes)
        self.tell(ended(segment, start, end))
        if useful and useful.rank is Rank.SPECULATIVE:
            is_whole = len(self.passes[useful.number].samples) == end - start
            assert len(self.passes) == n_passes + (not is_whole), "the work was for nothing"

    def lose(self, n_samples: int) -> None:
        start, self.position = self.position, self.position + n_samples
        self.lost.append((start, self.position))
        self.tell(AudioLost(Samples(start), Samples(self.position), "unplugged"))

    def hypothesis_for(self, order: Recognise, draw: int) -> Hypothesis:
        """Mostly what was said before; sometimes something else behind what is forced."""
        forced = "".join(map(chr, order.forced[1:]))
        said = f"text {order.of.segment} " + "abc"[draw % 3] * (draw % 7) + "x" * (draw % 2)
        text = said if said.startswith(forced) else forced + said
        hypothesis = heard(f"{text}#{order.of.number}")
        return hypothesis if self.traits.can_force else timed(hypothesis)

    def answer(self, index: int, outcome: str) -> None:
        match self.pending.pop(index % len(self.pending)):
            case Recognise(of=of) if outcome == "failed":
                self.tell(PassFailed(of, "it failed"))
            case Recognise(of=of) if outcome == "abandoned" and of.rank:
                self.tell(PassAbandoned(of))
            case Recognise(of=of, forced=()) if outcome == "silent":
                self.tell(Recognised(of, hypothesis("", None)))
            case Recognise(of=of) if outcome == "contradicting":
                wrong = heard(f"zzz#{of.number}")
                self.tell(Recognised(of, wrong if self.traits.can_force else timed(wrong)))
            case Recognise(of=of) as order:
                costs = Costs(encode=index % 3 / 10)
                self.tell(Recognised(of, self.hypothesis_for(order, index), costs))
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
        assert self.book.released == set(self.bounds), "caches are kept for ever"
        assert not self.book.passes
        for order in self.passes.values():
            start = self.bounds[order.of.segment][0]
            np.testing.assert_array_equal(order.samples, audio(start, start + len(order.samples)))


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


@settings(max_examples=examples(600))
@given(
    script=st.lists(st.integers(0, 9999), max_size=80),
    partials=st.booleans(),
    words=st.booleans(),
    choices=st.builds(
        SessionSettings,
        partial_interval=st.just(Samples(INTERVAL)),
        partial_load=st.sampled_from([None, 0.5, 20.0]),
        commit=st.none() | st.builds(CommitLag, st.integers(0, 3), st.integers(0, 300)),
        speculates=st.booleans(),
    ),
    traits=st.sampled_from([FORCED, JOINED]),
)
def test_any_order_of_answers_gives_one_outcome_per_segment_in_order(
    script: list[int],
    partials: bool,
    words: bool,
    choices: SessionSettings,
    traits: FamilyTraits,
) -> None:
    session = Session(choices, SessionOptions(partials=partials, words=words), traits=traits)
    world = World(session, words, choices.speculates, traits)
    outcomes = ["good", "good", "good", "good", "failed", "abandoned", "silent", "contradicting"]
    for number in script:
        steps: list[Callable[[int], None]] = []
        if world.open is None:
            steps.append(lambda _: world.start())
            steps.append(lambda n: world.lose(1 + n % 99))
        else:
            steps.append(lambda n: world.grow(1 + n % 250))
            steps.append(lambda n: world.grow(INTERVAL))
            steps.append(lambda n: world.pause_or_resume(n % 60))
            steps.append(lambda n: world.end(n % 60))
        if world.pending:
            steps += 3 * [lambda n: world.answer(n, outcomes[n % len(outcomes)])]
        steps[number % len(steps)](number // len(steps))
    if world.open is not None:
        world.end(0)
    world.tell(StreamEnded(Samples(world.position)))
    while world.pending:
        world.answer(len(world.pending) - 1, "good")
    world.check_end()
    if not partials and not choices.speculates:
        assert [order.of.segment for order in world.passes.values()] == list(world.bounds)
