"""Sessions with a family that cannot be forced to begin with the stable text."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.alignment.token_times import words_of_tokens
from streamasr.core.borders import is_word_border
from streamasr.core.events import (
    Recognised,
    SessionEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechStarted,
)
from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.messages import Final, Partial
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Action, Align, Publish, Rank, Recognise
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import join_words
from streamasr.core.units import SAMPLE_RATE, Samples, to_samples
from streamasr.session.session import Published, Session, SessionSettings
from streamasr.session.stable_prefix import CommitLag
from tests.support.examples import examples
from tests.support.scribe import JITTERS, Said, hear, speeches, spell

TRAITS = FamilyTraits(can_force=False, word_method="cif")
STEP = SAMPLE_RATE // 2
START = 3 * SAMPLE_RATE


@dataclass
class Stage:
    """One segment from its first sample to its words, with restarts in between."""

    said: Sequence[Said]
    jitter: Sequence[int]
    lag: CommitLag | None
    session: Session = field(init=False)
    stable: str = ""
    stored: StableText | None = None
    partials: list[Partial] = field(default_factory=list)
    raw: list[Hypothesis] = field(default_factory=list)
    final: Final | None = None
    align: Align | None = None
    position: int = 0

    def __post_init__(self) -> None:
        self.begin(None)

    def begin(self, stable: StableText | None, shift: int = 0) -> None:
        settings = SessionSettings(Samples(STEP), partial_load=None, commit=self.lag)
        self.session = Session(settings, SessionOptions(), Published(stable=stable), TRAITS)
        self.start, self.position = START + shift, 0
        self.tell(SpeechStarted(1, Samples(self.start)))

    def restart(self, shift: int = 0) -> None:
        """Begin anew with what was kept, as a daemon does; all audio comes again."""
        kept = msgspec.json.encode(self.stored)
        until = self.position
        self.begin(msgspec.json.decode(kept, type=StableText | None), shift)
        self.grow(until)

    def grow(self, n_samples: int) -> None:
        samples = np.zeros(n_samples, np.float32)
        position = Samples(self.start + self.position)
        self.position += n_samples
        self.tell(SpeechContinued(1, position, samples))

    def end(self) -> None:
        start, end = Samples(self.start), Samples(self.start + self.position)
        self.tell(SpeechEnded(1, start, end, "silence"))

    def tell(self, event: SessionEvent) -> None:
        for action in self.session.receive(event):
            self.follow(action)

    def follow(self, action: Action) -> None:
        match action:
            case Recognise(of=of, samples=samples, forced=forced):
                assert forced == ()
                turn = 7 * len(self.raw) % len(self.jitter)  # each pass has its own errors
                jitter = [*self.jitter[turn:], *self.jitter[:turn]]
                self.raw.append(hear(self.said, len(samples), jitter))
                self.tell(Recognised(of, self.raw[-1]))
            case Publish(message=Partial() as partial):
                self.check(partial)
            case Publish(message=Final() as final):
                assert final.text.startswith(self.stable)
                self.final = final
            case Align():
                self.align = action
            case _:
                pass

    def check(self, partial: Partial) -> None:
        assert partial.text.startswith(self.stable)
        assert partial.stable >= len(self.stable)
        self.stable = partial.text[: partial.stable]
        is_all = partial.stable == len(partial.text)
        assert is_all or is_word_border(partial.text, partial.stable)
        self.partials.append(partial)
        self.stored = self.session.stable_text(1)
        if self.stored:
            assert self.stored.text == self.stable
            assert len(self.stored.tokens) == len(self.stored.ends) == len(self.stored.times)
            assert self.stored.ends[-1] == len(self.stable)

    def words(self) -> list[str]:
        """The words of the final; they spell it, in order, within the segment."""
        assert self.final
        if self.align is None:
            assert not self.final.text
            return []
        words = words_of_tokens(self.align)
        assert join_words(words) == self.final.text
        edges = [edge for word in words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        if edges:
            assert self.final.start <= edges[0]
            assert edges[-1] <= self.final.end
        return [word.text for word in words]


LAGS = st.builds(CommitLag, st.integers(0, 5), st.integers(0, SAMPLE_RATE).map(Samples))


@settings(max_examples=examples(300))
@given(
    said=speeches(),
    jitter=JITTERS,
    lag=LAGS | st.none(),
    steps=st.lists(st.integers(0, 30), min_size=2, max_size=30),
)
def test_whatever_the_model_says_stable_text_stays_and_words_spell_the_final(
    said: list[Said], jitter: list[int], lag: CommitLag | None, steps: list[int]
) -> None:
    stage = Stage(said, jitter, lag)
    for step in steps:
        if step == 0:
            stage.restart(shift=160 * (len(stage.raw) % 7 - 3))
        else:
            stage.grow(step * STEP // 15)
    stage.end()
    stage.words()


def run(said: Sequence[Said], jitter: Sequence[int], lag: CommitLag, restart_at: int = 0) -> Stage:
    """All of a speech in equal steps, and a restart after so many of them."""
    stage = Stage(said, jitter, lag)
    n_steps = said[-1].end // STEP + 2
    for n in range(1, n_steps + 1):
        stage.grow(STEP)
        if n == restart_at:
            stage.restart()
    stage.end()
    return stage


LAG = CommitLag(tokens=1, audio=to_samples(0.8))


@settings(max_examples=examples(200))
@given(said=speeches(errs=False), jitter=JITTERS, restart_at=st.integers(0, 12))
def test_jitter_of_times_alone_changes_no_text(
    said: list[Said], jitter: list[int], restart_at: int
) -> None:
    stage = run(said, jitter, LAG, restart_at)
    assert stage.final
    assert stage.final.text == spell([word.text for word in said])


@settings(max_examples=examples(300))
@given(said=speeches(shortest_s=0.5), jitter=JITTERS, restart_at=st.integers(0, 12))
def test_wrong_stable_text_costs_no_word_and_doubles_none(
    said: list[Said], jitter: list[int], restart_at: int
) -> None:
    stage = run(said, jitter, LAG, restart_at)
    words = stage.words()
    assert len(words) == len(said)
    for word, one in zip(words, said, strict=True):
        assert word in (one.text, one.misheard)
    assert stage.final
    rest = stage.final.text[len(stage.stable) :]
    assert stage.raw[-1].text.endswith(rest.lstrip())


@settings(max_examples=examples(200))
@given(said=speeches(shortest_s=0.5, vocabulary=("go", "no", "你")), jitter=JITTERS)
def test_repeated_words_are_neither_lost_nor_doubled(said: list[Said], jitter: list[int]) -> None:
    assert len(run(said, jitter, LAG).words()) == len(said)


def two_words(wrong: str = "") -> list[Said]:
    """Words of which the first may be misheard for long enough to become stable."""
    second = SAMPLE_RATE
    return [
        Said("你", 0, second // 2, wrong, until=3 * second),
        Said("hello", second // 2, second),
        Said("go", 3 * second, 3 * second + second // 2),
    ]


def test_stable_text_that_turns_out_wrong_stays_with_its_times() -> None:
    stage = run(two_words("好"), [0], LAG)
    assert stage.final
    assert stage.final.text == "好 hello go"
    assert stage.raw[-1].text == "你 hello go"
    assert stage.stored
    assert stage.align
    n_stable = len(stage.stored.times)
    assert n_stable > 0
    assert stage.align.times[:n_stable] == stage.stored.times
    assert stage.words() == ["好", "hello", "go"]


def test_nothing_becomes_stable_without_times() -> None:
    session = Session(
        SessionSettings(Samples(STEP), partial_load=None, commit=CommitLag(0, Samples(0))),
        traits=TRAITS,
    )
    session.receive(SpeechStarted(1, Samples(0)))
    for n in range(1, 5):
        samples = np.zeros(STEP, np.float32)
        [order] = session.receive(SpeechContinued(1, Samples(n * STEP - STEP), samples))
        assert isinstance(order, Recognise)
        hypothesis = replace(hear(two_words(), SAMPLE_RATE), times=())
        [publish] = session.receive(Recognised(order.of, hypothesis))
        assert isinstance(publish, Publish)
        assert isinstance(publish.message, Partial)
        assert publish.message.stable == 0
    assert session.stable_text(1) is None


@pytest.mark.parametrize("traits", [TRAITS, FamilyTraits()], ids=["joined", "forced"])
@pytest.mark.parametrize("text", ["好 hello", "你 held", "你 hello"])
def test_stable_text_that_was_restored_alone_is_kept(text: str, traits: FamilyTraits) -> None:
    """An earlier version, or another model, stored it without usable tokens and times."""
    kept = StableText(1, Samples(START), text, ())
    settings = SessionSettings(Samples(STEP), partial_load=None, commit=LAG)
    session = Session(settings, published=Published(stable=kept), traits=traits)
    session.receive(SpeechStarted(1, Samples(START)))
    stable = text
    for n in range(1, 9):
        samples = np.zeros(STEP, np.float32)
        [order] = session.receive(SpeechContinued(1, Samples(START + (n - 1) * STEP), samples))
        assert isinstance(order, Recognise)
        [publish] = session.receive(Recognised(order.of, hear(two_words(), n * STEP)))
        assert isinstance(publish, Publish)
        partial = publish.message
        assert isinstance(partial, Partial)
        assert partial.text.startswith(stable)
        assert partial.stable >= len(stable)
        stable = partial.text[: partial.stable]
    [order] = session.receive(SpeechEnded(1, Samples(START), Samples(START + 8 * STEP), "silence"))
    assert isinstance(order, Recognise)
    assert order.of.rank is Rank.FINAL
    _, publish, align = session.receive(Recognised(order.of, hear(two_words(), 8 * STEP)))
    assert isinstance(publish, Publish)
    assert isinstance(publish.message, Final)
    assert publish.message.text.startswith(stable)
    assert publish.message.text.endswith("go")
    assert isinstance(align, Align)
    if text != "你 hello":
        assert align.times == ()


def test_a_model_that_hears_nothing_any_more_changes_no_stable_text() -> None:
    stage = run(two_words(), [0], LAG)
    assert stage.stable
    stage.said = []
    stage.begin(stage.stored)
    stage.grow(6 * STEP)
    stage.end()
    assert stage.final
    assert stage.final.text == stage.stable
