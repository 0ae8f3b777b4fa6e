"""Requested properties of a model directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

EncoderWidth: TypeAlias = Literal["fp32", "fp16", "int8"]
DecoderWidth: TypeAlias = Literal["f32", "f16", "q8_0", "q4_k", "keep"]


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Requested properties of a model directory; None leaves the choice to the source."""

    encoder: EncoderWidth | None = None
    """Precision of converted graphs; by default fp16 if the source is quantised, else fp32."""
    decoder: DecoderWidth | None = None
    """Type of the decoder; by default the blocks of a GGUF are kept, and safetensors become
    q8_0."""
    name: str | None = None
    """Name of the model; by default that of the source."""
    licence: str | None = None
    """Licence, if the source does not state one."""
    languages: tuple[str, ...] | None = None
    """Languages, if the source does not list them."""
    provenance: Mapping[str, str] | None = None
    """Address from which the source was downloaded."""
    is_automatic: bool = False
    """Whether the user asked only to use the source, and not for an import."""


def recorded_options(options: ImportOptions) -> dict[str, Any]:
    """Return the options that a model directory records, for comparison with later requests."""
    return {"encoder": options.encoder, "decoder": options.decoder}
