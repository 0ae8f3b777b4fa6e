"""Directories of the user, by the XDG base directory specification.

Child processes do not need them, so platformdirs is loaded on first use.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError

APP_NAME: Final = "streamasr"
"""Name of our directory in each of these places."""


def state_directory() -> Path:
    """Return the directory of the journal and the spool."""
    import platformdirs

    with _at_home():
        return platformdirs.user_state_path(APP_NAME)


def models_directory() -> Path:
    """Return the directory of installed models."""
    import platformdirs

    with _at_home():
        return platformdirs.user_cache_path(APP_NAME) / "models"


def config_directories() -> list[Path]:
    """Return the directories of settings: the user's, then the system's."""
    import platformdirs

    with _at_home():
        return [*platformdirs.PlatformDirs(APP_NAME, multipath=True).iter_config_paths()]


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Explain that the user has no home directory."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            "your home directory is unknown: set HOME, or name --config FILE and in it "
            "storage.directory and storage.models.",
            code="home_unknown",
        ) from error
