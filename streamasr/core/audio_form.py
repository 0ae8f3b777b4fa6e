"""Checks of arrays that are to be audio."""

import numpy as np

from streamasr.core.errors import AudioError
from streamasr.core.units import Float32Array


def check_form(samples: Float32Array) -> None:
    """Refuse an array that cannot be audio, whatever its values are.

    Raises:
        AudioError: the array is empty, not one-dimensional or not float32.
    """
    if samples.dtype != np.float32:
        raise AudioError(f"audio samples must be float32, not {samples.dtype}", code="audio_type")
    if samples.ndim != 1:
        raise AudioError(
            f"audio samples must be one channel, not an array of {samples.ndim} axes",
            code="audio_axes",
        )
    if not len(samples):
        raise AudioError("the audio has no samples", code="no_audio")


def check_samples(samples: Float32Array) -> None:
    """Refuse an array that cannot be audio.

    Raises:
        AudioError: the array is empty, not one-dimensional, not float32 or not finite.
    """
    check_form(samples)
    if not np.isfinite(samples).all():
        raise AudioError(
            "audio samples must be finite, but some are NaN or infinite", code="audio_not_finite"
        )
