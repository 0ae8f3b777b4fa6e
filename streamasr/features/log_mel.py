"""Log-mel features of audio encoders in the manner of Whisper's.

They are 25 ms Hann windows every 10 ms, power spectrum, Slaney mel filters, log10, a floor 8
decades below the clip's loudest value, and a shift and scale into roughly -1.5..1.5. Two things
differ from a plain implementation and matter for parity: clips shorter than half a second are
padded with zeros *before* the transform, and the frame centred on the very end of the clip is
dropped.

The work is cut in two so that a growing clip can be followed without starting over: `raw_log_mel`
depends only on the samples under each window, `normalise` alone depends on the whole clip.

Source: the feature extractors of transformers 5.13 and later, and `mel_filter_bank` there (Slaney
scale and normalisation).
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from streamasr.core.audio_form import check_samples
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples

HOP: Final = SAMPLE_RATE // 100  # samples, 10 ms
WINDOW: Final = SAMPLE_RATE // 40  # samples, 25 ms
MIN_SAMPLES: Final = Samples(SAMPLE_RATE // 2)  # shorter clips are padded with zeros to this

N_MELS: Final = 128  # of the released encoders
POWER_FLOOR: Final = 1e-10  # mel power, keeps log10 finite on digital silence
DYNAMIC_RANGE: Final = 8.0  # decades kept below the clip's maximum

_BLOCK: Final = 512  # frames transformed at once; bounds memory at about 5 MB

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


def log_mel(samples: Float32Array, n_mels: int = N_MELS) -> Float32Array:
    """Compute the features of a clip.

    Args:
        samples: (n,), mono at SAMPLE_RATE, -1..1.
        n_mels: number of mel bins.

    Returns:
        (frame_count(n), n_mels), one row per 10 ms.

    Raises:
        AudioError: the array is empty, not one-dimensional, not float32 or not finite.
    """
    check_samples(samples)
    raw = raw_log_mel(centre(pad_to_minimum(samples)), n_mels)
    return normalise(raw, clip_floor(raw.max()))


def frame_count(n_samples: int) -> int:
    """Return the number of frames that `log_mel` makes of a clip."""
    return max(n_samples, MIN_SAMPLES) // HOP


def pad_to_minimum(samples: Float32Array) -> Float32Array:
    """Pad a short clip at its end with zeros to MIN_SAMPLES."""
    return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))


def centre(samples: Float32Array) -> Float32Array:
    """Reflect both ends of a clip so that window i of the result is centred on sample i * HOP.

    The right end gets one hop less than the left: that hop would give one frame more, the one
    centred on the clip's end, which the reference computes and drops.
    """
    return np.pad(samples, (WINDOW // 2, WINDOW // 2 - HOP), mode="reflect")


def raw_log_mel(samples: Float32Array, n_mels: int = N_MELS) -> Float32Array:
    """Compute the log10 mel power under each window, before anything clip-wide.

    Args:
        samples: (n,), windows start at every multiple of HOP that leaves room for one.
        n_mels: number of mel bins.

    Returns:
        ((n - WINDOW) // HOP + 1, n_mels), log10 of power, at least -10.
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    rows = np.empty((len(windows), n_mels), np.float32)
    for start in range(0, len(windows), _BLOCK):
        power = _power_spectrum(windows[start : start + _BLOCK])
        rows[start : start + _BLOCK] = np.log10(np.maximum(_to_mel(power, n_mels), POWER_FLOOR))
    return rows


def clip_floor(peak: np.float32) -> np.float32:
    """Return the value to which lower ones are raised in a clip whose largest is `peak`."""
    return peak - np.float32(DYNAMIC_RANGE)


def normalise(raw: Float32Array, floor: np.float32) -> Float32Array:
    """Apply the clip-wide floor, then shift and scale.

    Args:
        raw: (n_frames, n_mels) from `raw_log_mel`, any frames of the clip.
        floor: `clip_floor` of the whole clip.

    Returns:
        The same shape.
    """
    floored = np.maximum(raw, floor)
    return np.asarray((floored + np.float32(4)) / np.float32(4))


@cache
def mel_filters(n_mels: int) -> Float64Array:
    """Build triangular mel filters from 0 Hz to half the sampling rate.

    Returns:
        (WINDOW // 2 + 1, n_mels); each triangle has an area of one in Hz (Slaney).
    """
    bins_hz = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    edges_hz = _mel_to_hz(np.linspace(0, _hz_to_mel(SAMPLE_RATE / 2), n_mels + 2))
    low, peak, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (peak - low)
    falling = (high - bins_hz[:, None]) / (high - peak)
    filters: Float64Array = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    filters.setflags(write=False)
    return filters


def _power_spectrum(windows: Float32Array) -> Float64Array:
    """Return (n, WINDOW // 2 + 1) squared magnitudes, in double precision.

    The floor lies 8 decades below the maximum, where single precision starts to show.
    """
    spectrum = np.fft.rfft(windows * _hann())
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


def _to_mel(power: Float64Array, n_mels: int) -> Float64Array:
    """Apply the filters: (n, bins) to (n, n_mels).

    The filter bank is nearly empty, so this sums its entries instead of multiplying matrices; that
    is quicker, and uses no threads of numpy's BLAS.
    """
    bins, weights, starts = _filter_entries(n_mels)
    return np.asarray(np.add.reduceat(power[:, bins] * weights, starts, axis=1))


@cache
def _filter_entries(n_mels: int) -> tuple[IntArray, Float64Array, IntArray]:
    """List the entries of `mel_filters`, filter by filter.

    Returns:
        Bin and weight of every entry, and the index of each filter's first entry.
    """
    filters = mel_filters(n_mels)
    filled = filters > 0
    filled[0] |= ~filled.any(axis=0)  # an empty filter gets one entry, of weight 0
    mels, bins = np.nonzero(filled.T)
    return bins, filters[bins, mels], np.searchsorted(mels, np.arange(n_mels))


@cache
def _hann() -> Float64Array:
    """Return the periodic Hann window; numpy's own is the symmetric one."""
    return np.hanning(WINDOW + 1)[:-1]


# The Slaney scale: linear below 1 kHz, logarithmic above.
_LINEAR_HZ: Final = 200 / 3  # Hz per mel
_BREAK_HZ: Final = 1000.0
_BREAK_MEL: Final = _BREAK_HZ / _LINEAR_HZ
_LOG_STEP: Final = np.log(6.4) / 27  # per mel


def _hz_to_mel(hz: float) -> float:
    """Convert a frequency of at least 1 kHz."""
    return float(_BREAK_MEL + np.log(hz / _BREAK_HZ) / _LOG_STEP)


def _mel_to_hz(mel: Float64Array) -> Float64Array:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, _LINEAR_HZ * mel, above)
