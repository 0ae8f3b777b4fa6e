"""The settings as a document: a TOML file with comments, and tables in Markdown.

The manual of a setting is the docstring of its field, so that one text serves readers of the code,
of the file and of the table.
"""

import ast
import functools
import inspect
import json
import textwrap
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from streamasr.catalogue.known import KnownModel
from streamasr.config.listing import Setting, settings
from streamasr.config.notes import RESTART
from streamasr.config.sections import REGISTRY, Settings
from streamasr.core.errors import ConfigError

_WIDTH: Final = 96

_HEAD: Final = (
    "A line that begins with # and no space is a default: remove the # to change it. Settings "
    "marked (restart) take effect when the daemon is restarted, those of [dictation] when "
    "dictation is, all others after a SIGHUP."
)


def toml(config: Settings, path: Path | None = None) -> str:
    """Return the settings as a file: each with its manual, those at their default commented out.

    Args:
        config: the settings.
        path: the file that they come from; None for defaults.

    Raises:
        ConfigError: a path is not UTF-8.
    """
    origin = "the defaults" if path is None else f"from {one_line(path)}"
    paragraphs = [f"# Settings of streamasr: {origin}\n#\n{_comment(_HEAD)}"]
    default = Settings()
    for section, members in groupby(settings(), lambda setting: setting.section):
        paragraphs.append(f"{_comment(_summary(section))}[{section}]\n")
        manuals = manual(section)
        for setting in members:
            if setting.is_hidden and setting.value(config) == setting.value(default):
                continue
            mark = " (restart)" if setting.effect is RESTART else ""
            line = _line(setting, setting.value(config), setting.value(default))
            paragraphs.append(_comment(manuals[setting.name] + mark) + line)
    return "\n".join([*paragraphs, _registry_manual(), *_registry(config)])


def _line(setting: Setting, value: Any, default: Any) -> str:
    if value != default:
        return f"{setting.key} = {_literal(value)}\n"
    if value is None:
        return f"#{setting.key} = {_literal(setting.example)}  # an example: not set\n"
    return f"#{setting.key} = {_literal(value)}\n"


def _registry_manual() -> str:
    """Return the keys of a model's table as a comment: there is no such table by default."""
    heads = [f"{_summary(REGISTRY)} Add any number of them, each in a table [models.NAME]:"]
    keys = [f"{key}: {text}" for key, text in manual(REGISTRY).items()]
    return "".join(map(_comment, heads + keys))


def _registry(config: Settings) -> Iterator[str]:
    """Yield the tables of models, without keys at their default."""
    for name, model in config.models.items():
        default = KnownModel(repository=model.repository, url=model.url)
        lines = [
            f"{key} = {_literal(value)}\n"
            for key, value in msgspec.structs.asdict(model).items()
            if value != getattr(default, key) or (key in ("repository", "url") and value)
        ]
        yield f"[models.{_literal(name)}]\n{''.join(lines)}"


def markdown() -> str:
    """Return the settings as tables in Markdown."""
    paragraphs = []
    default = Settings()
    for section, members in groupby(settings(), lambda setting: setting.section):
        manuals = manual(section)
        rows = [f"| `[{section}]` | default | {_summary(section)} |", "|---|---|---|"]
        for setting in members:
            if setting.is_hidden:
                continue
            mark = " *" if setting.effect is RESTART else ""
            meaning = manuals[setting.name].replace("|", r"\|")
            value = _shown(setting.value(default))
            rows.append(f"| `{setting.key}`{mark} | {value} | {meaning} |")
        paragraphs.append("\n".join(rows) + "\n")
    return "\n".join([*paragraphs, _registry_table()])


def _registry_table() -> str:
    rows = [f"| `[models.NAME]` | default | {_summary(REGISTRY)} |", "|---|---|---|"]
    for field in msgspec.structs.fields(KnownModel):
        meaning = manual(REGISTRY)[field.name].replace("|", r"\|")
        rows.append(f"| `{field.encode_name}` | {_shown(field.default)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _shown(value: Any) -> str:
    """Return a default for a table."""
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, Path) and value.is_relative_to(Path.home()):
        value = Path("~", value.relative_to(Path.home()))
    return f"`{_literal(value)}`"


def _summary(section: str) -> str:
    return (_kind(section).__doc__ or "").partition("\n\n")[0]


def _kind(section: str) -> type[msgspec.Struct]:
    if section == REGISTRY:
        return KnownModel
    kind: type[msgspec.Struct] = type(getattr(Settings(), section))
    return kind


@functools.cache
def manual(section: str) -> dict[str, str]:
    """Return the docstring below each field in the source, in one line, by the field's name."""
    (definition,) = ast.parse(inspect.getsource(_kind(section))).body
    assert isinstance(definition, ast.ClassDef)
    return dict(_documented(definition.body))


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _literal(value: Any) -> str:
    """Return a value as TOML.

    Strings are written as JSON writes them, of which TOML refuses nothing but a bare DEL.

    Raises:
        ConfigError: a path is not UTF-8.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    plain = str(value) if isinstance(value, Path) else value
    text = json.dumps(plain, ensure_ascii=False).replace("\x7f", r"\u007f")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{one_line(value)} is not UTF-8 and cannot be written in TOML; rename it.",
            code="path_not_utf8",
        ) from error
    return text


def one_line(value: Any) -> str:
    """Return a value in one line, whatever bytes a path is made of."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(value)
    )
