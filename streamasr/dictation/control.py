"""Control of a running dictation by shortcuts: a Unix socket, one JSON line in each direction.

    -> {"command": "toggle"}
    <- {"state": "listening"}

Only the same user gets an answer. The socket's directory, the socket's mode and the peer's user ID
as given by the kernel (SO_PEERCRED) all enforce this.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from streamasr.core.errors import ConfigError, ProtocolError
from streamasr.dictation.push_to_talk import State

logger = logging.getLogger(__name__)

Command: TypeAlias = Literal["toggle", "start", "stop", "cancel", "status"]
COMMANDS: Final[tuple[Command, ...]] = ("toggle", "start", "stop", "cancel", "status")

_TIMEOUT_S: Final = 5.0
_SOCKET: Final = "dictate.sock"
_MAX_LINE: Final = 1 << 10


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request of a shortcut."""

    command: Command


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a request."""

    state: State | None = None
    """State of the dictation after the command."""
    error: str | None = None
    """One sentence, if the request is invalid."""


class NotRunningError(ProtocolError):
    """No dictation is running."""

    default_code = "dictation_not_running"


def control_path() -> Path:
    """Return the default path of the socket."""
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if directory is None:  # for example in a shell outside of a login session
        return Path(tempfile.gettempdir()) / f"streamasr-{os.getuid()}" / _SOCKET
    return Path(directory) / "streamasr" / _SOCKET


@contextlib.asynccontextmanager
async def serve(path: Path, execute: Callable[[Command], State]) -> AsyncIterator[None]:
    """Answer requests while the context is open.

    Args:
        path: path of the socket.
        execute: executes a command and returns the state afterwards.

    Raises:
        ConfigError: another dictation is running, the directory is not safe, or the socket cannot
            be created.
    """
    _check_directory(path.parent)
    with _locked(path):
        async with _serve(path, execute):
            yield


@contextlib.asynccontextmanager
async def _serve(path: Path, execute: Callable[[Command], State]) -> AsyncIterator[None]:
    listening = _listen(path)
    own = path.stat().st_ino

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                if _is_ours(writer):
                    writer.write(msgspec.json.encode(await _answer(reader, execute)) + b"\n")
                    await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(converse, sock=listening, limit=_MAX_LINE)
    try:
        yield
    finally:
        server.close()
        with contextlib.suppress(OSError):
            if path.stat().st_ino == own:
                path.unlink()


async def _answer(reader: asyncio.StreamReader, execute: Callable[[Command], State]) -> Answer:
    try:
        request = msgspec.json.decode(await reader.readline(), type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        return Answer(error=f"invalid request: {error}")
    logger.info("received the command %s", request.command)
    return Answer(state=execute(request.command))


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    end: socket.socket = writer.get_extra_info("socket")
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the path, so that another dictation does not remove the socket as stale at its start."""
    lock = Path(f"{path}.lock")
    try:
        file = lock.open("ab")
    except OSError as error:
        raise ConfigError(
            f"the lock file {lock} cannot be opened: {error.strerror}; make it writable or choose"
            " another path with --control.",
            code="lock_unusable",
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _already_running(path) from error
        yield


def _already_running(path: Path) -> ConfigError:
    return ConfigError(
        f"another dictation is running and listens on {path}; stop it, or choose another path with"
        " --control.",
        code="dictation_already_running",
    )


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        try:
            listening.bind(str(path))
        except OSError:
            _remove_stale(path)
            listening.bind(str(path))
        listening.listen()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {path}: {error.strerror or error}; remove the file or choose another"
            " path with --control.",
            code="socket_unusable",
        ) from error
    except ConfigError:
        listening.close()
        raise
    finally:
        os.umask(mask)
    return listening


def _check_directory(directory: Path) -> None:
    """Check that no other user can replace the socket with one of their own."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigError(
            f"the directory {directory} cannot be used: {error.strerror}; choose another path with"
            " --control.",
            code="directory_unusable",
        ) from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigError(
            f"other users can write to {directory}, so a socket in it is not safe; change its owner"
            " or its mode, or choose another path with --control.",
            code="directory_not_private",
        )


def _remove_stale(path: Path) -> None:
    """Remove the socket of a dictation that was killed."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise _already_running(path)


def ask(path: Path, command: Command) -> State:
    """Send a command to a running dictation.

    Args:
        path: path of its socket.
        command: command to execute.

    Returns:
        State of the dictation after the command.

    Raises:
        NotRunningError: no dictation is running with this socket.
        ProtocolError: the dictation does not answer, or refuses the command.
    """
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(_TIMEOUT_S)
        try:
            end.connect(str(path))
        except OSError as error:
            raise NotRunningError(
                "no dictation is running; start one with `streamasr dictate --push-to-talk`.",
                code="dictation_not_running",
            ) from error
        try:
            end.sendall(msgspec.json.encode(Request(command)) + b"\n")
            answer = msgspec.json.decode(end.makefile("rb").readline(), type=Answer)
        except (OSError, msgspec.MsgspecError) as error:
            raise _no_answer(path) from error
    if answer.state is None:
        if answer.error is None:
            raise _no_answer(path)
        raise ProtocolError(
            f"the running dictation refused the command {command!r}: {answer.error}.",
            code="dictation_refused",
        )
    return answer.state


def _no_answer(path: Path) -> ProtocolError:
    return ProtocolError(
        f"the running dictation does not answer on {path}; restart it.",
        code="dictation_does_not_answer",
    )
