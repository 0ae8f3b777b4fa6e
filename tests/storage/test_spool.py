"""The spool keeps all audio without a final, up to the last sample, and no more than needed."""

import os
import stat
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import StorageError
from streamasr.core.units import Float32Array, Samples
from streamasr.storage.spool import (
    Spool,
    SpoolFullError,
    delete_spool,
    read_spool,
    spooled_sessions,
)
from tests.support.errors import raises


def ramp(start: int, n: int) -> Float32Array:
    """Samples that are their own positions."""
    return np.arange(start, start + n, dtype=np.float32)


def positions(directory: Path) -> list[float]:
    """All samples of a spool, which are their own positions."""
    spooled = read_spool(directory)
    for start, samples in spooled.parts:
        assert samples.dtype == np.float32
        assert samples.tolist() == ramp(start, len(samples)).tolist()
    return [value for _, samples in spooled.parts for value in samples.tolist()]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "microphone"


def open_spool(
    directory: Path, position: int = 0, max_bytes: int = 1 << 20, file_length: int = 60
) -> Spool:
    return Spool(directory, Samples(position), max_bytes, Samples(file_length))


def test_samples_are_on_the_disk_when_append_returns(directory: Path) -> None:
    spool = open_spool(directory)
    for start in range(0, 150, 10):
        spool.append(ramp(start, 10))
        assert read_spool(directory).end == spool.position == start + 10
    assert names(directory) == ["0.f32", "120.f32", "60.f32"]
    assert positions(directory) == list(range(150))
    spool.close()
    spool.close()


def test_any_array_of_samples_is_written_as_float32(directory: Path) -> None:
    spool = open_spool(directory)
    spool.append(ramp(0, 20)[::2])
    spool.append(np.arange(5, dtype=">f4").astype(">f4"))
    spool.append(np.empty(0, dtype=np.float32))
    spool.close()
    [(start, samples)] = read_spool(directory).parts
    assert (start, samples.tolist()) == (0, [*range(0, 20, 2), *range(5)])


def test_lost_audio_is_a_hole(directory: Path) -> None:
    spool = open_spool(directory, 100)
    spool.append(ramp(100, 5))
    spool.skip(20)
    spool.skip(0)
    spool.append(ramp(125, 5))
    spool.close()
    spooled = read_spool(directory)
    assert [(start, len(samples)) for start, samples in spooled.parts] == [(100, 5), (125, 5)]
    assert (spooled.start, spooled.end) == (100, 130)


def test_a_file_is_deleted_when_all_of_it_is_settled(directory: Path) -> None:
    spool = open_spool(directory)
    for start in range(0, 200, 20):
        spool.append(ramp(start, 20))
    spool.forget_before(Samples(119))
    assert names(directory) == ["120.f32", "180.f32", "60.f32"]
    spool.forget_before(Samples(120))
    assert positions(directory) == list(range(120, 200))
    spool.close()


def test_settled_audio_is_deleted_without_waiting_for_the_next_half_minute(directory: Path) -> None:
    spool = open_spool(directory)
    spool.append(ramp(0, 15))
    spool.forget_before(Samples(9))
    assert names(directory) == ["0.f32"]
    spool.forget_before(Samples(10))  # a sixth of what a file takes
    assert names(directory) == ["0.f32", "15.f32"]
    spool.append(ramp(15, 5))
    spool.forget_before(Samples(15))
    assert positions(directory) == list(range(15, 20))
    spool.close()


def test_the_end_is_kept_when_everything_is_settled(directory: Path) -> None:
    spool = open_spool(directory)
    spool.append(ramp(0, 50))
    spool.forget_before(Samples(10_000))
    spool.close()
    spooled = read_spool(directory)
    assert (spooled.start, spooled.end, spooled.parts) == (50, 50, [])


def test_a_reopened_spool_continues_in_a_new_file(directory: Path) -> None:
    for start in (0, 10, 20):
        spool = open_spool(directory, read_spool(directory).end)
        spool.append(ramp(start, 10))
        spool.close()
    assert names(directory) == ["0.f32", "10.f32", "20.f32"]
    assert positions(directory) == list(range(30))


def test_an_empty_or_torn_file_at_the_end_is_replaced(directory: Path) -> None:
    spool = open_spool(directory)
    spool.append(ramp(0, 10))
    spool.close()
    (directory / "10.f32").write_bytes(b"\1\2\3")
    assert read_spool(directory).end == 10
    spool = open_spool(directory, 10)
    spool.append(ramp(10, 10))
    spool.close()
    assert positions(directory) == list(range(20))


def test_audio_of_an_earlier_session_of_that_name_is_deleted(directory: Path) -> None:
    spool = open_spool(directory)
    spool.append(ramp(0, 200))
    spool.close()
    spool = open_spool(directory, 0)
    spool.append(ramp(0, 10))
    spool.close()
    assert positions(directory) == list(range(10))


def test_a_full_spool_raises_once_and_continues_when_half_is_settled(directory: Path) -> None:
    spool = open_spool(directory, max_bytes=400)
    spool.append(ramp(0, 100))
    with raises(SpoolFullError, "spool_full"):
        spool.append(ramp(100, 10))
    spool.append(ramp(110, 10))
    assert spool.is_full
    spool.forget_before(Samples(60))
    spool.append(ramp(120, 10))
    assert spool.is_full
    assert positions(directory) == list(range(100))
    spool.forget_before(Samples(100))
    assert not spool.is_full
    spool.append(ramp(130, 10))
    assert positions(directory) == list(range(130, 140))
    spool.close()


@dataclass
class Truth:
    """Expected content of a spool, sample by sample."""

    position: int = 0
    settled: int = 0
    written: set[int] = field(default_factory=set)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "skip", "settle", "reopen"]), st.integers(0, 90)
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 3))
def test_no_unsettled_sample_is_missing_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], n_torn: int
) -> None:
    directory = tmp_path_factory.mktemp("spool") / "session"
    truth = Truth()
    spool = open_spool(directory, file_length=50)
    for kind, n in steps:
        match kind:
            case "append":
                spool.append(ramp(truth.position, n))
                truth.written |= set(range(truth.position, truth.position + n))
                truth.position += n
            case "skip":
                spool.skip(n)
                truth.position += n
            case "settle":
                truth.settled = max(truth.settled, truth.position - n)
                spool.forget_before(Samples(truth.settled))
            case _:
                spool.close()
                spool = open_spool(directory, truth.position, file_length=50)
        assert spool.position == truth.position
        assert spool.n_bytes == sum(path.stat().st_size for path in directory.iterdir())
    spool.close()
    found = set(map(int, positions(directory)))
    assert found <= truth.written
    assert {p for p in truth.written if p >= truth.settled} <= found
    # One file may hold something of what is settled, and the newest that marks the end.
    assert len({p for p in found if p < truth.settled}) < 2 * (50 + 90)
    if found:
        newest = max(directory.iterdir(), key=lambda path: int(path.stem))
        os.truncate(newest, max(0, newest.stat().st_size - n_torn))
        assert found - set(map(int, positions(directory))) <= {max(found)}
    delete_spool(directory)
    assert not directory.exists()


# Foreign files


def test_foreign_files_are_left_alone(directory: Path) -> None:
    spool = open_spool(directory)
    spool.append(ramp(0, 10))
    foreign = ["notes.txt", "-5.f32", "007.f32", "1e3.f32", "5.f32.bak"]
    for name in foreign:
        (directory / name).write_text("mine")
    (directory / "700.f32").mkdir()
    os.mkfifo(directory / "800.f32")
    assert positions(directory) == list(range(10))
    spool.delete()
    assert names(directory) == sorted([*foreign, "700.f32", "800.f32"])


def test_symbolic_links_are_refused(directory: Path, tmp_path: Path) -> None:
    spool = open_spool(directory)
    spool.close()
    target = tmp_path / "target"
    target.write_bytes(bytes(400))
    (directory / "5.f32").symlink_to(target)
    for use in (read_spool, open_spool, delete_spool):
        with raises(StorageError, "spool_symbolic_link"):
            use(directory)
    link = directory.parent / "link"
    link.symlink_to(directory)
    for use in (read_spool, open_spool, delete_spool):
        with raises(StorageError, "spool_unusable"):
            use(link)
    assert target.read_bytes() == bytes(400)


@pytest.mark.parametrize("name", ["..", "a b", "é", "x" * 65])
def test_a_session_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    for use in (read_spool, open_spool, delete_spool):
        with raises(StorageError, "invalid_session_name"):
            use(tmp_path / name)


def test_a_missing_spool_is_empty(directory: Path) -> None:
    spooled = read_spool(directory)
    assert (spooled.start, spooled.end, spooled.parts) == (0, 0, [])
    delete_spool(directory)
    assert spooled_sessions(directory.parent) == []


def test_sessions_are_found_by_their_directories(tmp_path: Path) -> None:
    for name in ("b", "a"):
        open_spool(tmp_path / name).close()
    (tmp_path / "file").touch()
    (tmp_path / "not a name").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert spooled_sessions(tmp_path) == ["a", "b"]


def test_other_users_cannot_read_the_spool(directory: Path) -> None:
    old = os.umask(0)
    try:
        spool = open_spool(directory)
        spool.append(ramp(0, 10))
        spool.close()
    finally:
        os.umask(old)
    for path in (directory.parent, directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "0.f32").stat().st_mode) == 0o600


# A disk that refuses to write


def test_a_directory_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(StorageError, "spool_unusable") as caught:
        open_spool(tmp_path / "file" / "microphone")
    assert "File exists" in str(caught.value)


def test_a_directory_that_was_deleted_is_reported(directory: Path) -> None:
    spool = open_spool(directory)
    directory.rmdir()
    with raises(StorageError, "spool_unusable") as caught:
        spool.append(ramp(0, 10))
    assert "No such file" in str(caught.value)
    assert spool.position == 10
    spool.close()


FULL_DISK = """
import resource, signal, sys
import numpy as np
from pathlib import Path
from streamasr.core.errors import StorageError
from streamasr.storage.spool import Spool

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]), 0)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 25 + 2, limits[1]))
for start in range(0, 60, 10):
    try:
        spool.append(np.arange(start, start + 10, dtype=np.float32))
    except StorageError as error:
        print(start, spool.position, error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
"""


@pytest.mark.process
def test_samples_that_a_full_disk_refuses_are_a_hole(directory: Path) -> None:
    """Only part of a block fits, and only part of its last sample."""
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(directory)],
        check=True,
        capture_output=True,
        text=True,
    )
    [line] = result.stdout.splitlines()
    assert line.startswith("20 30 the audio in ")
    assert line.endswith("File too large.")
    assert positions(directory) == [*range(25), *range(30, 60)]
