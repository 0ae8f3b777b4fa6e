"""What all sources of weights have in common: tensors that stay in their file until asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy.typing as npt

from streamasr.core.units import Float32Array

Progress: TypeAlias = Callable[[str, int, int], None]
"""Told about long work: what is being done, in a few words; bytes done; bytes in all."""

Notice: TypeAlias = Callable[[str], None]
"""Told in a sentence what is worth knowing and stops nothing."""

FLOAT_TYPES: Final = ("F32", "F16", "BF16")
"""Stored types that are plain numbers; all others are blocks of quantised ones."""


class Tensor(Protocol):
    """A tensor of a checkpoint or a GGUF."""

    @property
    def path(self) -> Path:
        """The file that it is in."""

    @property
    def name(self) -> str:
        """What that file calls it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy and PyTorch have it: the rows of a matrix first."""

    @property
    def stored_type(self) -> str:
        """One of `FLOAT_TYPES`, or a block type of ggml such as `Q8_0`."""

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as they are in the file.

        Returns:
            float32 or float16 of `shape`; for `BF16` its 16 bits as uint16 of `shape`; for a block
            type uint8 with as many axes, the last being the bytes of a row.
        """

    def float32(self) -> Float32Array:
        """Read all values as float32, which is exact for every stored type."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def unheard(_sentence: str) -> None:
    """Tell nobody."""
