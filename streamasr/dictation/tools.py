"""Other people's programs, run for a moment: each has a time limit, and fails in one sentence."""

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
    """A program that should have typed did not."""


class DesktopGoneError(ToolError):
    """The session has ended; one that comes back is another one, for a program that begins anew."""


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

    What it leaves in the background is not waited for: those that own the clipboard stay.

    Args:
        argv: the program and its arguments. What was spoken belongs into `stdin`, which no list
            of processes shows.
        stdin: what it reads.
        timeout_s: after which it is killed.
        environment: added to ours.
        is_whole: whether a cancellation waits for its end, for what it does must not stay half
            done: a key that was pressed and not released repeats itself for ever.
        alarm: what it says on stderr where it has failed, though its exit code be 0.

    Returns:
        What it wrote to stdout.

    Raises:
        ToolError: it is not there, fails, or does not end in time.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, _errors() as errors:
        given.write(stdin)
        given.seek(0)
        process = await _start(argv, environment, given, out, errors)
        try:
            code = await (_whole_end if is_whole else _end)(process, timeout_s)
        except TimeoutError as error:
            raise ToolError(f"{argv[0]} has not ended within {timeout_s:g} s") from error
        finally:
            await end_tool(process)
        out.seek(0)
        errors.seek(0)
        if code != 0 or (alarm is not None and alarm in errors.read()):
            raise ToolError(f"{argv[0]} failed: {_complaint(errors) or f'exit code {code}'}")
        return out.read()


async def _end(process: "asyncio.subprocess.Process", timeout_s: float) -> int:
    """Its exit code.

    Raises:
        TimeoutError: it does not end.
    """
    async with asyncio.timeout(timeout_s):
        return await process.wait()


async def _whole_end(process: "asyncio.subprocess.Process", timeout_s: float) -> int:
    """The same; whoever is cancelled meanwhile stays until then."""
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
    """Start a program that stays until `end_tool`.

    Raises:
        ToolError: it is not there.
    """
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        return await _start(argv, None, given, asyncio.subprocess.DEVNULL, stderr)


async def end_tool(process: "asyncio.subprocess.Process") -> None:
    """Have a program ended that has not ended itself, and what it started if it is still at it."""
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
    # Files and not pipes: a program that does not read cannot block us, and one that leaves a
    # child behind does not keep us waiting for the end of its output.
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
        raise ToolError(f"{argv[0]} cannot be run: {error.strerror}") from error


def _complaint(errors: IO[bytes]) -> str:
    """The last line that a program wrote to stderr."""
    errors.seek(0)
    lines = errors.read(1 << 16).decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return "".join(one if one.isprintable() else " " for one in said[-1][:200]) if said else ""
