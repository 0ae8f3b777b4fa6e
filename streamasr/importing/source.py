"""Telling the forms apart in which Qwen3-ASR and Qwen3-ForcedAligner are published.

    a folder or zip of ONNX graphs with a decoder as GGUF   -> Release
    a single GGUF of encoder and decoder (CrispASR)         -> Checkpoint
    a text GGUF with its `mmproj` GGUF (llama.cpp)          -> Checkpoint with a decoder file
    a folder of safetensors, in either key style            -> Checkpoint
    a model directory of our own                            -> Bundle

What a file is follows from its content. Names are looked at for one thing only: a file that
belongs to a folder, such as config.json, stands for that folder.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from streamasr.core.errors import ModelError
from streamasr.importing.archive import name_other_archive, unpack
from streamasr.importing.checkpoint import Checkpoint
from streamasr.importing.crispasr import read_crispasr
from streamasr.importing.files import entries_of, explain_stub, kind_of
from streamasr.importing.gguf_file import GGUFFile, describe, precision_rank, read_gguf
from streamasr.importing.onnx_file import is_graph
from streamasr.importing.origin import PARTS_OF_FOLDERS, levels_of
from streamasr.importing.projector import read_projector
from streamasr.importing.release import Release, read_releases
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.importing.tensors import Progress, silent
from streamasr.models.bundle import Bundle, is_bundle, open_bundle
from streamasr.models.family import Role
from streamasr.models.registry import find_family

Source: TypeAlias = Checkpoint | Release | Bundle

WHAT_WORKS: Final = (
    "streamasr reads folders and zips of ONNX graphs with a GGUF, CrispASR's single GGUF, a text "
    "GGUF with its mmproj GGUF, folders of safetensors, and its own model directories"
)

_CRISPASR: Final = "qwen3asr"
_PROJECTOR: Final = "clip"
_TEXTS: Final = frozenset({"qwen3vl", "qwen3"})
"""Architectures of GGUFs."""

_WEIGHTS: Final = frozenset({".onnx", ".safetensors", ".gguf"})


@dataclass(frozen=True, slots=True)
class Sources:
    """What was found under one path: a recogniser, an aligner, or both."""

    recogniser: Source | None
    aligner: Source | None
    notes: tuple[str, ...] = ()
    """What is worth knowing of the choice that was made."""

    @property
    def main(self) -> Source:
        """What the path is named for: the recogniser, else the aligner."""
        main = self.recogniser or self.aligner
        assert main is not None
        return main


def open_sources(path: Path, scratch: Path | None = None, progress: Progress = silent) -> Sources:
    """Find out what is under a path and read what it says of itself; weights stay on disk.

    Args:
        path: a file or a directory, which is only read.
        scratch: an empty directory of ours, for what is in an archive. Without one, archives are
            refused.
        progress: told while an archive is being unpacked.

    Raises:
        ModelError: there is nothing, nothing that can be used, or more than one model of a family.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a path cannot be looked at
        return _from_folder(path, path)
    match kind_of(path):
        case "gguf":
            found = list(_in_gguf(path))
            is_alone = all(len(_parts(source)) == 1 for source in found)
            choice = () if is_alone else tuple(_name_choice(found, path.parent))
            return replace(_choose(found, path), notes=choice)
        case "zip" if scratch is not None:
            unpack(path, scratch, progress)
            return _from_folder(scratch, path)
        case "zip":
            raise ModelError(
                f"{path} is an archive: import it first, with `streamasr models import`."
            )
        case _ if path.suffix.lower() in PARTS_OF_FOLDERS or is_graph(path):
            return _from_folder(path.parent, path.parent)
        case _:
            raise ModelError(_describe_other(path))


def _describe_other(path: Path) -> str:
    """Say what a file is that can be no model."""
    if what := name_other_archive(path):
        return f"{path} is {what}, and only zips can be read: unpack it first."
    return explain_stub(path) or f"{path} is no model file; {WHAT_WORKS}."


def _from_folder(folder: Path, path: Path) -> Sources:
    """What is in a folder, which a user knows as `path`."""
    found, passed_over = _in_folder(folder)
    return replace(_choose(found, path), notes=(*passed_over, *_name_choice(found, path)))


def _name_choice(sources: Sequence[Source], path: Path) -> Iterator[str]:
    """Say which files are used, where others of their kind lie beside them."""
    used = {file for source in sources for file in _parts(source)}
    beside = {file for folder in {each.parent for each in used} for file in entries_of(folder)}
    if any(_is_part(file) for file in beside - used):
        *others, last = sorted(file.name for file in used)
        names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        yield f"of the model files in {path}, {names} used."


def family_name(source: Source) -> str:
    """Return the name of the model family of a source."""
    return source.family.name if isinstance(source, Bundle) else source.family


def role_of(source: Source) -> Role:
    """Return the role of the model in a source."""
    return find_family(family_name(source)).role


def _parts(source: Source) -> list[Path]:
    """The files that may have been chosen among others; those of a bundle never are."""
    match source:
        case Release():
            return [source.frontend, source.backend, source.decoder]
        case Checkpoint():
            weights = {tensor.path for tensor in source.tensors.values()}
            return [*weights, *([source.decoder_file] if source.decoder_file else [])]
        case Bundle():
            return []


def _is_part(file: Path) -> bool:
    return file.is_file() and (kind_of(file) == "gguf" or is_graph(file))


def _choose(found: Sequence[Source], path: Path) -> Sources:
    """At most one of each family."""
    if not found:
        raise ModelError(f"{path} holds no model; {WHAT_WORKS}.")
    recognisers = [source for source in found if role_of(source) is Role.RECOGNISER]
    aligners = [source for source in found if role_of(source) is Role.ALIGNER]
    for several in (recognisers, aligners):
        if len(several) > 1:
            names = ", ".join(str(_place(source)) for source in several)
            raise ModelError(f"{path} holds several models: name one of {names}.")
    return Sources(next(iter(recognisers), None), next(iter(aligners), None))


def _place(source: Source) -> Path:
    match source:
        case Checkpoint():
            return source.path
        case Release():
            return source.decoder
        case Bundle():
            return source.directory


def _in_folder(folder: Path) -> tuple[list[Source], list[str]]:
    """What is in a folder, else in the nearest folders below it: releases are packed all ways.

    Returns:
        The models, and why the folders beside theirs hold none.

    Raises:
        ModelError: there is none, and something in the way.
    """
    refused: list[ModelError] = []
    for level in levels_of(folder):
        found: list[Source] = []
        wrong: list[ModelError] = []
        for each in level:
            try:
                found += _right_in_folder(each)
            except ModelError as error:
                wrong.append(error)
        refused += wrong
        if wrong and level == [folder]:
            break  # what is right here is what is meant
        if found:
            return found, [f"passed over: {error}" for error in refused]
    if refused:
        raise refused[0]
    return [], []


def _right_in_folder(folder: Path) -> Sequence[Source]:
    if is_bundle(folder):
        bundle = open_bundle(folder)
        return [bundle, *([open_bundle(bundle.aligner)] if bundle.aligner else [])]
    files = [path for path in entries_of(folder) if path.is_file()]
    if not any(is_graph(path) for path in files):
        return list(_without_graphs(folder, files))
    try:
        return read_releases(folder)
    except ModelError:
        # The graphs may be of something else, such as a detector of speech.
        with contextlib.suppress(ModelError):
            if found := list(_without_graphs(folder, files)):
                return found
        raise


def _without_graphs(folder: Path, files: Sequence[Path]) -> Iterator[Source]:
    if (folder / "config.json") in files and any(p.suffix == ".safetensors" for p in files):
        yield read_checkpoint(folder)
        return
    ggufs = [read_gguf(path) for path in files if kind_of(path) == "gguf"]
    if ggufs:
        yield from _among_ggufs(ggufs)
        return
    stubs = (explain_stub(path) for path in files if path.suffix.lower() in _WEIGHTS)
    if stub := next(filter(None, stubs), None):
        raise ModelError(stub)


def _in_gguf(path: Path) -> Iterator[Source]:
    """The model that a GGUF is, or that it is a part of."""
    file = read_gguf(path)
    if file.architecture == _CRISPASR:
        yield read_crispasr(file)
        return
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
        raise damage or ModelError(describe(file))
    other = _best(partners)
    text, projector = (other, file) if file.architecture == _PROJECTOR else (file, other)
    yield read_projector(text, projector)


def _among_ggufs(files: Sequence[GGUFFile]) -> Iterator[Source]:
    """What a folder of GGUFs holds; of one model in several precisions, the best.

    Raises:
        ModelError: none of them can be used.
    """
    whole = [file for file in files if file.architecture == _CRISPASR]
    for alike in _group(whole).values():
        yield read_crispasr(_best(alike))
    texts = [file for file in files if file.architecture in _TEXTS]
    for alike in _group(texts).values():
        projectors = [file for file in files if _are_pair(alike[0], file)]
        if projectors:
            yield read_projector(_best(alike), _best(projectors))
        elif not whole:
            raise ModelError(describe(alike[0]))
    if not whole and not texts:
        raise ModelError(describe(files[0]))


def _are_pair(text: GGUFFile, projector: GGUFFile) -> bool:
    """Whether a decoder can read what an encoder gives."""
    if text.architecture not in _TEXTS or projector.architecture != _PROJECTOR:
        return False
    width = text.metadata.get(f"{text.architecture}.embedding_length")
    return bool(width == projector.metadata.get("clip.audio.projection_dim"))


def _group(files: Iterable[GGUFFile]) -> dict[object, list[GGUFFile]]:
    """Files of one model, which differ in their precision alone."""
    groups: dict[object, list[GGUFFile]] = {}
    for file in files:
        shapes = frozenset((tensor.name, tensor.shape) for tensor in file.tensors.values())
        groups.setdefault(shapes, []).append(file)
    return groups


def _best(files: Iterable[GGUFFile]) -> GGUFFile:
    return min(files, key=precision_rank)
