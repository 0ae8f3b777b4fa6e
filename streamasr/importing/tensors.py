"""Interface of all sources of weights: tensors that stay in their file until they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy.typing as npt

from streamasr.core.units import Float32Array

Progress: TypeAlias = Callable[[str, int, int], None]
"""Callback for long work: the step in a few words, bytes done, bytes in total."""

Notify: TypeAlias = Callable[[str], None]
"""Callback for a sentence to the user about something that is not an error."""

FLOAT_TYPES: Final = ("F32", "F16", "BF16")
"""Stored types of plain numbers; all others are blocks of quantised numbers."""


class Tensor(Protocol):
    """Tensor of a checkpoint or a GGUF."""

    @property
    def path(self) -> Path:
        """File that contains the tensor."""

    @property
    def name(self) -> str:
        """Name of the tensor in that file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in the order of numpy and PyTorch: the rows of a matrix first."""

    @property
    def stored_type(self) -> str:
        """One of `FLOAT_TYPES`, or a block type of ggml such as `Q8_0`."""

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as stored in the file.

        Returns:
            float32 or float16 of `shape`; for `BF16` its 16 bits as uint16 of `shape`; for a block
            type uint8 with the same number of axes, the last axis being the bytes of a row.
        """

    def float32(self) -> Float32Array:
        """Read all values as float32, which is exact for every stored type."""


def ignore_progress(_step: str, _done: int, _total: int) -> None:
    """Ignore the progress."""


def ignore_notice(_sentence: str) -> None:
    """Ignore the sentence."""
