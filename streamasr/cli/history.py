"""`streamasr history`: what was said, from the journal, also while the daemon writes to it."""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError, StorageError
from streamasr.core.transcript import Segment, Transcript, Word, seconds
from streamasr.core.units import Samples
from streamasr.pipeline.formats import format_transcript
from streamasr.storage.database import NoJournalError
from streamasr.storage.reader import JournalReader
from streamasr.storage.records import SearchResult

_AGE: Final = re.compile(r"([0-9]{1,6}) *([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]+")


def run_history(options: argparse.Namespace) -> int:
    """Print what the journal holds.

    Args:
        options: `journal` (its path), `search`, `since`, `session`, `limit` (None where not
            given), and `format`: txt, json or srt.

    Raises:
        ConfigError: the options make no sense.
        StorageError: the journal cannot be read, or knows no such session.
    """
    if options.format == "srt" and options.session is None:
        raise ConfigError("subtitles are those of one session: name it with --session.")
    since = None if options.since is None else parse_since(options.since, datetime.now(UTC))
    try:
        found = _search(options, since)
    except NoJournalError:
        print("streamasr: nothing has been written down yet.", file=sys.stderr)
        return 0
    if not found:
        print("streamasr: nothing was found.", file=sys.stderr)
    elif options.format == "json":
        _print_json(found)
    elif options.format == "srt":
        _print_srt(found)
    elif sys.stdout.isatty():
        _show(found)
    else:
        _print_lines(found)
    return 0


def parse_since(text: str, now: datetime) -> float:
    """Read a day, a time, or an age like 30m, 2h, 3d, 1w.

    Args:
        text: days and times are local, unless they say otherwise.
        now: with its time zone.

    Returns:
        Seconds since 1970.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        if match := _AGE.fullmatch(text.strip()):
            return (now - timedelta(**{_UNITS[match[2]]: int(match[1])})).timestamp()
        return datetime.fromisoformat(text.strip()).timestamp()  # a naive one is local
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{text[:40]!r} is no time: write 2026-11-20, 2026-11-20T10:00, 30m, 2h or 3d."
        ) from error


def _search(options: argparse.Namespace, since: float | None) -> list[SearchResult]:
    path: Path = options.journal
    with JournalReader(path) as journal:
        if options.session is not None and not journal.has_session(options.session):
            raise StorageError(f"there is no session called {options.session!r} in {path}.")
        return journal.search(
            options.search,
            since,
            options.limit,
            options.session,
            with_words=options.format != "txt",
        )


def _print_lines(found: Iterable[SearchResult]) -> None:
    for each in found:
        when = _local(each.created)
        print(f"{when:%Y-%m-%d %H:%M:%S}  {each.session.name}  {_line(each.final.text)}")


def _show(found: Iterable[SearchResult]) -> None:
    """Print for a person at a terminal: grouped by day."""
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


def _print_json(found: Iterable[SearchResult]) -> None:
    for each in found:
        print(json.dumps(_document(each), ensure_ascii=False))


def _document(found: SearchResult) -> dict[str, object]:
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


def _word(word: Word) -> dict[str, object]:
    return {
        "text": word.text,
        "start": seconds(word.start),
        "end": seconds(word.end),
        "score": None if word.confidence is None else round(word.confidence, 3),
    }


def _print_srt(found: list[SearchResult]) -> None:
    """Print subtitles of the latest of these sessions: times count from its first sample."""
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


def _local(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC).astimezone()


def _line(text: str) -> str:
    """A text on one line, harmless to a terminal."""
    return _CONTROL.sub("", " ".join(text.split()))
