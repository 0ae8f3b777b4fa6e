"""Reports of a long piece of work to its caller."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from streamasr.importing.tensors import ignore_notice, ignore_progress


class Steps(Protocol):
    """Display of a long piece of work."""

    def show(self, what: str, done: int, total: int) -> None:
        """Show the progress of a step; see `importing.tensors.Progress`."""

    def note(self, sentence: str) -> None:
        """Show a sentence that stays; see `importing.tensors.Notice`."""


OpenSteps: TypeAlias = Callable[[], AbstractContextManager[Steps]]
"""Opens a display for the time of a piece of work."""


@dataclass(frozen=True, slots=True)
class _HiddenSteps:
    def show(self, what: str, done: int, total: int) -> None:
        ignore_progress(what, done, total)

    def note(self, sentence: str) -> None:
        ignore_notice(sentence)


@contextmanager
def hide_steps() -> Iterator[Steps]:
    """Show nothing of a piece of work."""
    yield _HiddenSteps()
