"""The encoder process: samples in, embeddings out."""

from collections.abc import Callable

from streamasr.config import EncoderConfig
from streamasr.units import Float32Array
from streamasr.workers.process import Worker

EncoderWorker = Worker[EncoderConfig, Float32Array, Float32Array]


def encoder_worker(config: EncoderConfig) -> EncoderWorker:
    """The parent's end of an encoder process; `start` it."""
    return Worker("encoder", build_encoder, config)


def build_encoder(config: EncoderConfig) -> Callable[[Float32Array], Float32Array]:
    """In the child: load the encoder of a bundle.

    Returns:
        From (n,) samples to (n_tokens, n_embd) embeddings.
    """
    from streamasr.models.onnx import OnnxOptions
    from streamasr.models.qwen3_encoder import Qwen3Encoder

    options = OnnxOptions(providers=config.providers, threads=config.threads)
    return Qwen3Encoder.from_bundle(config.bundle, options).encode
