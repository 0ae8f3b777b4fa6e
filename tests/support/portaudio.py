"""Audio inputs: fakes, and real PortAudio on a separate sound server."""

import ctypes.util
import dataclasses
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from streamasr.audio.portaudio import Block, Deliver, DeviceError, InputDevice, Moment
from streamasr.core.units import Float32Array
from tests.support.waiting import wait_until

DEADLINE = 60.0
"""Seconds until a wait fails; machines differ."""


def device(
    name: str = "Desk", index: int = 0, *, n_channels: int = 1, rate: int = 16_000
) -> InputDevice:
    return InputDevice(index, name, "ALSA", n_channels, rate, is_default=index == 0)


class FakeInput:
    """Input that records the audio that a test plays."""

    def __init__(self, of: InputDevice, deliver: Deliver, audio: "FakeAudio") -> None:
        self.device = of
        self.rate = of.rate
        self.n_channels = of.n_channels
        self.closed = threading.Event()
        self.can_close = threading.Event()
        self.can_close.set()
        self._deliver = deliver
        self._audio = audio

    def close(self) -> None:
        self.can_close.wait(DEADLINE)
        self.closed.set()

    def play(
        self,
        frames: Float32Array,
        *,
        is_broken: bool = False,
        slept: float = 0.0,
        late: float = 0.0,
    ) -> None:
        """Deliver frames (n,) or (n, n_channels) when they have been recorded.

        Args:
            frames: the audio.
            is_broken: the device reports an overflow before it.
            slept: seconds of suspend before it.
            late: further seconds that pass before it.
        """
        self._audio.pass_time(late + len(frames) / self.rate, slept)
        data = np.ascontiguousarray(frames, np.float32).tobytes()
        self._deliver(Block(data, self._audio.now, is_broken))

    def unplug(self) -> None:
        """Stop the device and remove it from the system."""
        self._audio.devices.remove(self.device)
        self._deliver(None)


class FakeAudio:
    """Audio system whose devices and clock the test controls."""

    def __init__(self, *devices: InputDevice) -> None:
        self.devices = list(devices)
        self.now = Moment(5000.0, 1000.0)
        self.refuses: str | None = None
        self.opened: queue.SimpleQueue[FakeInput] = queue.SimpleQueue()

    def clock(self) -> Moment:
        return self.now

    def pass_time(self, awake: float, asleep: float = 0.0) -> None:
        self.now = Moment(self.now.wall + awake + asleep, self.now.awake + awake)

    def plug(self, *devices: InputDevice) -> None:
        self.devices += devices

    def find_inputs(self) -> list[InputDevice]:
        """See `AudioSystem.find_inputs`."""
        return list(self.devices)

    def open_input(self, device: InputDevice, deliver: Deliver) -> FakeInput:
        """See `AudioSystem.open_input`."""
        if self.refuses is not None:
            raise DeviceError(self.refuses)
        opened = FakeInput(device, deliver, self)
        self.opened.put(opened)
        return opened


def renumbered(devices: Iterable[InputDevice]) -> list[InputDevice]:
    """Return the devices with the indices that PortAudio would assign."""
    return [dataclasses.replace(device, index=i) for i, device in enumerate(devices)]


needs_portaudio = pytest.mark.skipif(
    ctypes.util.find_library("portaudio") is None, reason="PortAudio is not installed"
)
needs_sound_server = pytest.mark.skipif(
    not all(map(shutil.which, ("pulseaudio", "paplay", "pactl"))),
    reason="PulseAudio is not installed",
)

SERVER_DEVICE = "pcm.desk {{ type pulse device {source} }}\nctl.desk {{ type pulse }}"

LISTENER = """
import asyncio, json, sys, time
from contextlib import aclosing
import numpy as np
from streamasr.audio.capture import Captured, Missed, Troubled
from streamasr.audio.microphone import Microphone

def tell(**what):
    print(json.dumps(what), flush=True)

def pitch(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return int(spectrum.argmax()) * 16000 / len(samples)

async def listen(device):
    heard = np.zeros(0, np.float32)
    begin = None
    async with aclosing(Microphone(device).events()) as events:
        async for event in events:
            match event:
                case Captured(samples=samples):
                    heard = np.concatenate([heard, samples])
                    if begin is None and len(heard) >= 2000:
                        begin = heard[:2000].tolist()
                        tell(begin=begin)
                    if len(heard) >= 8000:
                        tell(heard=len(heard), hz=pitch(heard), peak=float(np.abs(heard).max()))
                        heard = heard[:0]
                case Missed(duration=duration, reason=reason):
                    tell(heard=len(heard), missed=duration, reason=reason)
                    heard = heard[:0]
                case Troubled(code=code, message=message):
                    tell(code=code, message=message)

async def main():
    task = asyncio.create_task(listen(sys.argv[1]))
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    await asyncio.wait([task])
    tell(is_closed=True)
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


class RealListener:
    """Process that records through PortAudio, with a separate ALSA configuration."""

    def __init__(self, home: Path, alsa: str, device: str, **environment: str) -> None:
        (home / ".asoundrc").write_text(alsa)
        self._errors = home / "stderr.txt"
        with self._errors.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", LISTENER, device],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **environment, "HOME": str(home)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:
            pass  # closes the pipes and waits

    def until(self, wanted: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
        """Return the events up to the first one of a kind."""
        told: list[dict[str, Any]] = []
        assert self._process.stdout is not None
        with Alarm(self._process.kill):
            for line in self._process.stdout:
                told.append(json.loads(line))
                if wanted(told[-1]):
                    return told
        raise AssertionError((told[-5:], self._errors.read_text()[-2000:]))

    def pause(self) -> None:
        """Stop recording; the process continues."""
        assert self._process.stdin is not None
        print("pause", file=self._process.stdin, flush=True)
        self.until(lambda event: "is_closed" in event)

    def end(self) -> int:
        """End the process and return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(DEADLINE)


class Alarm(threading.Timer):
    """Timer that acts if the block takes too long."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(DEADLINE, action)
        self.daemon = True

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.cancel()


class SoundServer:
    """PulseAudio with one source, which records what is played into its sink."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environment = {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_SERVER": f"unix:{folder}/native",
            "PULSE_LATENCY_MSEC": "50",
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = "-n --daemonize=no --exit-idle-time=-1 --use-pid-file=no --log-target=null"
        modules = [
            f"module-native-protocol-unix auth-anonymous=1 socket={self._folder}/native",
            "module-null-sink sink_name=room rate=48000",
        ]
        loads = [f"--load={module}" for module in modules]
        self._run("pulseaudio", *options.split(), *loads)
        wait_until(lambda: not self.control("info").returncode)

    def kill(self) -> None:
        """Kill the server and all players."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def play(self, path: Path) -> None:
        """Play a file into the sink."""
        self._run("paplay", "--device=room", str(path))

    def n_listeners(self) -> int:
        """Return the number of programs that record."""
        return len(self.control("list", "short", "source-outputs").stdout.splitlines())

    def control(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Send the server a command with pactl."""
        return subprocess.run(
            ["pactl", *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def _run(self, *command: str) -> None:
        self._processes.append(
            subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
