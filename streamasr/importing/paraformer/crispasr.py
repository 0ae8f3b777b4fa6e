"""Reader for CrispASR's GGUF of Paraformer: weights, normalisation and tokens in one file.

Names are its own, shapes are PyTorch's without axes of length 1. The time head and the hotwords are
not in the file. Its settings of CIF are not stored; they are those of all released models. The text
rules and positions of CrispASR's own runtime, which differ from FunASR's, do not matter here.
"""

import re
from collections.abc import Mapping
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.core.units import SAMPLE_RATE
from streamasr.features.cmvn import checked_cmvn
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor
from streamasr.importing.paraformer.checkpoint import (
    Checkpoint,
    Dimensions,
    Settings,
    check_tensors,
)
from streamasr.importing.paraformer.gguf_tensors import (
    as_convolution,
    as_matrix,
    check_stated,
    vector,
)
from streamasr.importing.paraformer.sidecars import (
    N_MELS,
    STEP,
    WINDOW,
    check_tokens,
    check_width,
    licence_of,
    stack_cmvn,
)

_PREFIX: Final = "paraformer."
MARK: Final = f"{_PREFIX}d_model"
"""Key that only this form has."""

_SHIFT, _SCALE = "paraformer.cmvn_shift", "paraformer.cmvn_scale"
_UNUSED: Final = re.compile(r"paraformer\.dec\.embed\.[wb]")

_BLOCKS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.ASCII), normal)
    for pattern, normal in {
        r"enc0\.blk\.(\d{1,4})": r"encoder.encoders0.\1",
        r"enc\.blk\.(\d{1,4})": r"encoder.encoders.\1",
        r"dec\.blk\.(\d{1,4})": r"decoder.decoders.\1",
        r"dec\.post": r"decoder.decoders3.0",
    }.items()
)
_PARTS: Final[Mapping[str, str]] = {
    "norm1": "norm1",
    "norm2": "norm2",
    "norm3": "norm3",
    "attn.qkv": "self_attn.linear_q_k_v",
    "attn.out": "self_attn.linear_out",
    "attn.fsmn": "self_attn.fsmn_block",
    "fsmn": "self_attn.fsmn_block",
    "cross.q": "src_attn.linear_q",
    "cross.kv": "src_attn.linear_k_v",
    "cross.out": "src_attn.linear_out",
    "ffn.l1": "feed_forward.w_1",
    "ffn.l2": "feed_forward.w_2",
    "ffn.norm": "feed_forward.norm",
}
_SINGLE: Final[Mapping[str, str]] = {
    "enc.after_norm": "encoder.after_norm",
    "cif.conv": "predictor.cif_conv1d",
    "cif.out": "predictor.cif_output",
    "dec.after_norm": "decoder.after_norm",
    "dec.output": "decoder.output_layer",
}
_KINDS: Final = {"w": "weight", "b": "bias"}


def read_crispasr(file: GGUFFile) -> Checkpoint:
    """Interpret CrispASR's GGUF.

    Raises:
        ModelError: a part is missing, contradictory or not supported.
    """
    _check_features(file)
    heads = file.integer(f"{_PREFIX}n_heads")
    settings = Settings(encoder_heads=heads, decoder_heads=heads)
    dimensions, tensors, notes = check_tensors(_normal_form(file), settings, file.path)
    _check_dimensions(file, dimensions)
    check_width(dimensions.n_features, WINDOW, STEP, file.path)
    tokens = tuple(file.texts("tokenizer.tokens"))
    check_tokens(tokens, dimensions.vocab, file.path)
    cmvn = checked_cmvn(vector(file, _SHIFT), vector(file, _SCALE))
    stacked = stack_cmvn(cmvn, dimensions.n_features, file.path)
    return Checkpoint(
        path=file.path,
        dimensions=dimensions,
        settings=settings,
        tensors=tensors,
        tokens=tokens,
        read_cmvn=lambda: stacked,
        licence=file.text("general.license") or licence_of(dimensions.vocab),
        notes=notes,
    )


def _check_features(file: GGUFFile) -> None:
    """Refuse a model trained on features other than ours."""
    for name, value in {
        "n_mels": N_MELS,
        "lfr_m": WINDOW,
        "lfr_n": STEP,
        "sample_rate": SAMPLE_RATE,
        "frame_length_ms": 25,
        "frame_shift_ms": 10,
    }.items():
        file.only(f"{_PREFIX}{name}", value)


def _check_dimensions(file: GGUFFile, sizes: Dimensions) -> None:
    """Refuse metadata that contradict the tensors.

    Raises:
        ModelError: a size is another one.
    """
    stated = {
        "d_model": sizes.d_model,
        "ffn_dim": sizes.encoder_ffn,
        "n_enc_blocks0": 1,
        "n_enc_blocks": sizes.n_encoders,
        "sanm_kernel": sizes.encoder_kernel,
        "n_dec_blocks": sizes.n_decoders,
        "dec_ffn_dim": sizes.decoder_ffn,
        "cif_conv_kernel": sizes.predictor_kernel,
        "vocab_size": sizes.vocab,
    }
    check_stated(file, {f"{_PREFIX}{name}": size for name, size in stated.items()})


def _normal_form(file: GGUFFile) -> dict[str, GGUFTensor]:
    normal: dict[str, GGUFTensor] = {}
    for name, tensor in file.tensors.items():
        if name in (_SHIFT, _SCALE) or _UNUSED.fullmatch(name):
            continue
        normal_name = _normal_name(name)
        if normal_name is None or normal_name in normal:
            raise ModelError(f"{file.path}: unexpected tensor {name}", code="tensor_unexpected")
        normal[normal_name] = _in_shape(normal_name, tensor)
    return normal


def _in_shape(normal_name: str, tensor: GGUFTensor) -> GGUFTensor:
    """Return a tensor with the axes of length 1 that PyTorch's has."""
    if normal_name.endswith("fsmn_block.weight"):
        return as_convolution(tensor)
    return as_matrix(tensor) if normal_name == "predictor.cif_output.weight" else tensor


def _normal_name(name: str) -> str | None:
    """Return the normal name; None for an unknown name."""
    stem, _, kind = name.removeprefix(_PREFIX).rpartition(".")
    if not name.startswith(_PREFIX) or kind not in _KINDS:
        return None
    if stem in _SINGLE:
        return f"{_SINGLE[stem]}.{_KINDS[kind]}"
    for pattern, prefix in _BLOCKS:
        found = pattern.match(stem)
        part = stem[found.end() + 1 :] if found else ""
        if found and part in _PARTS:
            return f"{found.expand(prefix)}.{_PARTS[part]}.{_KINDS[kind]}"
    return None
