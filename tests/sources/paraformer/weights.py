"""Paraformer models of any size with random weights, tensor by tensor, by FunASR's names."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
_Shapes = Iterator[tuple[str, tuple[int, ...]]]

N_FEATURES: Final = 560
SEACO_LAYERS: Final = 4
SEACO_KERNEL: Final = 21
_FIRST_HANZI: Final = 0x4E00
_MOST_HANZI: Final = 6000


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a model; the defaults are the smallest that exercise everything."""

    d_model: int = 32
    heads: int = 4
    ffn: int = 48
    blocks: int = 3
    kernel: int = 11
    shift: int = 0
    decoder_ffn: int = 40
    layers: int = 2
    layers_without_attention: int = 0
    decoder_kernel: int = 11
    decoder_shift: int = 0
    vocab: int = 50
    left: int = 1
    right: int = 1
    smooth: float = 1.0
    noise: float = 0.0
    head: str | None = None
    """Type of the time head: `cnn`, `cnn_blstm`, or None."""
    is_after_convolution: bool = False
    """Whether the time head reads the convolved rows instead of the encoder's."""
    upsampling: int = 3
    has_hotwords: bool = False
    """Whether it is a SeACo-Paraformer."""

    def config(self) -> dict[str, Any]:
        """Return the sections of `config.yaml` that describe the model."""
        predictor: dict[str, Any] = {
            "idim": self.d_model,
            "threshold": 1.0,
            "l_order": self.left,
            "r_order": self.right,
            "tail_threshold": 0.45,
            "smooth_factor": self.smooth,
            "noise_threshold": self.noise,
        }
        if self.head:
            predictor |= {
                "smooth_factor2": 0.25,
                "noise_threshold2": 0.01,
                "upsample_times": self.upsampling,
                "upsample_type": self.head,
                "use_cif1_cnn": self.is_after_convolution,
            }
        name = "BiCifParaformer" if self.head else "Paraformer"
        return {
            "model": "SeacoParaformer" if self.has_hotwords else name,
            "model_conf": {"ctc_weight": 0.0, "predictor_bias": 1, "lsm_weight": 0.1},
            "encoder": "SANMEncoder",
            "encoder_conf": {
                "output_size": self.d_model,
                "attention_heads": self.heads,
                "linear_units": self.ffn,
                "num_blocks": self.blocks,
                "input_layer": "pe",
                "kernel_size": self.kernel,
                "sanm_shfit": self.shift,
                "selfattention_layer_type": "sanm",
                "normalize_before": True,
            },
            "decoder": "ParaformerSANMDecoder",
            "decoder_conf": {
                "attention_heads": self.heads,
                "linear_units": self.decoder_ffn,
                "num_blocks": self.layers + self.layers_without_attention,
                "att_layer_num": self.layers,
                "kernel_size": self.decoder_kernel,
                "sanm_shfit": self.decoder_shift,
            },
            "predictor": "CifPredictorV3" if self.head else "CifPredictorV2",
            "predictor_conf": predictor,
        }


RELEASED: Final = Sizes(
    d_model=512,
    ffn=2048,
    blocks=50,
    decoder_ffn=2048,
    layers=16,
    vocab=8404,
)
"""Sizes of the released models, without a time head."""


class Weights:
    """Random weights, so large that every stage contributes; each is generated when it is read."""

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        self.sizes = sizes
        self.shapes = dict(tensor_shapes(sizes))
        self._seed = seed

    def read(self, name: str) -> Float32Array:
        """Return a tensor, the same on every call."""
        shape = self.shapes[name]
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        noise = rng.standard_normal(shape, np.float32)
        is_norm = "norm" in name
        if "weight" in name.rpartition(".")[2] and not is_norm:
            fan = int(np.prod(shape[1:]))
            return np.asarray(noise * np.float32(1.5 / fan**0.5))
        return np.asarray((1 if name.endswith("weight") else 0) + np.float32(0.2) * noise)


def tensor_shapes(sizes: Sizes) -> _Shapes:
    """Yield all tensors of the checkpoint in the order of FunASR's modules."""
    yield from _encoder_shapes(sizes)
    yield "decoder.embed.0.weight", (sizes.vocab, sizes.d_model)
    yield from _both("decoder.after_norm", sizes.d_model)
    yield from _both("decoder.output_layer", sizes.vocab, sizes.d_model)
    n_layers = sizes.layers, sizes.layers_without_attention
    yield from _decoder_shapes(
        "decoder", sizes, n_layers, ffn=sizes.decoder_ffn, kernel=sizes.decoder_kernel
    )
    yield from _predictor_shapes(sizes)
    if sizes.has_hotwords:
        yield from _hotword_shapes(sizes)


def _encoder_shapes(sizes: Sizes) -> _Shapes:
    width = sizes.d_model
    blocks = [("encoder.encoders0.0", N_FEATURES)]
    blocks += [(f"encoder.encoders.{number}", width) for number in range(sizes.blocks - 1)]
    for prefix, inputs in blocks:
        yield from _both(f"{prefix}.self_attn.linear_out", width, width)
        yield from _both(f"{prefix}.self_attn.linear_q_k_v", 3 * width, inputs)
        yield f"{prefix}.self_attn.fsmn_block.weight", (width, 1, sizes.kernel)
        yield from _both(f"{prefix}.feed_forward.w_1", sizes.ffn, width)
        yield from _both(f"{prefix}.feed_forward.w_2", width, sizes.ffn)
        yield from _both(f"{prefix}.norm1", inputs)
        yield from _both(f"{prefix}.norm2", width)
    yield from _both("encoder.after_norm", width)


def _decoder_shapes(
    prefix: str, sizes: Sizes, layers: tuple[int, int], *, ffn: int, kernel: int
) -> _Shapes:
    """Yield a decoder's tensors; `layers` with and without attention."""
    width = sizes.d_model
    names = [f"{prefix}.decoders.{number}" for number in range(layers[0])]
    names += [f"{prefix}.decoders2.{number}" for number in range(layers[1])]
    for name in [*names, f"{prefix}.decoders3.0"]:
        yield from _both(f"{name}.norm1", width)
        yield from _both(f"{name}.feed_forward.w_1", ffn, width)
        yield f"{name}.feed_forward.w_2.weight", (width, ffn)
        yield from _both(f"{name}.feed_forward.norm", ffn)
        if "decoders3" in name:
            continue
        yield f"{name}.self_attn.fsmn_block.weight", (width, 1, kernel)
        yield from _both(f"{name}.norm2", width)
        if "decoders2" not in name:
            yield from _both(f"{name}.norm3", width)
            yield from _both(f"{name}.src_attn.linear_q", width, width)
            yield from _both(f"{name}.src_attn.linear_k_v", 2 * width, width)
            yield from _both(f"{name}.src_attn.linear_out", width, width)


def _predictor_shapes(sizes: Sizes) -> _Shapes:
    width = sizes.d_model
    yield from _both("predictor.cif_conv1d", width, width, sizes.left + 1 + sizes.right)
    yield from _both("predictor.cif_output", 1, width)
    if sizes.head is None:
        return
    yield from _both("predictor.upsample_cnn", width, width, sizes.upsampling)
    if sizes.head == "cnn_blstm":
        yield from _lstm_shapes("predictor.blstm", width, 0, "", "_reverse")
    yield from _both("predictor.cif_output2", 1, (2 if sizes.head == "cnn_blstm" else 1) * width)


def _hotword_shapes(sizes: Sizes) -> _Shapes:
    width = sizes.d_model
    for layer in range(2):
        yield from _lstm_shapes("bias_encoder", width, layer, "")
    yield from _both("seaco_decoder.after_norm", width)
    yield from _decoder_shapes(
        "seaco_decoder", sizes, (SEACO_LAYERS, 0), ffn=2 * width, kernel=SEACO_KERNEL
    )
    yield from _both("hotword_output_layer", sizes.vocab, width)


def _lstm_shapes(prefix: str, width: int, layer: int, *suffixes: str) -> _Shapes:
    for suffix in suffixes:
        yield f"{prefix}.weight_ih_l{layer}{suffix}", (4 * width, width)
        yield f"{prefix}.weight_hh_l{layer}{suffix}", (4 * width, width)
        yield f"{prefix}.bias_ih_l{layer}{suffix}", (4 * width,)
        yield f"{prefix}.bias_hh_l{layer}{suffix}", (4 * width,)


def _both(name: str, *shape: int) -> _Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def token_list(vocab: int) -> list[str]:
    """Return tokens like the released ones: special tokens, Hanzi, words, pieces of words."""
    n_hanzi = min(_MOST_HANZI, vocab // 2)
    tokens = ["<blank>", "<s>", "</s>", *(chr(_FIRST_HANZI + n) for n in range(n_hanzi))]
    words = ("".join(letters) for letters in product(ascii_lowercase, repeat=3))
    while len(tokens) < vocab - 1:
        word = next(words)
        tokens.append(f"{word}@@" if len(tokens) % 3 == 0 else word)
    return [*tokens, "<unk>"]


def cmvn() -> tuple[Float32Array, Float32Array]:
    """Return a shift and a scale like the released ones: minus the mean, and 1 / deviation."""
    rng = np.random.default_rng(5)
    shift = np.float32(-12) + rng.standard_normal(N_FEATURES, np.float32)
    return np.round(shift, 6), np.round(0.15 + 0.1 * rng.random(N_FEATURES, np.float32), 6)
