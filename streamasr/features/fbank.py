"""Kaldi's log-mel filter bank (fbank) of a clip that grows, as the models of FunASR take it.

A frame is 25 ms of samples, one every 10 ms, and only whole frames count (`snip_edges`). The mean
of a frame is taken away, then pre-emphasis, a symmetric Hamming window, the power spectrum of 512
points and triangular filters that are equally wide on Kaldi's mel scale, from 20 Hz to half the
sampling rate; the result is the natural logarithm, at least that of single precision's epsilon.
Nothing depends on samples outside of the frame, so a frame never changes when audio follows.

The library `kaldi-native-fbank` computes it. Samples are scaled to 16 bits: with a fixed mean and
variance (see `cmvn`) the loudness counts.

Source: `WavFrontend` of FunASR; `compute-fbank-feats` of Kaldi.
"""

from typing import Final

import numpy as np

from streamasr.core.audio_form import check_samples
from streamasr.core.errors import AudioError
from streamasr.core.growable import GrowingArray
from streamasr.core.units import SAMPLE_RATE, Float32Array

HOP: Final = SAMPLE_RATE // 100  # samples, 10 ms
WINDOW: Final = SAMPLE_RATE // 40  # samples, 25 ms
N_MELS: Final = 80  # of the released models

_FULL_SCALE: Final = np.float32(1 << 15)
_LOWEST_HZ: Final = 20.0
_PRE_EMPHASIS: Final = 0.97


def fbank(samples: Float32Array, n_mels: int = N_MELS) -> Float32Array:
    """Compute the features of a clip.

    Args:
        samples: (n,), mono at SAMPLE_RATE, -1..1.
        n_mels: number of mel bins.

    Returns:
        (frame_count(n), n_mels), one row per 10 ms.

    Raises:
        AudioError: the array is empty, not one-dimensional, not float32 or not finite.
    """
    growing = GrowingFbank(n_mels)
    growing.append(samples)
    return growing.frames(len(samples))


def frame_count(n_samples: int) -> int:
    """Return the number of whole frames of a clip; none if it is shorter than a window."""
    return 0 if n_samples < WINDOW else (n_samples - WINDOW) // HOP + 1


class GrowingFbank:
    """Features of a clip that grows; each frame is computed once."""

    def __init__(self, n_mels: int = N_MELS) -> None:
        """Begin without samples."""
        # Loaded in the process that needs it: `import` of this module stays cheap.
        import kaldi_native_fbank as knf

        options = knf.FbankOptions()
        options.frame_opts.samp_freq = SAMPLE_RATE
        options.frame_opts.frame_length_ms = 1000 * WINDOW / SAMPLE_RATE
        options.frame_opts.frame_shift_ms = 1000 * HOP / SAMPLE_RATE
        options.frame_opts.dither = 0.0
        options.frame_opts.preemph_coeff = _PRE_EMPHASIS
        options.frame_opts.remove_dc_offset = True
        options.frame_opts.window_type = "hamming"
        options.frame_opts.snip_edges = True
        options.mel_opts.num_bins = n_mels
        options.mel_opts.low_freq = _LOWEST_HZ
        options.mel_opts.high_freq = 0.0  # half the sampling rate
        options.energy_floor = 0.0
        self._fbank = knf.OnlineFbank(options)
        self._frames = GrowingArray(n_mels)
        self._n_samples = 0

    @property
    def n_samples(self) -> int:
        """Number of samples that were appended."""
        return self._n_samples

    def append(self, samples: Float32Array) -> None:
        """Add the samples that follow, and compute the frames that they complete.

        Args:
            samples: (n,), mono at SAMPLE_RATE, -1..1.

        Raises:
            AudioError: the array is empty, not one-dimensional, not float32 or not finite.
        """
        check_samples(samples)
        self._fbank.accept_waveform(SAMPLE_RATE, samples * _FULL_SCALE)
        self._n_samples += len(samples)
        known, n_ready = len(self._frames), self._fbank.num_frames_ready
        if n_ready > known:
            self._frames.append(np.stack([self._fbank.get_frame(i) for i in range(known, n_ready)]))
            self._fbank.pop(n_ready - known)  # they are kept here, and not there as well

    def frames(self, n_samples: int) -> Float32Array:
        """Return the features of the first samples, as if no others had come.

        Args:
            n_samples: at most the number appended.

        Returns:
            (frame_count(n_samples), n_mels), read-only and valid until the next `append`.

        Raises:
            AudioError: fewer samples were appended, or none.
        """
        if not 0 < n_samples <= self._n_samples:
            message = f"{n_samples} samples of a clip of {self._n_samples} were asked for"
            raise AudioError(message, code="samples_out_of_range")
        view = self._frames.values[: frame_count(n_samples)]
        view.flags.writeable = False
        return view
