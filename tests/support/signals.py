"""Signals that are the same on every machine, for comparisons with golden arrays."""

from typing import Final

import numpy as np

from streamasr.core.units import SAMPLE_RATE, Float32Array

KINDS: Final = ("noise", "silence", "full scale", "quiet, then loud", "tone", "sweep", "steady")


def signal(kind: str, n_samples: int) -> Float32Array:
    """Make one of `KINDS`: (n_samples,), mono at SAMPLE_RATE, -1..1."""
    seconds = np.arange(n_samples) / SAMPLE_RATE
    # The legacy generator, because its numbers are guaranteed not to change.
    noise = np.random.RandomState(n_samples).uniform(-1, 1, n_samples)
    samples = {
        "noise": 0.2 * noise,
        "silence": np.zeros(n_samples),
        "full scale": np.where(np.sin(2 * np.pi * 441 * seconds) < 0, -1.0, 1.0),
        "quiet, then loud": np.where(np.arange(n_samples) < n_samples // 2, 1e-4, 0.6) * noise,
        "tone": 0.9 * np.sin(2 * np.pi * 1000 * seconds),
        "sweep": 0.5 * np.sin(2 * np.pi * (100 + 300 * seconds) * seconds) + 1e-3 * noise,
        "steady": np.full(n_samples, 0.5),
    }[kind]
    return samples.astype(np.float32)


def speechlike(n_samples: int) -> Float32Array:
    """Make a buzz with moving formants and pauses: lively features in every mel bin."""
    seconds = np.arange(n_samples) / SAMPLE_RATE
    noise = np.random.RandomState(n_samples).uniform(-1, 1, n_samples)
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * seconds)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    strength = [np.exp(-(((k - 6 - 4 * np.sin(3 * seconds)) / 3) ** 2)) for k in range(1, 20)]
    voice = sum(s * np.sin(k * phase) for k, s in enumerate(strength, start=1))
    envelope = np.clip(np.sin(2 * np.pi * 1.7 * seconds) + 0.3, 0, 1)
    return np.clip(0.2 * voice * envelope + 0.01 * noise, -1, 1).astype(np.float32)
