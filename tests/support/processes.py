"""Waiting for processes that are not children of this one."""

import multiprocessing.connection
import os

_TIMEOUT_S = 60.0  # far above what any process needs to end


def wait_gone(pid: int) -> None:
    """Wait for the end of a process."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert multiprocessing.connection.wait([handle], _TIMEOUT_S), f"{pid} is still there"
    finally:
        os.close(handle)
