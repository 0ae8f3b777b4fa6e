"""`streamasr history`: recognised text from the journal, also while the daemon writes to it."""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamasr.cli.arguments import add_config, add_verbose, count
from streamasr.cli.stderr import note
from streamasr.core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from datetime import datetime

    from streamasr.core.transcript import Word
    from streamasr.storage.records import SearchResult

_AGE: Final = re.compile(r"([0-9]{1,6}) *([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Show what the daemon has recognised, the oldest first."
    add_verbose(parser)
    add_config(parser)
    parser.add_argument("--search", metavar="TEXT", help="finals that contain all of these words")
    parser.add_argument(
        "--since", metavar="T", help="2026-11-20, 2026-11-20T10:00, or an age: 2h, 3d"
    )
    parser.add_argument("--session", metavar="NAME", help="finals of one session")
    parser.add_argument("--limit", type=count, metavar="N", help="the newest N")
    parser.add_argument("--format", choices=("txt", "json", "srt"), default="txt")


def run(options: argparse.Namespace) -> int:
    """Print the finals in the journal; return the exit code.

    Args:
        options: `search`, `since`, `session`, `limit` (None where not given), and `format`.

    Raises:
        ConfigError: the options contradict each other, or the settings cannot be used.
        StorageError: the journal cannot be read, or does not contain the session.
    """
    from streamasr.config.file import find_config, load_config
    from streamasr.storage.places import journal_path

    config = load_config(find_config(options.config))
    return show_history(journal_path(config.storage.directory), options)


def show_history(journal: Path, options: argparse.Namespace) -> int:
    """Print the finals of a journal; see `run`."""
    from datetime import UTC, datetime

    from streamasr.storage.database import NoJournalError

    if options.format == "srt" and options.session is None:
        raise ConfigError(
            "subtitles are those of one session: name it with --session.", code="session_missing"
        )
    since = None if options.since is None else parse_since(options.since, datetime.now(UTC))
    try:
        found = _search(journal, options, since)
    except NoJournalError:
        note("the journal is empty.")
        return 0
    if not found:
        note("nothing was found.")
    elif options.format == "json":
        _print_json(found)
    elif options.format == "srt":
        _print_srt(found)
    elif sys.stdout.isatty():
        _show(found)
    else:
        _print_lines(found)
    return 0


def parse_since(text: str, now: "datetime") -> float:
    """Read a day, a time, or an age like 30m, 2h, 3d, 1w.

    Args:
        text: days and times are local, unless they name their zone.
        now: with its time zone.

    Returns:
        Seconds since 1970.

    Raises:
        ConfigError: the text is neither a time nor an age.
    """
    from datetime import datetime, timedelta

    try:
        if match := _AGE.fullmatch(text.strip()):
            return (now - timedelta(**{_UNITS[match[2]]: int(match[1])})).timestamp()
        return datetime.fromisoformat(text.strip()).timestamp()  # a naive one is local
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{text[:40]!r} is not a time: write 2026-11-20, 2026-11-20T10:00, 30m, 2h or 3d.",
            code="not_a_time",
        ) from error


def _search(path: Path, options: argparse.Namespace, since: float | None) -> "list[SearchResult]":
    from streamasr.storage.reader import JournalReader

    with JournalReader(path) as journal:
        if options.session is not None and not journal.has_session(options.session):
            raise StorageError(
                f"{path} has no session called {options.session!r}.", code="unknown_session"
            )
        return journal.search(
            options.search,
            since,
            options.limit,
            options.session,
            with_words=options.format != "txt",
        )


def _print_lines(found: "Iterable[SearchResult]") -> None:
    for each in found:
        when = _local(each.created)
        print(f"{when:%Y-%m-%d %H:%M:%S}  {each.session.name}  {_line(each.final.text)}")


def _show(found: "Iterable[SearchResult]") -> None:
    """Print on a terminal, grouped by day."""
    from itertools import groupby

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for day, of_day in groupby(found, lambda each: _local(each.created).date()):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="green", no_wrap=True)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for each in of_day:
            time = f"{_local(each.created):%H:%M:%S}"
            table.add_row(time, each.session.name, Text(_line(each.final.text)))
        console.print(Text(f"{day:%A, %Y-%m-%d}", style="bold"), table, "")


def _print_json(found: "Iterable[SearchResult]") -> None:
    for each in found:
        print(json.dumps(_document(each), ensure_ascii=False))


def _document(found: "SearchResult") -> dict[str, object]:
    from streamasr.core.transcript import seconds

    final = found.final
    return {
        "session": found.session.name,
        "began": _local(found.session.created).isoformat(timespec="seconds"),
        "seq": found.seq,
        "time": _local(found.created).isoformat(timespec="milliseconds"),
        "model": found.session.model,
        "segment": final.segment,
        "start": seconds(final.start),
        "end": seconds(final.end),
        "language": final.language,
        "reason": final.reason,
        "text": final.text,
        "words": None if found.words is None else [_word(word) for word in found.words.words],
    }


def _word(word: "Word") -> dict[str, object]:
    from streamasr.core.transcript import seconds

    return {
        "text": word.text,
        "start": seconds(word.start),
        "end": seconds(word.end),
        "score": None if word.confidence is None else round(word.confidence, 3),
    }


def _print_srt(found: "list[SearchResult]") -> None:
    """Print subtitles of the latest of these sessions; times count from its first sample."""
    from streamasr.core.transcript import Segment, Transcript
    from streamasr.core.units import Samples
    from streamasr.pipeline.formats import format_transcript

    session = found[-1].session
    segments = tuple(
        Segment(
            each.final.segment,
            each.final.start,
            each.final.end,
            each.final.language,
            each.final.text,
            each.words.words if each.words else (),
        )
        for each in sorted(found, key=lambda each: each.final.start)
        if each.session == session
    )
    duration = Samples(max(segment.end for segment in segments))
    sys.stdout.write(
        format_transcript(Transcript(session.name, session.model, duration, segments), "srt")
    )


def _local(epoch: float) -> "datetime":
    from datetime import UTC, datetime

    return datetime.fromtimestamp(epoch, UTC).astimezone()


def _line(text: str) -> str:
    """Return a text in one line, without control characters."""
    return _CONTROL.sub("", " ".join(text.split()))
