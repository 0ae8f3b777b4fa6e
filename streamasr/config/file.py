"""The file of settings: where it is looked for, how it is read, what overrides it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from streamasr.config.endpoint import check_access, read_token
from streamasr.config.listing import section_types
from streamasr.config.places import config_directories
from streamasr.config.sections import Settings
from streamasr.config.tables import convert
from streamasr.core.errors import ConfigError
from streamasr.core.toml_file import read_toml

CONFIG_VARIABLE: Final = "STREAMASR_CONFIG"
"""Environment variable that names the file of settings."""

Overrides: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Section -> key -> value, in the types of TOML; paths are absolute."""

_COMMAND_LINE: Final = "command line"


def config_places() -> list[Path]:
    """Return the places where the file of settings is looked for, in this order.

    They are `$STREAMASR_CONFIG` alone if it is set, else the user's and the system's directories
    of the XDG base directory specification.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        return [Path(named)]
    return [directory / "config.toml" for directory in config_directories()]


def find_config(explicit: Path | None = None) -> Path | None:
    """Return the file of settings: the named one, or the first that exists, if any.

    A named file need not exist; reading it raises the error.
    """
    if explicit is not None:
        return explicit
    places = config_places()
    if os.environ.get(CONFIG_VARIABLE):
        return places[0]
    return next((place for place in places if os.path.lexists(place)), None)


def load_config(path: Path | None, overrides: Overrides | None = None) -> Settings:
    """Read the file of settings, if any, and apply the command line.

    Relative paths in the file count from its directory.

    Raises:
        ConfigError: the file cannot be read, or a setting in it or on the command line is wrong.
    """
    base = Path("/") if path is None else path.absolute().parent
    tables = {} if path is None else read_toml(path)
    config = convert(tables, base, str(path))
    if overrides:
        merged = {
            name: {**tables.get(name, {}), **overrides.get(name, {})} for name in section_types()
        }
        config = convert(merged, base, _COMMAND_LINE)
    try:
        check_access(config.server)
        if config.server.token_file is not None:
            read_token(config.server.token_file)
    except ConfigError as error:
        is_file_at_fault = path is not None and not (overrides or {}).get("server")
        blamed = path if is_file_at_fault else _COMMAND_LINE
        raise ConfigError(f"{blamed}: {error}", code=error.code) from error
    return config
