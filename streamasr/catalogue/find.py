"""From the name or path of a model to the directory that the engine runs.

    a name    embedded, or installed
    a path    a model directory, or a source in any published form, which is imported on first use

Nothing here uses the network.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamasr.catalogue.installed import (
    Installed,
    alone,
    find_by_source,
    find_installed,
    is_automatic,
    list_installed,
    need_installed,
    place_of,
)
from streamasr.catalogue.known import NOTHING, KnownModel, known_models, of_repository, usable_name
from streamasr.catalogue.steps import OpenSteps, hide_steps
from streamasr.core.errors import ModelError
from streamasr.importing.origin import canonical_path, is_unchanged
from streamasr.importing.tensors import Notify, ignore_notice
from streamasr.models.bundle import OWN_ALIGNER, is_bundle, open_bundle
from streamasr.models.embedded import EMBEDDED
from streamasr.models.family import Role


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds models by name or path, and imports a source on its first use."""

    models: Path
    """Directory of installed models."""
    own: Mapping[str, KnownModel]
    """The models that the configuration adds to those that are known."""
    note: Notify = ignore_notice
    """Receives sentences for the user."""
    open_steps: OpenSteps = hide_steps
    """Opens a display for the progress of an import."""

    def model(self, name_or_path: str) -> Path:
        """Return the directory of a model.

        Raises:
            ModelError: there is no such model, or a source cannot be used.
            ConfigError: a source cannot be imported: no space, or no permission to write.
        """
        if name_or_path in EMBEDDED:
            return EMBEDDED[name_or_path]
        path = Path(name_or_path)
        is_there = os.path.exists(path)  # noqa: PTH110 - Path.exists raises where it may not look
        if installed := find_installed(self.models, name_or_path):
            if is_there:
                earlier = find_by_source(self.models, canonical_path(path))
                if earlier and earlier.name == installed.name and is_automatic(earlier):
                    return self._imported(path)
                self.note(
                    f"{name_or_path} is an installed model; the files here are ./{name_or_path}"
                )
            if installed.problem:
                raise ModelError(installed.problem, code=installed.code)
            return installed.directory
        if is_there:
            return path if is_bundle(path) else self._imported(path)
        if os.sep in name_or_path:
            known = of_repository(name_or_path, known_models(self.own))
            how = f"; `streamasr models pull {known[0]}` gets that model" if known else ""
            raise ModelError(
                f"{name_or_path} is neither a file nor a directory{how}.", code="no_such_file"
            )
        return need_installed(self.models, name_or_path, self.own).directory

    def aligner(self, name_or_path: str | None, recogniser: Path) -> Path | None:
        """Return the directory of a forced aligner: a named one, or one that is installed.

        Args:
            name_or_path: as for `model`; `NOTHING` for no aligner. None takes the recogniser's own,
                else an installed one that suits its family; none for a family that times its words
                itself.
            recogniser: the directory of the recogniser.

        Raises:
            ModelError: there is no aligner of this name, or it cannot be used.
        """
        if name_or_path == NOTHING:
            return None
        if name_or_path is not None:
            return self.model(name_or_path)
        recognition = open_bundle(recogniser).family.recognition
        if recognition is None or recognition.traits.word_method:
            return None
        own = recogniser / OWN_ALIGNER
        if own.is_dir():
            return own
        installed = (each.bundle for each in list_installed(self.models) if each.bundle)
        suitable = (each for each in installed if each.family.name == recognition.aligner)
        return next((each.directory for each in suitable), None)

    def punctuation(self, name_or_path: str | None, recogniser: Path) -> Path | None:
        """Return the directory of a punctuation model: a named one, or one that is installed.

        Args:
            name_or_path: as for `model`; `NOTHING` for no punctuation. None takes the first
                installed model.
            recogniser: the directory of the recogniser; if its texts have punctuation already, no
                model is used.

        Raises:
            ModelError: there is no model of this name, or it cannot be used.
        """
        if name_or_path == NOTHING:
            return None
        named = None if name_or_path is None else self.model(name_or_path)
        recognition = open_bundle(recogniser).family.recognition
        if recognition is None or recognition.traits.punctuates:
            if named is not None:
                self.note(f"{name_or_path} is not used: the recogniser punctuates its texts")
            return None
        if named is not None:
            return named
        installed = (each.bundle for each in list_installed(self.models) if each.bundle)
        suitable = (each for each in installed if each.family.role is Role.PUNCTUATION)
        return next((each.directory for each in suitable), None)

    def _imported(self, path: Path) -> Path:
        """Return the model directory made of a source, now or earlier."""
        given = canonical_path(path)
        with alone(self.models, lambda: self.note("another process is importing; waiting for it")):
            earlier = find_by_source(self.models, given)
            if earlier and not earlier.problem and _is_of_now(earlier, given):
                return earlier.directory
            # Imported here, since it loads onnx and gguf, and most runs import no model.
            from streamasr.catalogue.moved import find_moved
            from streamasr.importing.options import ImportOptions
            from streamasr.importing.pack import default_name, import_model

            if earlier is None:
                with self.open_steps() as steps:
                    moved = find_moved(self.models, given, steps.show)
                if moved is not None:
                    self.note(f"{path} is the source of {moved.name}, which was moved")
                    return moved.directory
            is_again = earlier is not None and is_automatic(earlier)
            name = earlier.name if earlier and is_again else self._free_name(default_name(given))
            why = "again, since it has changed" if is_again else "on its first use"
            self.note(f"importing {path}, {why}, as {name}")
            place = place_of(self.models, name)
            wanted = ImportOptions(name=name, is_automatic=True)
            with self.open_steps() as steps:
                import_model(given, place, wanted, steps.show, notice=steps.note, replaces=is_again)
            return place

    def _free_name(self, wanted: str) -> str:
        """Return a name that no other model has, installed or known."""
        wanted, known = usable_name(wanted), known_models(self.own)
        names = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, 10_000))
        return next(
            name for name in names if name not in known and not place_of(self.models, name).exists()
        )


def is_imported(models: Path, path: Path) -> bool:
    """Return whether a model was made of the files at a path, changed since or not."""
    return find_by_source(models, canonical_path(path)) is not None


def _is_of_now(installed: Installed, given: Path) -> bool:
    return installed.bundle is not None and is_unchanged(installed.bundle.source, given)
