"""Tensors of GGUFs in the shapes of PyTorch: GGUF drops or moves axes of convolutions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor


@dataclass(frozen=True, slots=True)
class TransposedKernel:
    """Depthwise kernel (width, 1, n) that is stored as (n, width); implements `Tensor`."""

    tensor: GGUFTensor

    @property
    def path(self) -> Path:
        """File that contains the tensor."""
        return self.tensor.path

    @property
    def name(self) -> str:
        """Name of the tensor in that file."""
        return self.tensor.name

    @property
    def stored_type(self) -> str:
        """Type of the values."""
        return self.tensor.stored_type

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of PyTorch's weight."""
        length, width = self.tensor.shape
        return width, 1, length

    def stored(self) -> npt.NDArray[Any]:
        """Read the values as stored, in the order of PyTorch."""
        return np.ascontiguousarray(self.tensor.stored().T).reshape(self.shape)

    def float32(self) -> Float32Array:
        """Read the values as float32."""
        return np.ascontiguousarray(self.tensor.float32().T).reshape(self.shape)


def as_convolution(tensor: GGUFTensor) -> GGUFTensor:
    """Return a depthwise kernel (width, n) as (width, 1, n); another one unchanged."""
    if len(tensor.shape) != 2:
        return tensor
    return replace(tensor, shape=(tensor.shape[0], 1, tensor.shape[1]))


def as_matrix(tensor: GGUFTensor) -> GGUFTensor:
    """Return a vector as a matrix of one row; GGUF drops an axis of length 1."""
    return replace(tensor, shape=(1, *tensor.shape)) if len(tensor.shape) == 1 else tensor


def vector(file: GGUFFile, name: str) -> Float32Array:
    """Read a tensor of one axis.

    Raises:
        ModelError: it is missing, or has several axes.
    """
    tensor = file.tensors.get(name)
    if tensor is None or len(tensor.shape) != 1:
        raise ModelError(
            f"{file.path}: tensor {name} is missing or not a vector", code="tensor_missing"
        )
    return tensor.float32()


def check_stated(file: GGUFFile, sizes: Mapping[str, int]) -> None:
    """Refuse metadata that contradict the tensors; an entry may be absent.

    Args:
        file: the file.
        sizes: sizes that follow from the tensors, by key.

    Raises:
        ModelError: a size is another one.
    """
    for key, size in sizes.items():
        if file.metadata.get(key, size) != size:
            raise ModelError(
                f"{file.path}: {key} is {file.metadata[key]!r:.60}, but the tensors have {size}",
                code="layer_count",
            )
