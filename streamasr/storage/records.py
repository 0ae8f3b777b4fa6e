"""Values that the journal takes and returns."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamasr.core.messages import Final, Words
from streamasr.core.options import SessionOptions
from streamasr.core.units import Samples

SessionSource: TypeAlias = Literal["microphone", "client"]


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """Facts of a session that it takes to resume it."""

    name: str
    source: SessionSource
    created: float
    """Seconds since 1970."""
    model: str
    options: SessionOptions


@dataclass(frozen=True, slots=True)
class Counts:
    """Progress of a session, by its durable messages."""

    last_seq: int
    n_finals: int
    n_words: int
    settled: Samples
    """End of the last final or gap; 0 before the first."""
    last_segment: int
    """Number of the newest segment with a final or words; 0 before the first."""
    wordless: tuple[Final, ...]
    """Finals with text whose words are missing."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One final of a search."""

    session: SessionRecord
    seq: int
    created: float
    """Time of its publication, in seconds since 1970."""
    final: Final
    words: Words | None
    """None where they never came, or were not asked for."""
