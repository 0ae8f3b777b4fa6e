"""From the tables of a file to the sections, each value checked."""

import os
from pathlib import Path
from typing import Any

import msgspec

from streamasr.catalogue.known import KnownModel, check_name, family_choices
from streamasr.config.config_errors import located, refuse_unknown
from streamasr.config.listing import section_types
from streamasr.config.sections import REGISTRY, Settings
from streamasr.core.errors import ConfigError


def convert(tables: dict[str, Any], base: Path, source: str) -> Settings:
    """Check the tables of a source.

    Args:
        tables: in the types of TOML.
        base: the directory that relative paths are relative to.
        source: name of the source in messages: a file, or the command line.

    Raises:
        ConfigError: a table or key is unknown, or a value is not allowed.
    """
    refuse_unknown(tables, source)

    def to_path(kind: type, value: Any) -> Any:
        if kind is not Path or not isinstance(value, str):
            raise TypeError(f"Expected a path, got `{type(value).__name__}`")
        return _anchored(value, base)

    sections: dict[str, Any] = {}
    for name, kind in section_types().items():
        if name == REGISTRY:
            sections[name] = _registry(tables.get(name, {}), source)
            continue
        try:
            sections[name] = msgspec.convert(tables.get(name, {}), kind, dec_hook=to_path)
        except msgspec.ValidationError as error:
            sentence = f"{source}: {located(name, str(error))}."
            raise ConfigError(sentence, code="invalid_value") from error
        except ConfigError as error:
            raise ConfigError(f"{source}: [{name}] {error}", code=error.code) from error
    config = Settings(**sections)
    try:
        return _with_model_path(config, base)
    except ValueError as error:
        sentence = f"{source}: {located('model', f'{error} - at `$.name`')}."
        raise ConfigError(sentence, code="invalid_value") from error


def _registry(tables: dict[str, Any], source: str) -> dict[str, KnownModel]:
    """Return the models that a source adds to the known ones."""
    models = {}
    for name, table in tables.items():
        try:
            check_name(name)
            models[name] = msgspec.convert(table, KnownModel)
            _check_family(name, models[name], source)
        except msgspec.ValidationError as error:
            sentence = f"{source}: {located(f'models.{name}', str(error))}."
            raise ConfigError(sentence, code="invalid_value") from error
        except ValueError as error:
            sentence = f"{source}: models: {error}."
            raise ConfigError(sentence, code="invalid_model_name") from error
    return models


def _check_family(name: str, model: KnownModel, source: str) -> None:
    if model.family is not None and model.family not in family_choices():
        sentence = located(f"models.{name}", "Invalid family - at `$.family`")
        raise ConfigError(f"{source}: {sentence}.", code="unknown_family")


def _with_model_path(config: Settings, base: Path) -> Settings:
    """Make the name of a model absolute if it is a path, that is, contains a slash."""
    if os.sep not in config.model.name:
        return config
    path = str(_anchored(config.model.name, base))
    return msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, name=path))


def _anchored(path: str, base: Path) -> Path:
    """Return a path of the file as an absolute one.

    Raises:
        ValueError: the text is not a path, or its user has no home directory.
    """
    if not path or "\0" in path:
        raise ValueError("Expected a path")
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"Expected a path, {path} has no home directory") from error
