"""Reader for the JSON, YAML and text files of a checkpoint, with an error for every wrong value."""

import json
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError

_MAX_BYTES: Final = 1 << 26
"""Size limit of a file; the largest, that of a tokenizer, takes a sixth of it."""
_MAX_YAML_BYTES: Final = 1 << 18
"""Size limit of a YAML file, which is parsed slowly; the largest lists all tokens, in 100 kB."""
_LARGEST: Final = 1e300
_LONGEST_NUMBER: Final = 40
"""Characters of a number in YAML, whose other notations give numbers of any size."""


class Config:
    """JSON object or YAML mapping, or a section of one, with access to values by name and type."""

    def __init__(self, values: Any, path: Path) -> None:
        """Wrap a section.

        Raises:
            ModelError: the value is not a JSON object.
        """
        if not isinstance(values, dict):
            raise ModelError(
                f"{path}: expected a JSON object, found {_short(values)}", code="json_not_object"
            )
        self._values: dict[str, Any] = values
        self.path = path

    def __contains__(self, name: str) -> bool:
        """Return whether a value is present and not null."""
        return self._values.get(name) is not None

    def states(self, name: str) -> bool:
        """Return whether a value is present, also if it is null."""
        return name in self._values

    def get(self, *names: str) -> Any:
        """Return the value of the first spelling that is present, else None."""
        return next((self._values[name] for name in names if name in self), None)

    def optional_section(self, name: str) -> "Config":
        """Return a section of this one; an empty one if it is absent.

        Raises:
            ModelError: the value is not a JSON object.
        """
        return Config(self.get(name) or {}, self.path)

    def section(self, name: str) -> "Config":
        """Return a section of this one.

        Raises:
            ModelError: the section is missing or not a JSON object.
        """
        return Config(self._require(name), self.path)

    def integer(self, *names: str) -> int:
        """Return a positive integer of 31 bits.

        Raises:
            ModelError: the value is missing or not such a number.
        """
        value: int = self._require(*names)
        if not _is_whole(value) or not 1 <= value < 1 << 31:
            raise ModelError(
                f"{self.path}: {names[0]} must be a positive integer, not {_short(value)}",
                code="json_value",
            )
        return value

    def number(self, *names: str) -> float:
        """Return a finite number.

        Raises:
            ModelError: the value is missing or not such a number.
        """
        value = self._require(*names)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # An integer may exceed every float, and Python's JSON accepts NaN and Infinity.
        if not is_number or not -_LARGEST < value < _LARGEST:
            raise ModelError(
                f"{self.path}: {names[0]} must be a finite number, not {_short(value)}",
                code="json_value",
            )
        return float(value)

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return a list of names; None if it is absent.

        Raises:
            ModelError: the value is not a list of strings.
        """
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ModelError(
                f"{self.path}: {name} must be a list of names, not {_short(value)}",
                code="json_value",
            )
        return tuple(value)

    def strings(self) -> dict[str, str]:
        """Return all values as strings.

        Raises:
            ModelError: a value is not a string.
        """
        for name, value in self._values.items():
            if not isinstance(value, str):
                raise ModelError(
                    f"{self.path}: {_short(name)} must be a string, not {_short(value)}",
                    code="json_value",
                )
        return dict(self._values)

    def integers(self) -> dict[str, int]:
        """Return all values as integers from 0.

        Raises:
            ModelError: a value is negative or not an integer.
        """
        for name, value in self._values.items():
            if not _is_whole(value) or value < 0:
                raise ModelError(
                    f"{self.path}: {_short(name)} must be an integer from 0, not {_short(value)}",
                    code="json_value",
                )
        return dict(self._values)

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a value that would change the arithmetic.

        Raises:
            ModelError: the value is present and not an allowed one.
        """
        value = self.get(name)
        if value is not None and value not in allowed:
            choices = " or ".join(str(_short(each)) for each in allowed)
            raise ModelError(
                f"{self.path}: {name} = {_short(value)} is not supported; only {choices} is",
                code="setting_unsupported",
            )

    def _require(self, *names: str) -> Any:
        value = self.get(*names)
        if value is None:
            raise ModelError(f"{self.path}: {names[0]} is missing", code="json_value_missing")
        return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """Format a value from a file for an error message."""
    if isinstance(value, dict | list):
        return f"a JSON {'object' if isinstance(value, dict) else 'list'}"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def read_config(path: Path) -> Config:
    """Read a JSON file of a checkpoint.

    Raises:
        ModelError: the file is missing, damaged or not a JSON object.
    """
    text = read_text(path)
    try:
        return Config(json.loads(text), path)
    except RecursionError as error:
        raise ModelError(
            f"{path} is not valid JSON: it is nested too deeply", code="json_invalid"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}", code="json_invalid") from error


def read_yaml(path: Path) -> Config:
    """Read a YAML file of a checkpoint; a value that occurs twice by reference is refused.

    Raises:
        ModelError: the file is missing, damaged or not a mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc] # it ships no types
        """Loader of plain values, without references, which could multiply a value endlessly."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("it has references (aliases)")
            return super().compose_node(parent, index)

        def construct_number(self, node: Any) -> Any:
            if len(self.construct_scalar(node)) > _LONGEST_NUMBER:
                raise yaml.YAMLError("it has a number of too many digits")
            is_whole = node.tag.endswith(":int")
            return (self.construct_yaml_int if is_whole else self.construct_yaml_float)(node)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_number)
    text = read_text(path, _MAX_YAML_BYTES)
    try:
        return Config(yaml.load(text, Loader), path)  # noqa: S506 - a safe one
    except RecursionError as error:
        raise ModelError(
            f"{path} is not valid YAML: it is nested too deeply", code="yaml_invalid"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} is not valid YAML: {reason:.200}", code="yaml_invalid") from error


def is_text_list(values: Any) -> bool:
    """Return whether a value is a list of strings that can be written as UTF-8.

    JSON and YAML can contain halves of characters (lone surrogates).
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return False
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path, max_bytes: int = _MAX_BYTES) -> str:
    """Read a text file of a checkpoint.

    Raises:
        ModelError: the file is missing, too large, not a regular file or not UTF-8.
    """
    try:
        # Opening anything else, such as a pipe, might block forever.
        if path.exists() and not path.is_file():
            raise ModelError(
                f"{path} is not a regular file; replace it by the file itself",
                code="not_a_regular_file",
            )
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ModelError(
                f"{path} is larger than {max_bytes:,} bytes, the limit of its kind",
                code="file_too_large",
            )
        return data.decode("utf-8")
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", code="file_missing") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error})", code="file_unreadable") from error
