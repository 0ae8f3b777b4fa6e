"""Short sounds at the begin and end of recording; computed, and played by the sound server."""

import io
import logging
import shutil
import tempfile
import wave
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.dictation.push_to_talk import SoundName
from streamasr.dictation.tools import ToolError, run_tool

logger = logging.getLogger(__name__)

_RATE: Final = 48_000
_NOTES_HZ: Final[dict[SoundName, tuple[float, ...]]] = {
    "start": (660.0, 880.0),
    "stop": (880.0, 660.0),
    "cancel": (440.0, 440.0),
}
_NOTE_S: Final = 0.06
_LEVEL: Final = 0.15
"""Peak, as a fraction of full scale; low, because the microphone may record the sound."""

_PLAYERS: Final = ("pw-play", "paplay", "aplay")


def tone(sound: SoundName) -> Float32Array:
    """Compute a sound, (n,) at 48 kHz; each note fades in and out to avoid clicks."""
    time = np.arange(round(_NOTE_S * _RATE), dtype=np.float32) / _RATE
    envelope = np.sin(np.pi * time / _NOTE_S) ** 2
    notes = [np.sin(2 * np.pi * hz * time) * envelope for hz in _NOTES_HZ[sound]]
    return (_LEVEL * np.concatenate(notes)).astype(np.float32)


def as_wav(samples: Float32Array) -> bytes:
    """Encode samples as a mono WAV file with 16 bits per sample."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return data.getvalue()


async def play(sound: SoundName) -> None:
    """Play a sound; log a warning if that is not possible."""
    player = next(filter(shutil.which, _PLAYERS), None)
    if player is None:
        logger.warning("cannot play a sound: none of %s is installed", ", ".join(_PLAYERS))
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{sound}.wav"
        path.write_bytes(as_wav(tone(sound)))
        try:
            await run_tool([player, str(path)])
        except ToolError as error:
            logger.warning("cannot play a sound: %s", error)
