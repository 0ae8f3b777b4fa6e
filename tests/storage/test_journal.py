"""Messages written to the journal are there for other processes of the same user alone."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Final, Gap, Words
from streamasr.core.options import SessionOptions
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.storage.database import JournalLockedError, JournalOrderError, NoJournalError
from streamasr.storage.journal import Journal
from streamasr.storage.reader import JournalReader
from streamasr.storage.records import Counts, SessionRecord
from streamasr.storage.schema import VERSION
from tests.support.errors import raises


def record(name: str = "microphone", created: float = 1000.0) -> SessionRecord:
    return SessionRecord(name, "microphone", created, "tiny", SessionOptions(context="Ada, 北京"))


def final(segment: int, text: str = "good morning") -> Final:
    start = Samples(segment * 1000)
    return Final(segment, text, "English", start, Samples(start + 900), "silence")


def words(segment: int) -> Words:
    start = Samples(segment * 1000)
    word = Word("good", start, Samples(start + 10), 0.5)
    return Words(
        segment, (word, Word("morning", start, Samples(start + 20), None, False)), "aligned"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, busy_timeout_s=0.0)
    yield opened
    opened.close()


@pytest.fixture
def reader(path: Path, journal: Journal) -> Iterator[JournalReader]:
    with JournalReader(path) as opened:
        yield opened


# Writing


def test_messages_are_read_as_they_were_appended(journal: Journal, reader: JournalReader) -> None:
    messages: list[Durable] = [
        final(1),
        words(1),
        Gap(Samples(1900), Samples(2500), "the encoder died"),
        Final(2, "", None, Samples(2600), Samples(2700), "flush"),
        End(Samples(3000), 2, 2),
    ]
    journal.begin(record())
    for seq, message in enumerate(messages, 1):
        journal.append("microphone", seq, message)
    assert reader.messages("microphone", 0, 99) == list(enumerate(messages, 1))
    assert reader.messages("microphone", 2, 2) == [(3, messages[2]), (4, messages[3])]
    assert reader.messages("another", 0, 99) == []
    assert journal.messages("microphone", 4, 99) == [(5, messages[4])]


def test_the_newest_stable_text_is_kept_until_the_end(
    journal: Journal, reader: JournalReader
) -> None:
    journal.begin(record())
    assert reader.stable_text("microphone") is None
    for text in ("good", "good mor"):
        promise = StableText(3, Samples(100), text, tuple(map(ord, text)))
        journal.keep_stable_text("microphone", promise)
        assert reader.stable_text("microphone") == promise
    journal.end("microphone", 2000.0)
    assert reader.stable_text("microphone") is None
    with raises(JournalOrderError, "journal_unknown_session"):
        journal.keep_stable_text("nobody", promise)


def test_a_session_can_be_resumed_until_it_ends(journal: Journal, reader: JournalReader) -> None:
    journal.begin(record())
    journal.begin(record("other"))
    journal.configure("microphone", SessionOptions(language="Chinese", words=False))
    journal.end("other", 2000.0)
    [unfinished] = reader.unfinished()
    assert unfinished == SessionRecord(
        "microphone", "microphone", 1000.0, "tiny", SessionOptions(language="Chinese", words=False)
    )
    journal.append("microphone", 1, final(1))
    journal.begin(record(created=5000.0))
    [resumed] = reader.unfinished()
    assert (resumed.created, resumed.options) == (1000.0, record().options)
    assert reader.counts("microphone").last_seq == 1


def test_a_name_means_its_latest_session(journal: Journal, reader: JournalReader) -> None:
    for number in (1, 2):
        journal.begin(record(created=float(number)))
        journal.append("microphone", 1, final(number))
        journal.end("microphone", 10.0 + number)
    assert reader.messages("microphone", 0, 9) == [(1, final(2))]
    assert [found.session.created for found in reader.search("good")] == [1.0, 2.0]
    journal.forget("microphone")
    assert reader.messages("microphone", 0, 9) == [(1, final(1))]


def test_counts_tell_where_a_session_continues(journal: Journal, reader: JournalReader) -> None:
    assert reader.counts("microphone") == Counts(0, 0, 0, Samples(0), 0, ())
    journal.begin(record())
    silent = Final(3, "", None, Samples(3000), Samples(3900), "silence")
    gap = Gap(Samples(4000), Samples(4500), "lost")
    messages: list[Durable] = [final(1), final(2), words(1), silent, gap]
    for seq, message in enumerate(messages, 1):
        journal.append("microphone", seq, message)
    assert reader.counts("microphone") == Counts(5, 3, 2, Samples(4500), 3, (final(2),))


def test_repeating_a_message_changes_nothing(journal: Journal, reader: JournalReader) -> None:
    journal.begin(record())
    for _ in range(2):
        journal.append("microphone", 1, final(1))
    assert reader.counts("microphone").n_finals == 1
    with raises(JournalOrderError, "journal_message_differs"):
        journal.append("microphone", 1, final(2))
    assert reader.messages("microphone", 0, 9) == [(1, final(1))]


def test_messages_of_an_unknown_session_are_refused(journal: Journal) -> None:
    with raises(JournalOrderError, "journal_unknown_session") as caught:
        journal.append("microphone", 1, final(1))
    assert "microphone" in str(caught.value)
    journal.begin(record())
    journal.end("microphone", 1.0)
    with raises(JournalOrderError, "journal_unknown_session"):
        journal.append("microphone", 1, final(1))


@pytest.mark.parametrize("name", ["", "../up", "a b", "x" * 65, "é", "a\n"])
def test_an_invalid_session_name_is_refused(journal: Journal, name: str) -> None:
    with raises(StorageError, "invalid_session_name"):
        journal.begin(record(name))


def test_half_of_a_surrogate_pair_is_refused(journal: Journal) -> None:
    journal.begin(record())
    with raises(JournalOrderError, "journal_invalid_text"):
        journal.append("microphone", 1, final(1, "\ud800"))
    journal.append("microphone", 1, final(1))


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([final(1), final(2, "你好"), words(1), Gap(Samples(1), Samples(2), "")]),
        st.floats(0, 100),
    ),
    max_size=30,
)


@given(MESSAGES, st.floats(0, 100), st.booleans(), st.sets(st.sampled_from("abc")))
def test_exactly_the_old_messages_are_pruned(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[tuple[str, Durable, float]],
    before: float,
    ended_only: bool,
    ended: set[str],
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    kept: dict[str, list[tuple[int, Durable]]] = {name: [] for name in "abc"}
    last = dict.fromkeys("abc", 0)
    journal = Journal(path)
    for name in "abc":
        journal.begin(record(name))
    for name, message, at in messages:
        last[name] += 1
        journal.append(name, last[name], message, at)
        if at >= before or (ended_only and name not in ended):
            kept[name].append((last[name], message))
    for name in sorted(ended):
        journal.end(name, 100.0)
    n_kept = sum(map(len, kept.values()))
    assert journal.prune(before, ended_only=ended_only) == len(messages) - n_kept
    journal.close()
    with JournalReader(path) as reader:
        assert {name: reader.messages(name, 0, 99) for name in "abc"} == kept
        for name in set("abc") - ended:
            assert reader.counts(name).last_seq == last[name]
        n_found = sum(isinstance(m, Final) and "你" in m.text for s in kept.values() for _, m in s)
        assert len(reader.search("你")) == n_found


def test_a_session_is_removed_with_its_last_message(
    journal: Journal, reader: JournalReader
) -> None:
    journal.begin(record())
    journal.append("microphone", 1, final(1), at=10.0)
    journal.append("microphone", 2, final(2), at=20.0)
    journal.end("microphone", 20.0)
    assert journal.prune(15.0) == 1
    assert reader.has_session("microphone")
    assert journal.prune(25.0) == 1
    assert not reader.has_session("microphone")


def test_a_forgotten_session_leaves_no_trace_in_the_files(journal: Journal, path: Path) -> None:
    for name in ("secret", "open"):
        journal.begin(record(name))
        for seq in range(1, 50):
            journal.append(name, seq, final(seq, f"{name}word number {seq}"))
    journal.forget("secret")
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"openword" in content
    assert b"secret" not in content


# Search


@pytest.fixture
def found(journal: Journal, reader: JournalReader) -> JournalReader:
    texts = [
        "Hello Zoë, don't wait",
        "今天天气很好。",
        "ＧＰＴ模型 and カメラ",
        "한국어를 배워요",
        "𫠠 สวัสดีครับ",
        "résumé NEAR the AND gate",
    ]
    journal.begin(record())
    for segment, text in enumerate(texts, 1):
        journal.append("microphone", segment, final(segment, text), at=float(segment))
    return reader


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("hello", [1]),
        ("wait HELLO", [1]),
        ("zoe", [1]),
        ("don't", [1]),
        ("hell", []),
        ("天", [2]),
        ("天气", [2]),
        ("天很", []),
        ("好 今天", [2]),
        ("gpt模", [3]),
        ("ｶﾒﾗ", [3]),
        ("メ", [3]),
        ("한국", [4]),
        ("𫠠", [5]),
        ("สวัสดี", [5]),
        ("Resume", [6]),
        ("AND", [3, 6]),
        ('"hello', [1]),
        ("hello*", [1]),
        ("-hello", [1]),
        ("spaced:hello", []),
        ("hello OR 天", []),
        ("hello !!! ?", [1]),
        ("hello\0zoe", [1]),
        ("!!!", []),
        ("", []),
        (None, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_terms_are_found_in_any_script(
    found: JournalReader, text: str | None, segments: list[int]
) -> None:
    assert [each.final.segment for each in found.search(text)] == segments


def test_the_newest_finals_are_found_in_the_order_of_publication(found: JournalReader) -> None:
    assert [each.seq for each in found.search(limit=2)] == [5, 6]
    assert [each.seq for each in found.search(since=3.0, limit=9)] == [3, 4, 5, 6]
    assert found.search(session="another") == []


def test_a_final_is_found_with_its_words(journal: Journal, reader: JournalReader) -> None:
    journal.begin(record())
    messages: list[Durable] = [final(1), final(2), words(1)]
    for seq, message in enumerate(messages, 1):
        journal.append("microphone", seq, message, at=5.0)
    assert [each.words for each in reader.search("morning")] == [words(1), None]
    assert reader.search()[0].session == record()


@given(st.text() | st.text(alphabet='"*()^:+-{}ANDORTNE 天\0\ud800'))
def test_any_search_text_is_valid(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "typed" / "journal.db"
    Journal(path).close()
    with JournalReader(path) as reader:
        assert reader.search(text) == []


@given(st.text(alphabet="天气很好abc カメ한국 ,。é", min_size=1).filter(str.strip), st.data())
def test_every_part_of_a_text_is_found(
    tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject
) -> None:
    """Any run of characters in scripts without spaces; whole words in others."""
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    journal = Journal(path)
    journal.begin(record())
    journal.append("microphone", 1, final(1, text))
    journal.close()
    start = data.draw(st.integers(0, len(text) - 1))
    part = text[start : data.draw(st.integers(start + 1, len(text)))]
    is_whole = not any(c in "abcé" for c in part[:1] + part[-1:])
    with JournalReader(path) as reader:
        if is_whole and any(map(str.isalnum, part)):
            assert len(reader.search(part)) == 1
        if any(map(str.isalnum, text)):
            assert len(reader.search(text)) == 1


# Files


def test_other_users_cannot_read_the_journal(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        journal = Journal(tmp_path / "state" / "streamasr" / "journal.db")
        journal.begin(record())
        directory = tmp_path / "state" / "streamasr"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}
        journal.close()
    finally:
        os.umask(old)
    assert modes == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)


def test_a_missing_or_empty_journal_has_an_error_of_its_own(path: Path) -> None:
    with raises(NoJournalError, "no_journal"):
        JournalReader(path)
    path.parent.mkdir()
    path.touch()
    with raises(NoJournalError, "no_journal"):
        JournalReader(path)


def make_text(path: Path) -> None:
    path.write_text("just text, and too long for an empty database\n" * 20)


def make_foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()


def make_newer(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()


def make_torn(path: Path) -> None:
    Journal(path).close()
    with path.open("r+b") as file:
        file.truncate(5000)


def make_directory(path: Path) -> None:
    path.mkdir()


def read_one(kind: type[Journal] | type[JournalReader], path: Path) -> None:
    with contextlib.closing(kind(path)) as opened:
        opened.messages("microphone", 0, 1)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (make_text, {"journal_not_a_database"}),
        (make_foreign, {"journal_foreign"}),
        (make_newer, {"journal_too_new"}),
        (make_torn, {"journal_damaged"}),
        (make_directory, {"journal_unopenable", "journal_failed"}),
    ],
)
@pytest.mark.parametrize("kind", [Journal, JournalReader])
def test_a_file_that_is_not_a_journal_is_refused_and_kept(
    path: Path,
    make: Callable[[Path], None],
    code: set[str],
    kind: type[Journal] | type[JournalReader],
) -> None:
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StorageError) as caught:
        read_one(kind, path)
    assert caught.value.code in code
    assert not isinstance(caught.value, NoJournalError)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_directory_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(StorageError, "journal_unopenable"):
        Journal(tmp_path / "file" / "state" / "journal.db")


def test_a_damaged_message_is_reported(journal: Journal, reader: JournalReader, path: Path) -> None:
    journal.begin(record())
    journal.append("microphone", 1, final(1))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE messages SET body = '{'")
    db.close()
    with raises(StorageError, "journal_damaged_message"):
        reader.messages("microphone", 0, 1)
    with raises(StorageError, "journal_damaged_message"):
        reader.search()


def test_a_locked_journal_has_an_error_of_its_own(journal: Journal, path: Path) -> None:
    journal.begin(record())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with raises(JournalLockedError, "journal_locked"):
        journal.append("microphone", 1, final(1))
    assert journal.messages("microphone", 0, 9) == []
    other.execute("ROLLBACK")
    other.close()
    journal.append("microphone", 1, final(1))


def test_the_log_of_writes_does_not_grow_without_end(journal: Journal, path: Path) -> None:
    journal.begin(record())
    log = path.with_name(f"{path.name}-wal")
    for seq in range(1, 501):
        journal.append("microphone", seq, final(seq))
        journal.shorten_log()
        assert log.stat().st_size < 8 << 20


def test_a_reader_does_not_block_the_writer(journal: Journal, path: Path) -> None:
    journal.begin(record())
    with JournalReader(path) as reader:
        rows = reader._database._connection.execute("SELECT * FROM sessions, sqlite_master")
        next(rows)  # in the middle of reading
        journal.append("microphone", 1, final(1))
        journal.forget("microphone")
        rows.close()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._database._connection.execute("DELETE FROM sessions")


def test_paths_may_hold_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20 é" / "journal.db"
    journal = Journal(path)
    journal.begin(record())
    with JournalReader(path) as reader:
        assert len(reader.unfinished()) == 1
    journal.close()
