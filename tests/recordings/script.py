"""Scripted speech model: its text depends on the number and the length of a segment alone.

A segment has one word for each 0.3 s of audio. Every third segment is Chinese, with one character
for each 0.3 s. A partial ends with a guess that is never right, so that only what precedes it can
become stable. The first word of a segment shows the context that was given, if any.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

RATE: Final = 16_000
WORD: Final = RATE * 3 // 10
"""Samples for each word."""

_ENGLISH: Final = (
    *("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "India"),
    *("Juliett", "kilo", "Lima", "Mike", "November", "Oscar", "papa", "Québec", "Romeo"),
    *("Sierra", "tango", "𝄞uniform", "Victor", "whiskey", "X-ray", "Yankee", "zulu"),
)
_CHINESE: Final = "天地玄黄宇宙洪荒日月盈昃辰宿列张"

_LANGUAGE_TOKEN: Final = 1
_CONTEXT_TOKEN: Final = 50
_GUESS_TOKEN: Final = 99
_FIRST_TOKEN: Final = {"English": 100, "Chinese": 300}  # other languages: 500

Segments = frozenset[int]
"""Numbers of segments."""


@dataclass(frozen=True)
class Recognised:
    """Result of a pass over a segment."""

    text: str
    language: str | None
    tokens: tuple[int, ...]
    """The first one names the language."""
    ends: tuple[int, ...]
    """(n_tokens,), code points of `text` that are certain once a token is given."""
    is_suspicious: bool = False
    """A guard of the decoder ended the answer."""


@dataclass(frozen=True)
class Failed:
    """A pass that failed."""

    reason: str = "scripted_failure"


@dataclass(frozen=True)
class TimedWord:
    """Word of a segment with its times, samples from the start of the segment."""

    text: str
    start: int
    end: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Script:
    """Deterministic recogniser and aligner, with the segments where something unusual happens."""

    empty: Segments = frozenset()
    """The model finds no speech."""
    failing: Segments = frozenset()
    """Every pass fails."""
    failing_after: Mapping[int, float] = field(default_factory=dict)
    """Passes over more than so many seconds of a segment fail."""
    contradicting: Segments = frozenset()
    """The final does not begin with what became stable before."""
    suspicious: Segments = frozenset()
    """A guard of the decoder ends every answer."""
    shift: int = 0
    """Other words than with 0, for all that is not forced: a model that has changed its mind."""
    spread: Segments = frozenset()
    """The aligner finds no times; words are spread over the segment."""

    def recognise(
        self,
        segment: int,
        n_samples: int,
        *,
        is_partial: bool,
        language: str | None = None,
        context: str = "",
        forced: tuple[int, ...] = (),
    ) -> Recognised | Failed:
        """Return the result of a pass.

        Args:
            segment: number.
            n_samples: of the segment, from its start.
            is_partial: the pass can never become the final.
            language: to force; None to detect.
            context: context and hotwords as one text.
            forced: tokens that the answer begins with.
        """
        limit = self.failing_after.get(segment)
        if segment in self.failing or (limit is not None and n_samples > limit * RATE):
            return Failed()
        if segment in self.empty:
            return Recognised("", None, (_LANGUAGE_TOKEN,), (0,))
        language = language or ("English" if segment % 3 else "Chinese")
        n_words = max(1, n_samples // WORD)
        tokens = [_FIRST_TOKEN.get(language, 500) + n + self.shift for n in range(n_words)]
        if context:
            tokens[0] = _CONTEXT_TOKEN
        fixed = forced[1:]  # the first one names the language
        tokens[: len(fixed)] = fixed
        words = [_word(token, context) for token in tokens]
        if segment in self.contradicting and not is_partial:
            words[0] = "contradiction"
        if is_partial:
            words.append("呃" if language == "Chinese" else "um")
            tokens.append(_GUESS_TOKEN)
        joint = "" if language == "Chinese" else " "
        ends = [len(joint.join(words[: n + 1])) for n in range(len(words))]
        return Recognised(
            joint.join(words),
            language,
            (_LANGUAGE_TOKEN, *tokens),
            (0, *ends),
            is_suspicious=segment in self.suspicious,
        )

    def align(
        self, segment: int, n_samples: int, text: str, language: str | None
    ) -> tuple[list[TimedWord], str]:
        """Return the words of a final with their times, and the method."""
        words = list(text) if language == "Chinese" else text.split()
        is_spread = segment in self.spread
        length = n_samples // (len(words) + 2)
        timed = [
            TimedWord(
                word,
                length * index,
                length * (index + 1) - 160,
                None if is_spread else 0.5 + 0.0125 * (index % 40),
            )
            for index, word in enumerate(words, start=1)
        ]
        return timed, "spread" if is_spread else "aligned"


def _word(token: int, context: str) -> str:
    if token == _CONTEXT_TOKEN:
        return f"[{context}]"
    alphabet = _CHINESE if 300 <= token < 500 else _ENGLISH
    return alphabet[token % 100 % len(alphabet)]
