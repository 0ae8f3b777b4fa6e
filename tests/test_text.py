"""From tokens to language and text. Here a token below 256 is a byte, above it a marker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.decoder.text import parse_answer

MARKER = 256


def piece(token: int) -> bytes:
    return b"<asr_text>" if token == MARKER else bytes([token])


def tokens(*parts: str | int) -> list[int]:
    """Bytes of texts, and markers."""
    return [
        token for part in parts for token in (part.encode() if isinstance(part, str) else [part])
    ]


def parse(*parts: str | int, forced: str | None = None) -> tuple[str | None, str]:
    return parse_answer(tokens(*parts), piece, MARKER, forced)


def test_language_and_text() -> None:
    assert parse("language English", MARKER, "Hello there.") == ("English", "Hello there.")


def test_white_space_around_the_text_goes_and_within_it_stays() -> None:
    assert parse("language English", MARKER, " a  b\nc ") == ("English", "a  b\nc")


def test_language_none_is_silence() -> None:
    assert parse("language None", MARKER) == (None, "")


def test_text_after_language_none_is_kept() -> None:
    assert parse("language None", MARKER, "hm") == (None, "hm")


def test_a_language_of_two_words() -> None:
    assert parse("language Old English", MARKER, "hwæt") == ("Old English", "hwæt")


@pytest.mark.parametrize("length", range(len("language English") + 1))
def test_the_header_alone_is_no_text(length: int) -> None:
    assert parse("language English"[:length]) == (None, "")


def test_no_tokens_at_all() -> None:
    assert parse() == (None, "")
    assert parse(forced="Chinese") == ("Chinese", "")


def test_an_answer_without_marker_is_text() -> None:
    assert parse("hello") == (None, "hello")


def test_an_empty_header_has_no_language() -> None:
    assert parse(MARKER, "hello") == (None, "hello")
    assert parse("language ", MARKER, "hello") == (None, "hello")
    assert parse("nonsense", MARKER, "hello") == (None, "hello")


def test_a_forced_language_makes_everything_text() -> None:
    assert parse("language lessons", forced="English") == ("English", "language lessons")


def test_text_that_spells_the_marker_is_text() -> None:
    assert parse("language English", MARKER, "say <asr_text> twice") == (
        "English",
        "say <asr_text> twice",
    )
    assert parse("say <asr_text>", forced="English") == ("English", "say <asr_text>")


def test_a_repeated_marker_is_never_in_the_text() -> None:
    assert parse("language English", MARKER, MARKER, "a", MARKER, "b") == ("English", "ab")
    assert parse(MARKER, "a", MARKER, forced="English") == ("English", "a")


@pytest.mark.parametrize("text", ["零一二", "é", "😀 ok", "ǅ̃"])
def test_a_torn_character_is_left_out(text: str) -> None:
    data = tokens(text)
    for length in range(len(data) + 1):
        _, shown = parse_answer(
            [*tokens("language Chinese", MARKER), *data[:length]], piece, MARKER, None
        )
        whole = bytes(data[:length]).decode(errors="ignore").strip()
        assert shown == whole
        assert text.startswith(shown)
        assert "\N{REPLACEMENT CHARACTER}" not in shown


@given(text=st.text(), cut=st.integers(0, 3))
def test_text_comes_back_but_for_its_last_character(text: str, cut: int) -> None:
    data = tokens("language Chinese", MARKER, text)
    kept = data[: max(len(data) - cut, len(data) - len(text.encode()))]
    _, shown = parse_answer(kept, piece, MARKER, None)
    assert text.strip().startswith(shown)
    assert cut or shown == text.strip()


@given(st.lists(st.integers(0, MARKER)), st.sampled_from([None, "English"]))
def test_any_tokens_give_a_text_of_whole_characters(answer: list[int], forced: str | None) -> None:
    language, text = parse_answer(answer, piece, MARKER, forced)
    text.encode()
    assert text == text.strip()
    assert forced is None or language == forced
