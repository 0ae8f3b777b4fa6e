"""Checkpoints of Qwen3-ASR and Qwen3-ForcedAligner in one normal form.

Two key styles exist: the original packages' (`thinker.audio_tower.*`) and the one of
transformers' native classes (`model.audio_tower.*`). The normal form drops the outer
prefix and speaks of `audio_tower`, `multi_modal_projector`, `language_model` and
`head`, whatever the style:

    normal form                       original                     native, after "model."
    audio_tower.*                     thinker.audio_tower.*        the same
    multi_modal_projector.linear_1.*  thinker.audio_tower.proj1.*  the same
    multi_modal_projector.linear_2.*  thinker.audio_tower.proj2.*  the same
    language_model.*                  thinker.model.*              the same
    head.weight                       thinker.lm_head.weight       lm_head.weight or score.weight,
                                                                   without "model."

The head tells the two families apart: a recogniser's has a row for every token, an
aligner's one for every time class. A recogniser may have none, since its head is
usually tied to the embeddings. Dimensions come from the configuration and must agree
with the tensors; class defaults are never used, as they differ from what was released.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.errors import ModelError
from streamasr.export.config_file import Config, read_config
from streamasr.export.safetensors_file import Tensor, read_header
from streamasr.models.bundle import ALIGNER, RECOGNISER

HEAD: Final = "head.weight"
EMBEDDINGS: Final = "language_model.embed_tokens.weight"

_RENAMES: Final = {
    "thinker.audio_tower.proj1.": "multi_modal_projector.linear_1.",
    "thinker.audio_tower.proj2.": "multi_modal_projector.linear_2.",
    "thinker.audio_tower.": "audio_tower.",
    "thinker.model.": "language_model.",
    "thinker.lm_head.": "head.",
    "model.audio_tower.": "audio_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.",
    "lm_head.": "head.",
    "score.": "head.",
}
"""Prefixes, the more specific one first."""

DEFAULT_TIMESTAMP_MS: Final = 80  # the processor's default; native checkpoints may leave it out


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
    """A checkpoint directory, understood and checked; the weights are still on disk."""

    directory: Path
    family: str
    """RECOGNISER or ALIGNER."""
    audio: AudioDimensions
    text: TextDimensions
    tensors: Mapping[str, Tensor]
    """By normal name. A recogniser's head is missing where it is tied to the embeddings."""
    languages: tuple[str, ...] | None
    """Names of the languages, where the configuration lists them."""
    timestamp_ms: int
    """Duration of one time class of an aligner."""


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint's configuration and list its tensors.

    Args:
        directory: holds config.json and model.safetensors, or shards with their index.

    Raises:
        ModelError: something is missing, broken, contradictory or not supported.
    """
    config = read_config(directory / "config.json")
    inner = config.section("thinker_config") if "thinker_config" in config else config
    tensors = _normal_form(_list_tensors(directory), directory)
    audio = _audio_dimensions(inner.section("audio_config"))
    text = _text_dimensions(inner.section("text_config"))
    if audio.output_dim != text.hidden:
        raise ModelError(
            f"{config.path}: output_dim {audio.output_dim} is not hidden_size {text.hidden}"
        )
    family = _tell_family(tensors, text, directory)
    tensors = _check_tensors(tensors, _expected_shapes(audio, text), directory)
    if family == RECOGNISER:
        tensors = _drop_tied_head(tensors, config, inner)
    return Checkpoint(
        directory,
        family,
        audio,
        text,
        tensors,
        config.names("support_languages"),
        _timestamp_ms(config, directory),
    )


def _list_tensors(directory: Path) -> dict[str, Tensor]:
    """List the tensors of the single file, or of all shards that the index names."""
    index_path = directory / "model.safetensors.index.json"
    if not index_path.is_file():
        return read_header(directory / "model.safetensors")
    shard_of = read_config(index_path).section("weight_map").strings()
    shards = {shard: read_header(directory / shard) for shard in set(shard_of.values())}
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise ModelError(f"{directory / shard}: tensor {name} is missing")
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _normal_form(tensors: Mapping[str, Tensor], directory: Path) -> dict[str, Tensor]:
    normal: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if (normal_name := _normal_name(name)) in normal:
            raise ModelError(f"{directory}: tensor {name} is there twice, in two key styles")
        normal[normal_name] = tensor
    return normal


def _normal_name(name: str) -> str:
    for prefix, replacement in _RENAMES.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def _tell_family(tensors: Mapping[str, Tensor], text: TextDimensions, directory: Path) -> str:
    head = tensors.get(HEAD)
    if head is None:
        return RECOGNISER
    if len(head.shape) != 2 or head.shape[1] != text.hidden:
        raise ModelError(f"{directory}: {head.name} is {head.shape}, not (n, {text.hidden})")
    is_recogniser = head.shape[0] == text.vocab and not head.name.startswith("score.")
    return RECOGNISER if is_recogniser else ALIGNER


def _drop_tied_head(tensors: dict[str, Tensor], config: Config, inner: Config) -> dict[str, Tensor]:
    """Leave out a recogniser's head where it only repeats the embeddings."""
    head = tensors.get(HEAD)
    if head is None:
        sections = (config, inner, inner.section("text_config"))
        ties = [section.get("tie_word_embeddings") for section in sections]
        if False in ties and True not in ties:
            raise ModelError(f"{config.path}: the head is not tied, but lm_head.weight is missing")
        return tensors
    if np.array_equal(head.stored(), tensors[EMBEDDINGS].stored()):
        return {name: tensor for name, tensor in tensors.items() if name != HEAD}
    return tensors


def _audio_dimensions(config: Config) -> AudioDimensions:
    config.only("activation_function", "gelu")
    config.only("scale_embedding", False)
    dimensions = AudioDimensions(
        n_mels=config.integer("num_mel_bins"),
        channels=config.integer("downsample_hidden_size"),
        d_model=config.integer("d_model", "hidden_size"),
        n_layers=config.integer("encoder_layers", "num_hidden_layers"),
        n_heads=config.integer("encoder_attention_heads", "num_attention_heads"),
        ffn=config.integer("encoder_ffn_dim", "intermediate_size"),
        output_dim=config.integer("output_dim"),
        n_window=config.integer("n_window"),
        n_window_infer=config.integer("n_window_infer"),
    )
    if dimensions.d_model % dimensions.n_heads or dimensions.d_model % 2:
        raise ModelError(
            f"{config.path}: d_model {dimensions.d_model} cannot be split "
            f"into {dimensions.n_heads} heads"
        )
    if dimensions.n_window_infer % dimensions.chunk_frames:
        raise ModelError(f"{config.path}: n_window_infer is not a multiple of 2 * n_window")
    return dimensions


def _text_dimensions(config: Config) -> TextDimensions:
    config.only("hidden_act", "silu")
    config.only("use_sliding_window", False)
    return TextDimensions(
        vocab=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        n_layers=config.integer("num_hidden_layers"),
        n_heads=config.integer("num_attention_heads"),
        n_kv_heads=config.integer("num_key_value_heads"),
        head_dim=config.integer("head_dim"),
        ffn=config.integer("intermediate_size"),
        max_positions=config.integer("max_position_embeddings"),
        rms_eps=config.number("rms_norm_eps"),
        rope_theta=_rope_theta(config),
    )


def _rope_theta(config: Config) -> float:
    """Find the base of the rotary positions; newer configurations nest it.

    Multimodal sections (`mrope_section`) change nothing here: all planes carry the
    same running index, which makes them plain one-dimensional positions.
    """
    for name in ("rope_parameters", "rope_scaling"):
        if name in config:
            rope = config.section(name)
            rope.only("rope_type", "default", "mrope")
            rope.only("type", "default", "mrope")
            if "rope_theta" in rope:
                return rope.number("rope_theta")
    return config.number("rope_theta")


def _timestamp_ms(config: Config, directory: Path) -> int:
    """Find the length of a time class: original config.json, native processor_config.json."""
    name = "timestamp_segment_time"
    processor_path = directory / "processor_config.json"
    if name not in config and processor_path.is_file():
        config = read_config(processor_path)
    return round(config.number(name)) if name in config else DEFAULT_TIMESTAMP_MS


def _check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], directory: Path
) -> dict[str, Tensor]:
    """Return the tensors in the expected order, the head last, when all is as expected."""
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{directory}: tensor {name} is missing")
        if (tensor := tensors[name]).shape != shape:
            raise ModelError(
                f"{directory}: {tensor.name} is {tensor.shape}, but config.json means {shape}"
            )
    for name, tensor in tensors.items():
        if name not in expected and name != HEAD:
            raise ModelError(f"{directory}: there is an unexpected tensor, {tensor.name}")
    return {name: tensors[name] for name in (*expected, HEAD) if name in tensors}


def _expected_shapes(audio: AudioDimensions, text: TextDimensions) -> dict[str, tuple[int, ...]]:
    """State every tensor but the head, with its shape, in the order of the forward pass."""
    return dict([*_audio_shapes(audio), *_projector_shapes(audio), *_text_shapes(text)])


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
