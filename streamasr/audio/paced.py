"""File played at the pace of speech, so that the live path can run without a microphone."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.audio.capture import Captured, CaptureEvent
from streamasr.audio.file import AudioFile, open_audio
from streamasr.core.errors import AudioError, ConfigError
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_seconds

BLOCK: Final = Samples(SAMPLE_RATE * 32 // 1000)
"""Samples delivered at a time, 32 ms, about as a device would."""


class PacedFile:
    """Delivers each block of a file when a device would: when its last sample was spoken.

    Times count from the first block, so that there is no drift. A receiver that was busy gets all
    blocks that became due meanwhile at once; nothing is lost.
    """

    def __init__(
        self,
        path: Path,
        speed: float = 1.0,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """Prepare a file; it is opened by `events`.

        Args:
            path: any audio or video file; not a pipe, which could block for ever.
            speed: seconds of audio for each second that passes; 0 or infinity is as fast as the
                receiver takes it.
            clock: seconds, in place of the running loop's time.
            sleep: waits for a number of seconds.

        Raises:
            ConfigError: the speed is negative or not a number.
        """
        if not speed >= 0:
            raise ConfigError(
                f"speed is {speed:g}; it must be a positive number, or 0 for as fast as possible.",
                code="value_out_of_range",
            )
        self._path = path
        self._speed = speed or math.inf
        self._clock = clock
        self._sleep = sleep
        self._position = Samples(0)

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """Play the file, or the rest of it if it was played before; see `Capture.events`.

        Raises:
            AudioError: the file cannot be read, or breaks off after what was delivered.
        """
        loop = asyncio.get_running_loop()
        clock = self._clock or loop.time
        n_played, begin, batches = 0, None, None
        opened = ExitStack()
        # One thread for all, so that closing waits for a step that was abandoned half-way.
        with ThreadPoolExecutor(1, "paced-file") as thread:
            try:
                file = await loop.run_in_executor(thread, self._open, opened)
                batches = _cut(file.blocks())
                while batch := await loop.run_in_executor(thread, next, batches, None):
                    begin = clock() if begin is None else begin
                    for block in batch:
                        n_played += len(block)
                        due = begin + to_seconds(n_played) / self._speed
                        await self._sleep(max(0.0, due - clock()))
                        self._position = Samples(self._position + len(block))
                        yield Captured(block)
            except AudioError:
                if batches is None or n_played > 0 or self._position == 0:
                    raise  # otherwise nothing is left of a file that was played before
            finally:
                await loop.run_in_executor(thread, opened.close)

    def _open(self, opened: ExitStack) -> AudioFile:
        if self._path.exists() and not self._path.is_file() and not self._path.is_dir():
            raise AudioError(
                f"{self._path} is not a regular file, so it cannot be paced; name an audio file.",
                code="not_a_file",
            )
        return opened.enter_context(open_audio(self._path, start=to_seconds(self._position)))


def _cut(blocks: Iterator[Float32Array]) -> Iterator[list[Float32Array]]:
    """Cut decoded blocks to BLOCK samples each; an error is raised after everything before it."""
    rest = np.zeros(0, np.float32)
    try:
        for block in blocks:
            waiting = np.concatenate([rest, block])
            n_whole = len(waiting) - len(waiting) % BLOCK
            rest = waiting[n_whole:]
            if n_whole:
                yield list(waiting[:n_whole].reshape(-1, BLOCK))
    except AudioError:
        if len(rest):
            yield [rest]
        raise
    if len(rest):
        yield [rest]
