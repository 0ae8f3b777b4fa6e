"""Tests of the conversion of messages to edits: in order, never twice, only text that is stable."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.client import v1
from streamasr.dictation.composer import Composer, Mode
from streamasr.writing import RuleBook, Writer, load_rules
from streamasr.writing.edits import Edit, graphemes, pieces, smallest_edit, typeable


def speech(segment: int) -> v1.Speech:
    return v1.Speech(segment=segment, start=10.0 * segment)


def partial(segment: int, text: str, stable: int = 0) -> v1.Partial:
    start = 10.0 * segment
    return v1.Partial(
        segment=segment, text=text, stable=stable, start=start, end=start + 5, language="English"
    )


def final(segment: int, text: str, seq: int = 1) -> v1.Final:
    start = 10.0 * segment
    return v1.Final(
        seq=seq,
        segment=segment,
        text=text,
        language="English",
        start=start,
        end=start + 8,
        reason="silence",
    )


def gap(segment: int) -> v1.Gap:
    return v1.Gap(seq=1, start=10.0 * segment, end=10.0 * segment + 8, reason="lost")


class Screen:
    """Window that applies edits."""

    def __init__(self, mode: Mode) -> None:
        self.composer = Composer(mode, Writer(load_rules()))
        self.text = ""
        self.n_deleted = 0

    def receive(self, *messages: v1.ServerMessage) -> str:
        for message in messages:
            for edit in self.composer.receive(message):
                self.apply(edit)
        return self.text

    def apply(self, edit: Edit) -> None:
        assert edit, "an edit must change something"
        shown = graphemes(self.text)
        assert edit.delete <= len(shown)
        self.n_deleted += edit.delete
        self.text = "".join(shown[: len(shown) - edit.delete]) + edit.text


def test_stable_text_is_typed_as_it_grows_and_the_rest_with_the_final() -> None:
    screen = Screen("stable")
    assert screen.receive(speech(1), partial(1, "one two", 0)) == ""
    assert screen.receive(partial(1, "one two three", 8)) == "one two"
    assert screen.receive(partial(1, "one two tree", 8)) == "one two"
    assert screen.receive(final(1, "one two three")) == "one two three"
    assert screen.receive(final(2, "four")) == "one two three four"
    assert screen.n_deleted == 0


def test_only_finals_are_typed_in_mode_final() -> None:
    screen = Screen("final")
    assert screen.receive(partial(1, "one two", 7)) == ""
    assert screen.receive(final(1, "one two")) == "one two"


def test_live_text_is_corrected_by_the_smallest_edit() -> None:
    screen = Screen("live")
    assert screen.receive(partial(1, "one tree", 0)) == "one tree"
    assert screen.receive(partial(1, "one three", 0)) == "one three"
    assert screen.n_deleted == len("ree")
    assert screen.receive(final(1, "one three"), partial(2, "for")) == "one three for"
    assert screen.receive(final(2, "four")) == "one three four"


@pytest.mark.parametrize("mode", ["stable", "final", "live"])
def test_segments_are_typed_in_order(mode: Mode) -> None:
    screen = Screen(mode)
    assert screen.receive(speech(1), speech(2), final(2, "two")) == ""
    assert screen.receive(final(1, "one")) == "one two"


def test_a_lost_segment_does_not_delay_the_next() -> None:
    screen = Screen("stable")
    screen.receive(speech(1), speech(2), final(2, "two"))
    assert screen.receive(gap(1)) == "two"
    assert screen.receive(final(1, "late")) == "two"


def test_a_repeated_final_is_typed_once() -> None:
    screen = Screen("stable")
    assert screen.receive(final(1, "one"), final(1, "one"), partial(1, "one", 3)) == "one"


def test_silence_types_nothing() -> None:
    screen = Screen("live")
    end = v1.End(seq=3, duration=5, segments=1, words=0)
    assert screen.receive(speech(1), partial(1, ""), final(1, ""), end) == ""


def test_the_text_of_the_next_utterance_continues_that_of_an_abandoned_one() -> None:
    screen = Screen("stable")
    screen.receive(partial(1, "one two three", 8))
    screen.composer.abandon()
    assert screen.receive(final(1, "four")) == "one two four"


def test_live_text_of_an_abandoned_utterance_stays() -> None:
    screen = Screen("live")
    screen.receive(partial(1, "one two"))
    screen.composer.abandon()
    assert screen.receive(partial(1, "three"), final(1, "three")) == "one two three"
    assert screen.n_deleted == 0


def test_in_another_window_no_space_comes_first_and_no_text_is_lost() -> None:
    screen = Screen("live")
    screen.receive(final(1, "one"))
    screen.composer.move()
    assert screen.receive(partial(2, "two"), final(2, "three")) == "onethree"


@pytest.mark.parametrize(
    ("mode", "before", "after", "expected"),
    [
        ("live", "one too", "one two", "wo"),
        ("live", "won", "one two", "one two"),
        ("live", "one", "one two", " two"),
        ("stable", "one ", "one two", " two"),
        ("stable", "one two ", "one two scratch that", ""),
    ],
)
def test_text_typed_in_one_window_is_not_deleted_in_another(
    mode: Mode, before: str, after: str, expected: str
) -> None:
    screen = Screen(mode)
    screen.receive(partial(1, before, len(before)))
    screen.text = ""  # the screen asserts that only existing text is deleted
    screen.composer.move()
    assert screen.receive(final(1, after)) == expected


@pytest.mark.parametrize("mode", ["stable", "live"])
def test_a_segment_that_ends_in_another_window_joins_the_next_segment_there(mode: Mode) -> None:
    screen = Screen(mode)
    screen.receive(partial(1, "one ", 4))
    screen.text = ""
    screen.composer.move()
    assert screen.receive(final(2, "three"), final(1, "one two")) == " two three"
    assert screen.receive(final(3, "scratch that")) == " two"
    assert screen.receive(final(4, "scratch that")) == ""


words = st.lists(st.sampled_from(["one", "two", "three", "four", "é", "你好", "👍🏽"]), max_size=6)


@given(st.lists(st.tuples(words, st.lists(words, max_size=4)), max_size=4), st.randoms())
def test_all_modes_end_with_the_same_text(
    segments: list[tuple[list[str], list[list[str]]]], rng: Random
) -> None:
    messages: list[v1.ServerMessage] = []
    for number, (said, guesses) in enumerate(segments, 1):
        text, stable = " ".join(said), 0
        messages.append(speech(number))
        for guess in guesses:
            stable = rng.randint(stable, len(text))
            messages.append(partial(number, text[:stable] + " ".join(guess), stable))
        messages.append(final(number, text, number))
    screens = {mode: Screen(mode) for mode in ("stable", "final", "live")}
    texts = {mode: screen.receive(*messages) for mode, screen in screens.items()}
    assert len(set(texts.values())) == 1
    assert screens["stable"].n_deleted == screens["final"].n_deleted == 0


texts = st.text(st.sampled_from("ab é\u0301\u200d👍🏽👩🇩🇪你\n"), max_size=20)


@given(texts, texts)
def test_the_smallest_edit_gives_the_new_text_and_keeps_the_common_prefix(
    old: str, new: str
) -> None:
    edit, was = smallest_edit(old, new), graphemes(old)
    kept = was[: len(was) - edit.delete]
    assert "".join(kept) + edit.text == new
    longer = was[: len(kept) + 1]
    assert edit.delete == 0 or graphemes(new)[: len(longer)] != longer


@given(st.text(max_size=60), st.integers(1, 10))
def test_pieces_add_up_to_the_text_and_divide_no_grapheme(text: str, size: int) -> None:
    cut = pieces(text, size)
    assert "".join(cut) == text
    assert [each for piece in cut for each in graphemes(piece)] == graphemes(text)


@given(st.text(max_size=60))
def test_no_control_code_reaches_a_window(text: str) -> None:
    cleaned = typeable(text)
    assert all(char in "\n\t" or char.isprintable() or char >= "\u00a0" for char in cleaned)
    assert typeable(cleaned) == cleaned


def test_only_line_ends_and_tabs_remain_of_control_codes() -> None:
    assert typeable("a\x1b[2Jb\r\nc\u2028d\te\x7f") == "a[2Jb\nc\nd\te"


@pytest.mark.parametrize("book", [None, load_rules()])
def test_a_tab_is_typed_only_by_a_command(book: RuleBook | None) -> None:
    assert Writer(book).settle("one\ttwo", "English") == Edit(0, "one two")
    tab = Edit(0, "one\ttwo") if book else Edit(0, "one tab key two")
    assert Writer(book).settle("one tab key two", "English") == tab
