"""Memory that the context of a model's decoder takes."""

from pathlib import Path
from typing import Final

from streamasr.importing.gguf_file import read_gguf

_BYTES: Final = 2 * 2
"""Bytes of a key and a value in half precision."""


def cell_bytes(decoder: Path) -> int:
    """Return the bytes of one position in a decoder's context, from its GGUF.

    Raises:
        ModelError: the file is missing, not a GGUF, or lacks a fact.
    """
    file = read_gguf(decoder)
    kind = file.text("general.architecture")
    n_layers = file.integer(f"{kind}.block_count")
    n_heads = file.integer(f"{kind}.attention.head_count_kv")
    return n_layers * n_heads * file.integer(f"{kind}.attention.key_length") * _BYTES
