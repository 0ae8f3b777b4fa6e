"""Options of a session: what its client asked for, as every stage from session to model sees it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Options that hold from the next segment on.

    They travel unchanged through session, journal and order to the model family, and only the
    family makes a prompt of them. The chunker takes the three of endpoint and onset.
    """

    language: str | None = None
    """The model's name of the language to force; None lets it detect that of each segment."""
    context: str = ""
    """Text that names and terms may be drawn from; empty for none."""
    partials: bool = True
    words: bool = True
    languages: tuple[str, ...] = ()
    """The model's names of the languages that it may choose among; empty for all."""
    hotwords: tuple[str, ...] = ()
    """Names and terms that are likely, one by one."""
    channel: int | None = None
    """Channel of the input, from 0; None mixes all of them."""
    endpoint_ms: int | None = None
    """Silence that ends a segment, in milliseconds; None for the operator's hangover."""
    endpoint_by_client: bool = False
    """Silence ends no segment, only the client does (or the greatest length)."""
    onset_padding_ms: int | None = None
    """Audio kept before speech, in milliseconds; None for the operator's pre-roll."""
    itn: bool = False
    """Numbers are written in digits (inverse text normalisation)."""
    punctuation: bool = True
