"""Identification of the forms in which Qwen3-ASR and Qwen3-ForcedAligner are published.

    a folder or zip of ONNX graphs with a decoder as GGUF   -> OnnxRelease
    a single GGUF of encoder and decoder, as CrispASR's and
    transcribe.cpp's (which Handy downloads)                -> Checkpoint
    a text GGUF with its `mmproj` GGUF (llama.cpp)          -> Checkpoint with a decoder file
    a folder of safetensors, in either key style            -> Checkpoint
    a model directory of our own                            -> Bundle

The kind of a file follows from its content. Names are used for one purpose only: a file that
belongs to a folder, such as config.json, stands for that folder.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from streamasr.core.errors import ModelError
from streamasr.importing import crispasr, transcribe_cpp
from streamasr.importing.archive import name_other_archive, unpack
from streamasr.importing.checkpoint import Checkpoint
from streamasr.importing.files import entries_of, kind_of, placeholder_error
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.gguf_kind import precision_rank, unusable
from streamasr.importing.onnx_file import is_graph
from streamasr.importing.origin import PARTS_OF_FOLDERS, folder_levels
from streamasr.importing.projector import read_projector
from streamasr.importing.release import OnnxRelease, read_releases
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.importing.tensors import Progress, ignore_progress
from streamasr.models.bundle import Bundle, is_bundle, open_bundle
from streamasr.models.family import Role
from streamasr.models.registry import find_family

Source: TypeAlias = Checkpoint | OnnxRelease | Bundle

SUPPORTED_FORMS: Final = (
    "streamasr reads folders and zips of ONNX graphs with a GGUF, the single GGUFs of CrispASR and "
    "of transcribe.cpp (Handy), a text GGUF with its mmproj GGUF, folders of safetensors, and its "
    "own model directories"
)

_COMPLETE: Final[Mapping[str, Callable[[GGUFFile], Checkpoint]]] = {
    crispasr.ARCHITECTURE: crispasr.read_crispasr,
    transcribe_cpp.ARCHITECTURE: transcribe_cpp.read_transcribe_cpp,
}
"""Readers of the GGUFs that hold a whole model, by architecture."""
_PROJECTOR: Final = "clip"
_TEXTS: Final = frozenset({"qwen3vl", "qwen3"})
"""Architectures of text models."""

_WEIGHTS: Final = frozenset({".onnx", ".safetensors", ".gguf"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Models found under one path: a recogniser, an aligner, or both."""

    recogniser: Source | None
    aligner: Source | None
    notes: tuple[str, ...] = ()
    """Sentences for the user about the choice between several files."""

    @property
    def main(self) -> Source:
        """Model that the path stands for: the recogniser, else the aligner."""
        main = self.recogniser or self.aligner
        assert main is not None
        return main


def open_sources(
    path: Path, scratch: Path | None = None, progress: Progress = ignore_progress
) -> Sources:
    """Identify the models under a path and read their headers; the weights stay on disk.

    Args:
        path: a file or a directory, which is only read.
        scratch: an empty directory of ours, for the content of an archive. Without one, archives
            are refused.
        progress: called while an archive is unpacked.

    Raises:
        ModelError: the path is missing, contains no usable model, or contains more than one model
            of a role.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises if a path is not accessible
        return _from_folder(path, path)
    match kind_of(path):
        case "gguf":
            found = list(_in_gguf(path))
            is_single = all(len(_parts(source)) == 1 for source in found)
            choice = () if is_single else tuple(_name_choice(found, path.parent))
            return replace(_choose(found, path), notes=choice)
        case "zip" if scratch is not None:
            unpack(path, scratch, progress)
            return _from_folder(scratch, path)
        case "zip":
            raise ModelError(
                f"{path} is an archive; import it first with `streamasr models import`.",
                code="archive_not_imported",
            )
        case _ if path.suffix.lower() in PARTS_OF_FOLDERS or is_graph(path):
            return _from_folder(path.parent, path.parent)
        case _:
            raise _not_a_model(path)


def _not_a_model(path: Path) -> ModelError:
    """Return the error for a file that is not a model."""
    if kind := name_other_archive(path):
        return ModelError(
            f"{path} is {kind}, and streamasr unpacks only zips; unpack it first.",
            code="archive_format",
        )
    return placeholder_error(path) or ModelError(
        f"{path} is not a model file; {SUPPORTED_FORMS}.", code="not_a_model"
    )


def _from_folder(folder: Path, path: Path) -> Sources:
    """Find the models in a folder, which the user knows as `path`."""
    found, skipped = _in_folder(folder)
    return replace(_choose(found, path), notes=(*skipped, *_name_choice(found, path)))


def _name_choice(sources: Sequence[Source], path: Path) -> Iterator[str]:
    """State the files in use, if the folder contains others of their kind."""
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
    """Return the files that may have been chosen among others; none for a bundle."""
    match source:
        case OnnxRelease():
            return [source.frontend, source.backend, source.decoder]
        case Checkpoint():
            weights = {tensor.path for tensor in source.tensors.values()}
            return [*weights, *([source.decoder_file] if source.decoder_file else [])]
        case Bundle():
            return []


def _is_part(file: Path) -> bool:
    return file.is_file() and (kind_of(file) == "gguf" or is_graph(file))


def _choose(found: Sequence[Source], path: Path) -> Sources:
    """Return at most one model of each role.

    Raises:
        ModelError: there is no model, or more than one of a role.
    """
    if not found:
        raise ModelError(f"{path} does not contain a model; {SUPPORTED_FORMS}.", code="no_model")
    recognisers = [source for source in found if role_of(source) is Role.RECOGNISER]
    aligners = [source for source in found if role_of(source) is Role.ALIGNER]
    for role, several in ((Role.RECOGNISER, recognisers), (Role.ALIGNER, aligners)):
        if len(several) > 1:
            paths = ", ".join(str(_path_of(source)) for source in several)
            raise ModelError(
                f"{path} contains {len(several)} {role}s; give the path of one: {paths}.",
                code="several_models",
            )
    return Sources(next(iter(recognisers), None), next(iter(aligners), None))


def _path_of(source: Source) -> Path:
    match source:
        case Checkpoint():
            return source.path
        case OnnxRelease():
            return source.decoder
        case Bundle():
            return source.directory


def _in_folder(folder: Path) -> tuple[list[Source], list[str]]:
    """Find the models in a folder, else in the nearest folders below it.

    The depth varies, because archives and downloads add folders of their own.

    Returns:
        The models, and notes about the skipped folders beside them.

    Raises:
        ModelError: no model can be used, and at least one is damaged or incomplete.
    """
    errors: list[ModelError] = []
    for level in folder_levels(folder):
        found: list[Source] = []
        level_errors: list[ModelError] = []
        for each in level:
            try:
                found += _directly_in_folder(each)
            except ModelError as error:
                level_errors.append(error)
        errors += level_errors
        if level_errors and level == [folder]:
            break  # the folder's own files are the ones that the user means
        if found:
            return found, [f"skipped: {error}" for error in errors]
    if errors:
        raise errors[0]
    return [], []


def _directly_in_folder(folder: Path) -> Sequence[Source]:
    if is_bundle(folder):
        bundle = open_bundle(folder)
        return [bundle, *([open_bundle(bundle.aligner)] if bundle.aligner else [])]
    files = [path for path in entries_of(folder) if path.is_file()]
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
    if ggufs:
        yield from _among_ggufs(ggufs)
        return
    placeholders = (placeholder_error(path) for path in files if path.suffix.lower() in _WEIGHTS)
    if error := next(filter(None, placeholders), None):
        raise error


def _in_gguf(path: Path) -> Iterator[Source]:
    """Yield the model in a GGUF, or the model that the GGUF is a part of."""
    file = read_gguf(path)
    if read := _COMPLETE.get(file.architecture):
        yield read(file)
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
        raise damage or unusable(file)
    other = _best(partners)
    text, projector = (other, file) if file.architecture == _PROJECTOR else (file, other)
    yield read_projector(text, projector)


def _among_ggufs(files: Sequence[GGUFFile]) -> Iterator[Source]:
    """Yield the models in a folder of GGUFs; of several precisions of a model, the best.

    Raises:
        ModelError: none of the files can be used.
    """
    complete = [file for file in files if file.architecture in _COMPLETE]
    for same_model in _group(complete).values():
        best = _best(same_model)
        yield _COMPLETE[best.architecture](best)
    texts = [file for file in files if file.architecture in _TEXTS]
    for same_model in _group(texts).values():
        projectors = [file for file in files if _are_pair(same_model[0], file)]
        if projectors:
            yield read_projector(_best(same_model), _best(projectors))
        elif not complete:
            raise unusable(same_model[0])
    if not complete and not texts:
        raise unusable(files[0])


def _are_pair(text: GGUFFile, projector: GGUFFile) -> bool:
    """Return whether the width of an encoder's output is that of a decoder."""
    if text.architecture not in _TEXTS or projector.architecture != _PROJECTOR:
        return False
    width = text.metadata.get(f"{text.architecture}.embedding_length")
    return bool(width == projector.metadata.get("clip.audio.projection_dim"))


def _group(files: Iterable[GGUFFile]) -> dict[object, list[GGUFFile]]:
    """Group files that contain the same model in different precisions."""
    groups: dict[object, list[GGUFFile]] = {}
    for file in files:
        shapes = frozenset((tensor.name, tensor.shape) for tensor in file.tensors.values())
        groups.setdefault(shapes, []).append(file)
    return groups


def _best(files: Iterable[GGUFFile]) -> GGUFFile:
    return min(files, key=precision_rank)
