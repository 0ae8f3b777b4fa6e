"""A storage directory belongs to one daemon, which other programs can find there."""

import errno
import fcntl
import os
import resource
import time
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError
from streamasr.storage.lock import Lock, find_daemon
from streamasr.storage.places import lock_path
from tests.support.errors import raises


def test_a_second_daemon_is_refused_while_the_first_one_runs(tmp_path: Path) -> None:
    assert find_daemon(tmp_path) is None
    with Lock(tmp_path):
        assert find_daemon(tmp_path) == os.getpid()
        with raises(ConfigError, "storage_in_use"), Lock(tmp_path):
            pass
        assert find_daemon(tmp_path) == os.getpid()
    assert find_daemon(tmp_path) is None


def test_a_daemon_starts_on_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Lock(tmp_path):
        assert find_daemon(tmp_path) == os.getpid()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with Lock(tmp_path):
            assert find_daemon(tmp_path) is None, "the PID of another process"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "will not find this daemon" in caplog.text


def test_a_search_for_the_daemon_does_not_keep_one_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = os.open(lock_path(tmp_path), os.O_RDONLY | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(looking))
    with Lock(tmp_path):
        assert find_daemon(tmp_path) == os.getpid()


def test_without_locks_a_daemon_is_not_found_and_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lock(tmp_path):
        pass  # its PID stays in the file

    def without_locks(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert find_daemon(tmp_path) is None
    with raises(ConfigError, "storage_not_lockable"):
        Lock(tmp_path).__enter__()
