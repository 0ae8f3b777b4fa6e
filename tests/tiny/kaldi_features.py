"""Features of the embedded Paraformer for training: Kaldi's filter bank and low frame rate.

The same as `streamasr/features/` computes, but batched, differently warped for each clip, and with
another hop where the tempo is to change.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from bank import SAMPLE_RATE
from clips import WARPS
from torch import Tensor

FRAME, HOP, N_FFT, N_MELS = 400, 160, 512, 80
N_BINS = N_FFT // 2 + 1
LOWEST = 20.0  # Hz
LFR_WINDOW, LFR_SHIFT = 7, 6
ROW_SECONDS = LFR_SHIFT * HOP / SAMPLE_RATE
CENTRE = FRAME / 2 / SAMPLE_RATE
"""Time in the middle of row 0, in seconds: row r stands for frames 6 r - 3 to 6 r + 3."""
_EPSILON = 1.1920928955078125e-07


def _mel(hertz: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    return 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)


def kaldi_filters(warp: float = 1.0) -> npt.NDArray[np.float32]:
    """Compute Kaldi's triangles, sampled at frequencies `warp` times as high: (bins, mels)."""
    edges = np.linspace(_mel(LOWEST), _mel(SAMPLE_RATE / 2), N_MELS + 2)
    places = _mel(np.arange(N_BINS) * (SAMPLE_RATE / N_FFT) * warp)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (places - low) / (middle - low), (high - places) / (high - middle)
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


FILTERS = torch.from_numpy(np.stack([kaldi_filters(warp) for warp in WARPS]))
PLAIN = torch.from_numpy(kaldi_filters())


def filter_bank(
    audio: Tensor, filters: Tensor = PLAIN, gains: Tensor | None = None, hop: int = HOP
) -> Tensor:
    """Compute log mel energies.

    Args:
        audio: (batch, samples), -1..1.
        filters: (bins, mels) or (batch, bins, mels).
        gains: (batch, bins), factors on the power spectrum.
    Returns:
        (batch, frames, mels).
    """
    frames = (audio * 32768).unfold(-1, FRAME, hop)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - 0.97 * before) * torch.hamming_window(FRAME, periodic=False)
    power = torch.fft.rfft(frames, N_FFT).abs() ** 2
    if gains is not None:
        power = power * gains[:, None]
    return (power @ filters).clamp(min=_EPSILON).log()


def low_frame_rate(mel: Tensor) -> Tensor:
    """Stack 7 frames every 6: (batch, frames, mels) -> (batch, ceil(frames / 6), 7 mels)."""
    n_frames = mel.shape[1]
    starts = torch.arange(0, n_frames, LFR_SHIFT) - LFR_WINDOW // 2
    frames = (starts[:, None] + torch.arange(LFR_WINDOW)).clamp(0, n_frames - 1)
    return mel[:, frames].flatten(2)
