"""From the name of a known model to the installed model, by way of the network."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.fetch import Web, fetch_model
from streamasr.catalogue.hashes import note
from streamasr.catalogue.hub import find_endpoint, find_token
from streamasr.catalogue.installed import place_of
from streamasr.catalogue.known import KnownModel
from streamasr.catalogue.places import forget_download, sole_download
from streamasr.catalogue.steps import OpenSteps
from streamasr.catalogue.timeouts import Policy
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class PullOptions:
    """Options of a download."""

    endpoint: str
    """Address of the hub in the settings."""
    policy: Policy
    asked_endpoint: str | None = None
    """Address of the hub on the command line."""
    accept_changed: bool = False
    """Whether files may differ from those of the first download."""
    keep_download: bool = False
    """Whether the downloaded files are kept."""


def pull_model(
    model: KnownModel,
    models: Path,
    wanted: ImportOptions,
    options: PullOptions,
    open_steps: OpenSteps,
) -> Bundle:
    """Download a known model and install it.

    Args:
        model: its place on the network.
        models: the directory of installed models.
        wanted: name and precision of the model.
        options: of the download.
        open_steps: opens a display of the steps.

    Raises:
        DownloadError: a file cannot be downloaded.
        ModelError: the files are not those of the first download, or cannot be imported.
        ConfigError: the files cannot be written.
    """
    assert wanted.name, "a known model has a name"
    name, asked = wanted.name, options.asked_endpoint
    endpoint = find_endpoint(options.endpoint, asked)
    with (
        sole_download(models, name),
        open_session(endpoint, find_token()) as session,
        open_steps() as steps,
    ):
        again = f"--endpoint {shlex.quote(asked)}" if asked else ""
        web = Web(endpoint, session, options.policy, steps.show, steps.note, again)
        fetched = fetch_model(name, model, models, web, accept_changed=options.accept_changed)
        wanted = replace(
            wanted,
            licence=model.licence or None,
            languages=model.languages or None,
            provenance=fetched.provenance,
        )
        place = place_of(models, name)
        made = import_model(fetched.path, place, wanted, steps.show, notice=steps.note)
        if fetched.noted is not None:
            note(models, name, fetched.noted)
        if not options.keep_download:
            forget_download(models, name)
    return made
