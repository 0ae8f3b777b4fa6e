"""Identification of the models under a path: a file, a folder, or a zip of one.

`forms.py` lists the families and the functions that identify their forms. The kind of a file
follows from its content. Names are used for one purpose only: a file that
belongs to a folder, such as config.json, stands for that folder.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.archive import name_other_archive, unpack
from streamasr.importing.bundle_source import BundleSource
from streamasr.importing.files import entries_of, kind_of, placeholder_error
from streamasr.importing.foreign_graphs import explain_graphs
from streamasr.importing.forms import FORMS
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.gguf_kind import unusable
from streamasr.importing.model_source import Source
from streamasr.importing.onnx_file import is_graph
from streamasr.importing.origin import PARTS_OF_FOLDERS, folder_levels
from streamasr.importing.tensors import Progress, ignore_progress
from streamasr.importing.torch_file import is_torch_file
from streamasr.models.bundle import is_bundle, open_bundle
from streamasr.models.family import Role
from streamasr.models.registry import find_family

SUPPORTED_FORMS: Final = (
    "streamasr reads folders and zips of ONNX graphs with a GGUF, the single GGUFs of CrispASR and "
    "of transcribe.cpp (Handy), a text GGUF with its mmproj GGUF, folders of safetensors; of "
    "Paraformer the ONNX exports of FunASR and sherpa-onnx, the GGUFs of CrispASR and FunASR, and "
    "folders with model.pt; of ct-punc the same exports and folders; and its own model directories"
)

_WEIGHTS: Final = frozenset({".onnx", ".safetensors", ".gguf", ".pt"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Models found under one path, at most one of each role."""

    recogniser: Source | None
    aligner: Source | None
    notes: tuple[str, ...] = ()
    """Sentences for the user about the choice between several files."""
    punctuation: Source | None = None

    @property
    def main(self) -> Source:
        """Model that the path stands for: the recogniser, else the aligner, else punctuation."""
        main = self.recogniser or self.aligner or self.punctuation
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
        case "zip" if is_torch_file(path):
            return _from_folder(path.parent, path.parent)
        case "gguf":
            found = _in_gguf(path)
            is_single = all(len(source.parts()) == 1 for source in found)
            choice = () if is_single else tuple(_name_choice(found, path.parent))
            return _with_notes(_choose(found, path), choice)
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
    return _with_notes(_choose(found, path), (*skipped, *_name_choice(found, path)))


def _name_choice(sources: Sequence[Source], path: Path) -> Iterator[str]:
    """State the files in use, if the folder contains others of their kind."""
    used = {file for source in sources for file in source.parts()}
    beside = {file for folder in {each.parent for each in used} for file in entries_of(folder)}
    if any(_is_part(file) for file in beside - used):
        *others, last = sorted(file.name for file in used)
        names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        yield f"of the model files in {path}, {names} used."


def _with_notes(sources: Sources, notes: Sequence[str]) -> Sources:
    """Add notes to those of the models themselves."""
    models = filter(None, (sources.recogniser, sources.aligner, sources.punctuation))
    own = [note for model in models for note in model.notes]
    if sources.punctuation and sources.main is not sources.punctuation:
        place = sources.punctuation.path
        own.append(f"{place} is a punctuation model, which is imported by its own path.")
    return replace(sources, notes=(*notes, *own))


def _role_of(source: Source) -> Role:
    return find_family(source.family).role


def _is_part(file: Path) -> bool:
    return file.is_file() and (kind_of(file) == "gguf" or is_graph(file) or is_torch_file(file))


def _choose(found: Sequence[Source], path: Path) -> Sources:
    """Return at most one model of each role.

    Raises:
        ModelError: there is no model, or more than one of a role.
    """
    if not found:
        raise ModelError(f"{path} does not contain a model; {SUPPORTED_FORMS}.", code="no_model")
    of_role: dict[Role, Source] = {}
    for role in Role:
        several = [source for source in found if _role_of(source) is role]
        if len(several) > 1:
            paths = ", ".join(str(source.path) for source in several)
            raise ModelError(
                f"{path} contains {len(several)} models of the role {role}; give the path of one: "
                f"{paths}.",
                code="several_models",
            )
        if several:
            of_role[role] = several[0]
    return Sources(
        of_role.get(Role.RECOGNISER),
        of_role.get(Role.ALIGNER),
        punctuation=of_role.get(Role.PUNCTUATION),
    )


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
        inner = [open_bundle(bundle.aligner)] if bundle.aligner else []
        return [BundleSource(each) for each in (bundle, *inner)]
    files = [path for path in entries_of(folder) if path.is_file()]
    found: list[Source] = []
    errors: list[ModelError] = []
    for forms in FORMS:
        try:
            found += forms.find_in_folder(folder, files)
        except ModelError as error:
            errors.append(error)
    if not found:
        named = explain_graphs(files)
        errors = [*([named] if named else []), *errors, *_explain(files)]
    if errors and not found:
        raise errors[0]
    return found


def _explain(files: Sequence[Path]) -> Iterator[ModelError]:
    """Yield the errors for files of models that no family knows."""
    ggufs = [path for path in files if kind_of(path) == "gguf"]
    if ggufs:
        yield unusable(read_gguf(ggufs[0]))
    for path in files:
        if path.suffix.lower() in _WEIGHTS and (error := placeholder_error(path)):
            yield error


def _in_gguf(path: Path) -> Sequence[Source]:
    """Return the model in a GGUF, or the model that the GGUF is a part of."""
    file = read_gguf(path)
    for forms in FORMS:
        if file.architecture in forms.architectures:
            return list(forms.find_in_gguf(file))
    raise unusable(file)
