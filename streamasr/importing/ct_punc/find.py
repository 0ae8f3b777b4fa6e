"""Identification of the forms in which ct-punc is published.

a folder of ONNX graphs of FunASR or sherpa-onnx   -> PunctuationRelease
a folder with a PyTorch checkpoint                 -> PunctuationCheckpoint
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from streamasr.importing.ct_punc.original import is_original, read_original
from streamasr.importing.ct_punc.release import read_release
from streamasr.importing.gguf_file import GGUFFile
from streamasr.importing.model_source import Source
from streamasr.importing.onnx_file import is_graph

ARCHITECTURES: Final[frozenset[str]] = frozenset()
"""No GGUF of it is known."""


def find_in_folder(folder: Path, files: Sequence[Path]) -> Sequence[Source]:
    """Return the model directly in a folder.

    Args:
        folder: the folder.
        files: the regular files in it.

    Raises:
        ModelError: a file of a punctuation model is damaged, or its other parts are missing.
    """
    if any(map(is_graph, files)) and (release := read_release(folder, files)):
        return [release]
    return [read_original(folder, files)] if is_original(folder, files) else []


def find_in_gguf(_: GGUFFile) -> Iterable[Source]:
    """Return nothing, as there are no `ARCHITECTURES`."""
    return []
