"""PortAudio: list of inputs, and blocks from one of them. The only user of sounddevice.

PortAudio knows the devices that it found when it was initialised, and none that were plugged in
later; so it is initialised again whenever nothing is open. Its functions must not run concurrently.
"""

import atexit
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE

LATENCY: Final = 0.1
"""Seconds of buffer requested from the device: the longest time that the machine may be busy."""
_LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait for another thread that is opening or closing a device."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux only


class DeviceError(AudioError):
    """The device does not exist or cannot be opened now; trying later may help."""


@dataclass(frozen=True, slots=True)
class InputDevice:
    """Device to record from."""

    index: int
    """PortAudio's number; it changes when devices are plugged in or removed."""
    name: str
    host_api: str
    n_channels: int
    rate: int
    """Samples per second that the device prefers."""
    is_default: bool


class Moment(NamedTuple):
    """Point in time on two clocks, whose difference grows while the machine sleeps."""

    wall: float
    """Seconds, counting sleep."""
    awake: float
    """Seconds, not counting sleep."""

    @classmethod
    def now(cls) -> "Moment":
        """Read both clocks."""
        return cls(time.clock_gettime(_CLOCK), time.monotonic())


class Block(NamedTuple):
    """Audio delivered by the device."""

    data: bytes
    """float32, channels interleaved."""
    arrived: Moment
    is_broken: bool
    """Audio before this block was dropped."""


Deliver: TypeAlias = Callable[[Block | None], None]
"""Takes each block, and None when the device has stopped by itself. It is called on a thread of
PortAudio and must return at once."""


class OpenInput(Protocol):
    """Device that is recording."""

    @property
    def rate(self) -> int:
        """Samples per second."""

    @property
    def n_channels(self) -> int:
        """Values per frame."""

    def close(self) -> None:
        """Stop at once and release the device."""


class AudioSystem(Protocol):
    """Finds and opens devices."""

    def find_inputs(self) -> list[InputDevice]:
        """Return all inputs that exist now.

        Raises:
            DeviceError: the inputs cannot be listed now.
            AudioError: the library PortAudio is missing.
        """

    def open_input(self, device: InputDevice, deliver: Deliver) -> OpenInput:
        """Record from a device that was just found.

        Raises:
            DeviceError: the device cannot be opened.
        """


class PortAudio:
    """Audio system of this machine."""

    def find_inputs(self) -> list[InputDevice]:
        """See `AudioSystem.find_inputs`."""
        with _exclusive() as sd, _explained(sd, "The audio inputs cannot be listed"):
            if not _open_inputs:
                _reinitialize(sd)
            return _list_inputs(sd)

    def open_input(self, device: InputDevice, deliver: Deliver) -> OpenInput:
        """See `AudioSystem.open_input`."""
        with _exclusive() as sd, _explained(sd, f"{device.name} cannot be opened"):
            return _PortAudioInput(sd, _open(sd, device, deliver))


class _PortAudioInput:
    def __init__(self, sd: ModuleType, stream: Any) -> None:
        self._sd = sd
        self._stream = stream
        _open_inputs.add(self)

    @property
    def rate(self) -> int:
        return int(self._stream.samplerate)

    @property
    def n_channels(self) -> int:
        return int(self._stream.channels)

    def close(self) -> None:
        with _exclusive():
            self.release()
            _open_inputs.discard(self)

    def release(self) -> None:
        """Release the device; the caller holds the lock of PortAudio."""
        # A device that is gone returns errors, which have no consequence.
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)


_lock: Final = threading.Lock()
_open_inputs: Final[set[_PortAudioInput]] = set()


@contextlib.contextmanager
def _exclusive() -> Iterator[ModuleType]:
    """Hold the lock of PortAudio."""
    if not _lock.acquire(timeout=_LOCK_TIMEOUT):
        raise DeviceError(
            f"The device used before could not be closed within {_LOCK_TIMEOUT:g} s.",
            code="device_stuck",
        )
    try:
        yield _import_sounddevice()
    finally:
        _lock.release()


@functools.cache
def _import_sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as error:  # raised when the library is not found
        raise AudioError(
            "PortAudio is missing, and nothing can be recorded without it; install the package"
            " libportaudio2 (Debian, Ubuntu) or portaudio (Fedora, Arch).",
            code="portaudio_missing",
        ) from error
    # Runs before the handler of sounddevice, which would terminate PortAudio while a thread is
    # still closing its device: a deadlock.
    atexit.register(_end, sounddevice)
    return sounddevice


def _end(sd: ModuleType) -> None:
    """Close all devices and keep the lock: the program ends."""
    if not _lock.acquire(timeout=_LOCK_TIMEOUT):
        sd._initialized = 0  # type: ignore[attr-defined]  # noqa: SLF001 - it hangs already
        return
    for opened in _open_inputs:
        opened.release()


@contextlib.contextmanager
def _explained(sd: ModuleType, what: str) -> Iterator[None]:
    try:
        yield
    except sd.PortAudioError as error:
        raise DeviceError(f"{what}: {_reason(error)}.", code="portaudio") from error


def _reason(error: Exception) -> str:
    """Return the reason given by PortAudio, or by the system below it."""
    match error.args:
        case (_, _, (_, _, str(text))) if text:
            return text.rstrip(".")
        case (str(text), *_):
            return text.split(": ", 1)[-1].rstrip(".")
    return "unknown error"


def _reinitialize(sd: ModuleType) -> None:
    while sd._initialized:  # noqa: SLF001 (there is no public way)
        sd._terminate()  # noqa: SLF001
    sd._initialize()  # noqa: SLF001


def _list_inputs(sd: ModuleType) -> list[InputDevice]:
    host_apis = [str(api["name"]) for api in sd.query_hostapis()]
    default = sd.default.device[0]
    return [
        InputDevice(
            index=int(info["index"]),
            name=str(info["name"]),
            host_api=host_apis[info["hostapi"]],
            n_channels=int(info["max_input_channels"]),
            rate=round(info["default_samplerate"]),
            is_default=info["index"] == default,
        )
        for info in sd.query_devices()
        if info["max_input_channels"] > 0
    ]


def _open(sd: ModuleType, device: InputDevice, deliver: Deliver) -> Any:
    """Start a stream with the first settings that the device accepts."""

    def take(data: Any, _n: int, _time: Any, status: Any) -> None:
        deliver(Block(bytes(data), Moment.now(), bool(status.input_overflow)))

    settings = _settings(device)
    for rate, n_channels in settings:
        stream = None
        try:
            stream = sd.RawInputStream(
                samplerate=rate,
                channels=n_channels,
                dtype="float32",
                device=device.index,
                latency=LATENCY,
                callback=take,
                finished_callback=lambda: deliver(None),
            )
            stream.start()
        except sd.PortAudioError as error:
            if stream is not None:
                stream.close(ignore_errors=True)
            if (rate, n_channels) == settings[-1] or not _may_take_others(sd, error):
                raise
        else:
            return stream
    raise AssertionError(settings)


def _may_take_others(sd: ModuleType, error: Exception) -> bool:
    """Return whether the device refused the settings, so that others may work."""
    settings = (sd._lib.paInvalidSampleRate, sd._lib.paInvalidChannelCount)  # noqa: SLF001
    return len(error.args) > 1 and error.args[1] in settings


def _settings(device: InputDevice) -> list[tuple[int, int]]:
    """Return rates and numbers of channels to try, the cheapest first."""
    channels = sorted({1, min(2, device.n_channels), device.n_channels})
    rates = dict.fromkeys([SAMPLE_RATE, device.rate])
    return [(rate, n_channels) for rate in rates for n_channels in channels]
