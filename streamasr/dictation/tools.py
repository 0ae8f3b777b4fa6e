"""Short runs of external programs, with a time limit and failures in one sentence."""

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Final

from streamasr.core.errors import OutputError

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 5.0


class ToolError(OutputError):
    """An external program did not do its work."""


class DesktopGoneError(ToolError):
    """The desktop session has ended; a new session needs a new start of the program."""


async def run_tool(
    argv: Sequence[str],
    stdin: bytes = b"",
    *,
    timeout_s: float = TIMEOUT_S,
    environment: Mapping[str, str] | None = None,
    is_whole: bool = False,
    alarm: bytes | None = None,
) -> bytes:
    """Run a program to its end.

    Processes that it leaves in the background are not waited for: owners of the clipboard stay.

    Args:
        argv: the program and its arguments. Spoken text belongs into `stdin`, because lists of
            processes show the arguments.
        stdin: content of its stdin.
        timeout_s: seconds after which the program is killed.
        environment: variables added to those of this process.
        is_whole: whether a cancellation waits for the end of the program, for work that must not
            stop half-way: a key pressed and not released would repeat forever.
        alarm: text on stderr that means failure even with exit code 0.

    Returns:
        Content of its stdout.

    Raises:
        ToolError: the program is missing, fails, or does not end in time.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, _errors() as errors:
        given.write(stdin)
        given.seek(0)
        process = await _start(argv, environment, given, out, errors)
        try:
            code = await (_whole_end if is_whole else _end)(process, timeout_s)
        except TimeoutError as error:
            raise ToolError(
                f"{argv[0]} did not end within {timeout_s:g} s and was killed", code="tool_timeout"
            ) from error
        finally:
            await end_tool(process)
        out.seek(0)
        errors.seek(0)
        if code != 0 or (alarm is not None and alarm in errors.read()):
            raise ToolError(
                f"{argv[0]} failed: {_last_line(errors) or f'exit code {code}'}", code="tool_failed"
            )
        return out.read()


async def _end(process: "asyncio.subprocess.Process", timeout_s: float) -> int:
    """Wait for the exit code of a process.

    Raises:
        TimeoutError: the process did not end in time.
    """
    async with asyncio.timeout(timeout_s):
        return await process.wait()


async def _whole_end(process: "asyncio.subprocess.Process", timeout_s: float) -> int:
    """Wait like `_end`, but delay a cancellation until the process has ended."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    cancellation: asyncio.CancelledError | None = None
    while process.returncode is None:
        try:
            async with asyncio.timeout_at(deadline):
                await process.wait()
        except asyncio.CancelledError as error:
            cancellation = error
        except TimeoutError:
            if cancellation is not None:
                raise cancellation from None
            raise
    if cancellation is not None:
        raise cancellation
    return process.returncode


async def start_tool(
    argv: Sequence[str], stdin: bytes, stderr: IO[bytes]
) -> "asyncio.subprocess.Process":
    """Start a program that runs until `end_tool`.

    Raises:
        ToolError: the program cannot be started.
    """
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        return await _start(argv, None, given, asyncio.subprocess.DEVNULL, stderr)


async def end_tool(process: "asyncio.subprocess.Process") -> None:
    """Kill a program that is still running, with all processes that it started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _errors() -> IO[bytes]:
    return tempfile.TemporaryFile()


async def _start(
    argv: Sequence[str],
    environment: Mapping[str, str] | None,
    stdin: IO[bytes],
    stdout: IO[bytes] | int,
    stderr: IO[bytes],
) -> "asyncio.subprocess.Process":
    # Files instead of pipes: a program that does not read its input cannot block this process, and
    # a child left in the background cannot delay the end of the output.
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(
            f"{argv[0]} cannot be started: {error.strerror}", code="tool_not_startable"
        ) from error


def _last_line(errors: IO[bytes]) -> str:
    """Return the last line of stderr that is not blank, at most 200 characters."""
    errors.seek(0)
    lines = errors.read(1 << 16).decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "".join(char if char.isprintable() else " " for char in last[:200])
