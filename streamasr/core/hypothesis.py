"""The text of a segment while it is still being recognised."""

from dataclasses import dataclass
from typing import TypeAlias

from streamasr.core.punctuation import Mark
from streamasr.core.units import Samples

TokenTimes: TypeAlias = tuple[tuple[Samples, Samples], ...]
"""(n_tokens,): start and end of each token, counted from the segment's start."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The current best text of a segment."""

    text: str
    language: str | None
    """None when the model heard no speech."""
    tokens: tuple[int, ...]
    """The answer without its end token, from the forced ones on."""
    ends: tuple[int, ...] = ()
    """(n_tokens,), never falling: number of code points of `text` that stand for certain once this
    token is given, whatever tokens follow it. A token that ends inside a character, or the header
    that names the language, adds none."""
    is_suspicious: bool = False
    """A guard had to end it: it may repeat itself or lack its end."""
    times: TokenTimes = ()
    """Empty for families that do not know them."""


@dataclass(frozen=True, slots=True)
class StableText:
    """The stable beginning of an open segment: listeners rely on it, also through a restart."""

    segment: int
    start: Samples
    text: str
    tokens: tuple[int, ...]
    """The tokens of that text. Answers of families that can be forced are forced to begin with
    them."""
    ends: tuple[int, ...] = ()
    """(n_tokens,): end of each token in `text`; empty for families that can be forced."""
    times: TokenTimes = ()
    """(n_tokens,) as they were when the token became stable; empty where `ends` is."""
    marks: tuple[Mark, ...] = ()
    """Marks to be added to `text`, none of them empty, at most at `n_decided`."""
    n_decided: int | None = None
    """Code points of `text` whose marks are decided, where a model of its own punctuates: only so
    much was sent to listeners, with its marks. None: all of `text`, as it is."""
