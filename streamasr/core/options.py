"""Options of a session: what its client asked for, as every stage from session to model sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What the listeners of a session want, from the next segment on."""

    language: str | None = None
    """The model's name of the language to force; None lets it detect that of each segment."""
    context: str = ""
    """Names and terms that may come up; empty for none."""
    partials: bool = True
    words: bool = True
