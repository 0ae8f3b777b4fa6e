"""The user's directories, as the XDG base directory specification names them.

No child process needs them, so what finds them is loaded when they are asked for.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError

APP_NAME: Final = "streamasr"
"""Name of our directory in each of these places."""


def state_directory() -> Path:
    """Where the daemon keeps what it heard."""
    import platformdirs

    with _at_home():
        return platformdirs.user_state_path(APP_NAME)


def models_directory() -> Path:
    """Where models are installed."""
    import platformdirs

    with _at_home():
        return platformdirs.user_cache_path(APP_NAME) / "models"


def config_directories() -> list[Path]:
    """Where settings are looked for: the user's directory, then the system's."""
    import platformdirs

    with _at_home():
        return [*platformdirs.PlatformDirs(APP_NAME, multipath=True).iter_config_paths()]


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Explain that this user has no home."""
    try:
        yield
    except RuntimeError as error:
        raise ConfigError(
            "it is not known where your home directory is: set HOME, or name --config FILE and in "
            "it storage.directory."
        ) from error
