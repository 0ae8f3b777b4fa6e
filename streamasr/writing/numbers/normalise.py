"""Numbers in texts, in timed words and in the segments of a transcript; pure.

A word in digits spans the times of the words that it replaces: the three words of "twenty three
percent" become one word, `23%`, from the start of the first to the end of the last.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from streamasr.core.transcript import Segment, Word, join_words
from streamasr.writing.numbers.chinese import find_chinese_numbers
from streamasr.writing.numbers.replacement import Replacement, apply_replacements
from streamasr.writing.rules import language_code

logger = logging.getLogger(__name__)

MAX_TEXT: Final = 20_000
"""Maximum length of a text; a longer one stays unchanged."""

Find = Callable[[str], Iterable[Replacement]]


def normalise_text(text: str, language: str | None) -> str:
    """Write the numbers of a text in digits, if its language has rules for them.

    Args:
        text: recognised text.
        language: name or code of its language; None if unknown.
    """
    return apply_replacements(text, _replacements(text, language))


def normalise_words(words: Sequence[Word], language: str | None) -> tuple[Word, ...]:
    """Write the numbers of timed words in digits; the words of a number become one word."""
    text = join_words(words)
    return tuple(_merged(words, text, _replacements(text, language)))


def normalise_segment(segment: Segment) -> Segment:
    """Write the numbers of a segment in digits, consistently in its text and its words."""
    words = normalise_words(segment.words, segment.language)
    if words and join_words(segment.words) == " ".join(segment.text.split()):
        return replace(segment, text=join_words(words), words=words)
    return replace(segment, text=normalise_text(segment.text, segment.language), words=words)


def normalise_segments(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Write the numbers of all segments of a transcript in digits."""
    return tuple(normalise_segment(segment) for segment in segments)


def _replacements(text: str, language: str | None) -> list[Replacement]:
    """Return the numbers to write in digits; none if the search fails."""
    if len(text) > MAX_TEXT or (find := _finder(language_code(language))) is None:
        return []
    try:
        return list(find(text))
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        logger.debug("the numbers in %r stay unchanged", text, exc_info=True)
        return []


def _finder(code: str) -> Find | None:
    if code == "zh":
        return find_chinese_numbers
    if code == "en":
        from streamasr.writing.numbers.english import find_english_numbers

        return find_english_numbers
    return None


def _merged(
    words: Sequence[Word], text: str, replacements: Sequence[Replacement]
) -> Iterator[Word]:
    """Yield the words of a text after the replacement of parts of it."""
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word.text) + word.space_after
    waiting = list(replacements)
    index = 0
    while index < len(words):
        first, inside = index, []
        end = starts[index] + len(words[index].text)
        while waiting and waiting[0].start < end:
            inside.append(waiting.pop(0))
            while index + 1 < len(words) and starts[index + 1] < inside[-1].end:
                index += 1
            end = starts[index] + len(words[index].text)
        yield _joined(words[first : index + 1], text[starts[first] : end], starts[first], inside)
        index += 1


def _joined(words: Sequence[Word], text: str, start: int, inside: list[Replacement]) -> Word:
    """Join several words to one, with the replacements inside of them."""
    if not inside:
        return words[0]
    moved = (replace(each, start=each.start - start, end=each.end - start) for each in inside)
    confidences = [word.confidence for word in words if word.confidence is not None]
    return Word(
        text=apply_replacements(text, moved),
        start=words[0].start,
        end=words[-1].end,
        confidence=min(confidences) if len(confidences) == len(words) else None,
        space_after=words[-1].space_after,
    )
