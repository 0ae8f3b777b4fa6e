"""Installation of a model from files on this machine, for `streamasr models import` and `pull`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from streamasr.catalogue.installed import Installed, alone, find_installed, place_of
from streamasr.catalogue.moved import follow
from streamasr.catalogue.steps import OpenSteps, Steps
from streamasr.core.errors import ConfigError
from streamasr.importing.options import ImportOptions, recorded_options
from streamasr.importing.origin import canonical_path, is_unchanged
from streamasr.importing.pack import import_model
from streamasr.models.bundle import Bundle


class Installation(NamedTuple):
    """Result of an installation."""

    place: Path
    """Directory of the installed model."""
    made: Bundle | None
    """None where the same model was installed already."""


def install_files(
    source: Path,
    models: Path,
    wanted: ImportOptions,
    open_steps: OpenSteps,
    on_wait: Callable[[], None],
) -> Installation:
    """Install a model from files, unless it is installed already.

    Args:
        source: a file, a zip or a directory, in any published form.
        models: the directory of installed models.
        wanted: name and precision of the model.
        open_steps: opens a display of the steps.
        on_wait: called if another process is importing at the moment.

    Raises:
        ConfigError: another model has the name, or the directory cannot be written.
        ModelError: the source is not a model that can be imported.
    """
    assert wanted.name, "an installed model has a name"
    given, place = canonical_path(source), place_of(models, wanted.name)
    with alone(models, on_wait), open_steps() as steps:
        if found := find_installed(models, wanted.name):
            _check_same(found, given, wanted, steps)
            return Installation(place, None)
        return Installation(
            place, import_model(given, place, wanted, steps.show, notice=steps.note)
        )


def _check_same(found: Installed, given: Path, wanted: ImportOptions, steps: Steps) -> None:
    """Refuse to give one name to two models.

    Raises:
        ConfigError: the installed model was made of other files, or in another precision.
    """
    source = found.bundle.source if found.bundle else {}
    if source.get("path") == str(given):
        is_same = is_unchanged(source, given)
    else:
        is_same = found.bundle is not None and follow(found.bundle, given, steps.show)
    if not is_same:
        where = f" ({found.source})" if found.source else ""
        raise _taken(found, f"from other files{where}", "name_taken")
    check_options(found, wanted)


def check_options(found: Installed, wanted: ImportOptions) -> None:
    """Refuse an installed model whose precision is not the one that is asked for.

    Raises:
        ConfigError: the model was made in another precision.
    """
    made = found.bundle.source.get("wish") if found.bundle else None
    if made != recorded_options(wanted) and (wanted.encoder or wanted.decoder):
        parts = found.bundle.precision if found.bundle else {}
        raise _taken(
            found,
            f"with an encoder in {parts.get('encoder')} and a decoder in {parts.get('decoder')}",
            "precision_differs",
        )


def _taken(found: Installed, how: str, code: str) -> ConfigError:
    return ConfigError(
        f"{found.name} is installed already, {how}; choose another --name, or remove it first with "
        f"`streamasr models remove {found.name}`.",
        code=code,
    )
