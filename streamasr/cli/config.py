"""`streamasr config`: the settings that hold, as a file that explains itself.

The manual of a setting is the docstring of its field, so that there is one text for whoever reads
the code, the file or the README.
"""

import argparse
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
from streamasr.config.file import config_places, find_config, load_config
from streamasr.config.listing import Setting, settings
from streamasr.config.notes import RESTART
from streamasr.config.sections import REGISTRY, Settings
from streamasr.core.errors import ConfigError

_WIDTH: Final = 96


def run_config(options: argparse.Namespace) -> int:
    """Print what was asked for; 0.

    Raises:
        ConfigError: the file says what cannot be.
    """
    if options.markdown:
        print(markdown(), end="")
    elif options.path:
        for place in [options.config] if options.config else config_places():
            print(_printable(place))
    elif options.default:
        print(toml(Settings()), end="")
    else:
        path = find_config(options.config)
        print(toml(load_config(path), path), end="")
    return 0


def overrides_from(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the command line of `streamasr run` says about settings, for `load_config`.

    Raises:
        ConfigError: it contradicts itself.
    """
    if options.socket and (options.host or options.port is not None):
        raise ConfigError("--socket takes the place of --host and --port: leave out one or these.")
    if options.input and (options.device is not None or options.mic is False):
        raise ConfigError("--input takes the place of a microphone: no --device, no --no-mic.")
    server = given(
        host=options.host,
        port=options.port,
        socket=absolute(options.socket),
        token_file=absolute(options.token_file),
        allow_origin=options.allow_origin,
    )
    if "host" in server or "port" in server:
        server["socket"] = None  # which the file may name
    microphone = given(
        enabled=True if options.input else options.mic,
        device=number_or_name(options.device),
        input=absolute(options.input),
        speed=options.speed,
    )
    if "device" in microphone:
        microphone["input"] = None
    sections = {
        "model": given(
            name=_model(options.model),
            language=options.language,
            context=options.context,
            threads=options.threads,
            gpu_layers=options.gpu_layers,
            gpu=options.gpu,
            aligner=_model(options.aligner),
            reuse=False if options.no_reuse else None,
        ),
        "server": server,
        "microphone": microphone,
        "log": given(level={0: None, 1: "info"}.get(options.verbose, "debug")),
    }
    return {name: some for name, some in sections.items() if some}


def given(**values: Any) -> dict[str, Any]:
    """What the command line says of a section: those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def absolute(path: Path | None) -> str | None:
    """From here, not from the directory of the file of settings."""
    return None if path is None else str(path.absolute())


def _model(name_or_path: str | None) -> str | None:
    return absolute(Path(name_or_path)) if name_or_path and "/" in name_or_path else name_or_path


def number_or_name(device: str | None) -> int | str | None:
    """A device as the file of settings has it."""
    return int(device) if device and device.isascii() and device.isdigit() else device


_HEAD: Final = (
    "A line with # and no space behind it is a default: take away the # to change it. Settings "
    "marked (restart) hold once the daemon is started anew, those of [dictation] once dictation "
    "is, all others after a SIGHUP."
)


def toml(config: Settings, path: Path | None = None) -> str:
    """The settings as a file: each with its manual, those at their default commented out.

    Args:
        config: the settings.
        path: the file that they come from; None for defaults.

    Raises:
        ConfigError: a path is no text.
    """
    origin = "the defaults" if path is None else f"from {_printable(path)}"
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
    """What a table of a model may hold, as a comment: there is none to begin with."""
    heads = [f"{_summary(REGISTRY)} As many as you like, each in a table [models.NAME]:"]
    keys = [f"{key}: {text}" for key, text in manual(REGISTRY).items()]
    return "".join(map(_comment, heads + keys))


def _registry(config: Settings) -> Iterator[str]:
    """The tables of models, without what they leave at its default."""
    for name, model in config.models.items():
        default = KnownModel(repository=model.repository, url=model.url)
        lines = [
            f"{key} = {_literal(value)}\n"
            for key, value in msgspec.structs.asdict(model).items()
            if value != getattr(default, key) or (key in ("repository", "url") and value)
        ]
        yield f"[models.{_literal(name)}]\n{''.join(lines)}"


def markdown() -> str:
    """The settings as tables for the README."""
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
    """A default in a table."""
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
    """Field -> the docstring that stands below it in the source, in one line."""
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
    """A value as TOML has it.

    Strings are written as JSON writes them, of which TOML refuses nothing but a bare DEL.

    Raises:
        ConfigError: a path is no text.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    plain = str(value) if isinstance(value, Path) else value
    text = json.dumps(plain, ensure_ascii=False).replace("\x7f", r"\u007f")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{_printable(value)} is not UTF-8, so no TOML can name it.") from error
    return text


def _printable(value: Any) -> str:
    """In one line, whatever bytes a path is made of."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(value)
    )
