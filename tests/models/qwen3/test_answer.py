"""From tokens to language and text. Here a token below 256 is a byte, above it a marker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.models.qwen3.answer import parse_answer

MARKER = 256


def piece(token: int) -> bytes:
    return b"<asr_text>" if token == MARKER else bytes([token])


def tokens(*parts: str | int) -> list[int]:
    """Bytes of texts, and markers."""
    return [
        token for part in parts for token in (part.encode() if isinstance(part, str) else [part])
    ]


def parse(*parts: str | int, forced: str | None = None) -> tuple[str | None, str]:
    parsed = parse_answer(tokens(*parts), piece, MARKER, forced)
    return parsed.language, parsed.text


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
def test_the_header_alone_is_not_text(length: int) -> None:
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
        answer = [*tokens("language Chinese", MARKER), *data[:length]]
        shown = parse_answer(answer, piece, MARKER, None).text
        whole = bytes(data[:length]).decode(errors="ignore").strip()
        assert shown == whole
        assert text.startswith(shown)
        assert "\N{REPLACEMENT CHARACTER}" not in shown


@given(text=st.text(), cut=st.integers(0, 3))
def test_text_comes_back_but_for_its_last_character(text: str, cut: int) -> None:
    data = tokens("language Chinese", MARKER, text)
    kept = data[: max(len(data) - cut, len(data) - len(text.encode()))]
    shown = parse_answer(kept, piece, MARKER, None).text
    assert text.strip().startswith(shown)
    assert cut or shown == text.strip()


soups = st.lists(
    st.one_of(
        st.integers(0, MARKER),
        st.sampled_from([*"a b\n\u3000零é😀".encode(), MARKER]),
    ),
    max_size=40,
)
"""Tokens as no model would give them: torn characters, white space, markers."""
answers = st.one_of(soups, soups.map(lambda soup: [*tokens("language Chinese", MARKER), *soup]))
languages = st.sampled_from([None, "English"])


@given(answers, languages)
def test_any_tokens_give_a_text_of_whole_characters(answer: list[int], forced: str | None) -> None:
    parsed = parse_answer(answer, piece, MARKER, forced)
    parsed.text.encode()
    assert parsed.text == parsed.text.strip()
    assert forced is None or parsed.language == forced


@given(answers, soups, languages)
def test_what_a_token_settles_stays_whatever_follows(
    answer: list[int], continuation: list[int], forced: str | None
) -> None:
    parsed = parse_answer(answer, piece, MARKER, forced)
    for n, end in enumerate(parsed.ends, start=1):
        settled = parsed.text[:end]
        other = parse_answer([*answer[:n], *continuation], piece, MARKER, forced)
        assert other.text.startswith(settled)
        assert other.ends[:n] == parsed.ends[:n]


@given(answers, languages)
def test_ends_never_fall_and_stay_within_the_text(answer: list[int], forced: str | None) -> None:
    parsed = parse_answer(answer, piece, MARKER, forced)
    assert len(parsed.ends) == len(answer)
    assert list(parsed.ends) == sorted(parsed.ends)
    if answer and (forced or MARKER in answer):
        assert parsed.ends[-1] == len(parsed.text)
    else:
        assert not any(parsed.ends)


@pytest.mark.parametrize(
    ("parts", "forced", "ends"),
    [
        (["hi"], None, [0, 0]),
        (["hi"], "English", [1, 2]),
        (["x", MARKER, "hi", MARKER, "!"], None, [0, 0, 1, 2, 2, 3]),
        ([" a  b "], "English", [0, 1, 1, 1, 4, 4]),
        (["零é"], "English", [0, 0, 1, 1, 2]),
        ([0xC3, "a", 0xA9, "b"], "English", [0, 1, 1, 2]),
    ],
)
def test_a_token_settles_the_characters_it_completes(
    parts: list[str | int], forced: str | None, ends: list[int]
) -> None:
    assert list(parse_answer(tokens(*parts), piece, MARKER, forced).ends) == ends


def test_the_time_grows_with_the_length_alone() -> None:
    calls = 0

    def counted(token: int) -> bytes:
        nonlocal calls
        calls += 1
        return piece(token)

    answer = tokens("language Chinese", MARKER, "零一" * 500)
    parsed = parse_answer(answer, counted, MARKER, None)
    assert parsed.ends[-1] == len(parsed.text) == 1000
    assert calls <= len(answer)
