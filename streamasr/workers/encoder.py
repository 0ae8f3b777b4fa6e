"""The encoder process: samples in, embeddings out."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from streamasr.config import EncoderConfig
from streamasr.units import Float32Array
from streamasr.workers.process import OnTrouble, Patience, Worker


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """What the encoder makes of samples."""

    embeddings: Float32Array
    """(n_tokens, n_embd)."""
    cost: float
    """Seconds that it took."""


EncoderWorker = Worker[EncoderConfig, Float32Array, Embedded]


def encoder_worker(
    config: EncoderConfig, patience: Patience, on_trouble: OnTrouble
) -> EncoderWorker:
    """The parent's end of an encoder process; `start` it."""
    return Worker("encoder", build_encoder, config, patience, on_trouble)


def build_encoder(config: EncoderConfig) -> Callable[[Float32Array], Embedded]:
    """In the child: load the encoder of a bundle.

    Returns:
        From (n,) samples to their embeddings.
    """
    from streamasr.models.onnx import OnnxOptions
    from streamasr.models.qwen3_encoder import Qwen3Encoder

    options = OnnxOptions(providers=config.providers, threads=config.threads)
    encoder = Qwen3Encoder.from_bundle(config.bundle, options)

    def encode(samples: Float32Array) -> Embedded:
        began = time.perf_counter()
        embeddings = encoder.encode(samples)
        return Embedded(embeddings, time.perf_counter() - began)

    return encode
