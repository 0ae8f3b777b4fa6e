"""Numbers in texts, in timed words and in the segments of a transcript; pure.

A word with its times covers what it replaces: of "twenty three percent", three words, one is left,
`23%`, that begins with the first and ends with the last.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from streamasr.core.transcript import Segment, Word, join_words
from streamasr.writing.numbers.chinese import find_chinese_numbers
from streamasr.writing.numbers.replacement import Replacement, replaced
from streamasr.writing.rules import language_code

logger = logging.getLogger(__name__)

MAX_TEXT: Final = 20_000
"""Characters of a text; a longer one stays as it is."""

Find = Callable[[str], Iterable[Replacement]]


def normalise_text(text: str, language: str | None) -> str:
    """A text with its numbers in digits where its language has rules for them.

    Args:
        text: what was recognised.
        language: by name or code.
    """
    return replaced(text, _replacements(text, language))


def normalise_words(words: Sequence[Word], language: str | None) -> tuple[Word, ...]:
    """Words with their numbers in digits; those that make one number become one."""
    text = join_words(words)
    return tuple(_merged(words, text, _replacements(text, language)))


def normalise_segment(segment: Segment) -> Segment:
    """A segment with the numbers of its text and of its words in digits, both alike."""
    words = normalise_words(segment.words, segment.language)
    if words and join_words(segment.words) == " ".join(segment.text.split()):
        return replace(segment, text=join_words(words), words=words)
    return replace(segment, text=normalise_text(segment.text, segment.language), words=words)


def normalise_segments(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """The segments of a transcript, with their numbers in digits."""
    return tuple(normalise_segment(segment) for segment in segments)


def _replacements(text: str, language: str | None) -> list[Replacement]:
    """What to write in digits."""
    if len(text) > MAX_TEXT or (find := _finder(language_code(language))) is None:
        return []
    try:
        return list(find(text))
    except (ValueError, ArithmeticError, LookupError, RecursionError):
        logger.debug("numbers stay as they are in %r", text, exc_info=True)
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
    """Words of a text in which parts are replaced."""
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
    """One word in the place of several."""
    if not inside:
        return words[0]
    moved = (replace(one, start=one.start - start, end=one.end - start) for one in inside)
    confidences = [word.confidence for word in words if word.confidence is not None]
    return Word(
        text=replaced(text, moved),
        start=words[0].start,
        end=words[-1].end,
        confidence=min(confidences) if len(confidences) == len(words) else None,
        space_after=words[-1].space_after,
    )
