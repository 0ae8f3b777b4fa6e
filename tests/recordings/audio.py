"""Test audio and its wire encodings."""

from typing import Final

import numpy as np
import numpy.typing as npt

from tests.support.signals import speechlike

Audio = npt.NDArray[np.float32]

RATE: Final = 16_000
BLOCK: Final = RATE // 10
"""Samples of a block when audio is sent block by block."""


def silence(seconds: float) -> Audio:
    """Return (n,) zeros."""
    return np.zeros(round(seconds * RATE), np.float32)


def speech(seconds: float) -> Audio:
    """Return (n,) samples that a voice detector takes for speech; values fit 16 bits exactly."""
    return exact(speechlike(round(seconds * RATE)))


def talk(*bursts: float, pause: float = 1.0) -> Audio:
    """Return bursts of speech, each so many seconds long, with a pause around each of them."""
    parts = [silence(pause)]
    for seconds in bursts:
        parts += [speech(seconds), silence(pause)]
    return np.concatenate(parts)


def buzz(seconds: float) -> Audio:
    """Return (n,) samples of a periodic sound that counts as speech and compresses well."""
    n_samples = round(seconds * RATE)
    phase = 2 * np.pi * 125 * np.arange(RATE // 125) / RATE
    period = sum(np.sin(k * phase) / k for k in range(1, 16))
    wave = np.tile(0.125 * np.asarray(period), n_samples // len(phase) + 1)[:n_samples]
    is_loud = np.arange(n_samples) % (RATE // 2) < RATE * 2 // 5
    return exact((wave * is_loud).astype(np.float32))


def exact(samples: Audio) -> Audio:
    """Round samples to values that 16 bits hold exactly."""
    return np.frombuffer(pcm_s16le(samples), "<i2").astype(np.float32) / np.float32(32768)


def pcm_s16le(samples: Audio) -> bytes:
    """Encode samples as 16-bit little-endian integers; frames of several channels as they lie."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def pcm_f32le(samples: Audio) -> bytes:
    """Encode samples as 32-bit little-endian floats."""
    return np.ascontiguousarray(samples, "<f4").tobytes()


def resampled(samples: Audio, rate: int, channels: int = 1) -> Audio:
    """Return samples at another rate, (n, channels), by linear interpolation."""
    seconds = np.arange(round(len(samples) * rate / RATE)) / rate
    mono = np.interp(seconds, np.arange(len(samples)) / RATE, samples).astype(np.float32)
    return np.repeat(mono[:, None], channels, axis=1)
