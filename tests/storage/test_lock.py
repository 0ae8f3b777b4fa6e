"""One daemon for each storage directory, which can be found there."""

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


def test_a_second_daemon_is_refused_while_the_first_one_runs(tmp_path: Path) -> None:
    assert find_daemon(tmp_path) is None
    with Lock(tmp_path):
        assert find_daemon(tmp_path) == os.getpid()
        with pytest.raises(ConfigError, match="another daemon uses"), Lock(tmp_path):
            pass
        assert find_daemon(tmp_path) == os.getpid()
    assert find_daemon(tmp_path) is None


def test_a_full_disk_keeps_no_daemon_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Lock(tmp_path):
        assert find_daemon(tmp_path) == os.getpid()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with Lock(tmp_path):
            assert find_daemon(tmp_path) is None, "a number that is not its own"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot find this daemon" in caplog.text


def test_who_looks_for_a_daemon_keeps_none_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = os.open(lock_path(tmp_path), os.O_RDONLY | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(looking))
    with Lock(tmp_path):
        assert find_daemon(tmp_path) == os.getpid()


def test_where_nothing_can_be_locked_nobody_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lock(tmp_path):
        pass  # leaves a number

    def without_locks(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    assert find_daemon(tmp_path) is None
    with pytest.raises(ConfigError, match=r"cannot be locked: .*; set storage\.directory"):
        Lock(tmp_path).__enter__()
