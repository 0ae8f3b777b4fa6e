"""Published forms of Paraformer and the expected accuracy of each, shared by the tests of forms."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.importing.options import ImportOptions
from streamasr.models.onnx import OnnxOptions, OnnxSession, open_any
from tests.sources.paraformer.gguf_files import write_crispasr, write_funasr
from tests.sources.paraformer.onnx_export import write_funasr_export, write_sherpa_export
from tests.sources.paraformer.original import write_original
from tests.sources.paraformer.weights import N_FEATURES, Sizes, Weights
from tests.support.paths import DATA

EXACT: Final = 0.999999
"""Least cosine of outputs that differ only in rounding."""
HALF: Final = 0.9999
"""Least cosine for weights of 16 bits."""
BYTES: Final = 0.99
"""Least cosine for weights of 8 bits."""
LOSSY: Final = 0.9
"""Least cosine for weights of 4 bits."""

GOLDEN: Final = DATA / "golden_paraformer_forms.npz"
GOLDEN_SIZES: Final = Sizes(
    d_model=256, ffn=256, blocks=2, decoder_ffn=256, layers=1, vocab=60
)  # rows of whole q4_k blocks
GOLDEN_ROWS: Final = 24

Write = Callable[[Weights, Path], Path]
"""Function that writes weights in a form into a new folder and returns the source's path."""


@dataclass(frozen=True, slots=True)
class Form:
    """Published form of the model."""

    write: Write
    cosine: float
    """Least cosine of its outputs with those of the weights."""
    has_head: bool = True
    """Whether the time head is in the form."""
    is_whole: bool = False
    """Whether it is one graph, used unchanged."""
    has_hotwords: bool = False
    options: ImportOptions = field(default_factory=ImportOptions)


_INT8 = ImportOptions(encoder="int8")

FORMS: Final[dict[str, Form]] = {
    "original": Form(write_original, EXACT),
    "original f16": Form(lambda w, to: write_original(w, to, "F16"), HALF),
    "original bf16": Form(lambda w, to: write_original(w, to, "BF16"), BYTES),
    "original to int8": Form(write_original, BYTES, options=_INT8),
    "original of SeACo": Form(write_original, EXACT, has_hotwords=True),
    "funasr export": Form(write_funasr_export, EXACT, is_whole=True),
    "funasr export int8": Form(
        lambda w, to: write_funasr_export(w, to, ("int8",)), BYTES, is_whole=True
    ),
    "funasr export of SeACo": Form(write_funasr_export, EXACT, is_whole=True, has_hotwords=True),
    "funasr export of SeACo int8": Form(
        lambda w, to: write_funasr_export(w, to, ("int8",)),
        BYTES,
        is_whole=True,
        has_hotwords=True,
    ),
    "sherpa-onnx": Form(write_sherpa_export, EXACT, is_whole=True),
    "sherpa-onnx int8": Form(
        lambda w, to: write_sherpa_export(w, to, ("int8",)), BYTES, is_whole=True
    ),
    "crispasr f16": Form(
        lambda w, to: write_crispasr(w, to / "p-f16.gguf", "f16"), HALF, has_head=False
    ),
    "crispasr q8_0": Form(
        lambda w, to: write_crispasr(w, to / "p-q8_0.gguf", "q8_0"), BYTES, has_head=False
    ),
    "crispasr q4_k": Form(
        lambda w, to: write_crispasr(w, to / "p-q4_k.gguf", "q4_k"), LOSSY, has_head=False
    ),
    "funasr gguf f32": Form(lambda w, to: write_funasr(w, to / "paraformer.gguf"), EXACT),
    "funasr gguf f16": Form(lambda w, to: write_funasr(w, to / "paraformer-f16.gguf", "f16"), HALF),
    "funasr gguf q8": Form(lambda w, to: write_funasr(w, to / "paraformer-q8.gguf", "q8"), BYTES),
}


def weights_of(form: Form, sizes: Sizes) -> Weights:
    """Return random weights for a form: with a time head and hotwords if the form has them."""
    head = "cnn_blstm" if form.has_head else None
    return Weights(replace(sizes, head=head, has_hotwords=form.has_hotwords))


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a bundle's graphs for some features."""

    logits: Float32Array
    """(tokens, vocab); of a whole graph log-probabilities."""
    encoded: Float32Array | None = None
    alphas: Float32Array | None = None
    time_alphas: Float32Array | None = None


def run_parts(bundle: Path, features: Float32Array, acoustic: Float32Array) -> Outputs:
    """Run both graphs.

    Args:
        bundle: the model directory.
        features: (rows, N_FEATURES), normalised.
        acoustic: (tokens, d_model), input of the decoder.
    """
    encoder = _open(bundle / "encoder.onnx")
    found = {name: encoder.run(name, features=features[None])[0] for name in encoder.outputs}
    decoder = _open(bundle / "decoder.onnx")
    logits = decoder.run("logits", encoded=found["encoded"][None], acoustic=acoustic[None])[0]
    return Outputs(logits, found["encoded"], found["alphas"], found.get("time_alphas"))


def run_whole(bundle: Path, features: Float32Array, bias: Float32Array | None = None) -> Outputs:
    """Run the graph of the whole model.

    Args:
        bundle: the model directory.
        features: (rows, N_FEATURES), normalised.
        bias: (1, hotwords, d_model), if the graph takes it.
    """
    session = _open(bundle / "model.onnx")
    given = {"speech": features[None], "speech_lengths": np.array([len(features)])}
    if bias is not None:
        given["bias_embed"] = bias
    return Outputs(session.run("logits", **given)[0])


def _open(path: Path) -> OnnxSession:
    return open_any(path, OnnxOptions(threads=1))


def features_of(n_rows: int, seed: int) -> Float32Array:
    """Return features like those after normalisation: mean 0, variance 1."""
    return np.random.default_rng(seed).normal(size=(n_rows, N_FEATURES)).astype(np.float32)


def log_softmax(logits: Float32Array) -> Float32Array:
    """Return log-probabilities."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
