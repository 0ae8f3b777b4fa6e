"""Normal form of Qwen3-ASR and Qwen3-ForcedAligner checkpoints, independent of the file format.

The normal form has the parts `audio_tower`, `multi_modal_projector`, `language_model` and `head`:

    audio_tower.conv2d{1,2,3}.*, conv_out.weight, layers.N.*, ln_post.*
    multi_modal_projector.linear_{1,2}.*
    language_model.embed_tokens.weight, layers.N.*, norm.weight
    head.weight

with the shapes of transformers. The head identifies the family: a recogniser's has one row per
token, an aligner's one row per time class. A recogniser may lack the head, because it is usually
tied to the embeddings. Dimensions come from the source's own metadata and must agree with the
tensors; the defaults of the reference's classes are never used, because they differ from the
released models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.importing.options import ImportOptions
from streamasr.importing.qwen3.tokenizer import Vocabulary
from streamasr.importing.tensors import Tensor
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER

if TYPE_CHECKING:
    from streamasr.importing.bundle_writer import BundleWriter

HEAD: Final = "head.weight"
EMBEDDINGS: Final = "language_model.embed_tokens.weight"

MAX_LAYERS: Final = 512  # limit of llama.cpp

_MAX_CHUNK_FRAMES: Final = 3000  # 30 s, Whisper's window; released models have 100
_MAX_WINDOW_FRAMES: Final = 1 << 16
_MAX_MELS: Final = 1024
_MAX_CHANNELS: Final = 1 << 13
_MAX_WIDTH: Final = 1 << 17  # of a layer; the largest language models stay below
_MAX_TOKENS: Final = 1 << 20
_MAX_POSITIONS: Final = 1 << 31
_SMALLEST: Final = 1e-30  # for numbers stored in single precision
_LARGEST: Final = 1e30
_COMPARED_BYTES: Final = 1 << 24  # at a time

DEFAULT_TIMESTAMP_MS: Final = 80  # default of the reference's processor; most sources omit it
TIMESTAMPS_MS: Final = range(10, 1001)
"""Accepted durations of a time class; a smaller number is probably in seconds."""


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
    """Half of a chunk, in frames."""
    n_window_infer: int
    """Length of an attention window, in frames."""

    @property
    def chunk_frames(self) -> int:
        """Frames of a chunk, the input of the convolutions."""
        return 2 * self.n_window

    @property
    def chunk_tokens(self) -> int:
        """Embeddings of a chunk, after three convolutions of stride 2."""
        return -(-self.chunk_frames // 8)

    @property
    def convolved_mels(self) -> int:
        """Frequency rows after the same three convolutions."""
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
    """Width of a head; not always hidden / n_heads."""
    ffn: int
    max_positions: int
    rms_eps: float
    rope_theta: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Validated source of weights, which are still on disk; implements `Source`."""

    path: Path
    """File or directory that was read."""
    family: str
    """RECOGNISER or ALIGNER."""
    audio: AudioDimensions
    text: TextDimensions
    tensors: Mapping[str, Tensor]
    """Tensors by normal name. A recogniser's head is absent if it is tied to the embeddings. If
    there is a `decoder_file`, the tensors of the LLM are absent, except for an aligner's head."""
    read_vocabulary: Callable[[], Vocabulary]
    """Function that reads the tokenizer; raises ModelError."""
    languages: tuple[str, ...] | None = None
    """Names of the languages, if the source lists them."""
    timestamp_ms: int = DEFAULT_TIMESTAMP_MS
    """Duration of an aligner's time class."""
    decoder_file: Path | None = None
    """GGUF that llama.cpp runs unchanged, if the source has one."""
    licence: str | None = None
    """Licence stated by the source, as an SPDX identifier."""
    notes: tuple[str, ...] = ()

    def parts(self) -> Sequence[Path]:
        """Return the files that may have been chosen among others."""
        return self.files()

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""
        paths = {tensor.path for tensor in self.tensors.values()}
        return sorted(paths | ({self.decoder_file} if self.decoder_file else set()))

    def max_bytes(self, options: ImportOptions, directory: Path) -> float:
        """Return an upper bound for the size of the bundle, temporary files included."""
        from streamasr.importing.qwen3.packing import max_checkpoint_bytes

        return max_checkpoint_bytes(self, options, directory)

    def write(self, writer: "BundleWriter") -> dict[str, Any]:
        """Write the files of the bundle and return the facts for `model.json`."""
        from streamasr.importing.qwen3.packing import write_checkpoint  # imports onnx

        return write_checkpoint(self, writer)


def check_tensors(
    tensors: Mapping[str, Tensor], audio: AudioDimensions, text: TextDimensions, path: Path
) -> tuple[str, dict[str, Tensor]]:
    """Check a complete checkpoint against its dimensions.

    Args:
        tensors: all tensors, by normal name.
        audio: dimensions of the encoder.
        text: dimensions of the LLM.
        path: name of the source in errors.

    Returns:
        The family, and the tensors in the order of the forward pass, the head last; a recogniser's
        head that equals the embeddings is omitted.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape, or the dimensions are
            impossible.
    """
    check_dimensions(audio, text, path)
    family = _family_of(tensors, text, path)
    ordered = in_order(tensors, expected_shapes(audio, text), path)
    head = tensors.get(HEAD)
    is_tied = family == RECOGNISER and head is not None and is_same(head, tensors[EMBEDDINGS])
    if head is not None and not is_tied:
        ordered[HEAD] = head
    return family, ordered


def check_dimensions(audio: AudioDimensions, text: TextDimensions, path: Path) -> None:
    """Refuse impossible sizes before anything is computed from them.

    Raises:
        ModelError: the sizes contradict each other, or are impossible.
    """
    if audio.output_dim != text.hidden:
        raise ModelError(
            f"{path}: the encoder's output_dim {audio.output_dim} is not the LLM's "
            f"hidden_size {text.hidden}",
            code="encoder_decoder_widths",
        )
    _check_sizes(
        path,
        ("mel bins", audio.n_mels, _MAX_MELS),
        ("channels", audio.channels, _MAX_CHANNELS),
        ("values in d_model", audio.d_model, _MAX_WIDTH),
        ("values in the feed-forward layers", audio.ffn, _MAX_WIDTH),
        ("frames in a chunk", audio.chunk_frames, _MAX_CHUNK_FRAMES),
        ("frames in an attention window", audio.n_window_infer, _MAX_WINDOW_FRAMES),
        ("layers", audio.n_layers, MAX_LAYERS),
        part="the encoder",
    )
    # The positions divide by zero for a width of 2.
    if audio.d_model % audio.n_heads or audio.d_model % 2 or audio.d_model < 4:
        raise ModelError(
            f"{path}: d_model {audio.d_model} cannot be split into {audio.n_heads} heads",
            code="encoder_heads",
        )
    if audio.n_window_infer % audio.chunk_frames:
        raise ModelError(
            f"{path}: n_window_infer {audio.n_window_infer} is not a multiple of 2 * n_window "
            f"({audio.chunk_frames})",
            code="encoder_window",
        )
    check_text_dimensions(text, path)


def check_text_dimensions(text: TextDimensions, path: Path) -> None:
    """Refuse sizes of an LLM for which llama.cpp would abort the whole process.

    Raises:
        ModelError: the sizes are impossible for a Qwen3.
    """
    _check_sizes(
        path,
        ("tokens", text.vocab, _MAX_TOKENS),
        ("values in hidden_size", text.hidden, _MAX_WIDTH),
        ("values in the feed-forward layers", text.ffn, _MAX_WIDTH),
        ("values in the attention heads", text.n_heads * text.head_dim, _MAX_WIDTH),
        part="the language model",
    )
    if text.n_heads % text.n_kv_heads:
        raise ModelError(
            f"{path}: {text.n_heads} heads cannot share {text.n_kv_heads} key and value heads",
            code="decoder_heads",
        )
    if text.head_dim < 2 or text.head_dim % 2:
        raise ModelError(
            f"{path}: a head of {text.head_dim} values cannot be rotated in pairs; an even width "
            "is needed",
            code="decoder_head_width",
        )
    if text.n_layers > MAX_LAYERS:
        raise ModelError(
            f"{path}: llama.cpp runs at most {MAX_LAYERS} layers, not {text.n_layers}",
            code="too_many_layers",
        )
    if not 0 < text.max_positions < _MAX_POSITIONS:
        raise ModelError(
            f"{path}: a context of {text.max_positions} positions is not possible; it must be from "
            f"1 to {_MAX_POSITIONS - 1}",
            code="context_out_of_range",
        )
    for name, value in (("rms_norm_eps", text.rms_eps), ("rope_theta", text.rope_theta)):
        if not _SMALLEST < value < _LARGEST:
            raise ModelError(
                f"{path}: {name} {value} is outside of the range of single precision "
                f"({_SMALLEST:g} to {_LARGEST:g})",
                code="value_out_of_range",
            )


def _check_sizes(path: Path, *sizes: tuple[str, int, int], part: str) -> None:
    """Refuse sizes that would exhaust the memory; each is (quantity, value, limit)."""
    for quantity, size, limit in sizes:
        if size > limit:
            raise ModelError(
                f"{path}: {part} has {size} {quantity}; the limit is {limit}",
                code="size_out_of_range",
            )


def in_order(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], path: Path
) -> dict[str, Tensor]:
    """Return the expected tensors in the expected order; an additional head is ignored.

    Raises:
        ModelError: a tensor is missing, unexpected or of another shape.
    """
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{path}: tensor {name} is missing", code="tensor_missing")
        if (tensor := tensors[name]).shape != shape:
            raise ModelError(
                f"{path}: tensor {tensor.name} has the shape {tensor.shape}, but the configuration "
                f"requires {shape}",
                code="tensor_shape",
            )
    for name, tensor in tensors.items():
        if name not in expected and name != HEAD:
            raise ModelError(f"{path}: unexpected tensor {tensor.name}", code="tensor_unexpected")
    return {name: tensors[name] for name in expected}


def is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bits."""
    if (one.stored_type, one.shape) != (other.stored_type, other.shape):
        return False
    n_rows = max(1, _COMPARED_BYTES * one.shape[0] // max(1, one.stored().nbytes))
    # Each slice is mapped separately, so that the compared rows leave the memory.
    return all(
        np.array_equal(one.stored()[row : row + n_rows], other.stored()[row : row + n_rows])
        for row in range(0, one.shape[0], n_rows)
    )


def encoder_shapes(audio: AudioDimensions) -> dict[str, tuple[int, ...]]:
    """Return every tensor of the encoder with its shape, in the order of the forward pass."""
    return dict([*_audio_shapes(audio), *_projector_shapes(audio)])


def _family_of(tensors: Mapping[str, Tensor], text: TextDimensions, path: Path) -> str:
    head = tensors.get(HEAD)
    if head is None:
        return RECOGNISER
    if len(head.shape) != 2 or head.shape[1] != text.hidden:
        raise ModelError(
            f"{path}: tensor {head.name} has the shape {head.shape}, but (n, {text.hidden}) is "
            "required",
            code="tensor_shape",
        )
    is_recogniser = head.shape[0] == text.vocab and not head.name.startswith("score.")
    return RECOGNISER if is_recogniser else ALIGNER


def expected_shapes(audio: AudioDimensions, text: TextDimensions) -> dict[str, tuple[int, ...]]:
    """Return every tensor except the head with its shape, in the order of the forward pass."""
    return dict([*_audio_shapes(audio), *_projector_shapes(audio), *_text_shapes(text)])


def text_shapes(text: TextDimensions) -> dict[str, tuple[int, ...]]:
    """Return every tensor of the LLM except its head with its shape."""
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
