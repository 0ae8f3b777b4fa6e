"""Facts about the loaded model that clients may ask for."""

from dataclasses import dataclass

from streamasr.core.options import SessionOptions
from streamasr.core.requested_options import RequestedOptions


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that a server recognises with."""

    name: str
    family: str
    """Name of its family, as in `streamasr.models.registry`."""
    languages: tuple[str, ...]
    """Names of the languages that it knows."""
    ignores: frozenset[str] = frozenset()
    """Options that have no effect on it: fields of `RequestedOptions` and `SessionOptions`."""

    def about_ignored(self, options: SessionOptions | RequestedOptions) -> str | None:
        """Return a sentence about options that are given and have no effect; None without any."""
        given = [name for name in sorted(self.ignores) if getattr(options, name)]
        if not given:
            return None
        return f"{self.name} takes no {' and no '.join(given)}; what is given has no effect."
