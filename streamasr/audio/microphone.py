"""Microphone that records without end and recovers from failures of the device.

    PortAudio's thread     copies a block into a queue
    recorder thread        opens and closes the device; resamples; detects missing audio
    event loop             takes events from a bounded backlog

Everything that may block runs in the recorder thread, and only that thread calls PortAudio.
"""

import asyncio
import logging
import queue
import re
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from streamasr.audio.backlog import Backlog
from streamasr.audio.capture import (
    Captured,
    CaptureEvent,
    Missed,
    MissReason,
    TroubleCode,
    Troubled,
)
from streamasr.audio.capture_clock import CaptureClock
from streamasr.audio.portaudio import (
    AudioSystem,
    Block,
    DeviceError,
    InputDevice,
    Moment,
    PortAudio,
)
from streamasr.audio.resample import Resampler
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples

logger = logging.getLogger(__name__)

BACKLOG: Final = to_samples(10.0)
"""Most samples that wait for the event loop."""
MAX_BLOCKS: Final = 4096
"""Most blocks that wait for the recorder thread, more than a minute; further ones are dropped, and
the capture clock detects the loss."""

SHORTEST_SLEEP: Final = 0.1
"""Seconds by which the two clocks must differ to be taken for sleep."""
QUIET: Final = 60.0
"""Seconds without overflow after which the next one is reported again."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits for a device that delivers nothing, and the intervals between attempts.

    The limit is counted in short waits, because a process that was stopped for a while finds blocks
    waiting when it continues.
    """

    wait: float = 0.25
    """Seconds."""
    n_waits: int = 8
    n_first_waits: int = 20
    """Waits before the first block: sound servers and radio links need longer to start."""
    first_retry: float = 0.25
    """Seconds; they double each time ..."""
    last_retry: float = 5.0
    """... up to this; after a device that worked for longer, the first interval is used again."""
    closing: float = 5.0
    """Seconds after which a device that cannot be closed is abandoned."""


class AmbiguousInputError(AudioError):
    """The name of the device matches several devices."""


def find_input(inputs: Sequence[InputDevice], wanted: int | str | None) -> InputDevice:
    """Choose a device.

    Args:
        inputs: existing devices.
        wanted: an index, also as text; a name, or a part of a name that only one device has (case
            is ignored); None for the default.

    Raises:
        DeviceError: no device matches `wanted`.
        AmbiguousInputError: several devices match `wanted`.
    """
    if not inputs:
        raise DeviceError(
            "This machine has no audio input; plug a microphone in.", code="no_input_devices"
        )
    if wanted is None:
        return next((device for device in inputs if device.is_default), inputs[0])
    if (index := _as_index(wanted)) is not None:
        matching = [device for device in inputs if device.index == index]
    else:
        matching = _matching(inputs, str(wanted).casefold())
    if not matching:
        raise DeviceError(
            f"No audio input matches {wanted!r}; the inputs are {_listed(inputs)}.",
            code="no_such_device",
        )
    if len(matching) > 1:
        raise AmbiguousInputError(
            f"{wanted!r} matches {_listed(matching)}; use more of the name, or an index.",
            code="ambiguous_device",
        )
    return matching[0]


def _as_index(wanted: int | str) -> int | None:
    """Return the index that was asked for; None for a name."""
    return int(wanted) if isinstance(wanted, int) or wanted.isdecimal() else None


def find_again(inputs: Sequence[InputDevice], known: InputDevice) -> InputDevice:
    """Find a device that was used before, also at another port.

    Raises:
        DeviceError: the device is absent, or several devices have its name.
    """
    exact = [d for d in inputs if (d.name, d.host_api) == (known.name, known.host_api)]
    alike = [d for d in inputs if _bare(d.name) == _bare(known.name)]
    for matching in (exact, alike):
        if len(matching) == 1:
            return matching[0]
    listed = f"the inputs are {_listed(inputs)}" if inputs else "no other input exists"
    raise DeviceError(f"The audio input {known.name} is gone; {listed}.", code="device_gone")


def _bare(name: str) -> str:
    """Return a device's name without ALSA's numbers, which depend on the other devices."""
    return re.sub(r" \(hw:[\d,]+\)$", "", name)


def _matching(inputs: Sequence[InputDevice], wanted: str) -> list[InputDevice]:
    names = [(device, f"{device.name}, {device.host_api}".casefold()) for device in inputs]
    whole = [device for device, name in names if wanted in (name, device.name.casefold())]
    return whole or [device for device, name in names if wanted in name]


def _listed(inputs: Sequence[InputDevice]) -> str:
    return ", ".join(f"{device.index} ({device.name}, {device.host_api})" for device in inputs)


class Microphone:
    """Live audio from a device of this machine; see `Capture`."""

    def __init__(
        self,
        device: int | str | None = None,
        *,
        system: AudioSystem | None = None,
        timeouts: Timeouts | None = None,
        backlog: Samples = BACKLOG,
        clock: Callable[[], Moment] = Moment.now,
    ) -> None:
        """Name a device; it is opened by `events`.

        Args:
            device: see `find_input`. The device may be absent at first. An index selects the device
                that has it when it is first opened, also if it has another index later.
            system: finds devices; PortAudio if None.
            timeouts: limits for a device that delivers nothing.
            backlog: most samples kept for a reader that is busy.
            clock: clock of the arrival times of blocks.
        """
        self._device = device
        self._system = system or PortAudio()
        self._timeouts = timeouts or Timeouts()
        self._limit = backlog
        self._clock = clock

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """Record until the iterator is closed, which closes the device.

        A device that is absent or disappears is tried again and again. The trouble is reported, and
        the time without the device is emitted as `Missed`; so is the time while the machine slept.

        Raises:
            AudioError: PortAudio is missing, or the name matches several devices.
        """
        loop = asyncio.get_running_loop()
        news, ended = asyncio.Event(), asyncio.Event()
        backlog = Backlog(self._limit)

        def wake(*reasons: asyncio.Event) -> None:
            try:
                for reason in reasons:
                    loop.call_soon_threadsafe(reason.set)
            except RuntimeError:  # the event loop was closed first
                recorder.stop()

        def put(event: CaptureEvent) -> None:
            backlog.put(event)
            wake(news)

        def end() -> None:
            wake(ended, news)

        recorder = Recorder(
            self._device,
            self._system,
            timeouts=self._timeouts,
            now=self._clock,
            put=put,
            end=end,
        )
        recorder.start()
        try:
            while not ended.is_set():
                await news.wait()
                news.clear()
                while (event := backlog.take()) is not None:
                    yield event
            recorder.check()
        finally:
            recorder.stop()
            await _wait_for(ended, self._timeouts.closing)


async def _wait_for(ended: asyncio.Event, most: float) -> None:
    try:
        await asyncio.wait_for(ended.wait(), most)
    except TimeoutError:
        logger.warning("the microphone could not be closed within %g s", most)


class Recorder(threading.Thread):
    """Thread that keeps a device open and emits its events until it is stopped."""

    def __init__(
        self,
        device: int | str | None,
        system: AudioSystem,
        *,
        timeouts: Timeouts,
        now: Callable[[], Moment],
        put: Callable[[CaptureEvent], None],
        end: Callable[[], None],
    ) -> None:
        """Prepare the thread.

        Args:
            device: see `find_input`.
            system: finds and opens the device.
            timeouts: limits for a device that delivers nothing.
            now: clock.
            put: takes each event.
            end: called when the device is closed, after the last event.
        """
        super().__init__(name="microphone", daemon=True)
        self._wanted = device
        self._system = system
        self._timeouts = timeouts
        self._now = now
        self._put = put
        self._end = end
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._known: InputDevice | None = None  # device first found under an index
        self._clock = CaptureClock()
        self._last = self._now()  # end of the time accounted for
        self._resampler = Resampler(SAMPLE_RATE)
        self._has_recorded = False
        self._is_lost = False
        self._overflow_until = 0.0

    def stop(self) -> None:
        """Close the device soon."""
        self._stopping.set()

    def check(self) -> None:
        """Raise the error that ended the thread, if there was one."""
        if self._failure is not None:
            raise self._failure

    def run(self) -> None:
        """Record until stopped; the body of the thread."""
        try:
            self._record()
        except Exception as error:  # noqa: BLE001 (`check` raises it)
            self._failure = error
        finally:
            self._end()

    def _record(self) -> None:
        began = self._now()
        retry = self._timeouts.first_retry
        while not self._stopping.is_set():
            tried = self._now()
            try:
                self._open_and_record()
            except DeviceError as error:
                self._clock.begin(began.wall)
                self._lose(str(error))
            if self._now().awake - tried.awake > self._timeouts.last_retry:
                retry = self._timeouts.first_retry
            self._stopping.wait(retry)
            retry = min(2 * retry, self._timeouts.last_retry)

    def _open_and_record(self) -> None:
        """Record from the device until it fails or the thread is stopped.

        Raises:
            DeviceError: the device is absent or stopped delivering.
            AudioError: recording is impossible, and trying again will not help.
        """
        device = self._find()
        blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()

        def deliver(block: Block | None) -> None:
            if block is None or blocks.qsize() < MAX_BLOCKS:
                blocks.put(block)

        opened = self._system.open_input(device, deliver)
        try:
            logger.info("opened %s at %d Hz, %d ch", device.name, opened.rate, opened.n_channels)
            self._clock.open(opened.rate)
            self._resampler = Resampler(opened.rate)
            self._receive_blocks(device.name, opened.n_channels, blocks)
        finally:
            opened.close()
            logger.info("closed %s", device.name)

    def _find(self) -> InputDevice:
        inputs = self._system.find_inputs()
        if self._known is not None:
            return find_again(inputs, self._known)
        try:
            device = find_input(inputs, self._wanted)
        except AmbiguousInputError as error:
            if self._has_recorded or self._is_lost:
                # Another device with this name was plugged in meanwhile.
                raise DeviceError(str(error), code="ambiguous_device") from error
            raise
        if self._wanted is not None and _as_index(self._wanted) is not None:
            self._known = device
        return device

    def _receive_blocks(
        self, name: str, n_channels: int, blocks: "queue.SimpleQueue[Block | None]"
    ) -> None:
        n_waits, most = 0, self._timeouts.n_first_waits
        while not self._stopping.is_set():
            try:
                block = blocks.get(timeout=self._timeouts.wait)
            except queue.Empty:
                n_waits += 1
                if n_waits >= most:
                    seconds = n_waits * self._timeouts.wait
                    raise DeviceError(
                        f"{name} has delivered nothing for {seconds:g} s.", code="device_silent"
                    ) from None
                continue
            if block is None:
                raise DeviceError(
                    f"{name} has stopped; it may have been unplugged.", code="device_stopped"
                )
            n_waits, most = 0, self._timeouts.n_waits
            self._take(name, to_mono(block.data, n_channels), block)
            if self._clock.is_too_fast(block.arrived.wall):
                raise DeviceError(
                    f"{name} delivers audio faster than real time and cannot be used as a"
                    " microphone; choose another input (`streamasr devices`).",
                    code="device_too_fast",
                )

    def _take(self, name: str, samples: Float32Array, block: Block) -> None:
        slept = self._slept_until(block.arrived)
        is_broken = block.is_broken or slept > SHORTEST_SLEEP
        missing = self._clock.receive(len(samples), block.arrived.wall, is_broken=is_broken)
        if missing:
            self._miss(missing, slept)
        self._last = block.arrived
        self._has_recorded = True
        if self._is_lost:
            self._is_lost = False
            self._report("device_back", f"{name} is recording again.")
        self._publish(self._resampler.push(samples))

    def _lose(self, message: str) -> None:
        """Report that the device is lost, unless that was reported already."""
        if self._is_lost:
            logger.debug("still no microphone: %s", message)
            return
        self._is_lost = True
        if self._has_recorded:
            now = self._now()
            self._miss(self._clock.close(now.wall), self._slept_until(now))
            self._last = now
        self._report("device_lost", message)

    def _miss(self, missing: Samples, slept: float) -> None:
        """Emit the loss; the resampler starts again for the samples behind it."""
        self._publish(self._resampler.finish())
        self._resampler = Resampler(self._resampler.rate)
        reason: MissReason = "device_lost" if self._is_lost else "overflow"
        if 2 * to_samples(slept) > missing:
            reason = "suspend"
        if reason == "overflow":
            self._report_overflow()
        self._put(Missed(missing, reason))

    def _report_overflow(self) -> None:
        now = self._now().awake
        if now > self._overflow_until:
            self._report("overflow", "Audio is being lost: the machine is too busy for it.")
        self._overflow_until = now + QUIET

    def _slept_until(self, moment: Moment) -> float:
        """Return the seconds that the machine slept since the last block."""
        return (moment.wall - self._last.wall) - (moment.awake - self._last.awake)

    def _publish(self, samples: Float32Array) -> None:
        if len(samples):
            self._put(Captured(np.clip(samples, np.float32(-1), np.float32(1))))

    def _report(self, code: TroubleCode, message: str) -> None:
        self._put(Troubled(code, message))


def to_mono(data: bytes, n_channels: int) -> Float32Array:
    """Average the channels of a block; return (n,)."""
    frames = np.frombuffer(data, np.float32).reshape(-1, n_channels)
    mono: Float32Array = frames.mean(axis=1, dtype=np.float32)
    # Programs can play NaN or infinite values into a virtual microphone.
    return np.nan_to_num(mono, copy=False, posinf=1.0, neginf=-1.0)
