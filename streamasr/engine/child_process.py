"""Child processes that run one function, whatever program their parent is.

`multiprocessing` runs the script of its parent again in every child, unless the script guards
itself with `if __name__ == "__main__"`; a script from standard input cannot be run again at all.
So a child is a new interpreter that gets the parent's module path, a function and its arguments
through a pipe, and imports nothing else.

Children inherit no locks, threads or file descriptors, but the signals that the starting thread
blocks. A child ends with its parent, whatever ends that.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

_BOOT: Final = """
import sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[1]))
sys.path[:] = connection.recv()
from streamasr.engine.child_process import run_target
run_target(connection, int(sys.argv[2]))
"""


class ChildProcess:
    """A running child; the methods may be called from any thread."""

    def __init__(self, process: "subprocess.Popen[bytes]", sentinel: int, lifeline: int) -> None:
        """Made by `start`.

        Args:
            process: the new interpreter.
            sentinel: a file descriptor that becomes readable when the child ends.
            lifeline: a file descriptor; when it closes, the child ends.
        """
        self._process = process
        self.sentinel = sentinel
        self._lifeline = lifeline

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """Exit status, or the negative number of a signal; None while the child is running."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Return whether the child is running."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the child at once; do nothing if it has ended."""
        self._process.kill()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the child has ended, or the time is over."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def close(self) -> None:
        """Free the file descriptors of a child that has ended."""
        os.close(self.sentinel)
        os.close(self._lifeline)


def start(target: Callable[..., None], *args: Any) -> tuple[Connection, ChildProcess]:
    """Start a child that runs a function.

    Args:
        target: a function at the top level of a module; its first argument is the child's end of
            a connection.
        args: its further arguments, which are pickled.

    Returns:
        The parent's end of the connection, which is at its end when the child has ended, and the
        child.

    Raises:
        OSError: the system does not start another process.
    """
    ours, theirs = multiprocessing.Pipe()
    sentinel, held_by_child = os.pipe()
    watched_by_child, lifeline = os.pipe()
    command = [sys.executable, *_flags(), "-c", _BOOT, str(theirs.fileno()), str(watched_by_child)]
    try:
        process = subprocess.Popen(  # noqa: S603 - the same interpreter
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), held_by_child, watched_by_child),
        )
    except BaseException:
        ours.close()
        os.close(sentinel)
        os.close(lifeline)
        raise
    finally:
        theirs.close()
        os.close(held_by_child)
        os.close(watched_by_child)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # seen by its sentinel
        ours.send(sys.path)
        ours.send((target, args))
    return ours, ChildProcess(process, sentinel, lifeline)


def _flags() -> list[str]:
    """Return options of the interpreter: those of the parent that matter to a child."""
    flags = ["-P"]  # no directory but those of the parent's module path
    if sys.dont_write_bytecode:
        flags.append("-B")
    return flags


def run_target(connection: Connection, watched: int) -> None:
    """Run the function that the parent sends; in the child.

    Args:
        connection: to the parent.
        watched: a file descriptor that ends with the parent.
    """
    threading.Thread(target=_end_with_parent, args=[watched], daemon=True).start()
    target, args = connection.recv()
    target(connection, *args)


def _end_with_parent(watched: int) -> None:
    """Exit when the parent has ended, even in the middle of a request."""
    os.read(watched, 1)  # the parent writes nothing
    os._exit(1)  # without cleaning up: other threads may be in native code
