"""The table of `streamasr models list`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamasr.catalogue.listing import ListedModel
from streamasr.catalogue.places import download_place
from streamasr.core.sizes import size_text
from streamasr.core.text import printable

_FEW: Final = 1
"""Languages that are named; more are counted."""


def show_list(rows: Sequence[ListedModel], models: Path) -> None:
    """Print a table of models, as wide as the terminal allows, and notes on single ones."""
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
                f"{row.name}: its downloaded files are kept, {size_text(row.kept_bytes)} in {place}"
            )
    if len(shown) < len(_HEADS):
        print("more: streamasr models list NAME")


def details(row: ListedModel) -> str:
    """Return all facts about a model, line by line."""
    facts = {
        "state": row.state,
        "role": row.role,
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
    "ROLE",
    "FAMILY",
    "SIZE",
    "PRECISION",
    "LANG.",
    "LICENCE",
    "DISK",
    "SOURCE",
)
_DROPPED: Final = ("SOURCE", "FAMILY", "LICENCE", "LANG.", "ROLE", "PRECISION")
"""Columns that a narrow terminal does without, in this order."""
_GAP: Final = 2


def _cells(row: ListedModel) -> tuple[str, ...]:
    """Return the cells of a model in the table; a dash stands for an unknown fact."""
    cells = (
        row.name,
        row.state,
        row.role,
        row.family,
        row.parameters,
        row.precision,
        _some_languages(row.languages),
        row.licence,
        _some_bytes(row),
        row.source,
    )
    return tuple(printable(cell) or "-" for cell in cells)


def _some_bytes(row: ListedModel) -> str:
    """Return the size on disk, or in brackets the size of the download."""
    if row.n_bytes is not None:
        return size_text(row.n_bytes)
    return f"({size_text(row.download_bytes)})" if row.download_bytes else ""


def _some_languages(names: tuple[str, ...] | None) -> str:
    if not names:
        return ""
    return ", ".join(names) if len(names) <= _FEW else str(len(names))


def _plain_table(rows: Sequence[ListedModel]) -> str:
    """Return an aligned table as plain text, for pipes."""
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
    """Return the heads of as many columns as fit."""
    widths = dict(zip(_HEADS, _widths([_HEADS, *cells]), strict=True))
    for head in _DROPPED:
        if sum(widths.values()) + _GAP * (len(widths) - 1) > width:
            del widths[head]
    return [*widths]


def _rich_table(rows: Sequence[ListedModel], shown: Sequence[str]) -> Table:
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
