"""The families Qwen3-ASR and Qwen3-ForcedAligner, for the registry."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamasr.models.family import (
    DECODER_FILE,
    Aligner,
    Alignment,
    Decoder,
    DecoderConfig,
    DecoderPart,
    Encoder,
    Family,
    Recognition,
)
from streamasr.models.qwen3.languages import ALIGNER_LANGUAGES, LANGUAGES
from streamasr.models.qwen3.names import (
    ALIGNER,
    BACKEND_FILE,
    CLASSIFIER_FILE,
    FRONTEND_FILE,
    RECOGNISER,
)

if TYPE_CHECKING:
    from streamasr.decoder.placement import Placement
    from streamasr.models.bundle import Bundle
    from streamasr.models.onnx import OnnxOptions

_ENOUGH_BITS: Final = 8


def load_encoder(bundle: Path, options: "OnnxOptions", *, window_s: int | None) -> Encoder:
    """Load the audio encoder; see `LoadEncoder`."""
    from streamasr.models.qwen3.encoder import Qwen3Encoder
    from streamasr.models.qwen3.growing_encoder import GrowingEncoder

    return GrowingEncoder(Qwen3Encoder.from_bundle(bundle, options, window_s=window_s))


def load_decoder(bundle: "Bundle", config: DecoderConfig) -> Decoder:
    """Load the language model; see `DecoderPart`."""
    from streamasr.models.qwen3.decoder import Qwen3ASRDecoder

    return Qwen3ASRDecoder.from_bundle(bundle, config)


def n_cells(max_segment_s: float) -> int:
    """Return the positions of the decoder's context; see `DecoderPart`."""
    from streamasr.models.qwen3.decoder import context_cells

    return context_cells(max_segment_s)


def load_aligner(
    bundle: Path, options: "OnnxOptions", n_threads: int, placement: "Placement"
) -> Aligner:
    """Load the forced aligner; see `LoadAligner`."""
    from streamasr.models.qwen3.aligner import ForcedAligner

    return ForcedAligner(bundle, options, n_threads, placement)


def _recogniser_files(_: "Bundle") -> Sequence[str]:
    return FRONTEND_FILE, BACKEND_FILE, DECODER_FILE


def _aligner_files(_: "Bundle") -> Sequence[str]:
    return FRONTEND_FILE, BACKEND_FILE, DECODER_FILE, CLASSIFIER_FILE


def _recogniser_warning(bundle: "Bundle") -> str | None:
    return _bits_warning(bundle, "this family of models repeat itself, omit words or write nothing")


def _aligner_warning(bundle: "Bundle") -> str | None:
    return _bits_warning(bundle, "the times of words less exact")


def _bits_warning(bundle: "Bundle", harm: str) -> str | None:
    bits = bundle.encoder_bits
    if bits is None or bits >= _ENOUGH_BITS:
        return None
    return (
        f"the audio encoder of {bundle.name} has weights of {bits} bits, which make {harm}; use "
        "a model with an encoder of 8 bits or more (int8, fp16)."
    )


QWEN3_FORCED_ALIGNER: Final = Family(
    name=ALIGNER,
    title="Qwen3-ForcedAligner",
    languages=ALIGNER_LANGUAGES,
    files=_aligner_files,
    warning=_aligner_warning,
    alignment=Alignment(load=load_aligner),
)

QWEN3_ASR: Final = Family(
    name=RECOGNISER,
    title="Qwen3-ASR",
    languages=LANGUAGES,
    files=_recogniser_files,
    warning=_recogniser_warning,
    recognition=Recognition(
        load_encoder=load_encoder,
        decoder=DecoderPart(load=load_decoder, n_cells=n_cells),
        aligner=QWEN3_FORCED_ALIGNER.name,
    ),
)
