"""Word times from the token times that some recognisers give; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from streamasr.alignment.pauses import Span, find_pauses, move_to_pauses
from streamasr.alignment.words import AlignableWord, split_words
from streamasr.core.orders import Align
from streamasr.core.transcript import Word
from streamasr.core.units import Samples


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A stretch of text and of time that belong together."""

    begin: int  # code points
    end: int
    start: int  # samples
    stop: int

    def time_at(self, position: int) -> int:
        """Return the time of a position in the text, by linear interpolation."""
        inside = min(max(position, self.begin), self.end) - self.begin
        return self.start + (self.stop - self.start) * inside // (self.end - self.begin)


def words_of_tokens(order: Align) -> tuple[Word, ...]:
    """Time the words of a final by its tokens, and move their borders to pauses in the audio.

    The words are those that an aligner would be given; joined they spell the text. A word that
    is part of a token gets its part of the time. Tokens whose text is certain only with a later one
    share it, or get a word each if they are as many. Words behind the last token get its end.

    Args:
        order: of one final, with the ends and times of its tokens.

    Returns:
        The words in order, within the segment; none where nothing is spoken.
    """
    words = split_words(order.text, order.language)
    spans = move_to_pauses(_spans(order, words), find_pauses(order.samples), len(order.samples))
    return tuple(
        Word(
            word.display,
            Samples(order.start + start),
            Samples(order.start + end),
            None,
            word.space_after,
        )
        for word, (start, end) in zip(words, spans, strict=True)
    )


def _spans(order: Align, words: Sequence[AlignableWord]) -> list[Span]:
    """Return the times of words, in order and within the segment, in samples from its start."""
    stretches = _stretches(order)
    length = len(order.samples)
    spans: list[Span] = []
    position, floor = 0, 0
    for word in words:
        begin, position = _find(order.text, word.display, position)
        start = min(max(_start_at(stretches, begin, floor), floor), length)
        floor = min(max(_end_at(stretches, position, start), start), length)
        spans.append((start, floor))
    return spans


def _stretches(order: Align) -> list[_Stretch]:
    """Return the stretches of all tokens: of those that add text, with those before that add none.

    The text behind the last end belongs to tokens at the end that add none.
    """
    found: list[_Stretch] = []
    waiting: list[tuple[Samples, Samples]] = []
    known = 0
    for end, times in zip(order.ends, order.times, strict=True):
        waiting.append(times)
        if order.text[known:end].strip():
            found += _divide(order, known, min(end, len(order.text)), waiting)
            waiting = []
        known = max(known, min(end, len(order.text)))
    if waiting and order.text[known:].strip():
        found += _divide(order, known, len(order.text), waiting)
    return found


def _divide(
    order: Align, begin: int, end: int, times: Sequence[tuple[Samples, Samples]]
) -> Iterator[_Stretch]:
    """Divide a piece of the text among its tokens if it has as many words, else leave it whole."""
    piece = order.text[begin:end]
    words = split_words(piece, order.language)
    if len(words) != len(times):
        start, stop = times[0][0], times[-1][1]
        yield _Stretch(begin + len(piece) - len(piece.lstrip()), end, start, max(start, stop))
        return
    position = 0
    for word, (start, stop) in zip(words, times, strict=True):
        first, position = _find(piece, word.display, position)
        yield _Stretch(begin + first, begin + position, start, max(start, stop))


def _start_at(stretches: Sequence[_Stretch], position: int, default: int) -> int:
    found = next((s for s in stretches if s.end > position), None)
    return default if found is None else found.time_at(position)


def _end_at(stretches: Sequence[_Stretch], position: int, default: int) -> int:
    found = next((s for s in reversed(stretches) if s.begin < position), None)
    return default if found is None else found.time_at(position)


def _find(text: str, display: str, position: int) -> tuple[int, int]:
    """Return the range of the next word in the text, in which white space may be longer."""
    shown = (i for i in range(position, len(text)) if not text[i].isspace())
    n_shown = sum(not character.isspace() for character in display)
    places = list(islice(shown, n_shown))
    return places[0], places[-1] + 1
