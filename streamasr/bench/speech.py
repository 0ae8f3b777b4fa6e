"""The audio of a measurement: files one after the other, with pauses, again and again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamasr.audio.file import open_audio
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples, to_seconds
from streamasr.models import tiny

_LARGEST = 32767


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """Audio that is played once or over and over."""

    once: Float32Array
    """(n,), mono, -1..1; ends with a pause."""
    n_samples: int
    """Of all of it."""

    @property
    def duration(self) -> float:
        """Seconds of all of it."""
        return to_seconds(self.n_samples)

    def pcm(self, start: int, end: int) -> bytes:
        """Samples [start, end) as 16-bit little-endian integers."""
        index = np.arange(start, min(end, self.n_samples)) % len(self.once)
        scaled = np.rint(self.once[index].clip(-1, 1) * _LARGEST)
        return bytes(scaled.astype("<i2").tobytes())

    def samples(self, start: int, n: int) -> Float32Array:
        """So many samples, from wherever in the endless repetition."""
        return self.once[np.arange(start, start + n) % len(self.once)]


def load_speech(files: Sequence[Path], *, pause_s: float, seconds: float | None = None) -> Speech:
    """Read files, each followed by a pause; without files, the clip that is built in.

    Args:
        files: any audio or video.
        pause_s: silence behind each of them.
        seconds: how long all of it is to be, the files repeated or cut short; None: once through.

    Raises:
        AudioError: one cannot be read, or there is nothing in them.
    """
    pause = np.zeros(to_samples(pause_s), np.float32)
    parts: list[Float32Array] = []
    for path in files or [tiny.DEMO]:
        with open_audio(path) as file:
            parts += [*file.blocks(), pause]
    once = np.concatenate(parts)
    if not np.any(once):
        raise AudioError("there is nothing to hear in what was given.")
    n_samples = len(once) if seconds is None else round(seconds * SAMPLE_RATE)
    return Speech(once, n_samples)
