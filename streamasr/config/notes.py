"""What a field of a section says of itself, in an `Annotated` behind its type."""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, get_args

from msgspec import Meta


class Effect(Enum):
    """When a changed setting holds in a daemon that is already running."""

    RELOAD = "reload"
    """From the next SIGHUP on; sessions that are open may keep what they began with."""
    RESTART = "restart"
    """Once it is started anew."""
    ELSEWHERE = "elsewhere"
    """Never: it is another program's, which reads the file when it starts."""


RELOAD: Final = Effect.RELOAD
RESTART: Final = Effect.RESTART
ELSEWHERE: Final = Effect.ELSEWHERE


@dataclass(frozen=True, slots=True)
class Except:
    """A field of a section that does not hold when the others of it do."""

    name: str
    effect: Effect = RESTART


HIDDEN: Final = object()
"""Note of a field that is shown in no table and, at its default, in no file: for measurements."""


def example(value: str | int) -> Meta:
    """What a setting that is not set by default may look like."""
    return Meta(examples=[value])


def notes(annotation: Any) -> tuple[Any, ...]:
    """What stands behind the type in an `Annotated`."""
    return getattr(annotation, "__metadata__", ())


def without_notes(annotation: Any) -> Any:
    """The type alone."""
    return get_args(annotation)[0] if notes(annotation) else annotation
