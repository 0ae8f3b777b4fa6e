"""Reader for CrispASR's GGUF (architecture `qwen3asr`): encoder, LLM and vocabulary in one file.

All tensors have PyTorch's shapes and order, and those of the LLM have llama.cpp's names. The
metadata does not identify a forced aligner; its head has one row per time class instead of one per
token. Values that such files omit are the same for every released model, and are checked if a file
states them: windows of 50 and 800 frames, 16 kHz, Whisper's features.
"""

from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.core.units import SAMPLE_RATE
from streamasr.features.log_mel import HOP, N_MELS, WINDOW, mel_filters
from streamasr.importing.gguf_file import GGUFFile
from streamasr.importing.gguf_kind import unusable
from streamasr.importing.qwen3.checkpoint import (
    AudioDimensions,
    Checkpoint,
    TextDimensions,
    check_tensors,
)
from streamasr.importing.qwen3.gguf_features import check_table
from streamasr.importing.qwen3.gguf_names import CRISPASR
from streamasr.importing.qwen3.tokenizer import NEEDED, vocabulary_of
from streamasr.models.qwen3.names import ALIGNER

ARCHITECTURE: Final = "qwen3asr"

_MEL_FILTERS: Final = "audio.mel_filters"
_MEL_WINDOW: Final = "audio.mel_window"
_CONV_OUT_BIAS: Final = "audio.conv_out.bias"
_NOT_WEIGHTS: Final = frozenset({_MEL_FILTERS, _MEL_WINDOW, _CONV_OUT_BIAS})

_N_WINDOW: Final = 50  # frames
_N_WINDOW_INFER: Final = 800  # frames
_MAX_POSITIONS: Final = 65536  # written by the converter

_MAX_TIME_CLASSES: Final = 10_000  # CrispASR's limit; the released head has 5000


def read_crispasr(file: GGUFFile) -> Checkpoint:
    """Interpret CrispASR's GGUF of a recogniser or an aligner.

    Raises:
        ModelError: the file holds another model, or a part is missing, contradictory or not
            supported.
    """
    if file.architecture != ARCHITECTURE:
        raise unusable(file)
    _check_features(file)
    _check_conv_out_bias(file)
    tensors = CRISPASR.normal_form(file.tensors, file.path, _NOT_WEIGHTS)
    audio, text = _audio_dimensions(file), _text_dimensions(file)
    family, ordered = check_tensors(tensors, audio, text, file.path)
    if family == ALIGNER:
        _check_time_classes(file)
    vocabulary = vocabulary_of(file, text.vocab, NEEDED[family])
    return Checkpoint(
        path=file.path,
        family=family,
        audio=audio,
        text=text,
        tensors=ordered,
        read_vocabulary=lambda: vocabulary,
        licence=file.text("general.license"),
    )


def _audio_dimensions(file: GGUFFile) -> AudioDimensions:
    prefix = f"{ARCHITECTURE}.audio"
    dimensions = AudioDimensions(
        n_mels=file.integer(f"{ARCHITECTURE}.n_mels"),
        channels=file.integer(f"{prefix}.conv_channels"),
        d_model=file.integer(f"{prefix}.d_model"),
        n_layers=CRISPASR.n_layers(file, f"{prefix}.n_layers", "audio.blk"),
        n_heads=file.integer(f"{prefix}.n_heads"),
        ffn=file.integer(f"{prefix}.ff_dim"),
        output_dim=file.integer(f"{prefix}.proj_dim"),
        n_window=file.integer(f"{prefix}.n_window", _N_WINDOW),
        n_window_infer=file.integer(f"{prefix}.n_window_infer", _N_WINDOW_INFER),
    )
    file.only(f"{prefix}.head_dim", dimensions.d_model / dimensions.n_heads)
    return dimensions


def _text_dimensions(file: GGUFFile) -> TextDimensions:
    prefix = f"{ARCHITECTURE}.llm"
    return TextDimensions(
        vocab=file.integer(f"{prefix}.vocab_size"),
        hidden=file.integer(f"{prefix}.d_model"),
        n_layers=CRISPASR.n_layers(file, f"{prefix}.n_layers", "blk"),
        n_heads=file.integer(f"{prefix}.n_heads"),
        n_kv_heads=file.integer(f"{prefix}.n_kv_heads"),
        head_dim=file.integer(f"{prefix}.head_dim"),
        ffn=file.integer(f"{prefix}.ff_dim"),
        max_positions=file.integer(f"{prefix}.max_pos", _MAX_POSITIONS),
        rms_eps=file.number(f"{prefix}.rms_norm_eps"),
        rope_theta=file.number(f"{prefix}.rope_theta"),
    )


def _check_features(file: GGUFFile) -> None:
    """Refuse a model trained on features other than ours."""
    for name, value in {
        "sample_rate": SAMPLE_RATE,
        "n_mels": N_MELS,
        "n_fft": WINDOW,
        "win_length": WINDOW,
        "hop_length": HOP,
    }.items():
        file.only(f"{ARCHITECTURE}.{name}", value)
    # The oldest files have no tables.
    check_table(file, _MEL_FILTERS, mel_filters(N_MELS))
    check_table(file, _MEL_WINDOW, np.hanning(WINDOW + 1)[:-1])


def _check_conv_out_bias(file: GGUFFile) -> None:
    """Refuse a bias that no released model has, unless it is zero."""
    bias = file.tensors.get(_CONV_OUT_BIAS)
    if bias is not None and (len(bias.shape) != 1 or bias.float32().any()):
        raise ModelError(
            f"{file.path}: {_CONV_OUT_BIAS} is not zero, which is not supported",
            code="setting_unsupported",
        )


def _check_time_classes(file: GGUFFile) -> None:
    rows = file.tensors["output.weight"].shape[0]
    if rows > _MAX_TIME_CLASSES:
        raise ModelError(
            f"{file.path}: output.weight has {rows} rows, which is neither the number of tokens "
            f"nor a number of time classes (at most {_MAX_TIME_CLASSES})",
            code="time_classes",
        )
