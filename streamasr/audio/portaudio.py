"""PortAudio: which inputs there are, and blocks from one of them. The one user of sounddevice.

PortAudio knows the devices that it found when it was initialised, and none that came later; so
whenever nothing is open, it is initialised anew. Its functions must not run at the same time.
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
"""Seconds of buffer asked of the device; this much may the machine be busy elsewhere."""
_PATIENCE: Final = 10.0
"""Seconds to wait for another thread that is opening or closing a device."""

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux only


class DeviceError(AudioError):
    """There is no such device now, or it cannot be opened; later it may."""


@dataclass(frozen=True, slots=True)
class InputDevice:
    """Something to record from."""

    index: int
    """PortAudio's number; it changes when devices come and go."""
    name: str
    host_api: str
    n_channels: int
    rate: int
    """Samples per second that the device prefers."""
    is_default: bool


class Moment(NamedTuple):
    """A point in time on two clocks; they part by as long as the machine sleeps."""

    wall: float
    """Seconds, counting sleep."""
    awake: float
    """Seconds, not counting sleep."""

    @classmethod
    def now(cls) -> "Moment":
        """Read both clocks."""
        return cls(time.clock_gettime(_CLOCK), time.monotonic())


class Block(NamedTuple):
    """What the device delivered."""

    data: bytes
    """float32, channels interleaved."""
    arrived: Moment
    is_broken: bool
    """Whether audio before it was dropped."""


Deliver: TypeAlias = Callable[[Block | None], None]
"""Takes each block as it comes, and None when the device has stopped by itself. It is called on a
thread of PortAudio's and must return at once."""


class OpenInput(Protocol):
    """A device that is recording."""

    @property
    def rate(self) -> int:
        """Samples per second."""

    @property
    def n_channels(self) -> int:
        """Values per frame."""

    def close(self) -> None:
        """Stop at once and let the device go."""


class AudioSystem(Protocol):
    """Where devices are found and opened."""

    def find_inputs(self) -> list[InputDevice]:
        """All inputs of this moment.

        Raises:
            DeviceError: they cannot be listed now.
            AudioError: there is nothing to ask.
        """

    def open_input(self, device: InputDevice, deliver: Deliver) -> OpenInput:
        """Record from a device that was just found.

        Raises:
            DeviceError: it refuses.
        """


class PortAudio:
    """The audio system of this machine."""

    def find_inputs(self) -> list[InputDevice]:
        """See `AudioSystem.find_inputs`."""
        with _only_user() as sd, _explained(sd, "The audio inputs cannot be listed"):
            if not _open_inputs:
                _initialize_anew(sd)
            return _list_inputs(sd)

    def open_input(self, device: InputDevice, deliver: Deliver) -> OpenInput:
        """See `AudioSystem.open_input`."""
        with _only_user() as sd, _explained(sd, f"{device.name} cannot be opened"):
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
        with _only_user():
            self.let_go()
            _open_inputs.discard(self)

    def let_go(self) -> None:
        """What `close` does when nobody else uses PortAudio."""
        # A device that is gone answers with errors, which change nothing.
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)


_lock: Final = threading.Lock()
_open_inputs: Final[set[_PortAudioInput]] = set()


@contextlib.contextmanager
def _only_user() -> Iterator[ModuleType]:
    """Nobody else uses PortAudio meanwhile."""
    if not _lock.acquire(timeout=_PATIENCE):
        raise DeviceError("The device that was used before does not let itself be closed.")
    try:
        yield _import_sounddevice()
    finally:
        _lock.release()


@functools.cache
def _import_sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as error:  # what it raises when it finds no library
        raise AudioError(
            "PortAudio is missing, and nothing can be recorded without it; install the package"
            " libportaudio2 (Debian, Ubuntu) or portaudio (Fedora, Arch)."
        ) from error
    # Called before what sounddevice has registered, which would end PortAudio under a thread that
    # is still closing its device: the two wait for each other for ever.
    atexit.register(_end, sounddevice)
    return sounddevice


def _end(sd: ModuleType) -> None:
    """Close what is open, and let nobody use PortAudio any more: the program ends."""
    if not _lock.acquire(timeout=_PATIENCE):
        sd._initialized = 0  # type: ignore[attr-defined]  # noqa: SLF001 - it hangs already
        return
    for opened in _open_inputs:
        opened.let_go()


@contextlib.contextmanager
def _explained(sd: ModuleType, what: str) -> Iterator[None]:
    try:
        yield
    except sd.PortAudioError as error:
        raise DeviceError(f"{what}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """What PortAudio says, or what the system below says to it."""
    match error.args:
        case (_, _, (_, _, str(text))) if text:
            return text.rstrip(".")
        case (str(text), *_):
            return text.split(": ", 1)[-1].rstrip(".")
    return "unknown error"


def _initialize_anew(sd: ModuleType) -> None:
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
    """Start a stream with the first settings that the device takes."""

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
    """Whether it was the settings that a device refused."""
    settings = (sd._lib.paInvalidSampleRate, sd._lib.paInvalidChannelCount)  # noqa: SLF001
    return len(error.args) > 1 and error.args[1] in settings


def _settings(device: InputDevice) -> list[tuple[int, int]]:
    """Rates and numbers of channels to try, the one that costs least first."""
    channels = sorted({1, min(2, device.n_channels), device.n_channels})
    rates = dict.fromkeys([SAMPLE_RATE, device.rate])
    return [(rate, n_channels) for rate in rates for n_channels in channels]
