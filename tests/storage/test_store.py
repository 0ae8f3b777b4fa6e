"""The store loses nothing and blocks nothing, whatever the disk does, whenever the process dies."""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Final
from streamasr.core.notices import NoticeCode
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array, Samples
from streamasr.storage.journal import Journal
from streamasr.storage.limits import Limits
from streamasr.storage.reader import JournalReader
from streamasr.storage.records import SessionRecord
from streamasr.storage.spool import read_spool, spooled_sessions
from streamasr.storage.store import Store

NAME = "microphone"
QUICK = Limits(busy_timeout_s=0.0, retry_locked_s=0.0, retry_s=0.0)
"""Every order is followed by another attempt at the changes that wait."""
TIMEOUT_S = 60.0


def record(name: str = NAME) -> SessionRecord:
    return SessionRecord(name, "client", 1000.0, "tiny", SessionOptions())


def final(segment: int) -> Final:
    start = Samples(segment * 1000)
    return Final(segment, f"text {segment}", "English", start, Samples(start + 900), "silence")


def finals(first: int, last: int) -> list[tuple[int, Durable]]:
    return [(number, final(number)) for number in range(first, last + 1)]


def ramp(start: int, n: int) -> Float32Array:
    """Samples that are their own positions."""
    return np.arange(start, start + n, dtype=np.float32)


def positions(directory: Path) -> list[float]:
    spooled = read_spool(directory)
    for start, samples in spooled.parts:
        assert samples.tolist() == ramp(start, len(samples)).tolist()
    return [value for _, samples in spooled.parts for value in samples.tolist()]


@dataclass
class Place:
    """Paths of a store, and the troubles that it reported."""

    root: Path
    troubles: list[tuple[NoticeCode, str]] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        return self.root / "state" / "journal.db"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    def store(self, limits: Limits = QUICK, history_days: int = 30) -> Store:
        return Store(self.journal, self.spool, self.report, history_days, limits)

    def report(self, code: NoticeCode, sentence: str) -> None:
        self.troubles.append((code, sentence))

    @property
    def codes(self) -> list[str]:
        return [code for code, _ in self.troubles]

    def messages(self, name: str = NAME) -> list[tuple[int, Durable]]:
        with JournalReader(self.journal) as reader:
            return reader.messages(name, 0, 100_000)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Another program is writing to the journal."""
        other = sqlite3.connect(self.journal, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def wait_for_orders(store: Store) -> list[tuple[int, Durable]]:
    """Wait until all orders so far, and what waits for the journal, have been tried."""
    store.read_messages(NAME, 0, 1).result(TIMEOUT_S)  # after it comes another attempt
    return store.read_messages(NAME, 0, 100_000).result(TIMEOUT_S)


class SlowDisk:
    """A disk that hangs until it is allowed to go on."""

    def __init__(self, store: Store) -> None:
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        store._thread.submit(self._hang)

    def _hang(self) -> None:
        self.hangs.set()
        self.goes_on.wait(TIMEOUT_S)


# While the disk works


def test_a_stable_text_is_in_the_journal_before_its_future_is_done(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    promise = StableText(1, Samples(0), "good", (1, 2))
    with Store(path, None, lambda *_: None) as store:
        store.begin(SessionRecord("one", "client", 0.0, "tiny", SessionOptions()))
        store.keep_stable_text("one", promise).result(60)
        with JournalReader(path) as reader:
            assert reader.stable_text("one") == promise
        store.keep_stable_text("nobody", promise).result(60)
    store.keep_stable_text("one", promise).result(60)


def test_a_session_from_its_beginning_to_its_end(place: Place) -> None:
    with place.store() as store:
        store.begin(record())
        store.append_audio(NAME, Samples(0), ramp(0, 1000))
        store.configure(NAME, SessionOptions(language="Chinese"))
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        assert place.messages() == finals(1, 1)
        assert positions(place.spool / NAME) == list(range(1000))
        with JournalReader(place.journal) as reader:
            assert [each.options.language for each in reader.unfinished()] == ["Chinese"]
        store.append_message(NAME, 2, End(Samples(1000), 1, 0))
        store.end(NAME)
        assert [seq for seq, _ in wait_for_orders(store)] == [1, 2]
        assert spooled_sessions(place.spool) == []
        with JournalReader(place.journal) as reader:
            assert reader.unfinished() == []
    assert place.troubles == []


def test_closing_executes_the_orders_that_wait(place: Place) -> None:
    store = place.store()
    store.begin(record())
    answers = [store.append_message(NAME, seq, final(seq)) for seq in range(1, 100)]
    store.append_audio(NAME, Samples(0), ramp(0, 1000))
    store.start()
    assert store.close(TIMEOUT_S)
    assert all(answer.done() for answer in answers)
    assert place.messages() == finals(1, 99)
    assert positions(place.spool / NAME) == list(range(1000))


def test_a_closed_store_answers_at_once(place: Place) -> None:
    store = place.store()
    store.start()
    store.close()
    store.begin(record())
    store.append_audio(NAME, Samples(0), ramp(0, 10))
    assert store.append_message(NAME, 1, final(1)).done()
    assert store.read_messages(NAME, 0, 9).result(0) == []


def test_without_a_spool_no_audio_is_written(place: Place) -> None:
    with Store(place.journal, None, place.report) as store:
        store.append_audio(NAME, Samples(0), ramp(0, 10))
        store.skip_audio(NAME, Samples(20))
        store.settle(NAME, Samples(10))
        store.end(NAME)
        wait_for_orders(store)
    assert not place.spool.exists()
    assert place.troubles == []


def test_without_history_a_session_is_readable_until_its_end(place: Place) -> None:
    with place.store(history_days=0) as store:
        store.begin(record())
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        assert place.messages() == finals(1, 1)
        store.end(NAME)
        assert wait_for_orders(store) == []
    assert place.messages() == []
    assert b"text 1" not in place.journal.read_bytes()


def test_pruning_everything_keeps_live_sessions(place: Place) -> None:
    with place.store() as store:
        for name in ("over", NAME):
            store.begin(record(name))
            store.append_message(name, 1, final(1))
        store.end("over")
        store.prune(0)
        wait_for_orders(store)
        assert (place.messages("over"), place.messages()) == ([], finals(1, 1))
        store.forget(NAME)
        assert wait_for_orders(store) == []


def test_settled_audio_is_deleted_and_lost_audio_is_a_hole(place: Place) -> None:
    with place.store() as store:
        store.append_audio(NAME, Samples(0), ramp(0, 100_000))
        store.skip_audio(NAME, Samples(200_000))
        store.append_audio(NAME, Samples(200_000), ramp(200_000, 100))
        store.append_audio(NAME, Samples(200_150), ramp(200_150, 100))
        store.settle(NAME, Samples(100_000))
        wait_for_orders(store)
        assert positions(place.spool / NAME) == [
            *range(200_000, 200_100),
            *range(200_150, 200_250),
        ]
    assert place.troubles == []


# While the journal is locked


def test_a_locked_journal_loses_nothing_and_keeps_the_order(place: Place) -> None:
    with place.store() as store:
        store.begin(record())
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        with place.locked():
            for seq in range(2, 20):
                store.append_message(NAME, seq, final(seq)).result(TIMEOUT_S)
            assert wait_for_orders(store) == finals(1, 19)
            assert store.read_messages(NAME, 5, 4).result(TIMEOUT_S) == finals(6, 9)
            assert place.messages() == finals(1, 1)
        store.append_message(NAME, 20, final(20)).result(TIMEOUT_S)
        assert wait_for_orders(store) == finals(1, 20)
        assert place.messages() == finals(1, 20)
    assert place.codes == ["journal"]
    assert "locked by another program" in place.troubles[0][1]


def test_a_lock_that_ends_soon_is_waited_for(place: Place) -> None:
    """A message is done when it is written; such a short lock is not reported."""
    with place.store(Limits(busy_timeout_s=TIMEOUT_S)) as store:
        store.begin(record())
        wait_for_orders(store)
        with place.locked():
            answer = store.append_message(NAME, 1, final(1))
            assert not answer.done()
        answer.result(TIMEOUT_S)
        assert place.messages() == finals(1, 1)
    assert place.troubles == []


def test_audio_stays_until_its_text_is_written(place: Place) -> None:
    with place.store() as store:
        store.begin(record())
        store.append_audio(NAME, Samples(0), ramp(0, 100_000))
        wait_for_orders(store)
        with place.locked():
            store.append_message(NAME, 1, final(1))
            store.settle(NAME, Samples(100_000))
            store.end(NAME)
            wait_for_orders(store)
            assert positions(place.spool / NAME) == list(range(100_000))
        wait_for_orders(store)
        assert place.messages() == finals(1, 1)
        assert spooled_sessions(place.spool) == []


def test_the_next_session_of_a_name_sees_its_own_messages_alone(place: Place) -> None:
    with place.store() as store:
        store.begin(record())
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        with place.locked():
            store.append_message(NAME, 2, final(2))
            store.end(NAME)
            assert wait_for_orders(store) == finals(1, 2)
            store.begin(record())
            assert wait_for_orders(store) == []
            store.append_message(NAME, 1, final(7))
            assert wait_for_orders(store) == [(1, final(7))]
        assert wait_for_orders(store) == [(1, final(7))]
        assert place.messages() == [(1, final(7))]


def test_only_the_oldest_messages_are_lost_when_too_many_wait(place: Place) -> None:
    limits = Limits(busy_timeout_s=0.0, retry_locked_s=0.0, changes=5)
    with place.store(limits) as store:
        wait_for_orders(store)
        Journal(place.journal).close()
        with place.locked():
            store.begin(record())
            for seq in range(1, 10):
                store.append_message(NAME, seq, final(seq)).result(TIMEOUT_S)
            assert wait_for_orders(store) == finals(6, 9)
        wait_for_orders(store)
        assert place.messages() == finals(6, 9)
    assert place.codes == ["journal", "history_lost"]


def test_the_same_trouble_is_reported_once_in_an_interval(place: Place) -> None:
    with place.store(Limits(busy_timeout_s=0.0, retry_locked_s=0.0, report_s=0.0)) as store:
        store.begin(record())
        wait_for_orders(store)
        with place.locked():
            store.append_message(NAME, 1, final(1))
            wait_for_orders(store)
    assert len(place.troubles) > 1
    place.troubles.clear()
    with place.store() as store, place.locked():
        store.append_message(NAME, 1, final(1))
        wait_for_orders(store)
    assert place.codes == ["journal"]


@given(
    st.lists(st.sampled_from(["append", "append", "lock", "unlock", "read", "end"]), max_size=30)
)
def test_any_locks_at_any_time_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    place = Place(tmp_path_factory.mktemp("store"))
    sessions: list[list[tuple[int, Durable]]] = [[]]
    with place.store() as store, contextlib.ExitStack() as lock:
        store.begin(record())
        wait_for_orders(store)
        for step in steps:
            match step:
                case "append":
                    seq = len(sessions[-1]) + 1
                    sessions[-1].append((seq, final(seq)))
                    store.append_message(NAME, seq, final(seq))
                case "lock":
                    wait_for_orders(store)
                    lock.close()
                    lock.enter_context(place.locked())
                case "unlock":
                    lock.close()
                case "read":
                    assert wait_for_orders(store) == sessions[-1]
                case _:
                    store.end(NAME)
                    store.begin(record())
                    sessions.append([])
        lock.close()
    with JournalReader(place.journal) as reader:
        found = [(each.seq, each.final) for each in reader.search()]
    assert found == [entry for session in sessions for entry in session]


# While the disk refuses


def test_the_store_works_without_a_journal(place: Place) -> None:
    place.root.joinpath("state").touch()
    with place.store() as store:
        store.begin(record())
        store.append_audio(NAME, Samples(0), ramp(0, 10))
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        store.append_message(NAME, 2, final(2)).result(TIMEOUT_S)
        assert wait_for_orders(store) == finals(1, 2)
        assert positions(place.spool / NAME) == list(range(10))
        place.root.joinpath("state").unlink()
        assert wait_for_orders(store) == finals(1, 2)
        store.append_message(NAME, 3, final(3)).result(TIMEOUT_S)
        assert wait_for_orders(store) == finals(1, 3)
        assert place.messages() == finals(1, 3)
    assert place.codes == ["journal"]


def test_a_deleted_journal_is_created_again(place: Place) -> None:
    with place.store() as store:
        store.begin(record())
        store.configure(NAME, SessionOptions(language="Chinese"))
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        for file in place.journal.parent.iterdir():
            file.unlink()
        store.append_message(NAME, 2, final(2)).result(TIMEOUT_S)
        assert place.messages() == finals(2, 2)
        with JournalReader(place.journal) as reader:
            assert [each.options.language for each in reader.unfinished()] == ["Chinese"]
        shutil.rmtree(place.journal.parent)
        store.append_message(NAME, 3, final(3)).result(TIMEOUT_S)
        assert wait_for_orders(store) == finals(3, 3)
        store.end(NAME)
    assert place.messages() == finals(3, 3)
    assert place.troubles == []


def test_live_sessions_are_recorded_in_a_journal_created_later(place: Place) -> None:
    with place.store() as store:
        store.begin(record())
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        shutil.rmtree(place.journal.parent)
        place.journal.parent.touch()
        store.append_message(NAME, 2, final(2)).result(TIMEOUT_S)
        place.journal.parent.unlink()
        assert wait_for_orders(store) == finals(2, 2)
        store.append_message(NAME, 3, final(3)).result(TIMEOUT_S)
        assert place.messages() == finals(2, 3)
    assert place.codes == ["journal"]


def test_a_journal_of_another_program_is_left_alone(place: Place) -> None:
    place.journal.parent.mkdir()
    place.journal.write_text("mine " * 1000)
    store = place.store()
    with store:
        store.begin(record())
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        store.prune(30)
        assert wait_for_orders(store) == finals(1, 1)
        store.end(NAME)
    assert not store.close()
    assert place.journal.read_text() == "mine " * 1000
    assert place.codes == ["journal"]
    assert "is not a database" in place.troubles[0][1]


def test_without_a_journal_settled_audio_is_deleted(place: Place) -> None:
    place.root.joinpath("state").touch()
    with place.store() as store:
        store.append_audio(NAME, Samples(0), ramp(0, 100_000))
        store.append_message(NAME, 1, final(1))
        store.settle(NAME, Samples(100_000))
        wait_for_orders(store)
        assert positions(place.spool / NAME) == []


def test_an_unwritable_spool_is_tried_again(place: Place) -> None:
    place.spool.touch()
    with place.store() as store:
        store.begin(record())
        store.append_audio(NAME, Samples(0), ramp(0, 10))
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        assert place.messages() == finals(1, 1)
        place.spool.unlink()
        store.append_audio(NAME, Samples(10), ramp(10, 10))
        wait_for_orders(store)
        assert positions(place.spool / NAME) == list(range(10, 20))
        (place.spool / NAME / "10.f32").unlink()
        (place.spool / NAME).rmdir()
        for start in range(20, 700_000, 100_000):  # until a new file is due
            store.append_audio(NAME, Samples(start), ramp(start, 100_000))
        wait_for_orders(store)
        assert read_spool(place.spool / NAME).end == 700_020
    assert place.codes == ["spool"]


def test_a_full_spool_deletes_settled_audio(place: Place) -> None:
    """Even text that is only in memory counts as settled: the audio could fill the disk."""
    limits = Limits(busy_timeout_s=0.0, retry_locked_s=0.0, spool_bytes=4 * 200_000)
    with place.store(limits) as store:
        store.begin(record())
        store.append_audio(NAME, Samples(0), ramp(0, 200_000))
        wait_for_orders(store)
        with place.locked():
            store.append_message(NAME, 1, final(1))
            store.settle(NAME, Samples(200_000))
            wait_for_orders(store)
            assert read_spool(place.spool / NAME).start == 0
            store.append_audio(NAME, Samples(200_000), ramp(200_000, 10))
            store.append_audio(NAME, Samples(200_010), ramp(200_010, 10))
            wait_for_orders(store)
            assert positions(place.spool / NAME) == list(range(200_010, 200_020))
    assert sorted(place.codes) == ["journal", "spool_full"]


def test_audio_and_messages_waiting_for_a_hanging_disk_are_bounded(place: Place) -> None:
    store = place.store(Limits(audio_bytes=4 * 100, changes=3))
    disk = SlowDisk(store)
    with store:
        assert disk.hangs.wait(TIMEOUT_S)
        store.begin(record())
        for start in range(0, 200, 20):
            store.append_audio(NAME, Samples(start), ramp(start, 20))
        answers = [store.append_message(NAME, seq, final(seq)) for seq in range(1, 6)]
        assert [answer.done() for answer in answers] == [False] * 3 + [True] * 2
        assert place.codes == ["spool_behind", "history_lost"]
        disk.goes_on.set()
        assert wait_for_orders(store) == finals(1, 3)
        store.append_audio(NAME, Samples(200), ramp(200, 20))
        wait_for_orders(store)
        assert positions(place.spool / NAME) == [*range(100), *range(200, 220)]


def test_closing_does_not_wait_for_a_disk_that_hangs(place: Place) -> None:
    store = place.store()
    disk = SlowDisk(store)
    store.start()
    assert disk.hangs.wait(TIMEOUT_S)
    answer = store.append_message(NAME, 1, final(1))
    reading = store.read_messages(NAME, 0, 9)
    assert not store.close(timeout_s=0.0)
    assert answer.done()
    assert reading.done()
    disk.goes_on.set()
    store._thread.join(TIMEOUT_S)


def test_an_unexpected_exception_costs_one_order(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with place.store() as store:
        store.begin(record())
        store._thread.submit(fail)
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        assert place.messages() == finals(1, 1)
    assert "ZeroDivisionError" in caplog.text


# In a process that is killed, or whose disk is full

WRITER = """
import sys
from pathlib import Path
import numpy as np
from streamasr.core.messages import Final
from streamasr.core.options import SessionOptions
from streamasr.storage.records import SessionRecord
from streamasr.storage.store import Store

root = Path(sys.argv[1])
store = Store(root / "state" / "journal.db", root / "spool", print)
store.start()
store.begin(SessionRecord("microphone", "client", 1000.0, "tiny", SessionOptions()))
seq = position = 0
while True:
    for _ in range(5):
        store.append_audio("microphone", position, np.arange(position, position + 320, dtype="f4"))
        position += 320
    seq += 1
    final = Final(seq, f"text {seq}", "English", seq * 1000, seq * 1000 + 900, "silence")
    store.append_message("microphone", seq, final).result()
    print(f"{seq} {position}", flush=True)  # in one piece
"""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.process
def test_written_messages_survive_a_kill_at_any_moment(place: Place, seed: int) -> None:
    n_lines = random.Random(seed).randrange(1, 200)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(place.root)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(n_lines):
            process.stdout.readline()
        assert len(place.messages()) >= n_lines  # others can read meanwhile
        process.send_signal(signal.SIGKILL)
        *_, last = [f"{n_lines} {n_lines * 1600}", *process.stdout.read().splitlines()]
    seq, position = map(int, last.split())
    kept = place.messages()
    assert kept[:seq] == finals(1, seq)
    assert len(kept) <= seq + 1
    spooled = positions(place.spool / NAME)
    assert spooled[:position] == list(range(position))
    with place.store() as store:  # and it goes on
        store.begin(record())
        after = len(kept) + 1
        store.append_message(NAME, after, final(after))
        store.append_audio(NAME, Samples(len(spooled)), ramp(len(spooled), 320))
        wait_for_orders(store)
    assert place.messages() == finals(1, after)
    assert positions(place.spool / NAME) == list(range(len(spooled) + 320))
    assert place.troubles == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from streamasr.core.messages import Final
from streamasr.core.options import SessionOptions
from streamasr.storage.limits import Limits
from streamasr.storage.records import SessionRecord
from streamasr.storage.store import Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
root = Path(sys.argv[1])
codes = []
limits = Limits(retry_s=0.0)
report = lambda code, sentence: codes.append(code)
store = Store(root / "state" / "journal.db", root / "spool", report, 30, limits)
store.start()
store.begin(SessionRecord("microphone", "client", 1000.0, "tiny", SessionOptions()))

def write(first, last):
    for seq in range(first, last + 1):
        start = (seq - 1) * 320
        store.append_audio("microphone", start, np.arange(start, start + 320, dtype="f4"))
        final = Final(seq, f"text {seq}", "English", seq * 1000, seq * 1000 + 900, "silence")
        store.append_message("microphone", seq, final).result()
    messages = store.read_messages("microphone", 0, 1000).result()
    assert [seq for seq, _ in messages] == list(range(1, last + 1)), messages

write(1, 10)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
write(11, 40)
assert sorted(codes) == ["journal", "spool"], codes
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
write(41, 50)
assert store.close()
"""


@pytest.mark.process
def test_a_full_disk_loses_no_message_and_blocks_nothing(place: Place) -> None:
    subprocess.run([sys.executable, "-c", FULL_DISK, str(place.root)], check=True)
    assert place.messages() == finals(1, 50)
    spooled = positions(place.spool / NAME)
    assert spooled[-3200:] == list(range(40 * 320, 50 * 320))


def test_a_read_only_directory_is_reported_and_blocks_nothing(place: Place) -> None:
    place.root.chmod(0o500)
    if os.access(place.root, os.W_OK):
        pytest.skip("root may write to read-only directories")
    with place.store() as store:
        store.begin(record())
        store.append_audio(NAME, Samples(0), ramp(0, 10))
        store.append_message(NAME, 1, final(1)).result(TIMEOUT_S)
        assert wait_for_orders(store) == finals(1, 1)
    place.root.chmod(0o700)
    assert sorted(place.codes) == ["journal", "spool"]
