"""When a child is to do without what it was asked to run on: the processor always works.

A GPU's driver does not always fail politely. Where it raises, the child itself turns to the
processor; where it crashes or hangs the child, only the parent can. It retreats for good:

- after the first child that is not even ready: a driver that crashes does so every time;
- where a request, or the requests of all others, would be given up else, since a GPU that is
  overloaded or lost takes one child after the other.

A machine that is out of memory ends a child too. That cannot be told from a driver that does, and
the processor is then no worse.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

ConfigT = TypeVar("ConfigT")

DEATHS_PER_REQUEST: Final = 3
"""How often a child may die over a request before it is given up. A request that kills its child
does so every time; chance does not."""

FAILED_STARTS: Final = 5
"""How often in a row the first child may die before it is ready, until the worker is given up."""


@dataclass(slots=True)
class CpuFallback(Generic[ConfigT]):
    """Where there is to go from what was asked for. Workers that follow one another share it."""

    config: ConfigT
    """For children from then on."""
    avoided: str
    """What they do without, in words."""
    is_taken: bool = False

    def warning(self, why: str) -> str:
        """What people are told."""
        return f"{self.avoided} cannot be used, so the CPU is: the process died ({why})."


@dataclass(frozen=True, slots=True)
class Death:
    """What is known of the end of a child."""

    was_ready: bool
    in_a_row: int
    """How many have answered nothing, with this one."""
    over_request: int
    """How many have died over the request that it had; 0 if it had none."""


def is_hopeless(death: Death) -> bool:
    """Whether the next child had better be built otherwise."""
    return (
        not death.was_ready
        or death.in_a_row >= FAILED_STARTS
        or death.over_request >= DEATHS_PER_REQUEST
    )
