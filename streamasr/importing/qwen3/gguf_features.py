"""Check of the tables of the audio front end in a GGUF against those of our features."""

from typing import Final

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile

_TOLERANCE: Final = 1e-3  # relative to the largest value; other tables differ far more


def check_table(file: GGUFFile, name: str, ours: npt.NDArray[np.float64]) -> None:
    """Refuse a stored table, of mel filters or of the window, that differs from ours.

    Args:
        file: the GGUF; a file without the table is accepted.
        name: name of the tensor.
        ours: the table that our features use, in the shape of the tensor.

    Raises:
        ModelError: the table has another shape or other values.
    """
    tensor = file.tensors.get(name)
    if tensor is None:
        return
    if tensor.shape != ours.shape:
        raise ModelError(
            f"{file.path}: tensor {name} has the shape {tensor.shape}, but {ours.shape} is "
            "required",
            code="tensor_shape",
        )
    if not np.allclose(tensor.float32(), ours, rtol=0, atol=_TOLERANCE * ours.max()):
        raise ModelError(
            f"{file.path}: {name} differs from that of every released model, so the features would "
            "be wrong; such a model is not supported",
            code="features_differ",
        )
