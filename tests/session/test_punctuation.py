"""Marks of a model of its own: decided ones stay, whatever happens, and words keep in step."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.alignment.token_times import words_of_tokens
from streamasr.core.events import (
    FinalRestored,
    PassAbandoned,
    Punctuated,
    Recognised,
    SessionEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
)
from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.messages import EndReason, Final, Message, Partial
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Action,
    Align,
    Promote,
    Publish,
    Punctuate,
    Rank,
    Recognise,
)
from streamasr.core.punctuation import Mark, Marks, marked_text
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import join_words
from streamasr.core.units import SAMPLE_RATE, Samples
from streamasr.models.ct_punc.text import words_of
from streamasr.session.punctuation import (
    RIGHT_CONTEXT,
    DecidedMarks,
    as_published,
    shown_text,
    with_marks,
)
from streamasr.session.session import Published, Session, SessionSettings
from streamasr.session.stable_prefix import CommitLag
from streamasr.storage.documents import decode_stable_text, encode_stable_text
from tests.support.examples import examples
from tests.support.marking import find_marks, unmarked
from tests.support.scribe import JITTERS, PIECES, Said, hear, speeches

PLAIN = FamilyTraits(can_force=False, word_method="cif", punctuates=False)
MARKED = replace(PLAIN, has_punctuator=True)
STEP = SAMPLE_RATE // 2
START = 3 * SAMPLE_RATE


@dataclass
class Stage:
    """One segment whose orders are answered when the test wants it, with restarts in between."""

    said: Sequence[Said]
    jitter: Sequence[int] = (0,)
    lag: CommitLag | None = CommitLag(0, Samples(STEP))  # noqa: RUF009 - frozen
    traits: FamilyTraits = MARKED
    is_patient: bool = False
    """Orders wait for `answer`."""
    is_broken: bool = False
    """Nothing is punctuated."""
    find: Callable[[str], Marks] = find_marks
    """The punctuation model."""
    session: Session = field(init=False)
    waiting: deque[Recognise | Punctuate] = field(default_factory=deque)
    stable: str = ""
    stored: StableText | None = None
    partials: list[Partial] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    final: Final | None = None
    align: Align | None = None
    position: int = 0
    is_paused: bool = False

    def __post_init__(self) -> None:
        self.begin(None)

    def begin(self, stable: StableText | None) -> None:
        settings = SessionSettings(Samples(STEP), partial_load=None, commit=self.lag)
        self.session = Session(settings, SessionOptions(), Published(stable=stable), self.traits)
        self.waiting.clear()
        self.position, self.is_paused = 0, False
        self.tell(SpeechStarted(1, Samples(START)))

    def restart(self) -> None:
        """Begin anew with what the journal kept; all audio comes again."""
        kept = None
        if self.stored is not None:
            kept = decode_stable_text("s", encode_stable_text(self.stored))
            assert kept == self.stored
        until = self.position
        self.begin(kept)
        self.grow(until)

    def grow(self, n_samples: int) -> None:
        samples = np.zeros(n_samples, np.float32)
        position = Samples(START + self.position)
        self.position += n_samples
        self.tell(SpeechContinued(1, position, samples))

    def pause(self) -> None:
        if not self.is_paused and self.position:
            self.is_paused = True
            self.tell(SpeechPaused(1, Samples(START + self.position)))

    def resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            self.tell(SpeechResumed(1))

    def end(self, reason: EndReason = "silence") -> None:
        self.tell(SpeechEnded(1, Samples(START), Samples(START + self.position), reason))
        self.answer(all_of_them=True)
        assert self.final

    def answer(self, *, all_of_them: bool = False) -> None:
        while self.waiting:
            match order := self.waiting.popleft():
                case Recognise():
                    turn = 7 * len(self.partials) % len(self.jitter)
                    jitter = [*self.jitter[turn:], *self.jitter[:turn]]
                    found = hear(self.said, len(order.samples), jitter)
                    self.tell(Recognised(order.of, found))
                case Punctuate():
                    marks = Marks() if self.is_broken else self.find(order.text)
                    self.tell(Punctuated(order.of, marks))
            if not all_of_them:
                return

    def tell(self, event: SessionEvent) -> None:
        for action in self.session.receive(event):
            self.follow(action)

    def follow(self, action: Action) -> None:
        match action:
            case Recognise() | Punctuate():
                if isinstance(action, Punctuate):
                    self.asked.append(action.text)
                self.waiting.append(action)
                if not self.is_patient:
                    self.answer()
            case AbandonPass(of=of):
                given_up = [order for order in self.waiting if order.of == of]
                for order in given_up:
                    self.waiting.remove(order)
                    self.tell(PassAbandoned(of))
            case Promote(of=of):
                for i, order in enumerate(self.waiting):
                    self.waiting[i] = replace(order, of=of) if order.of == of else order
            case Publish(message=message):
                self.read(message)
            case Align():
                self.align = action
            case _:
                pass

    def read(self, message: Message) -> None:
        match message:
            case Partial():
                self.check(message)
            case Final(text=text):
                assert self.final is None
                assert text.startswith(self.stable)
                self.final = message
            case _:
                pass

    def check(self, partial: Partial) -> None:
        assert partial.text.startswith(self.stable)
        assert partial.stable >= len(self.stable)
        self.stable = partial.text[: partial.stable]
        self.partials.append(partial)
        self.stored = self.session.stable_text(1)
        assert self.stored or not self.stable
        if self.stored:
            assert shown_text(self.stored) == self.stable

    def check_words(self) -> None:
        assert self.final
        assert bool(self.align) == bool(self.final.text)
        if self.align:
            words = words_of_tokens(self.align)
            assert join_words(words) == self.final.text
            edges = [edge for word in words for edge in (word.start, word.end)]
            assert edges == sorted(edges)


LAGS = st.builds(CommitLag, st.integers(0, 3), st.integers(0, SAMPLE_RATE).map(Samples))
GROW = st.integers(1, 30).map(lambda n: ("grow", n * STEP // 10))
STEPS = st.lists(
    GROW | st.sampled_from(["answer", "answer", "pause", "resume", "restart", "break"]),
    min_size=4,
    max_size=50,
)


REASONS: list[EndReason] = ["silence", "length", "stop"]


@settings(max_examples=examples(400))
@given(
    stage=st.builds(Stage, speeches(), JITTERS, LAGS | st.none(), is_patient=st.booleans()),
    steps=STEPS,
    reason=st.sampled_from(REASONS),
)
def test_in_any_order_of_events_stable_marks_stay_and_words_spell_the_final(
    stage: Stage, steps: list[Any], reason: EndReason
) -> None:
    follow(stage, steps, reason)


def follow(stage: Stage, steps: list[Any], reason: EndReason) -> None:
    """Take steps in a segment and end it; the stage checks each message."""
    for step in [*steps, ("grow", 1)]:
        match step:
            case ("grow", n_samples):
                stage.resume()
                stage.grow(n_samples)
            case "answer":
                stage.answer()
            case "pause":
                stage.pause()
            case "resume":
                stage.resume()
            case "restart":
                stage.restart()
            case "break":
                stage.is_broken = not stage.is_broken
    stage.end(reason)
    stage.check_words()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Callable[[str], Marks]]:
    """Return models with random weights; the last two read words that depend on what follows."""
    from streamasr.models.bundle import open_bundle
    from streamasr.models.ct_punc.punctuator import CTPunctuator
    from streamasr.models.ct_punc.segmentation import Segmentation
    from streamasr.models.onnx import OnnxOptions
    from tests.support.punctuation import write_punctuation

    folder = tmp_path_factory.mktemp("marks")
    words = [*PIECES, "你好", "好一", "一你", "零一"]
    divided = Segmentation({"你好": 5, "好一": 6, "一你": 4, "零一": 9, "你": 1, "一": 3}, 28)
    bundles = [
        write_punctuation(folder / str(n), words, seed=n, segmentation=divided if n > 2 else None)
        for n in range(5)
    ]
    options = OnnxOptions(threads=1)
    return [CTPunctuator.from_bundle(open_bundle(each), options).punctuate for each in bundles]


@pytest.mark.process
@settings(max_examples=examples(200))
@given(
    stage=st.builds(
        Stage, speeches(shortest_s=0.4), JITTERS, LAGS | st.none(), is_patient=st.booleans()
    ),
    steps=STEPS,
    reason=st.sampled_from(REASONS),
    number=st.integers(0, 4),
)
def test_decided_marks_of_a_real_model_stay(
    models: list[Callable[[str], Marks]],
    stage: Stage,
    steps: list[Any],
    reason: EndReason,
    number: int,
) -> None:
    stage.find = models[number]
    follow(stage, steps, reason)


def run(stage: Stage, restart_at: int = 0) -> Stage:
    """All of a speech in equal steps, and a restart after so many of them."""
    for n in range(1, stage.said[-1].end // STEP + 3):
        stage.grow(STEP)
        if n == restart_at:
            stage.restart()
    stage.end()
    return stage


@settings(max_examples=examples(200))
@given(said=speeches(), jitter=JITTERS, lag=LAGS | st.none())
def test_without_the_marks_the_text_is_that_of_a_session_without_them(
    said: list[Said], jitter: list[int], lag: CommitLag | None
) -> None:
    marked = run(Stage(said, jitter, lag))
    plain = run(Stage(said, jitter, lag, PLAIN))
    assert plain.asked == []
    assert [unmarked(each.text) for each in marked.partials] == [
        each.text for each in plain.partials
    ]
    assert marked.final
    assert plain.final
    assert unmarked(marked.final.text) == plain.final.text
    assert all(a.stable <= len(a.text) for a in marked.partials)


@settings(max_examples=examples(200))
@given(said=speeches(shortest_s=0.4), jitter=JITTERS, restart_at=st.integers(0, 12))
def test_later_passes_punctuate_only_what_is_behind_the_last_decided_sentence(
    said: list[Said], jitter: list[int], restart_at: int
) -> None:
    stage = run(Stage(said, jitter), restart_at)
    stored = stage.stored
    if stored is not None and any(mark.ends_sentence for mark in stored.marks):
        begin = max(mark.end for mark in stored.marks if mark.ends_sentence)
        assert stage.final
        assert len(stage.asked[-1]) <= len(unmarked(stage.final.text)) - begin


def monotone(n_words: int) -> list[Said]:
    return [Said("你好一"[n % 3], n * STEP // 2, (n + 1) * STEP // 2) for n in range(n_words)]


def test_a_mark_is_decided_when_its_right_context_is_committed() -> None:
    stage = Stage(monotone(20), lag=CommitLag(0, Samples(1)))
    n_stable = 0
    for _ in range(10):
        stage.grow(STEP)
        committed = stage.session._segments[1].stable.text
        assert stage.stored is None or stage.stored.n_decided == max(
            n_stable, len(committed) - RIGHT_CONTEXT
        )
        n_stable = max(n_stable, len(committed) - RIGHT_CONTEXT)
    assert n_stable > 5


def test_the_newest_word_of_a_partial_has_no_mark_and_a_final_ends_a_sentence() -> None:
    stage = run(Stage(monotone(9)))
    assert all(partial.text[-1] in "你好一" for partial in stage.partials)
    assert stage.final
    assert stage.final.text.endswith("。")


@pytest.mark.parametrize("n_words", range(1, 9))
def test_a_segment_that_was_cut_for_its_length_has_the_mark_of_the_model(n_words: int) -> None:
    stage = Stage(monotone(n_words), lag=None)
    stage.grow(n_words * STEP)
    stage.end("length")
    [*_, text] = stage.asked
    assert stage.final
    assert stage.final.text == marked_text(text, find_marks(text).each)


def test_text_that_nothing_punctuates_is_written_without_marks_and_becomes_stable() -> None:
    stage = run(Stage(monotone(12), is_broken=True))
    plain = run(Stage(monotone(12), traits=PLAIN))
    assert stage.final
    assert plain.final
    assert stage.final.text == plain.final.text
    assert [each.stable for each in stage.partials] == [each.stable for each in plain.partials]


def test_a_punctuator_that_breaks_later_leaves_the_decided_marks() -> None:
    stage = Stage(monotone(20), lag=CommitLag(0, Samples(1)))
    for _ in range(6):
        stage.grow(STEP)
    stage.is_broken = True
    stable = stage.stable
    assert unmarked(stable) != stable
    stage.grow(STEP)
    stage.end()
    assert stage.final
    rest = stage.final.text.removeprefix(stable)
    assert rest
    assert unmarked(rest) == rest


def begun(traits: FamilyTraits, options: SessionOptions) -> list[Action]:
    """The answer to the first hypothesis."""
    session = Session(SessionSettings(Samples(STEP), None), options, traits=traits)
    session.receive(SpeechStarted(1, Samples(0)))
    [order] = session.receive(SpeechContinued(1, Samples(0), np.zeros(STEP, np.float32)))
    assert isinstance(order, Recognise)
    return session.receive(Recognised(order.of, hear(monotone(2), STEP)))


@pytest.mark.parametrize(
    ("traits", "options", "asks"),
    [
        (MARKED, SessionOptions(), True),
        (MARKED, SessionOptions(punctuation=False), False),
        (replace(MARKED, punctuates=True), SessionOptions(), False),
        (PLAIN, SessionOptions(), False),
    ],
    ids=["wanted", "not wanted", "not needed", "not there"],
)
def test_marks_are_asked_for_where_they_are_wanted_needed_and_there(
    traits: FamilyTraits, options: SessionOptions, asks: bool
) -> None:
    [action] = begun(traits, options)
    assert isinstance(action, Punctuate) == asks
    assert isinstance(action, Publish) != asks


def test_a_pass_whose_marks_are_awaited_can_become_the_final_one() -> None:
    stage = Stage(monotone(4), is_patient=True, lag=None)
    stage.grow(STEP * 2)
    stage.answer()
    stage.pause()
    stage.answer()
    [order] = stage.waiting
    assert isinstance(order, Punctuate)
    assert order.of.rank is Rank.SPECULATIVE
    stage.tell(SpeechEnded(1, Samples(START), Samples(START + stage.position), "silence"))
    [order] = stage.waiting
    assert order.of.rank is Rank.FINAL
    stage.answer()
    assert stage.final
    assert stage.final.text.endswith("。")


def test_a_partial_whose_marks_are_awaited_makes_way_for_the_final() -> None:
    stage = Stage(monotone(4), is_patient=True, lag=None)
    stage.grow(STEP)
    stage.answer()
    assert isinstance(stage.waiting[0], Punctuate)
    stage.tell(SpeechEnded(1, Samples(START), Samples(START + stage.position), "silence"))
    [order] = stage.waiting
    assert isinstance(order, Recognise)
    assert order.of.rank is Rank.FINAL


def test_a_segment_keeps_its_shown_text_when_the_punctuation_is_switched_off() -> None:
    stage = Stage(monotone(20), lag=CommitLag(0, Samples(1)))
    for _ in range(8):
        stage.grow(STEP)
    stable = stage.stable
    assert unmarked(stable) != stable
    stage.traits = PLAIN
    n_asked = len(stage.asked)
    stage.restart()
    stage.grow(STEP)
    stage.end()
    assert stage.final
    assert stage.final.text.startswith(stable)
    assert len(stage.asked) == n_asked


def test_a_segment_that_was_shown_without_marks_gets_none_after_a_restart() -> None:
    stage = Stage([Said("hello", 0, STEP), *monotone(20)[2:]], traits=PLAIN)
    for _ in range(8):
        stage.grow(STEP)
    assert stage.stable.startswith("hello")
    stage.traits = MARKED
    stage.restart()
    stage.end()
    assert stage.final
    assert unmarked(stage.final.text) == stage.final.text


def test_another_model_continues_the_shown_text() -> None:
    stable = StableText(
        1, Samples(0), "hello go no", (1, 2, 3), (5, 8, 11), marks=(Mark(5, ","),), n_decided=8
    )
    found = Published(stable=stable).for_another_model().stable
    assert found == StableText(1, Samples(0), "Hello, go", ())


def restored(text: str, heard: Hypothesis) -> Align:
    """The order for the words of a final that was published before a restart."""
    session = Session(SessionSettings(), traits=MARKED)
    final = Final(1, text, "Chinese", Samples(0), Samples(STEP), "silence")
    [order] = session.receive(FinalRestored(final, np.zeros(STEP, np.float32)))
    assert isinstance(order, Recognise)
    [_, align] = session.receive(Recognised(order.of, heard))
    assert isinstance(align, Align)
    return align


def test_the_words_of_a_restored_final_have_the_times_of_its_tokens() -> None:
    heard = hear(monotone(3), 2 * STEP)
    align = restored("你，好一。", heard)
    assert align.text == "你，好一。"
    assert align.times == heard.times
    assert align.ends == (2, 3, 5)
    assert restored("你，好二。", heard).times == ()
    assert restored("你，好一二。", heard).times == ()
    assert restored("你，好。", heard).times == ()


WORDS = st.lists(st.sampled_from(["hello", "你", "it's", "3.5", "好", "go"]), max_size=8)


@given(words=WORDS, data=st.data())
def test_a_published_text_gives_its_marks_back(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    ends = [end for _, end in words_of(text)]
    found = [Mark(end, data.draw(st.sampled_from(["", ",", "。", "?", "、"]))) for end in ends]
    hypothesis = Hypothesis(text, None, tuple(range(len(ends))), tuple(ends))
    marked = with_marks(hypothesis, [mark for mark in found if mark.text])
    again = as_published(hypothesis, marked.text)
    assert again == marked
    assert msgspec.json.encode(again)


def test_sentences_begin_with_a_capital_letter() -> None:
    marks = [Mark(5, ","), Mark(8, "."), Mark(11, "?"), Mark(12, "。")]
    assert marked_text("hello go no你 it's", marks) == "Hello, go. No?你。 It's"
    assert marked_text("", []) == ""
    assert marked_text("éa", []) == "éa"


def test_decided_marks_are_not_found_again() -> None:
    decided = DecidedMarks()
    words = "你好" * 5
    found = Marks(tuple(Mark(n + 1, "，") for n in range(10)), "。")
    decided.decide(found, 8)
    assert decided.n_decided == 8 - RIGHT_CONTEXT
    assert decided.n_stable == 2 * decided.n_decided
    other = Marks(tuple(Mark(n + 1, "？") for n in range(10)), "。")
    shown = decided.over(Hypothesis(words, None, ()), other).in_partial()
    assert shown.text == "你，好，你，好？你？好？你？好？你？好"
