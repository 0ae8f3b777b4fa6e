"""Checkpoints' JSON files, read with one clear sentence for whatever is wrong in them."""

import json
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError

_MOST_BYTES: Final = 1 << 26
"""Of a file: a tokenizer's, the largest there is, takes a sixth of it."""
_LARGEST: Final = 1e300


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
        """Return a positive whole number of 31 bits."""
        value: int = self._require(*names)
        if not _is_whole(value) or not 1 <= value < 1 << 31:
            raise ModelError(
                f"{self.path}: {names[0]} must be a positive number, not {_short(value)}"
            )
        return value

    def number(self, *names: str) -> float:
        """Return a finite number."""
        value = self._require(*names)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # A whole number may be larger than any float, and JSON may say NaN and Infinity.
        if not is_number or not -_LARGEST < value < _LARGEST:
            raise ModelError(f"{self.path}: {names[0]} must be a number, not {_short(value)}")
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
                raise ModelError(f"{self.path}: {_short(name)} must be text, not {_short(value)}")
        return dict(self._values)

    def integers(self) -> dict[str, int]:
        """Return all values, each of which must be a whole number from 0."""
        for name, value in self._values.items():
            if not _is_whole(value) or value < 0:
                raise ModelError(
                    f"{self.path}: {_short(name)} must be a number from 0, not {_short(value)}"
                )
        return dict(self._values)

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a setting that would change the arithmetic."""
        value = self.get(name)
        if value is not None and value not in allowed:
            raise ModelError(f"{self.path}: {name} = {_short(value)} is not supported")

    def _require(self, *names: str) -> Any:
        value = self.get(*names)
        if value is None:
            raise ModelError(f"{self.path}: {names[0]} is missing")
        return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """A value from a file as part of a sentence."""
    if isinstance(value, dict | list):
        return f"a JSON {'object' if isinstance(value, dict) else 'list'}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def read_config(path: Path) -> Config:
    """Read a JSON file of a checkpoint.

    Raises:
        ModelError: it is missing, broken or no object.
    """
    text = read_text(path)
    try:
        return Config(json.loads(text), path)
    except RecursionError as error:
        raise ModelError(f"{path}: cannot be read as JSON (it is nested too deep)") from error
    except ValueError as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error


def read_text(path: Path) -> str:
    """Read a text file of a checkpoint.

    Raises:
        ModelError: it is missing, too large, no file or no text.
    """
    try:
        # What is neither, a pipe for one, might be waited for without end.
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: this is not a file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ModelError(f"{path}: this is larger than any file of its kind")
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
