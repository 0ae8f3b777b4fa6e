"""Register of the scenarios."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.recordings.engine import Settings
from tests.recordings.player import Player
from tests.recordings.script import Script

Play = Callable[[Player], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Conversation, and the daemon that it needs."""

    play: Play
    settings: Settings = field(default_factory=dict)
    script: Script = field(default_factory=Script)
    token: str | None = None
    is_loaded: bool = True
    keeps_order: bool = True
    """False where messages of different segments may overtake each other."""

    @property
    def name(self) -> str:
        """The name of its recording."""
        return self.play.__name__


SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(**options: Any) -> Callable[[Play], Play]:
    """Register a scenario; `options` are fields of `Scenario`."""

    def register(play: Play) -> Play:
        made = Scenario(play=play, **options)
        SCENARIOS[made.name] = made
        return play

    return register
