"""Facts about the loaded model that clients may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that a server recognises with."""

    name: str
    family: str
    """Name of its family, as in `streamasr.models.registry`."""
    languages: tuple[str, ...]
    """Names of the languages that it knows."""
