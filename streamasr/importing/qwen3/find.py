"""Identification of the forms in which Qwen3-ASR and Qwen3-ForcedAligner are published.

a folder of ONNX graphs with a decoder as GGUF     -> OnnxRelease
a single GGUF of encoder and decoder, as CrispASR's
and transcribe.cpp's (which Handy downloads)       -> Checkpoint
a text GGUF with its `mmproj` GGUF (llama.cpp)     -> Checkpoint with a decoder file
a folder of safetensors, in either key style       -> Checkpoint
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.files import entries_of, kind_of
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.gguf_kind import best_of, group_by_model, unusable
from streamasr.importing.model_source import Source
from streamasr.importing.onnx_file import is_graph
from streamasr.importing.qwen3 import crispasr, transcribe_cpp
from streamasr.importing.qwen3.checkpoint import Checkpoint
from streamasr.importing.qwen3.projector import read_projector
from streamasr.importing.qwen3.release import read_releases
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint

_COMPLETE: Final[Mapping[str, Callable[[GGUFFile], Checkpoint]]] = {
    crispasr.ARCHITECTURE: crispasr.read_crispasr,
    transcribe_cpp.ARCHITECTURE: transcribe_cpp.read_transcribe_cpp,
}
"""Readers of the GGUFs that hold a whole model, by architecture."""
_PROJECTOR: Final = "clip"
_TEXTS: Final = frozenset({"qwen3vl", "qwen3"})
"""Architectures of text models."""

ARCHITECTURES: Final = frozenset({*_COMPLETE, _PROJECTOR, *_TEXTS})
"""Architectures of the GGUFs that are a model or a part of one."""


def find_in_folder(folder: Path, files: Sequence[Path]) -> Sequence[Source]:
    """Return the models directly in a folder.

    Args:
        folder: the folder.
        files: the regular files in it.

    Raises:
        ModelError: a file is damaged, or no model is complete.
    """
    if not any(is_graph(path) for path in files):
        return list(_without_graphs(folder, files))
    try:
        return read_releases(folder)
    except ModelError:
        # The graphs may be of another kind of model, such as a voice activity detector.
        with contextlib.suppress(ModelError):
            if found := list(_without_graphs(folder, files)):
                return found
        raise


def _without_graphs(folder: Path, files: Sequence[Path]) -> Iterator[Source]:
    if (folder / "config.json") in files and any(p.suffix == ".safetensors" for p in files):
        yield read_checkpoint(folder)
        return
    ggufs = [read_gguf(path) for path in files if kind_of(path) == "gguf"]
    yield from _among_ggufs([file for file in ggufs if file.architecture in ARCHITECTURES])


def find_in_gguf(file: GGUFFile) -> Iterator[Source]:
    """Yield the model in a GGUF, or the model that the GGUF is a part of.

    Args:
        file: a file of one of `ARCHITECTURES`.

    Raises:
        ModelError: the file is damaged, or its other part is missing.
    """
    if read := _COMPLETE.get(file.architecture):
        yield read(file)
        return
    path = file.path
    neighbours = entries_of(path.parent)
    partners: list[GGUFFile] = []
    damage: ModelError | None = None
    if file.architecture in _TEXTS and any(is_graph(other) for other in neighbours):
        try:
            releases = read_releases(path.parent, path)
        except ModelError as error:
            damage, releases = error, []
        if own := [release for release in releases if release.decoder.samefile(path)]:
            yield from own
            return
    for each in neighbours:
        if not each.is_file() or kind_of(each) != "gguf":
            continue
        try:
            other = read_gguf(each)
        except ModelError as error:
            damage = damage or error
            continue
        if _are_pair(file, other) or _are_pair(other, file):
            partners.append(other)
    if not partners:
        raise damage or unusable(file)
    other = best_of(partners)
    text, projector = (other, file) if file.architecture == _PROJECTOR else (file, other)
    yield read_projector(text, projector)


def _among_ggufs(files: Sequence[GGUFFile]) -> Iterator[Source]:
    """Yield the models in a folder of GGUFs; of several precisions of a model, the best.

    Raises:
        ModelError: none of the files can be used.
    """
    complete = [file for file in files if file.architecture in _COMPLETE]
    for same_model in group_by_model(complete).values():
        best = best_of(same_model)
        yield _COMPLETE[best.architecture](best)
    texts = [file for file in files if file.architecture in _TEXTS]
    for same_model in group_by_model(texts).values():
        projectors = [file for file in files if _are_pair(same_model[0], file)]
        if projectors:
            yield read_projector(best_of(same_model), best_of(projectors))
        elif not complete:
            raise unusable(same_model[0])
    if files and not complete and not texts:
        raise unusable(files[0])


def _are_pair(text: GGUFFile, projector: GGUFFile) -> bool:
    """Return whether the width of an encoder's output is that of a decoder."""
    if text.architecture not in _TEXTS or projector.architecture != _PROJECTOR:
        return False
    width = text.metadata.get(f"{text.architecture}.embedding_length")
    return bool(width == projector.metadata.get("clip.audio.projection_dim"))
