"""Is a frame voiced? webrtcvad, and an energy gate for what it takes for speech.

webrtcvad knows the spectra of speech and noise but not the level: steady noise, hum and tones
can pass for speech for minutes. Speech is never steady, so a frame must also stand out from the
quietest moments of the last seconds.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import webrtcvad

from streamasr.errors import ConfigError
from streamasr.units import SAMPLE_RATE, Float32Array

FRAME_SECONDS: Final = 0.03
SILENCE_DB: Final = -100.0
"""Level given to digital silence, dBFS: below one step of 16 bits."""


@dataclass(frozen=True, slots=True)
class VadConfig:
    """When a frame counts as voiced."""

    aggressiveness: int = 2
    """webrtcvad's mode, 0 to 3: how sure it must be that it hears speech."""
    margin_db: float = 6.0
    """How far a frame's level must stand out from the noise floor; 0 turns the gate off."""
    minimum_db: float = -65.0
    """Level below which nothing is voiced, dBFS of the frame's root mean square."""
    floor_window: float = 4.0
    """The noise floor is the quietest moment of this many seconds."""

    def __post_init__(self) -> None:
        if self.aggressiveness not in (0, 1, 2, 3):
            raise ConfigError(
                f"aggressiveness must be 0, 1, 2 or 3; it is {self.aggressiveness!r}."
            )
        if not 0 <= self.margin_db <= 60:
            raise ConfigError(f"margin_db must be from 0 to 60; it is {self.margin_db!r}.")
        if not SILENCE_DB <= self.minimum_db <= 0:
            raise ConfigError(f"minimum_db must be from -100 to 0; it is {self.minimum_db!r}.")
        if not 0.5 <= self.floor_window <= 60:
            raise ConfigError(f"floor_window must be from 0.5 to 60; it is {self.floor_window!r}.")


def level_db(frame: Float32Array) -> float:
    """Root mean square of a frame, dBFS; at least SILENCE_DB."""
    power = float(np.dot(frame, frame)) / len(frame)
    return max(SILENCE_DB, 10.0 * math.log10(power)) if power > 0.0 else SILENCE_DB


class NoiseFloor:
    """The quietest moment of the last seconds (minimum statistics).

    Frame levels are smoothed, so that one quiet frame does not count, and their minimum is taken
    over the window in a few parts, so that the state stays small.

    Source: R. Martin, "Noise power spectral density estimation based on optimal smoothing and
    minimum statistics", 2001; here on the level of whole frames and without its bias correction,
    which the gate's margin contains.
    """

    N_PARTS: Final = 8
    SMOOTHING: Final = 0.7  # of the previous level, per frame: about 0.1 s

    def __init__(self, window: float) -> None:
        self._part_length = max(1, round(window / FRAME_SECONDS / self.N_PARTS))
        self._minima: deque[float] = deque([math.inf], maxlen=self.N_PARTS)
        self._n_in_part = 0
        self._smoothed: float | None = None

    def update(self, level: float) -> float:
        """Take the level of the next frame, dB; return the floor, dB."""
        if self._smoothed is None:
            self._smoothed = level
        self._smoothed = self.SMOOTHING * self._smoothed + (1 - self.SMOOTHING) * level
        if self._n_in_part == self._part_length:
            self._minima.append(math.inf)
            self._n_in_part = 0
        self._n_in_part += 1
        self._minima[-1] = min(self._minima[-1], self._smoothed)
        return min(self._minima)


class VoiceDetector:
    """A frame classifier for the chunker: webrtcvad and the energy gate must both agree."""

    def __init__(self, config: VadConfig) -> None:
        self._config = config
        self._vad = webrtcvad.Vad(config.aggressiveness)
        self._floor = NoiseFloor(config.floor_window)

    def __call__(self, frame: Float32Array) -> bool:
        """Is this frame, (480,), the next of the stream, voiced?"""
        level = level_db(frame)
        floor = self._floor.update(level)
        if level < self._config.minimum_db:
            return False  # also spares webrtcvad the digital silence
        stands_out = level >= floor + self._config.margin_db
        return self._hears_speech(frame) and stands_out

    def _hears_speech(self, frame: Float32Array) -> bool:
        pcm = np.clip(np.rint(frame * 32768.0), -32768, 32767).astype("<i2")
        return bool(self._vad.is_speech(pcm.tobytes(), SAMPLE_RATE))
