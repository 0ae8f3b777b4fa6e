"""Checkpoints of Qwen3-ASR and Qwen3-ForcedAligner in one normal form, whatever file they are in.

The normal form speaks of `audio_tower`, `multi_modal_projector`, `language_model` and `head`:

    audio_tower.conv2d{1,2,3}.*, conv_out.weight, layers.N.*, ln_post.*
    multi_modal_projector.linear_{1,2}.*
    language_model.embed_tokens.weight, layers.N.*, norm.weight
    head.weight

with shapes as transformers has them. The head tells the two families apart: a recogniser's has a
row for every token, an aligner's one for every time class. A recogniser may have none, since its
head is usually tied to the embeddings. Dimensions come from what the source says of itself and
must agree with the tensors; class defaults are never used, as they differ from what was released.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.importing.tensors import Tensor
from streamasr.importing.tokenizer import Vocabulary
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER

HEAD: Final = "head.weight"
EMBEDDINGS: Final = "language_model.embed_tokens.weight"

MOST_LAYERS: Final = 512  # that llama.cpp runs

_MOST_CHUNK_FRAMES: Final = 3000  # 30 s, what Whisper hears at once; released are 100
_MOST_WINDOW_FRAMES: Final = 1 << 16
_MOST_MELS: Final = 1024
_MOST_CHANNELS: Final = 1 << 13
_WIDEST: Final = 1 << 17  # of any layer; the largest language models stay below
_MOST_TOKENS: Final = 1 << 20
_MOST_POSITIONS: Final = 1 << 31
_SMALLEST: Final = 1e-30  # of numbers that are stored in single precision
_LARGEST: Final = 1e30
_BYTES_AT_ONCE: Final = 1 << 24

DEFAULT_TIMESTAMP_MS: Final = 80  # the processor's default; most sources leave it out
TIMESTAMPS_MS: Final = range(10, 1001)
"""Durations that a time class may have; what is below is in seconds."""


@dataclass(frozen=True, slots=True)
class AudioDimensions:
    """Sizes of the audio encoder."""

    n_mels: int
    channels: int
    d_model: int
    n_layers: int
    n_heads: int
    ffn: int
    output_dim: int
    n_window: int
    """Half a chunk, in frames."""
    n_window_infer: int
    """An attention window, in frames."""

    @property
    def chunk_frames(self) -> int:
        """Frames that the convolutions see at once."""
        return 2 * self.n_window

    @property
    def chunk_tokens(self) -> int:
        """Tokens that come of a chunk: three convolutions of stride 2."""
        return -(-self.chunk_frames // 8)

    @property
    def convolved_mels(self) -> int:
        """Frequency rows left after the same three convolutions."""
        return -(-self.n_mels // 8)


@dataclass(frozen=True, slots=True)
class TextDimensions:
    """Sizes of the LLM."""

    vocab: int
    hidden: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    """Not always hidden / n_heads."""
    ffn: int
    max_positions: int
    rms_eps: float
    rope_theta: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A source of weights, understood and checked; the weights are still on disk."""

    path: Path
    """The file or directory that it was read from."""
    family: str
    """RECOGNISER or ALIGNER."""
    audio: AudioDimensions
    text: TextDimensions
    tensors: Mapping[str, Tensor]
    """By normal name. A recogniser's head is missing where it is tied to the embeddings. Where
    there is a `decoder_file` those of the LLM are missing, but for an aligner's head."""
    read_vocabulary: Callable[[], Vocabulary]
    """Reads the tokenizer; raises ModelError."""
    languages: tuple[str, ...] | None = None
    """Names of the languages, where the source lists them."""
    timestamp_ms: int = DEFAULT_TIMESTAMP_MS
    """Duration of one time class of an aligner."""
    decoder_file: Path | None = None
    """A GGUF that llama.cpp runs as it is, where the source has one."""
    licence: str | None = None
    """As the source states it, in the terms of SPDX."""


def check_tensors(
    tensors: Mapping[str, Tensor], audio: AudioDimensions, text: TextDimensions, path: Path
) -> tuple[str, dict[str, Tensor]]:
    """Check a whole checkpoint against its dimensions.

    Args:
        tensors: all there are, by normal name.
        audio: of the encoder.
        text: of the LLM.
        path: what the source is called in errors.

    Returns:
        The family, and the tensors in the order of the forward pass, the head last; a recogniser's
        head that only repeats the embeddings is left out.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape, or the dimensions are
            impossible.
    """
    check_dimensions(audio, text, path)
    family = _tell_family(tensors, text, path)
    ordered = in_order(tensors, expected_shapes(audio, text), path)
    head = tensors.get(HEAD)
    is_tied = family == RECOGNISER and head is not None and is_same(head, tensors[EMBEDDINGS])
    if head is not None and not is_tied:
        ordered[HEAD] = head
    return family, ordered


def check_dimensions(audio: AudioDimensions, text: TextDimensions, path: Path) -> None:
    """Refuse sizes that no such model can have, before anything is computed of them.

    Raises:
        ModelError: they contradict each other, or are impossible.
    """
    if audio.output_dim != text.hidden:
        raise ModelError(
            f"{path}: the encoder's output_dim {audio.output_dim} is not the LLM's "
            f"hidden_size {text.hidden}"
        )
    _check_sizes(
        path,
        ("mel bins", audio.n_mels, _MOST_MELS),
        ("channels", audio.channels, _MOST_CHANNELS),
        ("values in d_model", audio.d_model, _WIDEST),
        ("values within its layers", audio.ffn, _WIDEST),
        ("frames in a chunk", audio.chunk_frames, _MOST_CHUNK_FRAMES),
        ("frames in a window of attention", audio.n_window_infer, _MOST_WINDOW_FRAMES),
        ("layers", audio.n_layers, MOST_LAYERS),
        part="an encoder",
    )
    # Positions of a width of 2 would divide by zero.
    if audio.d_model % audio.n_heads or audio.d_model % 2 or audio.d_model < 4:
        raise ModelError(
            f"{path}: d_model {audio.d_model} cannot be split into {audio.n_heads} heads"
        )
    if audio.n_window_infer % audio.chunk_frames:
        raise ModelError(f"{path}: n_window_infer is not a multiple of 2 * n_window")
    check_text_dimensions(text, path)


def check_text_dimensions(text: TextDimensions, path: Path) -> None:
    """Refuse sizes of an LLM over which llama.cpp would end the whole process.

    Raises:
        ModelError: no Qwen3 can be like this.
    """
    _check_sizes(
        path,
        ("tokens", text.vocab, _MOST_TOKENS),
        ("values in hidden_size", text.hidden, _WIDEST),
        ("values within its layers", text.ffn, _WIDEST),
        ("values in its heads", text.n_heads * text.head_dim, _WIDEST),
        part="a language model",
    )
    if text.n_heads % text.n_kv_heads:
        raise ModelError(
            f"{path}: {text.n_heads} heads cannot share {text.n_kv_heads} heads of keys and values"
        )
    if text.head_dim < 2 or text.head_dim % 2:
        raise ModelError(f"{path}: heads of {text.head_dim} values cannot be rotated in pairs")
    if text.n_layers > MOST_LAYERS:
        raise ModelError(
            f"{path}: llama.cpp runs {MOST_LAYERS} layers at most, not {text.n_layers}"
        )
    if not 0 < text.max_positions < _MOST_POSITIONS:
        raise ModelError(f"{path}: a context of {text.max_positions} positions is impossible")
    for what, value in (("rms_norm_eps", text.rms_eps), ("rope_theta", text.rope_theta)):
        if not _SMALLEST < value < _LARGEST:
            raise ModelError(f"{path}: {what} cannot be {value}")


def _check_sizes(path: Path, *sizes: tuple[str, int, int], part: str) -> None:
    """Refuse sizes beyond any model's, over which memory would end; each is (what, n, limit)."""
    for what, size, largest in sizes:
        if size > largest:
            raise ModelError(f"{path}: {part} of {size} {what} is impossible")


def in_order(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path
) -> dict[str, Tensor]:
    """Return the expected tensors in their order, when all but a head is as expected.

    Raises:
        ModelError: one is missing, unexpected or of another shape.
    """
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{path}: tensor {name} is missing")
        if (tensor := tensors[name]).shape != shape:
            raise ModelError(
                f"{path}: {tensor.name} is {tensor.shape}, but its configuration means {shape}"
            )
    for name, tensor in tensors.items():
        if name not in expected and name != HEAD:
            raise ModelError(f"{path}: there is an unexpected tensor, {tensor.name}")
    return {name: tensors[name] for name in expected}


def is_same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are stored alike, bit by bit."""
    if (one.stored_type, one.shape) != (other.stored_type, other.shape):
        return False
    n_rows = max(1, _BYTES_AT_ONCE * one.shape[0] // max(1, one.stored().nbytes))
    # Each piece is mapped anew, so that what has been compared leaves the memory.
    return all(
        np.array_equal(one.stored()[row : row + n_rows], other.stored()[row : row + n_rows])
        for row in range(0, one.shape[0], n_rows)
    )


def encoder_shapes(audio: AudioDimensions) -> dict[str, tuple[int, ...]]:
    """State every tensor of the encoder, with its shape, in the order of the forward pass."""
    return dict([*_audio_shapes(audio), *_projector_shapes(audio)])


def _tell_family(tensors: Mapping[str, Tensor], text: TextDimensions, path: Path) -> str:
    head = tensors.get(HEAD)
    if head is None:
        return RECOGNISER
    if len(head.shape) != 2 or head.shape[1] != text.hidden:
        raise ModelError(f"{path}: {head.name} is {head.shape}, not (n, {text.hidden})")
    is_recogniser = head.shape[0] == text.vocab and not head.name.startswith("score.")
    return RECOGNISER if is_recogniser else ALIGNER


def expected_shapes(audio: AudioDimensions, text: TextDimensions) -> dict[str, tuple[int, ...]]:
    """State every tensor but the head, with its shape, in the order of the forward pass."""
    return dict([*_audio_shapes(audio), *_projector_shapes(audio), *_text_shapes(text)])


def text_shapes(text: TextDimensions) -> dict[str, tuple[int, ...]]:
    """State every tensor of the LLM but its head, with its shape."""
    return dict(_text_shapes(text))


def _audio_shapes(audio: AudioDimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    tower = "audio_tower."
    for number, inputs in ((1, 1), (2, audio.channels), (3, audio.channels)):
        yield f"{tower}conv2d{number}.weight", (audio.channels, inputs, 3, 3)
        yield f"{tower}conv2d{number}.bias", (audio.channels,)
    yield f"{tower}conv_out.weight", (audio.d_model, audio.channels * audio.convolved_mels)
    for layer in range(audio.n_layers):
        prefix = f"{tower}layers.{layer}."
        yield from _with_bias(f"{prefix}self_attn_layer_norm", audio.d_model)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _with_bias(f"{prefix}self_attn.{name}", audio.d_model, audio.d_model)
        yield from _with_bias(f"{prefix}final_layer_norm", audio.d_model)
        yield from _with_bias(f"{prefix}fc1", audio.ffn, audio.d_model)
        yield from _with_bias(f"{prefix}fc2", audio.d_model, audio.ffn)
    yield from _with_bias(f"{tower}ln_post", audio.d_model)


def _projector_shapes(audio: AudioDimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    projector = "multi_modal_projector."
    yield from _with_bias(f"{projector}linear_1", audio.d_model, audio.d_model)
    yield from _with_bias(f"{projector}linear_2", audio.output_dim, audio.d_model)


def _text_shapes(text: TextDimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = text.n_heads * text.head_dim, text.n_kv_heads * text.head_dim
    yield EMBEDDINGS, (text.vocab, text.hidden)
    for layer in range(text.n_layers):
        prefix = f"language_model.layers.{layer}."
        yield f"{prefix}input_layernorm.weight", (text.hidden,)
        yield f"{prefix}self_attn.q_proj.weight", (queries, text.hidden)
        yield f"{prefix}self_attn.k_proj.weight", (keys, text.hidden)
        yield f"{prefix}self_attn.v_proj.weight", (keys, text.hidden)
        yield f"{prefix}self_attn.o_proj.weight", (text.hidden, queries)
        yield f"{prefix}self_attn.q_norm.weight", (text.head_dim,)
        yield f"{prefix}self_attn.k_norm.weight", (text.head_dim,)
        yield f"{prefix}post_attention_layernorm.weight", (text.hidden,)
        yield f"{prefix}mlp.gate_proj.weight", (text.ffn, text.hidden)
        yield f"{prefix}mlp.up_proj.weight", (text.ffn, text.hidden)
        yield f"{prefix}mlp.down_proj.weight", (text.hidden, text.ffn)
    yield "language_model.norm.weight", (text.hidden,)


def _with_bias(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
