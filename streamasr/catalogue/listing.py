"""The models that a user can choose among: embedded, installed, fetched in part, or known."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamasr.catalogue.installed import Installed, list_installed
from streamasr.catalogue.known import KnownModel, built_in, known_models
from streamasr.catalogue.places import fetched_bytes, list_downloads
from streamasr.models.bundle import Bundle, open_bundle
from streamasr.models.embedded import EMBEDDED
from streamasr.models.family import Role
from streamasr.models.registry import family_names, find_family


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of the list; empty strings and None stand for unknown facts."""

    name: str
    state: str
    """installed, broken, embedded, partial (fetched in part), or known."""
    role: str
    """recogniser, aligner or punctuation."""
    family: str
    parameters: str
    precision: str
    languages: tuple[str, ...] | None
    licence: str
    n_bytes: int | None
    """Size on disk; of a partial model, of the files fetched so far."""
    download_bytes: int | None
    kept_bytes: int
    """Size of downloaded files that are kept, of a partial or of an installed model."""
    source: str
    title: str
    path: str | None
    problem: str | None
    """Reason why it cannot be used."""
    code: str | None
    """Code of that error."""


def list_models(models: Path, own: Mapping[str, KnownModel]) -> list[ListedModel]:
    """List the embedded models, then installed ones, then those that can be fetched.

    Args:
        models: the directory of installed models.
        own: models that the settings add to the known ones.

    Raises:
        ConfigError: the directory cannot be read.
    """
    known = known_models(own)
    found = {each.name: each for each in list_installed(models)}
    kept = {name: fetched_bytes(models, name) for name in list_downloads(models)}
    embedded = (Installed(name, path, open_bundle(path)) for name, path in EMBEDDED.items())
    return [
        *(_row(each, None, "embedded") for each in embedded),
        *(
            _row(each, known.get(name), "installed", kept.get(name, 0))
            for name, each in found.items()
        ),
        *(
            _known_row(name, known.get(name), kept.get(name, 0))
            for name in dict.fromkeys([*known, *kept])
            if name not in found
        ),
    ]


def _row(each: Installed, known: KnownModel | None, state: str, kept_bytes: int = 0) -> ListedModel:
    bundle = each.bundle
    family = bundle.family.name if bundle else (known.family or "" if known else "")
    return ListedModel(
        name=each.name,
        state=state if bundle else "broken",
        role=role_of(family),
        family=family,
        parameters=(known.parameters if known else "") or _parameters(bundle),
        precision=_precision(bundle),
        languages=(bundle.languages if bundle else None) or (known.languages if known else None),
        licence=spdx((bundle.licence if bundle else None) or (known.licence if known else "")),
        n_bytes=each.n_bytes,
        download_bytes=known.size if known else None,
        kept_bytes=kept_bytes,
        source=each.source or (known.source if known else ""),
        title=known.title if known else "",
        path=str(each.directory),
        problem=each.problem,
        code=each.code,
    )


def _known_row(name: str, model: KnownModel | None, kept_bytes: int) -> ListedModel:
    """Describe a model that is not installed; it is unknown if the settings dropped it."""
    return ListedModel(
        name=name,
        state="partial" if kept_bytes else "known",
        role=role_of(model.family if model else None),
        family=(model.family if model else None) or "",
        parameters=model.parameters if model else "",
        precision="",
        languages=(model.languages if model else None) or None,
        licence=spdx(model.licence if model else ""),
        n_bytes=kept_bytes or None,
        download_bytes=model.size if model else None,
        kept_bytes=kept_bytes,
        source=model.source if model else "",
        title=model.title if model else "",
        path=None,
        problem=None,
        code=None,
    )


def role_of(family: str | None) -> str:
    """Return the task of a family's models; empty if the family is not known."""
    return find_family(family).role.value if family in family_names() else ""


def suggested(role: Role) -> str:
    """Return the name of the first known model with a task."""
    return next(name for name, model in built_in().items() if role_of(model.family) == role)


def _parameters(bundle: Bundle | None) -> str:
    """Return the number of weights that the description of a model states."""
    number = bundle.facts.get("parameters") if bundle else None
    is_number = isinstance(number, int) and not isinstance(number, bool) and number > 0
    return count_text(number) if number and is_number else ""


def count_text(number: int) -> str:
    """Return a number of weights in the form used in names of models: 0.6B, 5M."""
    if number >= _HALF_A_BILLION:
        return f"{number / 1e9:.1f}B"
    return f"{number / 1e6:.0f}M" if number >= _A_MILLION else f"{number / 1e6:.1g}M"


_HALF_A_BILLION: Final = 500_000_000
_A_MILLION: Final = 1_000_000

_LICENCES: Final = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC-BY-4.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "GPL-3.0",
    "MIT",
    "MPL-2.0",
)


def spdx(licence: str) -> str:
    """Return a licence in the spelling of SPDX; hubs write it in lower case."""
    return next((name for name in _LICENCES if name.casefold() == licence.casefold()), licence)


def _precision(bundle: Bundle | None) -> str:
    """Return the precision of encoder and decoder: fp32/q8_0."""
    parts = bundle.precision if bundle else {}
    return "/".join(parts[part] for part in ("encoder", "decoder") if part in parts)


def described(row: ListedModel) -> dict[str, Any]:
    """Return a model as `models list --json` prints it."""
    return {
        "name": row.name,
        "state": row.state,
        "role": row.role or None,
        "family": row.family or None,
        "title": row.title or None,
        "parameters": row.parameters or None,
        "precision": row.precision or None,
        "languages": row.languages,
        "licence": row.licence or None,
        "bytes": row.n_bytes,
        "download_bytes": row.download_bytes,
        "kept_bytes": row.kept_bytes or None,
        "source": row.source or None,
        "path": row.path,
        "problem": row.problem,
        "code": row.code,
    }
