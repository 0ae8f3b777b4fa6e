"""How the desktop's shortcuts reach a running dictation: a Unix socket, one JSON line each way.

    -> {"command": "toggle"}
    <- {"state": "listening"}

Only the same user gets an answer: the socket's directory, its mode and the kernel's word for who is
at the other end all say so.
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
    """What a shortcut wants."""

    command: Command


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is going on now."""

    state: State | None = None
    error: str | None = None
    """One sentence, if the request could not be understood."""


class NobodyListensError(ProtocolError):
    """No dictation is running."""


def control_path() -> Path:
    """Where the socket is unless somebody says otherwise."""
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if directory is None:  # as in a shell without a session
        return Path(tempfile.gettempdir()) / f"streamasr-{os.getuid()}" / _SOCKET
    return Path(directory) / "streamasr" / _SOCKET


@contextlib.asynccontextmanager
async def serve(path: Path, obey: Callable[[Command], State]) -> AsyncIterator[None]:
    """Answer requests.

    Args:
        path: of the socket.
        obey: does what is wanted; the state afterwards.

    Raises:
        ConfigError: another dictation is there, or the directory is not safe.
    """
    _check_directory(path.parent)
    with _alone(path):
        async with _serve(path, obey):
            yield


@contextlib.asynccontextmanager
async def _serve(path: Path, obey: Callable[[Command], State]) -> AsyncIterator[None]:
    listening = _listen(path)
    own = path.stat().st_ino

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT_S):
                if _is_ours(writer):
                    writer.write(msgspec.json.encode(await _answer(reader, obey)) + b"\n")
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


async def _answer(reader: asyncio.StreamReader, obey: Callable[[Command], State]) -> Answer:
    try:
        request = msgspec.json.decode(await reader.readline(), type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        return Answer(error=f"this is no request: {error}")
    logger.info("asked to %s", request.command)
    return Answer(state=obey(request.command))


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    end: socket.socket = writer.get_extra_info("socket")
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep others from taking the socket for one that is left over, while it is being opened."""
    lock = Path(f"{path}.lock")
    try:
        file = lock.open("ab")
    except OSError as error:
        raise ConfigError(f"{lock} cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _another(path) from error
        yield


def _another(path: Path) -> ConfigError:
    return ConfigError(f"another dictation is running; it listens to {path}")


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
        raise ConfigError(f"{path} cannot be listened to: {error.strerror or error}") from error
    except ConfigError:
        listening.close()
        raise
    finally:
        os.umask(mask)
    return listening


def _check_directory(directory: Path) -> None:
    """Make sure that nobody else can put a socket of theirs in place of ours."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used: {error.strerror}") from error
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise ConfigError(f"{directory} can be written by others; no socket is safe there")


def _remove_stale(path: Path) -> None:
    """Remove what a dictation left that was killed."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise _another(path)


def ask(path: Path, command: Command) -> State:
    """Have a running dictation do something.

    Args:
        path: of its socket.
        command: what.

    Returns:
        Its state afterwards.

    Raises:
        NobodyListensError: none is running.
        ProtocolError: it does not answer, or refuses.
    """
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(_TIMEOUT_S)
        try:
            end.connect(str(path))
        except OSError as error:
            raise NobodyListensError(
                "no dictation is running; `streamasr dictate --push-to-talk` starts one"
            ) from error
        try:
            end.sendall(msgspec.json.encode(Request(command)) + b"\n")
            answer = msgspec.json.decode(end.makefile("rb").readline(), type=Answer)
        except (OSError, msgspec.MsgspecError) as error:
            raise ProtocolError("the running dictation does not answer") from error
    if answer.state is None:
        raise ProtocolError(answer.error or "the running dictation does not answer")
    return answer.state
