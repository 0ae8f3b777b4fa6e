"""`streamasr history` on a journal that is being written."""

import argparse
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamasr.cli.history import parse_since, show_history
from streamasr.core.errors import ConfigError, StorageError
from streamasr.core.messages import Durable, Final, Words
from streamasr.core.options import SessionOptions
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.storage.journal import Journal
from streamasr.storage.records import SessionRecord
from tests.support.errors import raises

NOON = datetime(2026, 11, 20, 12, 0, 0).astimezone()
"""A time on the local clock."""


def options(**given: Any) -> argparse.Namespace:
    values = {"search": None, "since": None, "session": None, "limit": None, "format": "txt"}
    return argparse.Namespace(**(values | given))


def final(segment: int, text: str) -> Final:
    start = Samples(segment * 16_000)
    return Final(segment, text, "English", start, Samples(start + 8000), "silence")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Two sessions on two days, one of which goes on."""
    journal = Journal(path)
    hello = Word("Hello", Samples(16_000), Samples(20_000), 0.98765)
    there = Word("there.", Samples(20_000), Samples(24_000), None, False)
    days: dict[str, list[Durable]] = {
        "microphone": [
            final(1, "Hello there."),
            Words(1, (hello, there), "aligned"),
            final(2, "你好，\n世界\x1b[31m。"),
        ],
        "s-2": [final(1, "Hello again."), final(2, "")],
    }
    for day, (name, messages) in enumerate(days.items()):
        at = (NOON + timedelta(days=day)).timestamp()
        journal.begin(SessionRecord(name, "microphone", at, "tiny", SessionOptions()))
        for seq, message in enumerate(messages, 1):
            journal.append(name, seq, message, at + seq)
    yield journal
    journal.close()


def test_text_is_one_line_per_final(
    journal: Journal, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_history(path, options()) == 0
    assert capsys.readouterr() == (
        "2026-11-20 12:00:01  microphone  Hello there.\n"
        "2026-11-20 12:00:03  microphone  你好， 世界[31m。\n"
        "2026-11-21 12:00:01  s-2  Hello again.\n",
        "",
    )


@pytest.mark.parametrize(
    ("given", "n_lines"),
    [
        ({"search": "hello"}, 2),
        ({"search": "世"}, 1),
        ({"search": "hello", "limit": 1}, 1),
        ({"since": "2026-11-21"}, 1),
        ({"since": "2026-11-20T12:00:02"}, 2),
        ({"session": "microphone"}, 2),
        ({"session": "microphone", "search": "again"}, 0),
    ],
)
def test_search_options_select_finals(
    journal: Journal,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    n_lines: int,
) -> None:
    assert show_history(path, options(**given)) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == n_lines
    assert err == ("" if n_lines else "streamasr: nothing was found.\n")


def test_json_is_a_document_per_line(
    journal: Journal, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_history(path, options(format="json")) == 0
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "session": "microphone",
        "began": NOON.isoformat(timespec="seconds"),
        "seq": 1,
        "time": (NOON + timedelta(seconds=1)).isoformat(timespec="milliseconds"),
        "model": "tiny",
        "segment": 1,
        "start": 1.0,
        "end": 1.5,
        "language": "English",
        "reason": "silence",
        "text": "Hello there.",
        "words": [
            {"text": "Hello", "start": 1.0, "end": 1.25, "score": 0.988},
            {"text": "there.", "start": 1.25, "end": 1.5, "score": None},
        ],
    }
    assert (second["text"], second["words"]) == ("你好，\n世界\x1b[31m。", None)
    assert (third["session"], third["words"]) == ("s-2", None)


def test_subtitles_are_those_of_one_session(
    journal: Journal, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_history(path, options(format="srt", session="s-2")) == 0
    assert capsys.readouterr().out == ("1\n00:00:01,000 --> 00:00:01,500\nHello again.\n\n")
    with raises(ConfigError, "session_missing"):
        show_history(path, options(format="srt"))


def test_subtitles_of_a_name_are_those_of_its_latest_session(
    journal: Journal, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal.end("microphone", NOON.timestamp())
    journal.begin(SessionRecord("microphone", "microphone", 1e10, "tiny", SessionOptions()))
    journal.append("microphone", 1, final(1, "Later."), 1e10)
    show_history(path, options(format="srt", session="microphone"))
    out = capsys.readouterr().out
    assert "Later." in out
    assert "Hello" not in out


def test_a_missing_journal_is_reported(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_history(path, options()) == 0
    assert capsys.readouterr() == ("", "streamasr: the journal is empty.\n")
    assert not path.exists()


def test_an_unknown_session_is_an_error(journal: Journal, path: Path) -> None:
    for name in ("s-3", "../s"):
        with raises(StorageError, "unknown_session"):
            show_history(path, options(session=name))
    with raises(StorageError, "journal_invalid_text"):
        show_history(path, options(session="\udcff"))


NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        (" 3 d ", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-11-20T10:00Z", NOW - timedelta(hours=2)),
        ("2026-11-20T10:00+02:00", NOW - timedelta(hours=4)),
    ],
)
def test_times_are_read(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected.timestamp()


def test_days_and_times_are_local() -> None:
    assert parse_since("2026-11-20T12:00", NOW) == NOON.timestamp()
    assert parse_since("2026-11-20", NOW) == (NOON - timedelta(hours=12)).timestamp()


@pytest.mark.parametrize(
    "text", ["", "yesterday", "3", "2h3", "-2h", "999999w", "2026-13-01", "²h"]
)
def test_other_times_are_refused(text: str) -> None:
    with raises(ConfigError, "not_a_time"):
        parse_since(text, NOW)


SHOW = """
import argparse, sys
from pathlib import Path
from streamasr.cli.history import show_history

values = {"search": None, "since": None, "session": None, "limit": None, "format": "txt"}
show_history(Path(sys.argv[1]), argparse.Namespace(**values))
"""


@pytest.mark.process
def test_a_terminal_gets_days_and_no_escapes_from_the_text(journal: Journal, path: Path) -> None:
    ours, theirs = pty.openpty()
    read = b""

    def listen() -> None:
        nonlocal read
        try:
            while block := os.read(ours, 4096):
                read += block
        except OSError:  # how Linux says that the other end is closed
            pass

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": ""}
    subprocess.run(
        [sys.executable, "-c", SHOW, str(path)], check=True, stdout=theirs, env=environment
    )
    os.close(theirs)
    listener.join()
    os.close(ours)
    text = read.decode()
    assert "Friday, 2026-11-20" in text
    assert "Saturday, 2026-11-21" in text
    assert "12:00:01" in text
    assert "\x1b[31m" not in text
    assert text.index("Hello there.") < text.index("世界[31m。") < text.index("Hello again.")
