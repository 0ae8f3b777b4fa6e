"""A service manager as the daemon sees one: its sockets, and a daemon that it starts."""

import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.support.daemons import RunningDaemon

_TIMEOUT_S = 120.0
_MOVE_AND_RUN = """
import fcntl, os, sys
count = int(sys.argv[1])
given = [int(number) for number in sys.argv[2 : 2 + count]]
spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100) for descriptor in given]
for target, descriptor in enumerate(spare, 3):
    os.dup2(descriptor, target)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
"""
"""Done by a service manager between fork and exec, which a program with threads must not do."""


class ManagerSocket:
    """The socket on which a service manager receives messages of its services."""

    def __init__(self, address: str) -> None:
        """Open the socket at a path, or under an abstract name behind @."""
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        self._socket.settimeout(_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def receive(self, timeout_s: float = _TIMEOUT_S) -> dict[str, str]:
        """Return the fields of the next message.

        Raises:
            TimeoutError: no message arrived within this time.
        """
        self._socket.settimeout(timeout_s)
        message = self._socket.recv(4096).decode()
        assert message.endswith("\n")
        return dict(line.split("=", 1) for line in message.splitlines())

    def receive_until(self, **fields: str) -> list[dict[str, str]]:
        """Return all messages up to the one with these fields."""
        received = [self.receive()]
        while not fields.items() <= received[-1].items():
            received.append(self.receive())
        return received


class SupervisedDaemon(RunningDaemon):
    """`streamasr run` as a service manager starts it."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        manager: ManagerSocket | None = None,
        watchdog_s: float | None = None,
        sockets: Sequence[socket.socket] = (),
        names: str = "",
        settings: str = "",
        model: str | None = None,
    ) -> None:
        """Prepare the daemon; see `RunningDaemon`."""
        super().__init__(directory, "--no-mic", *options, settings=settings, model=model)
        self.program = ["-m", "streamasr"]
        if sockets:
            self.url = url_of(sockets[0])
        self._sockets = sockets
        self._environ = {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
        if manager:
            self._environ["NOTIFY_SOCKET"] = manager.address
        if watchdog_s is not None:
            self._environ["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))

    def spawn(self, command: list[str], environ: dict[str, str]) -> "subprocess.Popen[str]":
        """Start its process with the sockets and variables of a service manager."""
        python, _, _, *arguments = command
        given = [number.fileno() for number in self._sockets]
        move = [python, "-c", _MOVE_AND_RUN, str(len(given)), *map(str, given)]
        return subprocess.Popen(
            [*move, python, *self.program, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environ | self._environ,
            pass_fds=given,
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon and its children; return the exit status. It can be started again."""
        status = super().stop(number)
        self.kill()
        return status

    def end_by_watchdog(self) -> int:
        """End the daemon as a watchdog does, and return its exit status."""
        return self.stop(signal.SIGABRT)


def url_of(listening: socket.socket) -> str:
    """Return the URL for clients of a socket."""
    if listening.family == socket.AF_UNIX:
        return f"unix://{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Open a TCP socket as a service manager does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as opened:
        yield opened


@contextmanager
def listening_unix(path: Path) -> Iterator[socket.socket]:
    """Open a Unix socket as a service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.bind(str(path))
        opened.listen()
        yield opened
