"""The settings one by one, derived from their sections."""

import functools
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from streamasr.config.notes import HIDDEN, Effect, Except, notes, without_notes
from streamasr.config.sections import REGISTRY, Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the file."""

    section: str
    name: str
    """Name of the field."""
    key: str
    """Name in the file, where the times of segmentation name their unit."""
    effect: Effect
    choices: tuple[str, ...] = ()
    """The allowed values, if there are few."""
    example: str | int | None = None
    is_hidden: bool = False

    @property
    def path(self) -> str:
        """Section and key, with a dot between."""
        return f"{self.section}.{self.key}"

    def value(self, config: Settings) -> Any:
        """Return the value in some settings."""
        return getattr(getattr(config, self.section), self.name)


def section_types() -> dict[str, Any]:
    """Return the type of each table of the file, also of `models`, which holds no settings."""
    return {one.name: one.type for one in msgspec.structs.fields(Settings)}


@functools.cache
def settings() -> tuple[Setting, ...]:
    """Return all settings, in the order of the file.

    Raises:
        TypeError: a field does not say when a change takes effect.
    """
    return tuple(
        _setting(section, key)
        for section in msgspec.structs.fields(Settings)
        if section.name != REGISTRY
        for key in msgspec.structs.fields(without_notes(section.type))
    )


def _setting(section: msgspec.structs.FieldInfo, key: msgspec.structs.FieldInfo) -> Setting:
    kind = without_notes(key.type)
    examples = [note.examples for note in notes(key.type) if isinstance(note, Meta)]
    return Setting(
        section.name,
        key.name,
        key.encode_name,
        _effect(section, key),
        choices=_choices(kind),
        example=next((some[0] for some in examples if some), None),
        is_hidden=HIDDEN in notes(key.type),
    )


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the values of a type that has few, without None."""
    if get_origin(kind) is not Literal:
        kind, *others = [one for one in get_args(kind) if one is not NoneType] or [None]
        if others or get_origin(kind) is not Literal:
            return ()
    return tuple(map(str, get_args(kind)))


def _effect(section: msgspec.structs.FieldInfo, key: msgspec.structs.FieldInfo) -> Effect:
    """Return the note of an exception in the section, of the field, or of the whole section."""
    of_section = notes(section.type)
    exceptions = [
        note.effect for note in of_section if isinstance(note, Except) and note.name == key.name
    ]
    plain = [note for note in (*notes(key.type), *of_section) if isinstance(note, Effect)]
    if not exceptions and not plain:
        raise TypeError(f"{section.name}.{key.name} does not say when a change takes effect")
    return [*exceptions, *plain][0]
