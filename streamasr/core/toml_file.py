"""Reading of a TOML file that a user wrote."""

import tomllib
from pathlib import Path
from typing import Any

from streamasr.core.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file is missing, cannot be read, or is not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: the file does not exist.", code="no_such_file") from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}.", code="file_not_utf8"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.", code="file_not_toml") from error
