"""Reader for llama.cpp's pair of GGUFs: a text model, and the encoder as its `mmproj` file.

llama.cpp runs the text model unchanged. The other file, of architecture `clip` with the projector
`qwen3a`, provides the encoder's tensors. They have PyTorch's shapes, except for the biases of the
convolutions, which have two more axes; the table of positions is stored, too, but computed here.
The attention windows are not stated; llama.cpp hard-codes those of the released models.

Source: conversion/qwen3vl.py and tools/mtmd of llama.cpp, as in llama-cpp-python 0.3.36.
"""

import math
from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile
from streamasr.importing.gguf_kind import projector_type, unusable
from streamasr.importing.qwen3.checkpoint import (
    AudioDimensions,
    Checkpoint,
    check_dimensions,
    encoder_shapes,
    in_order,
)
from streamasr.importing.qwen3.gguf_names import PROJECTOR
from streamasr.importing.qwen3.gguf_text import read_text_model
from streamasr.models.qwen3.names import RECOGNISER

ARCHITECTURE: Final = "clip"
PROJECTOR_TYPE: Final = "qwen3a"

_POSITIONS: Final = "a.position_embd.weight"
_N_WINDOW: Final = 50  # frames
_N_WINDOW_INFER: Final = 800  # frames
_LAYER_NORM_EPS: Final = 1e-5  # PyTorch's default, used in the graphs


def read_projector(text: GGUFFile, projector: GGUFFile) -> Checkpoint:
    """Interpret a text GGUF and its `mmproj` GGUF as one recogniser.

    Raises:
        ModelError: a file holds another model, the files do not belong together, or a part is
            missing, contradictory or not supported.
    """
    text_dimensions, vocabulary = read_text_model(text)
    if projector.architecture != ARCHITECTURE or projector_type(projector) != PROJECTOR_TYPE:
        raise unusable(projector)
    audio = _audio_dimensions(projector)
    if audio.output_dim != text_dimensions.hidden:
        raise ModelError(
            f"{projector.path} produces embeddings of {audio.output_dim} values, but {text.path} "
            f"takes {text_dimensions.hidden}: the files belong to different models",
            code="encoder_decoder_widths",
        )
    check_dimensions(audio, text_dimensions, projector.path)
    squeezed = {name: tensor.squeezed() for name, tensor in projector.tensors.items()}
    _check_positions(projector, audio)
    tensors = PROJECTOR.normal_form(squeezed, projector.path, frozenset({_POSITIONS}))
    return Checkpoint(
        path=projector.path,
        family=RECOGNISER,
        audio=audio,
        text=text_dimensions,
        tensors=in_order(tensors, encoder_shapes(audio), projector.path),
        read_vocabulary=lambda: vocabulary,
        decoder_file=text.path,
        licence=text.text("general.license"),
    )


def _audio_dimensions(projector: GGUFFile) -> AudioDimensions:
    prefix = "clip.audio"
    eps = projector.metadata.get(f"{prefix}.attention.layer_norm_epsilon", _LAYER_NORM_EPS)
    if not isinstance(eps, float) or not math.isclose(eps, _LAYER_NORM_EPS, rel_tol=1e-3):
        raise ModelError(
            f"{projector.path}: {prefix}.attention.layer_norm_epsilon = {eps} is not supported; "
            f"only {_LAYER_NORM_EPS:g} is",
            code="setting_unsupported",
        )
    convolution = projector.tensors.get("a.conv2d.1.weight")
    if convolution is None or len(convolution.shape) != 4:
        raise ModelError(
            f"{projector.path}: tensor a.conv2d.1.weight is missing or not a 2D convolution",
            code="tensor_missing",
        )
    return AudioDimensions(
        n_mels=projector.integer(f"{prefix}.num_mel_bins"),
        channels=convolution.shape[0],
        d_model=projector.integer(f"{prefix}.embedding_length"),
        n_layers=PROJECTOR.n_layers(projector, f"{prefix}.block_count", "a.blk"),
        n_heads=projector.integer(f"{prefix}.attention.head_count"),
        ffn=projector.integer(f"{prefix}.feed_forward_length"),
        output_dim=projector.integer(f"{prefix}.projection_dim"),
        n_window=_N_WINDOW,
        n_window_infer=_N_WINDOW_INFER,
    )


def _check_positions(projector: GGUFFile, audio: AudioDimensions) -> None:
    """Refuse a table of positions that differs from the computed one."""
    table = projector.tensors.get(_POSITIONS)
    if table is None:
        return
    from streamasr.importing.qwen3.graphs import sinusoids  # imports onnx, not needed otherwise

    n_rows, d_model = audio.chunk_tokens, audio.d_model
    if len(table.shape) != 2 or table.shape[0] < n_rows or table.shape[1] != d_model:
        raise ModelError(
            f"{projector.path}: tensor {_POSITIONS} has the shape {table.shape}, but (n, "
            f"{d_model}) with n of at least {n_rows} is required",
            code="tensor_shape",
        )
    if not np.allclose(table.rows(0, n_rows), sinusoids(n_rows, d_model), atol=1e-2):
        raise ModelError(
            f"{projector.path}: {_POSITIONS} does not contain sinusoids, which is not supported",
            code="setting_unsupported",
        )
