"""One daemon for each storage directory, which can be found there."""

import os
import resource
from pathlib import Path

import pytest

from streamasr.errors import ConfigError
from streamasr.storage.lock import Lock, find_daemon


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
