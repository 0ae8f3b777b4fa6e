"""Writers of both GGUFs of Paraformer: CrispASR's, and FunASR's own.

Source: `shared/reference/paraformer.md`, sections 9 and 10.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.sources.gguf_file import Entry, fits, write_gguf
from tests.sources.paraformer.weights import Float32Array, Weights, cmvn, token_list

CrispTypes = Literal["f16", "q8_0", "q4_k"]
FunTypes = Literal["f32", "f16", "q8"]

_NARROW: Final = {"f16": Type.F16, "q8_0": Type.Q8_0, "q4_k": Type.Q4_K}
_WIDER: Final = {Type.Q4_K: Type.Q4_0, Type.Q4_0: Type.F16, Type.Q8_0: Type.F16}
"""Types for rows that are not a multiple of the block; full-size rows are, but those of 560."""

_RENAMES: Final = (
    (r"encoder\.encoders0\.", "enc0.blk."),
    (r"encoder\.encoders\.", "enc.blk."),
    (r"encoder\.after_norm", "enc.after_norm"),
    (r"decoder\.decoders3\.0\.", "dec.post."),
    (r"decoder\.decoders\.", "dec.blk."),
    (r"decoder\.after_norm", "dec.after_norm"),
    (r"decoder\.output_layer", "dec.output"),
    (r"decoder\.embed\.0", "dec.embed"),
    (r"predictor\.cif_conv1d", "cif.conv"),
    (r"predictor\.cif_output", "cif.out"),
    (r"(enc.*)self_attn\.linear_q_k_v", r"\1attn.qkv"),
    (r"(enc.*)self_attn\.linear_out", r"\1attn.out"),
    (r"(enc.*)self_attn\.fsmn_block", r"\1attn.fsmn"),
    (r"self_attn\.fsmn_block", "fsmn"),
    (r"src_attn\.linear_q$", "cross.q"),
    (r"src_attn\.linear_k_v$", "cross.kv"),
    (r"src_attn\.linear_out$", "cross.out"),
    (r"feed_forward\.w_1", "ffn.l1"),
    (r"feed_forward\.w_2", "ffn.l2"),
    (r"feed_forward\.norm", "ffn.norm"),
)
"""FunASR's names, and CrispASR's; applied in this order to names without `.weight` and `.bias`."""


def write_crispasr(weights: Weights, path: Path, types: CrispTypes = "f16") -> Path:
    """Write CrispASR's GGUF; it has no time head and no hotwords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = weights.sizes
    writer = gguf.GGUFWriter(path, "paraformer")
    writer.add_name("Paraformer-zh")
    for key, value in {
        "n_mels": 80,
        "lfr_m": 7,
        "lfr_n": 6,
        "sample_rate": 16000,
        "frame_length_ms": 25,
        "frame_shift_ms": 10,
        "d_model": sizes.d_model,
        "n_heads": sizes.heads,
        "ffn_dim": sizes.ffn,
        "n_enc_blocks0": 1,
        "n_enc_blocks": sizes.blocks - 1,
        "sanm_kernel": sizes.kernel,
        "n_dec_blocks": sizes.layers,
        "dec_ffn_dim": sizes.decoder_ffn,
        "cif_conv_kernel": 3,
        "vocab_size": sizes.vocab,
    }.items():
        writer.add_uint32(f"paraformer.{key}", value)
    writer.add_array("tokenizer.tokens", token_list(sizes.vocab))
    shift, scale = cmvn()
    entries = [
        Entry("paraformer.cmvn_shift", shift.shape, Type.F32, lambda: shift),
        Entry("paraformer.cmvn_scale", scale.shape, Type.F32, lambda: scale),
        *_crispasr_entries(weights, types),
    ]
    write_gguf(writer, path, entries)
    return path


def _crispasr_entries(weights: Weights, types: CrispTypes) -> Iterator[Entry]:
    left_out = re.compile(
        r"predictor\.(upsample|blstm|cif_output2)|bias_|seaco|hotword|decoder\.decoders2"
    )
    for name, shape in weights.shapes.items():
        if left_out.match(name):
            continue
        stem, _, kind = name.rpartition(".")
        for pattern, replacement in _RENAMES:
            stem = re.sub(pattern, replacement, stem)
        named = f"paraformer.{stem}.{kind[0]}"
        stored = (shape[0], shape[2]) if "fsmn" in name else shape
        # The quantiser is written in C, where a matrix of one row is a vector.
        if types != "f16" and len(stored) > 1 and stored[0] == 1:
            stored = stored[1:]
        yield Entry(
            named,
            stored,
            _crispasr_type(named, stored, types),
            partial(_reshaped, weights, name, stored),
        )


def _crispasr_type(name: str, shape: tuple[int, ...], types: CrispTypes) -> Type:
    if name.endswith(".b") or "norm" in name:
        return Type.F32
    if len(shape) != 2 or name.endswith("cif.out.w"):
        return Type.F16
    kind = _NARROW[types]
    while not fits(shape, kind):
        kind = _WIDER[kind]
    return kind


def write_funasr(
    weights: Weights, path: Path, types: FunTypes = "f32", *, has_tokens: bool = True
) -> Path:
    """Write FunASR's own GGUF: the checkpoint's names, without the decoder's embeddings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = weights.sizes
    writer = gguf.GGUFWriter(path, "paraformer")
    for key, value in {
        "enc.output_size": sizes.d_model,
        "enc.attention_heads": sizes.heads,
        "enc.num_blocks": sizes.blocks,
        "enc.kernel_size": sizes.kernel,
        "dec.num_blocks": sizes.layers + sizes.layers_without_attention,
        "dec.att_layer_num": sizes.layers,
        "dec.decoders3": 1,
        "dec.attention_heads": sizes.heads,
        "dec.kernel_size": sizes.decoder_kernel,
        "vocab_size": sizes.vocab,
    }.items():
        writer.add_uint32(f"pf.{key}", value)
    writer.add_float32("pf.predictor.threshold", 1.0)
    writer.add_float32("pf.predictor.tail_threshold", 0.45)
    if has_tokens:
        writer.add_array("pf.vocab", token_list(sizes.vocab))
    shift, scale = cmvn()
    entries = [
        Entry("cmvn.shift", shift.shape, Type.F32, lambda: shift),
        Entry("cmvn.scale", scale.shape, Type.F32, lambda: scale),
        *_funasr_entries(weights, types),
    ]
    write_gguf(writer, path, entries)
    return path


def _funasr_entries(weights: Weights, types: FunTypes) -> Iterator[Entry]:
    kind = {"f32": Type.F32, "f16": Type.F16, "q8": Type.Q8_0}[types]
    for name, shape in weights.shapes.items():
        if not name.startswith(("encoder.", "decoder.", "predictor.")) or ".embed." in name:
            continue
        if "fsmn_block" in name:
            stored: tuple[int, ...] = (shape[2], shape[0])
            yield Entry(name, stored, Type.F32, partial(_transposed, weights, name))
            continue
        is_matrix = len(shape) == 2 and not name.startswith("predictor.")
        chosen = kind if is_matrix and fits(shape, kind) else Type.F32
        yield Entry(name, shape, chosen, partial(weights.read, name))


def _reshaped(weights: Weights, name: str, shape: tuple[int, ...]) -> Float32Array:
    return weights.read(name).reshape(shape)


def _transposed(weights: Weights, name: str) -> Float32Array:
    return np.ascontiguousarray(weights.read(name)[:, 0].T)
