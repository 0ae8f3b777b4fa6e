"""The text of a segment while it is still being recognised."""

from dataclasses import dataclass

from streamasr.core.units import Samples


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The current best text of a segment."""

    text: str
    language: str | None
    """None when the model heard no speech."""
    tokens: tuple[int, ...]
    """The answer without its end token, from the forced ones on."""
    ends: tuple[int, ...] = ()
    """(n_tokens,), never falling: how many code points of `text` stand for certain once this token
    is given, whatever tokens follow it. 0 for the header that names the language."""
    is_suspicious: bool = False
    """A guard had to end it: it may repeat itself or lack its end."""


@dataclass(frozen=True, slots=True)
class StableText:
    """The stable beginning of an open segment: listeners rely on it, also through a restart."""

    segment: int
    start: Samples
    text: str
    forced: tuple[int, ...]
    """The tokens that it takes to keep it."""
