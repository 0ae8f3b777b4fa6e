"""Checkpoints' JSON files, read with one clear sentence for whatever is wrong in them."""

import json
from pathlib import Path
from typing import Any

from streamasr.errors import ModelError


class Config:
    """A JSON object, or one inside it, whose values are fetched by name and type."""

    def __init__(self, values: Any, path: Path) -> None:
        """Wrap a section.

        Raises:
            ModelError: it is not a JSON object.
        """
        if not isinstance(values, dict):
            raise ModelError(f"{path}: a JSON object was expected")
        self._values: dict[str, Any] = values
        self.path = path

    def __contains__(self, name: str) -> bool:
        """Tell whether a value is there and not null."""
        return self._values.get(name) is not None

    def get(self, *names: str) -> Any:
        """Return the first of several spellings that is there, else None."""
        return next((self._values[name] for name in names if name in self), None)

    def section(self, name: str) -> "Config":
        """Return a section inside this one."""
        return Config(self._require(name), self.path)

    def integer(self, *names: str) -> int:
        """Return a positive whole number."""
        value = self._require(*names)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"{self.path}: {names[0]} must be a positive number, not {value!r}")
        return value

    def number(self, *names: str) -> float:
        """Return a number."""
        value = self._require(*names)
        if not isinstance(value, int | float):
            raise ModelError(f"{self.path}: {names[0]} must be a number, not {value!r}")
        return float(value)

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return a list of names, None where there is none."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ModelError(f"{self.path}: {name} must be a list of names")
        return tuple(value)

    def strings(self) -> dict[str, str]:
        """Return all values, each of which must be text."""
        for name, value in self._values.items():
            if not isinstance(value, str):
                raise ModelError(f"{self.path}: {name} must be text, not {value!r}")
        return dict(self._values)

    def integers(self) -> dict[str, int]:
        """Return all values, each of which must be a whole number from 0."""
        for name, value in self._values.items():
            if not isinstance(value, int) or value < 0:
                raise ModelError(f"{self.path}: {name!r} must be a number from 0, not {value!r}")
        return dict(self._values)

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a setting that would change the arithmetic."""
        value = self.get(name)
        if value is not None and value not in allowed:
            raise ModelError(f"{self.path}: {name} = {value!r} is not supported")

    def _require(self, *names: str) -> Any:
        value = self.get(*names)
        if value is None:
            raise ModelError(f"{self.path}: {names[0]} is missing")
        return value


def read_config(path: Path) -> Config:
    """Read a JSON file of a checkpoint.

    Raises:
        ModelError: it is missing, broken or no object.
    """
    try:
        return Config(json.loads(path.read_text("utf-8")), path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error
