"""Differences between two readings of the file, and those that a running daemon applies."""

from dataclasses import dataclass
from typing import Any

import msgspec

from streamasr.config.endpoint import check_access
from streamasr.config.listing import settings
from streamasr.config.notes import RELOAD, RESTART
from streamasr.config.sections import Settings


@dataclass(frozen=True, slots=True)
class Changes:
    """Differences between the settings of a running daemon and new ones, by path."""

    applied: tuple[str, ...]
    """Settings that can be applied at once."""
    needs_restart: tuple[str, ...]
    """Settings that take effect when the daemon is restarted."""


def compare(old: Settings, new: Settings) -> Changes:
    """Return the settings that have changed."""
    changed = [one for one in settings() if one.value(old) != one.value(new)]
    return Changes(
        applied=tuple(one.path for one in changed if one.effect is RELOAD),
        needs_restart=tuple(one.path for one in changed if one.effect is RESTART),
    )


def reload(running: Settings, wanted: Settings) -> Settings:
    """Return the settings of a running daemon after a reload.

    Raises:
        ConfigError: the mixture of old and new settings is not allowed: the token was removed
            together with the address, which stays.
    """
    taken: dict[str, dict[str, Any]] = {}
    for one in settings():
        source = running if one.effect is RESTART else wanted
        taken.setdefault(one.section, {})[one.name] = one.value(source)
    config = Settings(
        **{
            section: msgspec.structs.replace(getattr(running, section), **values)
            for section, values in taken.items()
        },
        models=wanted.models,
    )
    check_access(config.server)
    return config
