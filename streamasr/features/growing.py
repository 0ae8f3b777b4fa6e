"""Log-mel features of a clip that grows: each frame is transformed once.

Two things about a clip's features change when more audio follows. The frames whose window reaches
over the end contain the clip's own reflection there, or the zeros that fill a short clip; they are
provisional, and at most one frame is once the clip is half a second long. And the floor lies under
the loudest frame of the whole clip; therefore rows are kept without it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from streamasr.core.audio_form import check_samples
from streamasr.core.errors import AudioError
from streamasr.core.growable import GrowingArray
from streamasr.core.units import Float32Array
from streamasr.features.log_mel import (
    HOP,
    MIN_SAMPLES,
    N_MELS,
    WINDOW,
    centre,
    clip_floor,
    frame_count,
    raw_log_mel,
)

_REACH: Final = -(-WINDOW // 2 // HOP)  # frames whose window reaches back over the clip's start


@dataclass(frozen=True, slots=True, eq=False)
class RawClip:
    """Features of a clip before the floor."""

    settled: Float32Array
    """(n, n_mels), rows that stay when more audio follows."""
    provisional: Float32Array
    """(m, n_mels), the rows after them."""
    floor: np.float32
    """Value to which `normalise` raises lower ones of this clip."""

    @property
    def n_frames(self) -> int:
        """Number of rows of both kinds."""
        return len(self.settled) + len(self.provisional)

    def rows(self, start: int, stop: int) -> Float32Array:
        """Return rows [start, stop), or those of them that exist."""
        if stop <= len(self.settled):
            return self.settled[start:stop]
        first = len(self.settled)
        provisional = self.provisional[max(0, start - first) : stop - first]
        return np.concatenate([self.settled[start:], provisional])


class GrowingLogMel:
    """The samples of a clip and the raw features of all frames that are settled."""

    def __init__(self, n_mels: int = N_MELS) -> None:
        """Begin with no samples."""
        self._n_mels = n_mels
        self._samples = GrowingArray()
        self._rows = GrowingArray(n_mels)
        self._peaks = GrowingArray()  # the largest value of each row

    @property
    def n_samples(self) -> int:
        """Number of samples that were appended."""
        return len(self._samples.values)

    def append(self, samples: Float32Array) -> None:
        """Add the samples that follow, and transform the frames that they complete.

        Args:
            samples: (n,), mono at SAMPLE_RATE, -1..1.

        Raises:
            AudioError: the array is empty, not one-dimensional, not float32 or not finite.
        """
        check_samples(samples)
        self._samples.append(samples)
        first = len(self._rows.values)
        n_new = settled_frames(self.n_samples) - first
        if n_new > 0:
            rows = self._rows_from(first, self.n_samples)[:n_new]
            self._rows.append(rows)
            self._peaks.append(rows.max(axis=1))

    def clip(self, n_samples: int) -> RawClip:
        """Return the features of the first samples alone, as if no others had come.

        Args:
            n_samples: at most the number appended.

        Returns:
            Features that are valid until the next `append`: the settled rows are not copied.

        Raises:
            AudioError: fewer samples were appended, or none.
        """
        if not 0 < n_samples <= self.n_samples:
            message = f"{n_samples} samples of a clip of {self.n_samples} were asked for"
            raise AudioError(message, code="samples_out_of_range")
        n_settled = settled_frames(n_samples)
        provisional = self._rows_from(n_settled, n_samples)
        peaks = [self._peaks.values[:n_settled], provisional.ravel()]
        floor = clip_floor(np.float32(max(part.max() for part in peaks if len(part))))
        return RawClip(self._rows.values[:n_settled], provisional, floor)

    def _rows_from(self, first: int, n_samples: int) -> Float32Array:
        """Transform the frames from `first` to the end of a clip of the first samples.

        Only the samples under their windows are used: the rest of the clip begins so far before
        them that its own reflected start is under none of them.
        """
        if first == frame_count(n_samples):
            return np.empty((0, self._n_mels), np.float32)
        n_skipped = max(0, first - _REACH)
        rest = self._samples.values[n_skipped * HOP : n_samples]
        padded = np.pad(rest, (0, max(0, MIN_SAMPLES - n_samples)))
        return raw_log_mel(centre(padded), self._n_mels)[first - n_skipped :]


def settled_frames(n_samples: int) -> int:
    """Return the number of frames that stay when more audio follows a clip."""
    if n_samples <= WINDOW // 2:  # the first frame needs so many, and reflected one sample more
        return 0
    return (n_samples - WINDOW // 2) // HOP + 1
