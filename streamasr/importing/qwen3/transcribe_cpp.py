"""Reader for transcribe.cpp's GGUF (architecture `qwen3_asr`), which the program Handy downloads.

One file contains the encoder, the LLM and the vocabulary of a recogniser. All tensors have
PyTorch's shapes and order; only the names differ. The head is not stored, because it is tied to the
embeddings. The metadata states the settings of the features, which are checked, and also the
sections of the rotary positions, which all have the same index for audio and text.

Source: scripts/convert-qwen3_asr.py of https://github.com/handy-computer/transcribe.cpp.
"""

from typing import Any, Final

import numpy as np

from streamasr.core.units import SAMPLE_RATE
from streamasr.features.log_mel import HOP, N_MELS, WINDOW, mel_filters
from streamasr.importing.gguf_file import GGUFFile
from streamasr.importing.gguf_kind import is_split, unusable
from streamasr.importing.qwen3.checkpoint import (
    AudioDimensions,
    Checkpoint,
    TextDimensions,
    check_tensors,
)
from streamasr.importing.qwen3.gguf_features import check_table
from streamasr.importing.qwen3.gguf_names import TRANSCRIBE_CPP
from streamasr.importing.qwen3.tokenizer import NEEDED, vocabulary_of
from streamasr.models.qwen3.languages import LANGUAGES

ARCHITECTURE: Final = "qwen3_asr"

_ENCODER: Final = "stt.qwen3_asr.encoder"
_DECODER: Final = "stt.qwen3_asr.decoder"
_MEL_FILTERS: Final = "frontend.mel_filterbank"
_MEL_WINDOW: Final = "frontend.window"

_ALLOWED: Final[dict[str, tuple[Any, ...]]] = {
    f"{_ENCODER}.activation": ("gelu",),
    f"{_DECODER}.hidden_act": ("silu", "swish"),
    f"{_DECODER}.tie_word_embeddings": (True,),
    f"{_DECODER}.rope_mrope_interleaved": (True,),
    "stt.frontend.type": ("mel",),
    "stt.frontend.sample_rate": (SAMPLE_RATE,),
    "stt.frontend.num_mels": (N_MELS,),
    "stt.frontend.n_fft": (WINDOW,),
    "stt.frontend.win_length": (WINDOW,),
    "stt.frontend.hop_length": (HOP,),
    "stt.frontend.window": ("hann_periodic",),
    "stt.frontend.normalize": ("per_utterance",),
    "stt.frontend.pre_emphasis": (0,),
    "stt.frontend.f_min": (0,),
    "stt.frontend.f_max": (SAMPLE_RATE / 2,),
    "stt.frontend.mel_norm": ("slaney",),
    "stt.frontend.pad_mode": ("reflect",),
    "stt.frontend.center": (True,),
}
"""Settings that the arithmetic depends on, with the values of every released model."""


def read_transcribe_cpp(file: GGUFFile) -> Checkpoint:
    """Interpret transcribe.cpp's GGUF of a recogniser.

    Raises:
        ModelError: the file holds another model, or a part is missing, contradictory or not
            supported.
    """
    if file.architecture != ARCHITECTURE or is_split(file):
        raise unusable(file)
    for key, values in _ALLOWED.items():
        file.only(key, *values)
    check_table(file, _MEL_FILTERS, mel_filters(N_MELS).T)
    check_table(file, _MEL_WINDOW, np.hanning(WINDOW + 1)[:-1])
    tables = frozenset({_MEL_FILTERS, _MEL_WINDOW})
    tensors = TRANSCRIBE_CPP.normal_form(file.tensors, file.path, tables)
    audio, text = _audio_dimensions(file), _text_dimensions(file)
    family, ordered = check_tensors(tensors, audio, text, file.path)
    vocabulary = vocabulary_of(file, text.vocab, NEEDED[family])
    return Checkpoint(
        path=file.path,
        family=family,
        audio=audio,
        text=text,
        tensors=ordered,
        read_vocabulary=lambda: vocabulary,
        languages=_languages(file),
        licence=file.text("general.license"),
    )


def _audio_dimensions(file: GGUFFile) -> AudioDimensions:
    return AudioDimensions(
        n_mels=file.integer(f"{_ENCODER}.num_mel_bins"),
        channels=file.integer(f"{_ENCODER}.downsample_hidden"),
        d_model=file.integer(f"{_ENCODER}.d_model"),
        n_layers=TRANSCRIBE_CPP.n_layers(file, f"{_ENCODER}.n_layers", "enc.blocks"),
        n_heads=file.integer(f"{_ENCODER}.n_heads"),
        ffn=file.integer(f"{_ENCODER}.ffn_dim"),
        output_dim=file.integer(f"{_ENCODER}.output_dim"),
        n_window=file.integer(f"{_ENCODER}.n_window"),
        n_window_infer=file.integer(f"{_ENCODER}.n_window_infer"),
    )


def _text_dimensions(file: GGUFFile) -> TextDimensions:
    return TextDimensions(
        vocab=file.integer(f"{_DECODER}.vocab_size"),
        hidden=file.integer(f"{_DECODER}.hidden_size"),
        n_layers=TRANSCRIBE_CPP.n_layers(file, f"{_DECODER}.n_layers", "dec.blocks"),
        n_heads=file.integer(f"{_DECODER}.n_heads"),
        n_kv_heads=file.integer(f"{_DECODER}.n_kv_heads"),
        head_dim=file.integer(f"{_DECODER}.head_dim"),
        ffn=file.integer(f"{_DECODER}.intermediate_size"),
        max_positions=file.integer(f"{_DECODER}.max_position_embeddings"),
        rms_eps=file.number(f"{_DECODER}.rms_norm_eps"),
        rope_theta=file.number(f"{_DECODER}.rope_theta"),
    )


def _languages(file: GGUFFile) -> tuple[str, ...] | None:
    """Return the names of the listed languages, which the file states as BCP 47 tags."""
    tags = file.texts("general.languages")
    return tuple(LANGUAGES.names[tag] for tag in tags if tag in LANGUAGES.names) or None
