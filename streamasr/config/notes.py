"""Notes of a field of a section, in an `Annotated` behind its type."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, get_args

from msgspec import Meta


class Effect(Enum):
    """Time at which a changed setting takes effect in a running daemon."""

    RELOAD = "reload"
    """At the next SIGHUP; open sessions may keep the old value."""
    RESTART = "restart"
    """When the daemon is restarted."""
    ELSEWHERE = "elsewhere"
    """Never: another program reads the setting when it starts."""


RELOAD: Final = Effect.RELOAD
RESTART: Final = Effect.RESTART
ELSEWHERE: Final = Effect.ELSEWHERE


@dataclass(frozen=True, slots=True)
class Except:
    """A field of a section that takes effect at another time than the others."""

    name: str
    effect: Effect = RESTART


HIDDEN: Final = object()
"""Note of a field for measurements: shown in no table, and at its default in no file."""


def example(value: str | int) -> Meta:
    """Return the note of an example, for a setting that is not set by default."""
    return Meta(examples=[value])


def notes(annotation: Any) -> tuple[Any, ...]:
    """Return the notes behind the type in an `Annotated`."""
    return getattr(annotation, "__metadata__", ())


def without_notes(annotation: Any) -> Any:
    """Return the type without its notes."""
    return get_args(annotation)[0] if notes(annotation) else annotation
