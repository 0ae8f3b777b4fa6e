"""Identification of the forms in which Paraformer is published.

    a folder of ONNX graphs of FunASR or sherpa-onnx   -> WholeRelease
    a folder with a PyTorch checkpoint                 -> Checkpoint
    a GGUF of CrispASR or of FunASR                    -> Checkpoint

If a folder has several of them, the first of this list is used.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from streamasr.importing.files import kind_of
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.gguf_kind import best_of, group_by_model, is_split, unusable
from streamasr.importing.model_source import Source
from streamasr.importing.onnx_file import is_graph
from streamasr.importing.paraformer import crispasr, funasr_gguf
from streamasr.importing.paraformer.checkpoint import Checkpoint
from streamasr.importing.paraformer.original import is_original, read_original
from streamasr.importing.paraformer.release import read_release

ARCHITECTURES: Final = frozenset({"paraformer"})


def find_in_folder(folder: Path, files: Sequence[Path]) -> Sequence[Source]:
    """Return the models directly in a folder.

    Args:
        folder: the folder.
        files: the regular files in it.

    Raises:
        ModelError: a file of a Paraformer is damaged, or its other parts are missing.
    """
    if any(map(is_graph, files)) and (release := read_release(folder, files)):
        return [release]
    if is_original(folder, files):
        return [read_original(folder, files)]
    return list(_among_ggufs(files))


def _among_ggufs(files: Sequence[Path]) -> Iterator[Source]:
    """Yield the models in GGUFs; of several precisions of a model, the best."""
    ggufs = [read_gguf(path) for path in files if kind_of(path) == "gguf"]
    own = [file for file in ggufs if file.architecture in ARCHITECTURES]
    for same_model in group_by_model(own).values():
        yield _read(best_of(same_model))


def find_in_gguf(file: GGUFFile) -> Sequence[Source]:
    """Return the model in a GGUF of one of `ARCHITECTURES`.

    Raises:
        ModelError: the file is damaged, or of another form.
    """
    return [_read(file)]


def _read(file: GGUFFile) -> Checkpoint:
    if is_split(file):
        raise unusable(file)
    if funasr_gguf.MARK in file.metadata:
        return funasr_gguf.read_funasr_gguf(file)
    return crispasr.read_crispasr(file)
