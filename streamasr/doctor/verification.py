"""Judgement of a model: its result for a clip compared with the known facts; pure."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

MOST_WORD_ERRORS: Final = 0.10
"""Share of a clip's words that may be wrong: one of the twelve in the built-in clip."""

MOST_TIME_ERROR_MS: Final = 100.0
"""Greatest mean distance of the borders of words from the known ones. The grid of the aligners is
80 ms, and the published one is 30 to 45 ms off on recordings."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check."""

    name: str
    passed: bool | None
    """None where no known facts exist to compare with."""
    detail: str
    code: str | None = None
    """Name of the condition for programs, of a failed check."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Time that a stage took for the clip."""

    seconds: float
    times_real_time: float | None
    """Seconds of audio for each second of work; None where the stage took no time."""


@dataclass(frozen=True, slots=True)
class Report:
    """Results of verifying a model."""

    model: str
    family: str
    directory: str
    checks: tuple[Check, ...]
    audio_s: float = 0.0
    load_s: float = 0.0
    """Time until everything was ready, loaded in parallel."""
    text: str = ""
    expected: str | None = None
    word_error_rate: float | None = None
    time_error_ms: float | None = None
    stages: Mapping[str, Speed] = field(default_factory=dict)
    peak_memory: Mapping[str, int] = field(default_factory=dict)
    """Highest resident size in bytes, by process; of mapped files, the part that was read."""
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if no check failed."""
        return all(check.passed is not False for check in self.checks)


def speed(seconds: float, audio_s: float) -> Speed:
    """Return the speed of work that took so many seconds."""
    return Speed(round(seconds, 4), round(audio_s / seconds, 2) if seconds > 0 else None)


def normalised(text: str) -> list[str]:
    """Return the words of a text for a comparison that ignores case, punctuation and width.

    A character that is as wide as a word (Chinese, Japanese, Korean) is one.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    spaced = []
    for character in plain:
        if unicodedata.category(character)[0] in "LNM":
            is_wide = unicodedata.east_asian_width(character) == "W"
            spaced.append(f" {character} " if is_wide else character)
        elif character not in "'’":  # don't is one word
            spaced.append(" ")
    return "".join(spaced).split()


def word_error_rate(expected: Sequence[str], found: Sequence[str]) -> float:
    """Return the share of expected words that were inserted, left out or replaced."""
    distances = list(range(len(found) + 1))
    for row, word in enumerate(expected, 1):
        before, distances[0] = distances[0], row
        for column, other in enumerate(found, 1):
            cheapest = min(
                before + (word != other), distances[column] + 1, distances[column - 1] + 1
            )
            before, distances[column] = distances[column], cheapest
    return distances[-1] / max(1, len(expected))


def check_text(expected: str | None, found: str) -> tuple[Check, float | None]:
    """Compare a text with the spoken one, if that is known."""
    if expected is None:
        return Check("text", None, "nothing to compare with (--expect)"), None
    rate = word_error_rate(normalised(expected), normalised(found))
    detail = f"word error rate {rate:.1%}, at most {MOST_WORD_ERRORS:.0%}"
    return _judged("text", rate <= MOST_WORD_ERRORS, detail, "text_differs"), rate


Span = tuple[float, float]
"""Start and end in seconds."""


def check_times(
    expected: Sequence[tuple[str, Span]] | None, found: Sequence[tuple[str, Span]]
) -> tuple[Check, float | None]:
    """Compare the times of words with the known ones.

    Args:
        expected: known words and times, in the order of the clip; None where unknown.
        found: words and times from the aligner; other words cannot be compared.
    """
    if expected is None:
        return Check("word times", None, f"{len(found)} words, nothing to compare with"), None
    words, others = ([normalised(text) for text, _ in spans] for spans in (expected, found))
    if words != others:
        return Check(
            "word times",
            None,
            "the recognised words differ from the spoken ones, nothing to compare with",
        ), None
    errors = [
        abs(border - other)
        for (_, span), (_, timed) in zip(expected, found, strict=True)
        for border, other in zip(span, timed, strict=True)
    ]
    mean = 1000 * sum(errors) / max(1, len(errors))
    detail = f"mean error {mean:.0f} ms, at most {MOST_TIME_ERROR_MS:.0f} ms"
    return _judged("word times", mean <= MOST_TIME_ERROR_MS, detail, "times_differ"), mean


def _judged(name: str, passed: bool, detail: str, code: str) -> Check:
    return Check(name, passed, detail, None if passed else code)
