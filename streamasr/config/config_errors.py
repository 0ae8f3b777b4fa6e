"""Messages about a file of settings that cannot be used."""

from collections.abc import Collection
from typing import Any

import msgspec

from streamasr.catalogue.known import KnownModel, family_choices
from streamasr.config.listing import section_types, settings
from streamasr.config.sections import REGISTRY
from streamasr.core.errors import ConfigError


def located(section: str, message: str) -> str:
    """Put the place first in a message like "Expected `int`, got `str` - at `$.port`"."""
    what, _, place = message.partition(" - at `$")
    path = section + place.rstrip("`")
    if choices := _choices(path):
        what = f"expected one of {', '.join(choices)}"
    return f"{path}: {what[0].lower()}{what[1:]}"


def _choices(path: str) -> tuple[str, ...]:
    """Return the allowed values of a setting, or of a key of a model, if there are few."""
    if path.startswith(f"{REGISTRY}."):
        return family_choices() if path.endswith(".family") else ()
    return next((one.choices for one in settings() if one.path == path), ())


def refuse_unknown(tables: dict[str, Any], source: str) -> None:
    """Refuse unknown tables and keys.

    Raises:
        ConfigError: a table or key is unknown; the message suggests a similar one.
    """
    for name, table in tables.items():
        if name not in section_types():
            raise ConfigError(
                f"{source}: unknown section {name!r}{_hint('', name)}", code="unknown_section"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {name} must be a table, [{name}].", code="not_a_table")
        if name == REGISTRY:
            _refuse_unknown_keys(table, source)
            continue
        known = {one.key for one in settings() if one.section == name}
        for key in table:
            if key not in known:
                unknown = repr(f"{name}.{key}")
                raise ConfigError(
                    f"{source}: unknown setting {unknown}{_hint(name, key)}", code="unknown_setting"
                )


def _refuse_unknown_keys(models: dict[str, Any], source: str) -> None:
    known = {one.encode_name for one in msgspec.structs.fields(KnownModel)}
    for name, table in models.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"{source}: models.{name} must be a table, [models.{name}].", code="not_a_table"
            )
        for key, value in table.items():
            if key not in known:
                unknown = repr(f"models.{name}.{key}")
                quoted = f'; quote a name with dots, as in [models."{name}.{key}"].'
                hint = quoted if isinstance(value, dict) else _model_hint(key, known)
                raise ConfigError(
                    f"{source}: unknown setting {unknown}{hint}", code="unknown_setting"
                )


def _hint(section: str, key: str) -> str:
    """Return the end of a message about an unknown key: a similar key."""
    near = {one.key: one.path for one in settings() if one.section == section}
    if not section:
        near = {name: name for name in section_types()}
    elsewhere = {one.key: one.path for one in settings()}
    for known in (near, elsewhere):
        if close := _nearest(key, known):
            return f"; did you mean {known[close]}?"
    return "."


def _model_hint(key: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown key of a model."""
    close = _nearest(key, known)
    return f"; did you mean {close}?" if close else f"; known are {', '.join(sorted(known))}."


def _nearest(key: str, known: Collection[str]) -> str | None:
    import difflib  # here, since few files have such a mistake

    return next(iter(difflib.get_close_matches(key, known, n=1)), None)
