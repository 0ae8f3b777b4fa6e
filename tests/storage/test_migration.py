"""A journal of version 1 is read as it is, and becomes one of version 2 whole or not at all."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, Final, Words
from streamasr.core.options import SessionOptions
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.host.recovery import recover
from streamasr.storage.database import JournalLockedError
from streamasr.storage.journal import Journal
from streamasr.storage.reader import JournalReader
from streamasr.storage.records import Counts, SessionRecord
from streamasr.storage.schema import VERSION
from tests.support.errors import raises
from tests.support.old_journals import write_version_1

FRENCH = SessionOptions("French", "Ada, 北京", words=False)
RECORD = SessionRecord("microphone", "microphone", 2000.0, "tiny", FRENCH)
STABLE = StableText(2, Samples(4000), "bonne apr", (104, 205, 306))
FINAL = Final(1, "bonjour 北京", "French", Samples(1000), Samples(3000), "silence")
WORDS = Words(1, (Word("bonjour", Samples(1000), Samples(2000), 0.5),), "aligned")
LOG = "journal.sqlite3-wal"


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """The directory of a journal of version 1 that was not closed: all of it is in the log."""
    directory = tmp_path / "old"
    with closing(write_version_1(directory / "journal.sqlite3")):
        yield directory


def copied(source: Path, target: Path) -> Path:
    """Copy the files of a journal, as they would be after its process was killed."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*-shm"))
    return target / "journal.sqlite3"


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def check_content(path: Path) -> None:
    """Check that a reader finds all that version 1 has written."""
    messages: list[tuple[int, Durable]] = [(1, FINAL), (2, WORDS)]
    with JournalReader(path) as reader:
        assert reader.unfinished() == [RECORD]
        assert reader.stable_text("microphone") == STABLE
        assert reader.messages("microphone", 0, 9) == messages
        assert reader.messages("over", 0, 9) == [(1, FINAL)]
        assert reader.counts("microphone") == Counts(2, 1, 1, Samples(3000), 1, ())
        found = reader.search("京 bonjour")
        assert [each.session.name for each in found] == ["over", "microphone"]
        assert [each.words for each in found] == [None, WORDS]
        assert found[0].session.options == SessionOptions(context="Ada")


def check_use(path: Path) -> None:
    """Check that a writer continues the session."""
    with closing(Journal(path)) as journal:
        assert version_of(path) == VERSION
        check_content(path)
        journal.append("microphone", 3, Final(2, "non", None, Samples(4000), Samples(5000), "stop"))
        journal.keep_stable_text("microphone", STABLE)
        journal.begin(RECORD)
        journal.end("microphone", 2020.0)
    with JournalReader(path) as reader:
        assert [seq for seq, _ in reader.messages("microphone", 0, 9)] == [1, 2, 3]
        assert reader.unfinished() == []


def test_a_reader_leaves_version_1_as_it_is(old: Path, tmp_path: Path) -> None:
    path = copied(old, tmp_path / "copy")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    check_content(path)
    for name, content in before.items():
        assert (path.parent / name).read_bytes() == content
    assert version_of(path) == 1


def test_a_writer_migrates_version_1(old: Path, tmp_path: Path) -> None:
    check_use(copied(old, tmp_path / "copy"))


def test_a_migrated_journal_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    migrated, new = copied(old, tmp_path / "copy"), tmp_path / "new" / "journal.sqlite3"
    tables = []
    for path in (migrated, new):
        Journal(path).close()
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY rowid")
            tables.append([(kind, name, "".join(str(sql).split())) for kind, name, sql in rows])
    assert tables[0] == tables[1]


def test_an_open_reader_survives_the_migration(old: Path, tmp_path: Path) -> None:
    path = copied(old, tmp_path / "copy")
    with JournalReader(path) as reader:
        assert reader.unfinished() == [RECORD]
        Journal(path).close()
        assert reader.unfinished() == [RECORD]
        assert reader.stable_text("microphone") == STABLE
        assert len(reader.search()) == 2


def test_a_session_of_version_1_is_recovered(old: Path, tmp_path: Path) -> None:
    path = copied(old, tmp_path / "copy")
    [found] = recover(path, None)
    assert found.record == RECORD
    assert (found.beginning.border, found.beginning.n_segments) == (3000, 1)
    assert version_of(path) == 1


# Failures in the middle

KILLER = """
import os, shutil, signal, sqlite3, sys
from pathlib import Path
from streamasr.storage.journal import Journal

source, root = map(Path, sys.argv[1:])
connect = sqlite3.connect


def connect_to_be_killed(n):
    '''Replace `connect`: this process is killed at the beginning of statement `n`.'''
    begun = []

    def begin(statement):
        begun.append(statement)
        if len(begun) == n:
            print(n, " ".join(statement.split()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments, **options):
        db = connect(*arguments, **options)
        db.set_trace_callback(begin)
        return db

    sqlite3.connect = traced


for n in range(1, 1000):
    copy = root / str(n)
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*-shm"))
    child = os.fork()
    if child == 0:
        connect_to_be_killed(n)
        Journal(copy / "journal.sqlite3").close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:  # there are less than n statements
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.mark.process
def test_a_kill_at_any_statement_leaves_the_old_or_the_new_version(
    old: Path, tmp_path: Path
) -> None:
    root = tmp_path / "copies"
    result = subprocess.run(
        [sys.executable, "-c", KILLER, str(old), str(root)],
        check=True,
        capture_output=True,
        text=True,
    )
    statements = result.stdout.splitlines()
    assert any("ALTER TABLE" in statement for statement in statements)
    assert "COMMIT" in statements[-1]
    versions = []
    for number in range(1, len(statements) + 2):
        path = root / str(number) / "journal.sqlite3"
        with JournalReader(path):
            versions.append(version_of(path))
        check_content(path)
        check_use(path)
    assert versions == [1] * len(statements) + [2]


def test_a_commit_that_is_written_in_part_leaves_the_old_version(old: Path, tmp_path: Path) -> None:
    """A kill in the middle of a commit leaves a beginning of what it adds to the log."""
    path = copied(old, tmp_path / "migrated")
    n_old = (old / LOG).stat().st_size
    with closing(Journal(path)):
        copied(path.parent, tmp_path / "copy")
    log = (tmp_path / "copy" / LOG).read_bytes()
    assert log[:n_old] == (old / LOG).read_bytes()
    versions = []
    for n_written in [*range(n_old, len(log), 2048), len(log)]:
        part = copied(tmp_path / "copy", tmp_path / str(n_written))
        part.with_name(LOG).write_bytes(log[:n_written])
        versions.append(version_of(part))
        check_content(part)
        check_use(part)
    assert versions[0] == 1
    assert versions == sorted(versions)
    assert versions[-1] == VERSION


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from streamasr.core.errors import StorageError
from streamasr.storage.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path, size = Path(sys.argv[1]), int(sys.argv[2])
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
try:
    Journal(path)
except StorageError as error:
    print(error.code)
"""


@pytest.mark.process
def test_a_full_disk_leaves_version_1_which_is_migrated_later(old: Path, tmp_path: Path) -> None:
    path = copied(old, tmp_path / "copy")
    size = (old / LOG).stat().st_size + 4096
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(size)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() in {"journal_disk_full", "journal_failed"}
    assert version_of(path) == 1
    check_content(path)
    check_use(path)


def test_a_locked_journal_is_migrated_later(old: Path, tmp_path: Path) -> None:
    path = copied(old, tmp_path / "copy")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with raises(JournalLockedError, "journal_locked"):
            Journal(path, busy_timeout_s=0.0)
        check_content(path)
        other.execute("ROLLBACK")
    check_use(path)


def test_a_journal_of_a_later_version_is_refused_and_kept(old: Path, tmp_path: Path) -> None:
    path = copied(old, tmp_path / "copy")
    Journal(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    for kind in (Journal, JournalReader):
        with raises(StorageError, "journal_too_new"):
            kind(path)
