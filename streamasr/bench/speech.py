"""Audio of a measurement: files one after the other, with pauses, repeated."""

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
    """Audio that is played once or repeatedly."""

    once: Float32Array
    """(n,), mono, -1..1; ends with a pause."""
    n_samples: int
    """Number of samples to play."""

    @property
    def duration(self) -> float:
        """Seconds to play."""
        return to_seconds(self.n_samples)

    def pcm(self, start: int, end: int) -> bytes:
        """Return samples [start, end) as 16-bit little-endian integers."""
        index = np.arange(start, min(end, self.n_samples)) % len(self.once)
        scaled = np.rint(self.once[index].clip(-1, 1) * _LARGEST)
        return bytes(scaled.astype("<i2").tobytes())

    def samples(self, start: int, n: int) -> Float32Array:
        """Return n samples of the endless repetition, from any position."""
        return self.once[np.arange(start, start + n) % len(self.once)]


def load_speech(files: Sequence[Path], *, pause_s: float, seconds: float | None = None) -> Speech:
    """Read files, each followed by a pause; without files, the built-in clip.

    Args:
        files: audio or video files.
        pause_s: silence after each file.
        seconds: length to play, with the files repeated or cut short; None for one time through.

    Raises:
        AudioError: a file cannot be read, or all of them are silent.
    """
    pause = np.zeros(to_samples(pause_s), np.float32)
    parts: list[Float32Array] = []
    for path in files or [tiny.DEMO]:
        with open_audio(path) as file:
            parts += [*file.blocks(), pause]
    once = np.concatenate(parts)
    if not np.any(once):
        raise AudioError("the given files contain only silence.", code="audio_silent")
    n_samples = len(once) if seconds is None else round(seconds * SAMPLE_RATE)
    return Speech(once, n_samples)
