"""`streamasr models`: what there is, and getting, importing, checking and removing it."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamasr.catalogue.installed import (
    Installed,
    alone,
    find_installed,
    list_installed,
    need_installed,
    place_of,
    remove_installed,
    size_on_disk,
)
from streamasr.catalogue.known import EMBEDDED, KnownModel, find_known, known_models, usable_name
from streamasr.catalogue.places import (
    download_place,
    fetched_bytes,
    forget_download,
    list_downloads,
    sole_download,
)
from streamasr.catalogue.timeouts import Policy
from streamasr.cli.console import StepProgress
from streamasr.cli.exit_codes import EXIT_CONFIG, EXIT_INPUT_FAILED, EXIT_INTERRUPTED
from streamasr.cli.stderr import complain
from streamasr.config.file import config_places, find_config, load_config
from streamasr.config.sections import DownloadConfig, Settings
from streamasr.core.errors import ConfigError, ModelError, StreamASRError
from streamasr.core.sizes import size_text
from streamasr.core.text import printable
from streamasr.importing.origin import given_path, is_unchanged
from streamasr.models import tiny
from streamasr.models.bundle import Bundle, open_bundle
from streamasr.models.family import Role

if TYPE_CHECKING:
    from streamasr.importing.pack import Wish

_FEW: Final = 1
"""Languages that are named; more are counted."""


def run_models(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit code.

    Raises:
        StreamASRError: it cannot be done.
    """
    if options.action == "verify":
        from streamasr.cli.verify import run_verify

        return run_verify(options)
    config = load_config(find_config(options.config))
    match options.action:
        case "list":
            return _list(config, options.names, as_json=options.json)
        case "pull":
            return _pull(options, config)
        case "import":
            return _import(options, config)
        case "remove":
            return _each(options.names, lambda name: _remove(config.storage.models, name))
        case "path":
            print(_path(config, options.name))
            return 0
        case other:
            raise AssertionError(other)


def _each(names: Sequence[str], act: Callable[[str], None]) -> int:
    """Do something with each model; what fails does not keep the others from it."""
    code = 0
    for name in dict.fromkeys(names):
        try:
            act(name)
        except (ConfigError, ModelError) as error:
            complain(error)
            code = EXIT_CONFIG
        except StreamASRError as error:
            complain(error)
            code = code or EXIT_INPUT_FAILED
    return code


# What there is


@dataclass(frozen=True, slots=True)
class _Row:
    """A model of the list."""

    name: str
    state: str
    """installed, broken, embedded, partial: not all of it has been fetched, or known."""
    family: str
    parameters: str
    precision: str
    languages: tuple[str, ...] | None
    licence: str
    n_bytes: int | None
    """On disk; of a partial one, what has been fetched."""
    download_bytes: int | None
    kept_bytes: int
    """Of what was fetched and is kept, in part or beside what was made of it."""
    source: str
    title: str
    path: str | None
    problem: str | None


def _list(config: Settings, names: Sequence[str], *, as_json: bool) -> int:
    rows = _rows(config)
    if names:
        listed = {row.name: row for row in rows}
        for name in names:
            if name not in listed:
                find_known(name, config.models)  # which says what was probably meant
        rows = [listed[name] for name in dict.fromkeys(names)]
    if as_json:
        described = [_described(row) for row in rows]
        print(json.dumps(described, ensure_ascii=False, indent=1))
    elif names:
        print("\n\n".join(map(_details, rows)))
    else:
        _show_list(rows, config.storage.models)
    return 0


def _show_list(rows: Sequence[_Row], models: Path) -> None:
    console = Console()
    shown: Sequence[str] = _HEADS
    if console.is_terminal:
        shown = _fitting([*map(_cells, rows)], console.width)
        console.print(_rich_table(rows, shown))
    else:
        print(_plain_table(rows))
    for row in rows:
        if row.problem:
            print(printable(f"{row.name}: {row.problem}"))
        if row.kept_bytes and row.state == "installed":
            place = download_place(models, row.name)
            print(
                f"{row.name}: what was fetched is kept too, {size_text(row.kept_bytes)} in {place}"
            )
    if len(shown) < len(_HEADS):
        print("more: streamasr models list NAME")


def _rows(config: Settings) -> list[_Row]:
    """The embedded model, those installed, those fetched in part, and those that could be."""
    models = config.storage.models
    known = known_models(config.models)
    found = {each.name: each for each in list_installed(models)}
    kept = {name: fetched_bytes(models, name) for name in list_downloads(models)}
    embedded = Installed(EMBEDDED, tiny.BUNDLE, open_bundle(tiny.BUNDLE), None)
    return [
        _row(embedded, None, "embedded"),
        *(
            _row(each, known.get(name), "installed", kept.get(name, 0))
            for name, each in found.items()
        ),
        *(
            _known_row(name, known.get(name), kept.get(name, 0))
            for name in dict.fromkeys([*known, *kept])
            if name not in found
        ),
    ]


def _row(each: Installed, known: KnownModel | None, state: str, kept_bytes: int = 0) -> _Row:
    bundle = each.bundle
    return _Row(
        name=each.name,
        state=state if bundle else "broken",
        family=bundle.family.name if bundle else (known.family or "" if known else ""),
        parameters=(known.parameters if known else "") or _parameters(bundle),
        precision=_precision(bundle),
        languages=(bundle.languages if bundle else None) or (known.languages if known else None),
        licence=spdx((bundle.licence if bundle else None) or (known.licence if known else "")),
        n_bytes=each.n_bytes,
        download_bytes=known.size if known else None,
        kept_bytes=kept_bytes,
        source=each.source or (known.source if known else ""),
        title=known.title if known else "",
        path=str(each.directory),
        problem=each.problem,
    )


def _known_row(name: str, model: KnownModel | None, kept_bytes: int) -> _Row:
    """A model that is not installed; it is not even known if it was taken out of the settings."""
    return _Row(
        name=name,
        state="partial" if kept_bytes else "known",
        family=(model.family if model else None) or "",
        parameters=model.parameters if model else "",
        precision="",
        languages=(model.languages if model else None) or None,
        licence=spdx(model.licence if model else ""),
        n_bytes=kept_bytes or None,
        download_bytes=model.size if model else None,
        kept_bytes=kept_bytes,
        source=model.source if model else "",
        title=model.title if model else "",
        path=None,
        problem=None,
    )


def _parameters(bundle: Bundle | None) -> str:
    """How many weights a model has, as its description says."""
    number = bundle.facts.get("parameters") if bundle else None
    is_number = isinstance(number, int) and not isinstance(number, bool) and number > 0
    return count_text(number) if number and is_number else ""


def count_text(number: int) -> str:
    """A number of weights as models are named for it: 0.6B, 5M."""
    if number >= _HALF_A_BILLION:
        return f"{number / 1e9:.1f}B"
    return f"{number / 1e6:.0f}M" if number >= _A_MILLION else f"{number / 1e6:.1g}M"


_HALF_A_BILLION: Final = 500_000_000
_A_MILLION: Final = 1_000_000

_LICENCES: Final = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "GPL-3.0",
    "MIT",
    "MPL-2.0",
)


def spdx(licence: str) -> str:
    """A licence as SPDX writes it; hubs write all in lower case."""
    return next((name for name in _LICENCES if name.casefold() == licence.casefold()), licence)


def _precision(bundle: Bundle | None) -> str:
    """Encoder and decoder: fp32/q8_0."""
    parts = bundle.precision if bundle else {}
    return "/".join(parts[part] for part in ("encoder", "decoder") if part in parts)


def _described(row: _Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": row.state,
        "family": row.family or None,
        "title": row.title or None,
        "parameters": row.parameters or None,
        "precision": row.precision or None,
        "languages": row.languages,
        "licence": row.licence or None,
        "bytes": row.n_bytes,
        "download_bytes": row.download_bytes,
        "kept_bytes": row.kept_bytes or None,
        "source": row.source or None,
        "path": row.path,
        "problem": row.problem,
    }


def _details(row: _Row) -> str:
    """All that is known of a model."""
    facts = {
        "state": row.state,
        "family": row.family,
        "title": row.title,
        "parameters": row.parameters,
        "precision": row.precision,
        "languages": ", ".join(row.languages or ()),
        "licence": row.licence,
        "disk": size_text(row.n_bytes) if row.n_bytes is not None else "",
        "to fetch": size_text(row.download_bytes) if row.download_bytes else "",
        "kept": size_text(row.kept_bytes) if row.kept_bytes else "",
        "source": row.source,
        "path": row.path or "",
        "problem": row.problem or "",
    }
    lines = [f"  {name:<12}{printable(text)}" for name, text in facts.items() if text]
    return "\n".join([printable(row.name), *lines])


_HEADS: Final = (
    "NAME",
    "STATE",
    "FAMILY",
    "SIZE",
    "PRECISION",
    "LANG.",
    "LICENCE",
    "DISK",
    "SOURCE",
)
_DROPPED: Final = ("SOURCE", "LICENCE", "LANG.", "FAMILY", "PRECISION")
"""On a narrow terminal, in this order."""
_GAP: Final = 2


def _cells(row: _Row) -> tuple[str, ...]:
    """What a table shows; what is not known is a dash."""
    cells = (
        row.name,
        row.state,
        row.family.removeprefix("qwen3-"),
        row.parameters,
        row.precision,
        _some_languages(row.languages),
        row.licence,
        _some_bytes(row),
        row.source,
    )
    return tuple(printable(cell) or "-" for cell in cells)


def _some_bytes(row: _Row) -> str:
    """What it takes, or in brackets what will be fetched."""
    if row.n_bytes is not None:
        return size_text(row.n_bytes)
    return f"({size_text(row.download_bytes)})" if row.download_bytes else ""


def _some_languages(names: tuple[str, ...] | None) -> str:
    if not names:
        return ""
    return ", ".join(names) if len(names) <= _FEW else str(len(names))


def _plain_table(rows: Sequence[_Row]) -> str:
    """Lines that stay apart in a pipe too."""
    lines = [_HEADS, *map(_cells, rows)]
    widths = _widths(lines)
    return "\n".join(
        (" " * _GAP)
        .join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        .rstrip()
        for line in lines
    )


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _fitting(cells: Sequence[Sequence[str]], width: int) -> list[str]:
    """The heads of as many columns as fit."""
    widths = dict(zip(_HEADS, _widths([_HEADS, *cells]), strict=True))
    for head in _DROPPED:
        if sum(widths.values()) + _GAP * (len(widths) - 1) > width:
            del widths[head]
    return [*widths]


def _rich_table(rows: Sequence[_Row], shown: Sequence[str]) -> Table:
    table = Table(
        box=None, padding=(0, _GAP, 0, 0), show_edge=False, pad_edge=False, header_style="dim"
    )
    for head in shown:
        table.add_column(head, no_wrap=True)
    styles = {"broken": "red", "known": "dim", "partial": "yellow"}
    for row in rows:
        cells = dict(zip(_HEADS, _cells(row), strict=True))
        texts = (Text(cells[head]) for head in shown)
        table.add_row(*texts, style=styles.get(row.state, "green"))
    return table


# Getting models


def _pull(options: argparse.Namespace, config: Settings) -> int:
    # What is misspelt is said before anything is fetched.
    known = {name: find_known(name, config.models) for name in options.names if name != EMBEDDED}
    try:
        return _each(options.names, lambda name: _pull_one(options, config, name, known))
    except KeyboardInterrupt:
        sentence = "stopped; what was fetched is kept, and the same command goes on from there."
        print(f"streamasr: {sentence}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _pull_one(
    options: argparse.Namespace, config: Settings, name: str, known: Mapping[str, KnownModel]
) -> None:
    models = config.storage.models
    if name == EMBEDDED:
        print(f"{name} is embedded; there is nothing to get.")
        return
    place = place_of(models, name)
    if found := find_installed(models, name):
        if found.problem:
            raise ModelError(
                f"{name} is installed, but broken ({found.problem}); remove it first, with "
                f"`streamasr models remove {name}`."
            )
        _check_wish(found, _wish(options, name))
        print(f"{name} is installed already, in {place}.")
        return
    from streamasr.catalogue.connection import open_session
    from streamasr.catalogue.fetch import Web, fetch_model
    from streamasr.catalogue.hashes import note
    from streamasr.catalogue.hub import find_endpoint, find_token

    endpoint = find_endpoint(config.download.endpoint, options.endpoint)
    with (
        sole_download(models, name),
        open_session(endpoint, find_token()) as session,
        StepProgress() as steps,
    ):
        again = f"--endpoint {shlex.quote(options.endpoint)}" if options.endpoint else ""
        web = Web(endpoint, session, _policy(config.download), steps.show, steps.note, again)
        fetched = fetch_model(name, known[name], models, web, accept_changed=options.accept_changed)
        wish = _wish(
            options,
            name,
            licence=known[name].licence or None,
            languages=known[name].languages or None,
            provenance=fetched.provenance,
        )
        _make(fetched.path, place, wish, steps)
        if fetched.noted is not None:
            note(models, name, fetched.noted)
        if not options.keep_download:
            forget_download(models, name)
    if options.keep_download:
        print(f"What was fetched is kept in {download_place(models, name)}.")
    _announce(name, place, options.config)


def _policy(settings: DownloadConfig) -> Policy:
    return Policy(silence_s=settings.timeout_s, attempts=settings.attempts)


def _import(options: argparse.Namespace, config: Settings) -> int:
    from streamasr.importing.pack import name_of

    models = config.storage.models
    if options.output is not None:
        with StepProgress() as steps:
            wish = _wish(options, name_of(options.output))
            _make(options.source, options.output, wish, steps)
        where = options.output
        print(f"Wrote {where}; use it with `streamasr transcribe --model {where} FILE`.")
        return 0
    given = given_path(options.source)
    name = options.name or usable_name(name_of(given))
    place = place_of(models, name)
    wish = _wish(options, name)
    with alone(models, _wait), StepProgress() as steps:
        found = find_installed(models, name)
        if found:
            _check_same(found, given, wish, steps)
        else:
            _make(given, place, wish, steps)
    if found:
        print(f"{name} is installed already, in {place}, from the same files.")
    else:
        _announce(name, place, options.config)
    return 0


def _wait() -> None:
    print("streamasr: another process is importing; waiting for it", file=sys.stderr, flush=True)


def _check_same(found: Installed, given: Path, wish: "Wish", steps: StepProgress) -> None:
    """Refuse to call two models by one name.

    Raises:
        ConfigError: what is installed is not what would be.
    """
    from streamasr.catalogue.moved import follow

    source = found.bundle.source if found.bundle else {}
    if source.get("path") == str(given):
        is_same = is_unchanged(source, given)
    else:
        is_same = found.bundle is not None and follow(found.bundle, given, steps.show)
    if not is_same:
        where = f" ({found.source})" if found.source else ""
        raise _taken(found, f"from other files{where}")
    _check_wish(found, wish)


def _check_wish(found: Installed, wish: "Wish") -> None:
    """Refuse to pass over what is wished of a model that is there already.

    Raises:
        ConfigError: it was made otherwise.
    """
    from streamasr.importing.pack import wish_facts

    made = found.bundle.source.get("wish") if found.bundle else None
    if made != wish_facts(wish) and (wish.encoder or wish.decoder):
        parts = found.bundle.precision if found.bundle else {}
        raise _taken(
            found,
            f"with an encoder in {parts.get('encoder')} and a decoder in {parts.get('decoder')}",
        )


def _taken(found: Installed, how: str) -> ConfigError:
    return ConfigError(
        f"{found.name} is installed already, {how}; choose another --name, or remove it first with "
        f"`streamasr models remove {found.name}`."
    )


def _make(source: Path, place: Path, wish: "Wish", steps: StepProgress) -> None:
    """Make a model directory of a source."""
    from streamasr.importing.pack import import_model

    bundle = import_model(source, place, wish, steps.show, notice=steps.note)
    for each in (bundle, open_bundle(bundle.aligner) if bundle.aligner else None):
        if each is not None and each.warning:
            print(f"streamasr: warning: {printable(each.warning)}", file=sys.stderr)


def _wish(options: argparse.Namespace, name: str, **known: Any) -> "Wish":
    from streamasr.importing.pack import Wish

    return Wish(encoder=options.encoder, decoder=options.decoder, name=name, **known)


def _announce(name: str, place: Path, config: Path | None) -> None:
    bundle = open_bundle(place)
    size = size_text(Installed(name, place, bundle, None).n_bytes)
    print(f"{name} is installed in {place} ({size}).")
    if bundle.family.role is Role.RECOGNISER:
        settings = find_config(config) or config_places()[0]
        print(f"Try it with `streamasr transcribe --model {name} FILE`.")
        print(f'To have it used always, set model.name = "{name}" in {settings}.')
    else:
        print("It gives the times of words from now on, to models that have no aligner themselves.")


# What is there


def _remove(models: Path, name: str) -> None:
    if name == EMBEDDED:
        raise ModelError(f"{name} is embedded and cannot be removed.")
    place_of(models, name)
    freed = linked = 0
    if was_fetched := download_place(models, name).is_dir():
        with sole_download(models, name):
            # What was linked into the model counts with that: it has one name less then.
            freed = size_on_disk(download_place(models, name), n_links=1)
            forget_download(models, name)
    what = f"What had been fetched of {name}"
    if (found := find_installed(models, name)) or not was_fetched:
        what = name
        n_bytes = found.n_bytes if found else 0
        own = remove_installed(models, name)
        freed, linked = freed + own, n_bytes - own
    stays = f"; {size_text(linked)} stay, as those files are in another place too" if linked else ""
    print(f"{what} is removed, which frees {size_text(freed)}{stays}.")


def _path(config: Settings, name: str) -> Path:
    if name == EMBEDDED:
        return tiny.BUNDLE
    return need_installed(config.storage.models, name, config.models).directory
