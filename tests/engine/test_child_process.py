"""Child processes that run a function, started from any program."""

import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from streamasr.engine.child_process import ChildProcess, start
from tests.support.processes import wait_gone

TIMEOUT_S = 60.0


def echo(connection: Connection, *args: Any) -> None:
    connection.send((os.getpid(), args, sys.path))
    connection.recv()


def fail(_connection: Connection) -> None:
    sys.exit(7)


def wait_for_ever(connection: Connection) -> None:
    connection.send(os.getpid())
    time.sleep(3600)


def end(connection: Connection, child: ChildProcess) -> None:
    child.kill()
    child.join()
    connection.close()
    child.close()


def test_a_child_runs_a_function_with_its_arguments() -> None:
    connection, child = start(echo, 1, b"two", Path("three"))
    pid, args, path = connection.recv()
    assert (pid, args) == (child.pid, (1, b"two", Path("three")))
    assert path == sys.path
    assert child.is_alive()
    connection.send(None)
    assert multiprocessing.connection.wait([child.sentinel], TIMEOUT_S)
    child.join()
    assert (child.is_alive(), child.exitcode) == (False, 0)
    with pytest.raises(EOFError):
        connection.recv()
    end(connection, child)


@pytest.mark.parametrize(
    ("target", "how", "code"),
    [(fail, None, 7), (wait_for_ever, ChildProcess.kill, -signal.SIGKILL)],
)
def test_the_end_of_a_child_is_seen_with_its_reason(
    target: Callable[[Connection], None], how: Callable[[ChildProcess], None] | None, code: int
) -> None:
    connection, child = start(target)
    if how:
        connection.recv()
        child.join(0.01)
        assert child.is_alive()
        how(child)
    assert multiprocessing.connection.wait([child.sentinel], TIMEOUT_S)
    child.join()
    assert child.exitcode == code
    end(connection, child)


PARENT = """
import sys, time
from streamasr.engine.child_process import start
from tests.engine.test_child_process import wait_for_ever
connection, child = start(wait_for_ever)
print(connection.recv(), flush=True)
time.sleep(3600)
"""


def test_a_child_ends_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_gone(pid)
