"""The list of model families: a new one is a folder in `models/` and a line here."""

from typing import Final

from streamasr.core.errors import ModelError
from streamasr.models.ct_punc.family import CT_PUNC
from streamasr.models.family import Family, Role
from streamasr.models.paraformer.family import PARAFORMER
from streamasr.models.qwen3.family import QWEN3_ASR, QWEN3_FORCED_ALIGNER

_FAMILIES: Final = {
    family.name: family for family in (QWEN3_ASR, QWEN3_FORCED_ALIGNER, PARAFORMER, CT_PUNC)
}


def register(family: Family) -> None:
    """Add a family that is not part of the package.

    Raises:
        ValueError: a different family is registered under the same name.
    """
    if _FAMILIES.setdefault(family.name, family) is not family:
        raise ValueError(f"a model family named {family.name} is registered already")


def unregister(family: Family) -> None:
    """Remove a family that `register` added."""
    del _FAMILIES[family.name]


def family_names(role: Role | None = None) -> tuple[str, ...]:
    """Return the names of all families, or of those with a role."""
    return tuple(name for name, each in _FAMILIES.items() if role in (None, each.role))


def find_family(name: str) -> Family:
    """Return the family of a name.

    Raises:
        ModelError: no family has this name.
    """
    if family := _FAMILIES.get(name):
        return family
    known = ", ".join(_FAMILIES)
    raise ModelError(
        f"unknown model family {name!r}; this streamasr knows {known}.", code="unknown_family"
    )
