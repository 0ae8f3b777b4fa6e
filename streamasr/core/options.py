"""Options of a session, the same in every stage from session to model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """Options of a client that hold from the next segment on.

    They travel unchanged through session, journal and order to the model family, and only the
    family makes a prompt of them. The chunker uses `endpoint_ms`, `endpoint_by_client` and
    `onset_padding_ms`.
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
    """Segments end where the client says, or at the greatest length; never at a silence."""
    onset_padding_ms: int | None = None
    """Audio kept before speech, in milliseconds; None for the operator's pre-roll."""
    itn: bool = False
    """Write numbers in digits (inverse text normalisation)."""
    punctuation: bool = True
