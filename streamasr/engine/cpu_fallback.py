"""Fallback of a worker to the CPU after its GPU or execution provider crashed its children.

Where a GPU's driver raises an error, the child itself uses the processor instead; where it crashes
or hangs the child, only the parent can. It falls back for good:

- after the first child that was not even ready: a driver that crashes does so every time;
- where a request, or the worker, would be given up otherwise, since a GPU that is overloaded or
  lost ends one child after the other.

A machine that is out of memory ends a child, too. That looks the same from outside, and the
processor is no worse then.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

ConfigT = TypeVar("ConfigT")

DEATHS_PER_REQUEST: Final = 3
"""Deaths of a child over a request after which the request fails. A request that kills its child
does so every time; chance does not."""

FAILED_STARTS: Final = 5
"""Deaths in a row, before any child was ready, after which the worker ends."""


@dataclass(slots=True)
class CpuFallback(Generic[ConfigT]):
    """Configuration without GPU. Workers that follow one another share it."""

    config: ConfigT
    """Of children once it is taken."""
    avoided: str
    """Name of the GPU or execution providers that these children do not use."""
    is_taken: bool = False

    def warning(self, why: str) -> str:
        """Return a sentence for people."""
        return f"{self.avoided} cannot be used, so the CPU is: the process died ({why})."


@dataclass(frozen=True, slots=True)
class Death:
    """Facts about the end of a child."""

    was_ready: bool
    in_a_row: int
    """Number of children, this one included, that died without an answer."""
    over_request: int
    """Number of children that died over its request; 0 if it died without one."""


def is_hopeless(death: Death) -> bool:
    """Tell whether the next child should run on the CPU."""
    return (
        not death.was_ready
        or death.in_a_row >= FAILED_STARTS
        or death.over_request >= DEATHS_PER_REQUEST
    )
