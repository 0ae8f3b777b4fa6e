"""The real PortAudio, on a device made of a file and on a sound server that comes and goes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamasr.core.units import SAMPLE_RATE
from tests.support.audio_files import tone
from tests.support.fakes import pcm, write_wav
from tests.support.portaudio import (
    DEADLINE,
    SERVER_DEVICE,
    RealListener,
    SoundServer,
    needs_portaudio,
    needs_sound_server,
)

pytestmark = needs_portaudio

FILE_DEVICE = """
pcm.file {{ type file slave.pcm null file /dev/null infile {path} format raw }}
pcm.tape {{ type plug slave {{ pcm file format S16_LE rate 16000 channels 1 }} }}
"""


ENDING = """
import threading
from streamasr.audio.microphone import Timeouts, Recorder
from streamasr.audio.portaudio import Moment, PortAudio

heard = threading.Event()
told = {"now": Moment.now, "put": lambda _: heard.set(), "end": print}
Recorder("desk", PortAudio(), timeouts=Timeouts(), **told).start()
heard.wait()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SoundServer]:
    with SoundServer(tmp_path) as running:
        yield running


def sounds_like(hz: float, event: dict[str, Any]) -> bool:
    return "hz" in event and abs(float(event["hz"]) - hz) < 2


def test_a_device_made_of_a_file_is_heard_bit_for_bit_and_found_out(tmp_path: Path) -> None:
    """ALSA's null device delivers as fast as it is asked, which no microphone can."""
    sound = tmp_path / "sound.raw"
    sound.write_bytes(pcm(tone(10.0)))
    with RealListener(tmp_path, FILE_DEVICE.format(path=sound), "tape") as listener:
        told = listener.until(lambda event: event.get("code") == "device_lost")
        assert "delivers audio faster than real time" in told[-1]["message"]
        # What comes after the first buffer is out of order: the plugin does not keep up.
        expected = np.frombuffer(pcm(tone(10.0)), "<i2")[:2000] / 32768
        assert told[0]["begin"] == expected.tolist()
        listener.pause()
        assert listener.end() == 0


@needs_sound_server
def test_a_sound_server_that_dies_and_comes_back_is_heard_again(
    tmp_path: Path, server: SoundServer
) -> None:
    clip = write_wav(tmp_path / "tone.wav", tone(60.0))
    alsa = SERVER_DEVICE.format(source="room.monitor")
    with RealListener(tmp_path, alsa, "desk", **server.environment) as listener:
        server.play(clip)
        told = listener.until(lambda event: sounds_like(440, event))
        # The resampler of the sound server rings where the tone begins.
        assert told[-1]["peak"] == pytest.approx(0.5, abs=0.05)

        server.kill()
        told = listener.until(lambda event: event.get("code") == "device_lost")
        assert told[-2]["reason"] == "device_lost"

        server.start()
        server.play(clip)
        told = listener.until(lambda event: event.get("code") == "device_back")
        assert told[-2]["reason"] == "device_lost"
        assert told[-2]["missed"] > 0.1 * SAMPLE_RATE
        listener.until(lambda event: sounds_like(440, event))

        assert server.n_listeners() == 1
        listener.pause()
        assert server.n_listeners() == 0
        assert listener.end() == 0


@needs_sound_server
def test_a_program_that_ends_while_it_records_ends_in_order(
    tmp_path: Path, server: SoundServer
) -> None:
    (tmp_path / ".asoundrc").write_text(SERVER_DEVICE.format(source="room.monitor"))
    for _ in range(3):  # it is a race: of two programs, one had its device taken away
        result = subprocess.run(
            [sys.executable, "-c", ENDING],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, **server.environment},
            timeout=DEADLINE,
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
