"""Mean and variance normalisation (CMVN) with fixed numbers, and the file that holds them.

FunASR's models come with a text file `am.mvn`, a small network in Kaldi's format: it splices the
frames, adds a shift and multiplies by a scale. The shift is minus the mean of the features in the
training data, the scale one over their standard deviation. Both are as wide as the rows after the
low frame rate (`lfr`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array

_MOST_BYTES: Final = 1 << 20
"""Of an `am.mvn`; those of the released models have 12 kB."""

_STEP: Final = re.compile(r"<(\w+)>\s+(\d+)\s+(\d+)\s+(?:<LearnRateCoef>\s+\S+\s+)?\[([^\[\]]*)\]")
"""A component: its name, its two widths, and its numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Cmvn:
    """Shift and scale of each column."""

    shift: Float32Array
    """(width,), added first."""
    scale: Float32Array
    """(width,), multiplied then."""

    def apply(self, rows: Float32Array) -> Float32Array:
        """Normalise rows, (n, width)."""
        return np.asarray((rows + self.shift) * self.scale)


def read_am_mvn(path: Path) -> Cmvn:
    """Read an `am.mvn`.

    Raises:
        ModelError: the file cannot be read or is too large, or its content is not a shift and a
            scale of the same width.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}", code="cmvn_unreadable") from error
    if len(data) > _MOST_BYTES:
        raise ModelError(f"{path} is larger than {_MOST_BYTES} bytes.", code="cmvn_unreadable")
    try:
        return parse_am_mvn(data.decode("ascii", "replace"))
    except ModelError as error:
        raise ModelError(f"{path}: {error}", code=error.code) from error


def parse_am_mvn(text: str) -> Cmvn:
    """Parse the content of an `am.mvn`.

    Raises:
        ModelError: the text is not a network of one shift and one scale of the same width.
    """
    found = {name: (widths, numbers) for name, *widths, numbers in _STEP.findall(text)}
    parts = []
    for name in ("AddShift", "Rescale"):
        if name not in found:
            raise ModelError(f"it has no <{name}> with numbers in brackets", code="cmvn_broken")
        widths, numbers = found[name]
        parts.append(_vector(name, numbers, {int(width) for width in widths}))
    shift, scale = parts
    return checked_cmvn(shift, scale)


def checked_cmvn(shift: Float32Array, scale: Float32Array) -> Cmvn:
    """Make a normalisation of two vectors that come from a file.

    Raises:
        ModelError: they are not two vectors of one width, or not finite, or the scale is not
            positive.
    """
    if shift.ndim != 1 or shift.shape != scale.shape or not len(shift):
        raise ModelError(
            f"its shift and scale have the shapes {shift.shape} and {scale.shape} instead of one "
            "width",
            code="cmvn_broken",
        )
    if not (np.isfinite(shift).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(
            "its numbers must be finite, and those of the scale positive", code="cmvn_broken"
        )
    return Cmvn(shift.astype(np.float32), scale.astype(np.float32))


def _vector(name: str, numbers: str, widths: set[int]) -> Float32Array:
    try:
        with np.errstate(over="ignore"):  # infinite numbers are refused later
            vector = np.array([float(number) for number in numbers.split()], np.float32)
    except ValueError as error:
        raise ModelError(
            f"<{name}> holds more than numbers: {error}", code="cmvn_broken"
        ) from error
    if {len(vector)} != widths:
        stated = ", ".join(map(str, sorted(widths)))
        raise ModelError(
            f"<{name}> has {len(vector)} numbers instead of {stated}", code="cmvn_broken"
        )
    return vector
