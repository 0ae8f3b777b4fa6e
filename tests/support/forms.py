"""Published forms of a model and the expected accuracy of each, shared by the tests of forms."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.importing.options import ImportOptions
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.sources.crispasr import write_crispasr
from tests.sources.ggml_org import write_ggml_org
from tests.sources.onnx_release import pack, write_onnx_release
from tests.sources.safetensors import write_safetensors
from tests.sources.transcribe_cpp import write_transcribe_cpp
from tests.support.greedy import MAX_NEW_TOKENS, GreedyDecoder

EXACT: Final = 0.9999
"""Least cosine of encoder outputs that differ only in rounding."""
NARROW: Final = 0.999
"""Least cosine for weights of 8 or 16 bits."""
LOSSY: Final = 0.9
"""Least cosine for weights of 4 bits."""
RECOGNISER: Final = ("recogniser",)
"""Families of the forms in which aligners are not published."""

Write = Callable[[Path, Path], Path]
"""Function that writes a checkpoint in a form to a new directory and returns the source's path."""


@dataclass(frozen=True, slots=True)
class Form:
    """Published form of a model."""

    write: Write
    cosine: float
    """Least cosine of its encoder's output with that of the checkpoint."""
    is_greedy_exact: bool = False
    """Whether its decoder has at least f16, so that greedy answers are equal."""
    families: tuple[str, ...] = ("recogniser", "aligner")
    options: ImportOptions = field(default_factory=ImportOptions)
    has_head: bool = True
    """False for a form that holds no head besides the embeddings."""


def _zipped(folder: str | None) -> Write:
    def write(checkpoint: Path, directory: Path) -> Path:
        release = write_onnx_release(checkpoint, directory / "files", "fp16", "f16", infix=False)
        return pack(release, directory / "release.zip", folder)

    return write


FORMS: Final[dict[str, Form]] = {
    "onnx fp32, f16": Form(
        lambda source, to: write_onnx_release(source, to, "fp32", "f16"), EXACT, True
    ),
    "onnx fp16, q5_k": Form(
        lambda source, to: write_onnx_release(source, to, "fp16", "q5_k"), NARROW
    ),
    "onnx int8, q8_0": Form(
        lambda source, to: write_onnx_release(source, to, "int8", "q8_0"), NARROW
    ),
    "onnx int4, q4_k": Form(
        lambda source, to: write_onnx_release(source, to, "int4", "q4_k"), LOSSY
    ),
    "onnx zip, flat": Form(_zipped(None), NARROW, True),
    "onnx zip, folder": Form(_zipped("Qwen3-ASR-1.7B"), NARROW, True),
    "crispasr f16": Form(lambda source, to: write_crispasr(source, _file(to), "f16"), EXACT, True),
    "crispasr f16, no mel": Form(
        lambda source, to: write_crispasr(source, _file(to), "f16", mel=False), EXACT, True
    ),
    "crispasr q8_0": Form(lambda source, to: write_crispasr(source, _file(to), "q8_0"), NARROW),
    "crispasr q4_k": Form(lambda source, to: write_crispasr(source, _file(to), "q4_k"), NARROW),
    "crispasr q5_0": Form(lambda source, to: write_crispasr(source, _file(to), "q5_0"), NARROW),
    "crispasr q3_k": Form(lambda source, to: write_crispasr(source, _file(to), "q3_k"), NARROW),
    "ggml-org f16": Form(
        lambda source, to: write_ggml_org(source, to, "f16", "f16"), EXACT, True, RECOGNISER
    ),
    "ggml-org bf16": Form(
        lambda source, to: write_ggml_org(source, to, "bf16", "bf16"),
        NARROW,
        False,
        RECOGNISER,
    ),
    "ggml-org q8_0": Form(
        lambda source, to: write_ggml_org(source, to, "q8_0", "q8_0"),
        NARROW,
        False,
        RECOGNISER,
    ),
    "transcribe.cpp f16": Form(
        lambda source, to: write_transcribe_cpp(source, _file(to), "f16"),
        EXACT,
        True,
        RECOGNISER,
        has_head=False,
    ),
    "transcribe.cpp bf16": Form(
        lambda source, to: write_transcribe_cpp(source, _file(to), "bf16"),
        NARROW,
        False,
        RECOGNISER,
        has_head=False,
    ),
    "transcribe.cpp q8_0": Form(
        lambda source, to: write_transcribe_cpp(source, _file(to), "q8_0"),
        NARROW,
        False,
        RECOGNISER,
        has_head=False,
    ),
    "transcribe.cpp q4_k_m": Form(
        lambda source, to: write_transcribe_cpp(source, _file(to), "q4_k_m"),
        LOSSY,
        False,
        RECOGNISER,
        has_head=False,
    ),
    "safetensors f16": Form(
        lambda source, to: write_safetensors(source, to, "original", "F16", 3),
        EXACT,
        True,
        options=ImportOptions(decoder="f16"),
    ),
    "safetensors bf16": Form(
        lambda source, to: write_safetensors(source, to, "native", "BF16"), NARROW
    ),
}


def _file(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory / "model.gguf"


class Recogniser(GreedyDecoder):
    """Recogniser in a bundle whose encoder and decoder are called directly."""

    def __init__(self, bundle: Path, n_threads: int = 1) -> None:
        self.encoder = Qwen3Encoder.from_bundle(bundle, OnnxOptions(threads=n_threads))
        super().__init__(bundle, n_ctx=1024, n_threads=n_threads)

    def greedy(self, embeddings: Float32Array, n_tokens: int = MAX_NEW_TOKENS) -> tuple[int, ...]:
        """Decode the most likely answer without language, context and end token."""
        return self.decode(embeddings, n_tokens=n_tokens).tokens


def cosine(ours: Float32Array, theirs: Float32Array) -> float:
    """Return the cosine of two arrays, each as one vector."""
    assert ours.shape == theirs.shape
    one, other = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
