"""Punctuation of a growing segment, for families whose texts have none; pure.

Stable tokens, joining and drafts all work on the text without marks. The marks are put in last,
when a text is published:

    committed   today we look at it and then we   | see
    decided     Today we look at it, and          |            marks that stay
    shown       Today we look at it, and then we see           the others may change

* The mark behind a word, or that there is none, is decided once the word and `RIGHT_CONTEXT` words
  behind it are committed. It never changes again: later passes punctuate only what is behind it.
  The stable text of clients ends there.
* The model reads the text from the last decided end of a sentence on.
* In a partial the newest word has no mark yet. The final decides all, and its end is that of a
  sentence, unless the segment was cut for its length.
* A Latin word that begins a sentence gets a capital letter. It depends on what is before the word
  only.
* A text that nothing could punctuate counts as decided without marks, so that stable text goes on.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.punctuation import SENTENCE_ENDS, Mark, Marks, marked_text

RIGHT_CONTEXT: Final = 5
"""Words behind a mark that must be committed. The memory of each layer of CT-Transformer reaches 5
words to the right (kernel 11); FunASR's realtime pipeline trusts all marks but the newest."""


@dataclass(frozen=True, slots=True)
class Marked:
    """A hypothesis, and the marks of its text."""

    hypothesis: Hypothesis
    """Without marks."""
    marks: tuple[Mark, ...] | None = None
    """None of them empty; None where the text is as its family gave it."""
    n_open: int = 0
    """0, or 1 if the last mark is that of the newest word and not decided yet."""
    closing: Mark | None = None
    """Mark behind the newest word, if the text ends there; None if that is decided."""

    def in_partial(self) -> Hypothesis:
        """Return the hypothesis as a partial shows it."""
        if self.marks is None:
            return self.hypothesis
        return with_marks(self.hypothesis, self.marks[: len(self.marks) - self.n_open])

    def in_final(self, *, is_cut: bool) -> Hypothesis:
        """Return the hypothesis as a final.

        Args:
            is_cut: the segment was ended for its length, perhaps within a sentence.
        """
        if self.marks is None:
            return self.hypothesis
        if is_cut or self.closing is None:
            return with_marks(self.hypothesis, self.marks)
        marks = self.marks[: len(self.marks) - self.n_open]
        is_closed = self.hypothesis.text[-1:] in SENTENCE_ENDS
        return with_marks(self.hypothesis, marks if is_closed else (*marks, self.closing))


@dataclass(slots=True)
class DecidedMarks:
    """The marks of one segment's text that stay; they only grow."""

    n_decided: int = 0
    """Code points of the text without marks up to which all marks are decided."""
    marks: tuple[Mark, ...] = ()
    """Of those, the ones that are not empty."""

    @property
    def begin(self) -> int:
        """Return where the text begins that is still to be punctuated: behind a sentence."""
        return next((mark.end for mark in reversed(self.marks) if mark.ends_sentence), 0)

    @property
    def n_stable(self) -> int:
        """Return the code points of the text with marks that stay."""
        return self.n_decided + sum(len(mark.text) for mark in self.marks)

    def over(self, hypothesis: Hypothesis, found: Marks) -> Marked:
        """Return a hypothesis with its decided marks, and behind them those that were found.

        Args:
            hypothesis: its text begins with the decided part.
            found: marks of its text from `begin` on.
        """
        new = [mark for mark in self._placed(found) if mark.end > self.n_decided]
        if not new:
            return Marked(hypothesis, self.marks)
        marks = (*self.marks, *(mark for mark in new if mark.text))
        closing = Mark(new[-1].end, found.closing) if found.closing else None
        return Marked(hypothesis, marks, n_open=int(bool(new[-1].text)), closing=closing)

    def decide(self, found: Marks, n_committed: int) -> None:
        """Decide the marks whose right context is committed.

        Args:
            found: marks of the text from `begin` on.
            n_committed: code points of the committed text.
        """
        placed = self._placed(found)
        until = n_committed
        if placed:
            n_words = bisect_right(placed, n_committed, key=lambda mark: mark.end)
            until = placed[n_words - RIGHT_CONTEXT - 1].end if n_words > RIGHT_CONTEXT else 0
        if until > self.n_decided:
            new = (mark for mark in placed if self.n_decided < mark.end <= until and mark.text)
            self.n_decided, self.marks = until, (*self.marks, *new)

    def _placed(self, found: Marks) -> list[Mark]:
        begin = self.begin
        return [replace(mark, end=begin + mark.end) for mark in found.each]


def with_marks(hypothesis: Hypothesis, marks: Sequence[Mark]) -> Hypothesis:
    """Put marks into a text, and capital letters behind those that end a sentence.

    Args:
        hypothesis: without marks.
        marks: in the order of their places, none of them empty.
    """
    ends = [mark.end for mark in marks]
    widths = [0, *accumulate(len(mark.text) for mark in marks)]
    return replace(
        hypothesis,
        text=marked_text(hypothesis.text, marks),
        ends=tuple(end + widths[bisect_right(ends, end)] for end in hypothesis.ends),
    )


def shown_text(stable: StableText) -> str:
    """Return the stable text as listeners have it."""
    if stable.n_decided is None:
        return stable.text
    return marked_text(stable.text[: stable.n_decided], stable.marks)


def as_published(hypothesis: Hypothesis, text: str) -> Hypothesis | None:
    """Return a hypothesis with the marks and capitals of a text that was published.

    Returns:
        None if the text differs in more than those.
    """
    plain = hypothesis.text
    marks: list[Mark] = []
    done = 0
    for character in text:
        if done < len(plain) and character.lower() == plain[done].lower():
            done += 1
        elif unicodedata.category(character).startswith("P"):
            marks.append(Mark(done, character))
        else:
            return None
    if done < len(plain):
        return None
    return replace(with_marks(hypothesis, marks), text=text)
