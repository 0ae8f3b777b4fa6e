"""Changes of the header of a GGUF, for tests of importers: other metadata, other tensors."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from streamasr.importing.gguf_file import GGUFFile, GGUFTensor

ODD: Final = st.one_of(
    st.integers(-2, 1 << 64),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 9), max_size=3),
    st.lists(st.text(max_size=3), max_size=3),
)
"""Values of metadata of any type."""


def with_metadata(file: GGUFFile, changes: Mapping[str, Any]) -> GGUFFile:
    """Return the file with some of its metadata changed; None removes an entry."""
    metadata = dict(file.metadata) | dict(changes)
    return replace(file, metadata={k: value for k, value in metadata.items() if value is not None})


def with_tensor(file: GGUFFile, name: str, tensor: GGUFTensor | None) -> GGUFFile:
    """Return the file with another tensor of a name; None removes the tensor."""
    tensors = {key: value for key, value in file.tensors.items() if key != name}
    return replace(file, tensors=tensors | ({name: tensor} if tensor else {}))


def values_in(folder: Path, values: np.ndarray[Any, Any], name: str) -> GGUFTensor:
    """Write values to a file of their own and return them as a tensor."""
    path = folder / f"{name}.raw"
    values = values.astype(np.float32)
    path.write_bytes(values.tobytes())
    return GGUFTensor(path, name, "F32", values.shape, 0, values.nbytes)
