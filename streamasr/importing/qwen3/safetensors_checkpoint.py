"""Reader for safetensors checkpoints, as `save_pretrained` and the original packages write them.

Two key styles exist: that of the original packages (`thinker.audio_tower.*`) and that of
transformers' native classes (`model.audio_tower.*`). Both are converted to the normal form:

    normal form                       original                     native, after "model."
    audio_tower.*                     thinker.audio_tower.*        the same
    multi_modal_projector.linear_1.*  thinker.audio_tower.proj1.*  the same
    multi_modal_projector.linear_2.*  thinker.audio_tower.proj2.*  the same
    language_model.*                  thinker.model.*              the same
    head.weight                       thinker.lm_head.weight       lm_head.weight or score.weight,
                                                                   without "model."
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.config_file import Config, read_config
from streamasr.importing.qwen3.checkpoint import (
    DEFAULT_TIMESTAMP_MS,
    HEAD,
    TIMESTAMPS_MS,
    AudioDimensions,
    Checkpoint,
    TextDimensions,
    check_tensors,
)
from streamasr.importing.qwen3.tokenizer import read_vocabulary
from streamasr.importing.safetensors_file import SafeTensor, read_header
from streamasr.models.qwen3.names import RECOGNISER

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
"""Prefixes, the more specific ones first."""

_LICENCE: Final = re.compile(r"license:[ \t]*([\w.+-]{1,100})[ \t]*", re.ASCII)
_FENCE: Final = "---"
"""Line before and after the front matter at the start of a README."""

_MAX_FRONT_MATTER: Final = 1 << 16  # bytes


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint's configuration and list its tensors.

    Args:
        directory: contains config.json and model.safetensors, or shards with their index.

    Raises:
        ModelError: a part is missing, damaged, contradictory or not supported.
    """
    config = read_config(directory / "config.json")
    _check_plain(config)
    inner = config.section("thinker_config") if "thinker_config" in config else config
    tensors = _normal_form(_list_tensors(directory), directory)
    audio = _audio_dimensions(inner.section("audio_config"))
    text = _text_dimensions(inner.section("text_config"))
    family, ordered = check_tensors(tensors, audio, text, directory)
    if family == RECOGNISER and HEAD not in tensors:
        _check_tied(config, inner)
    return Checkpoint(
        path=directory,
        family=family,
        audio=audio,
        text=text,
        tensors=ordered,
        read_vocabulary=partial(read_vocabulary, directory, text.vocab),
        languages=config.names("support_languages"),
        timestamp_ms=_timestamp_ms(config, directory),
        licence=_licence(directory / "README.md"),
    )


def _check_plain(config: Config) -> None:
    """Refuse weights that another program has quantised."""
    if "quantization" in config or "quantization_config" in config:
        raise ModelError(
            f"{config.path}: the weights were quantised for another program, such as MLX; use the "
            "original ones, for example with `streamasr models pull qwen3-asr-0.6b`",
            code="weights_quantised_elsewhere",
        )


def _list_tensors(directory: Path) -> dict[str, SafeTensor]:
    """List the tensors of the single file, or of all shards that the index names."""
    index_path = directory / "model.safetensors.index.json"
    if not index_path.exists():
        return read_header(directory / "model.safetensors")
    shard_of = read_config(index_path).section("weight_map").strings()
    for shard in shard_of.values():
        if not _is_plain(shard):
            raise ModelError(
                f"{index_path} refers to {shard!r:.100}; a shard must be in the same folder",
                code="shard_location",
            )
    shards = {shard: read_header(directory / shard) for shard in set(shard_of.values())}
    for name, shard in shard_of.items():
        if name not in shards[shard]:
            raise ModelError(
                f"{directory / shard}: tensor {name} is missing", code="tensor_missing"
            )
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _is_plain(name: str) -> bool:
    """Return whether a name is a plain file name, without a path."""
    is_one_part = PurePosixPath(name).name == PureWindowsPath(name).name == name
    return is_one_part and name not in {"", ".", ".."} and name.isprintable()


def _normal_form(tensors: Mapping[str, SafeTensor], directory: Path) -> dict[str, SafeTensor]:
    normal: dict[str, SafeTensor] = {}
    for name, tensor in tensors.items():
        if (normal_name := _normal_name(name)) in normal:
            raise ModelError(
                f"{directory}: tensor {name} occurs twice, in two key styles",
                code="tensor_duplicate",
            )
        normal[normal_name] = tensor
    return normal


def _normal_name(name: str) -> str:
    for prefix, replacement in _RENAMES.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def _check_tied(config: Config, inner: Config) -> None:
    """Refuse a checkpoint that lacks its head although the head is not tied."""
    sections = (config, inner, inner.section("text_config"))
    ties = [section.get("tie_word_embeddings") for section in sections]
    if False in ties and True not in ties:
        raise ModelError(
            f"{config.path}: tensor lm_head.weight is missing, and tie_word_embeddings is false",
            code="tensor_missing",
        )


def _audio_dimensions(config: Config) -> AudioDimensions:
    config.only("activation_function", "gelu")
    config.only("scale_embedding", False)
    return AudioDimensions(
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
    """Return the base of the rotary positions; newer configurations nest it.

    Multimodal sections (`mrope_section`) make no difference: all planes have the same running
    index, so the positions are one-dimensional.
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
    """Return the duration of a time class: original config.json, native processor_config.json."""
    name = "timestamp_segment_time"
    processor_path = directory / "processor_config.json"
    if name not in config and processor_path.is_file():
        config = read_config(processor_path)
    if name not in config:
        return DEFAULT_TIMESTAMP_MS
    step = round(config.number(name))
    if step not in TIMESTAMPS_MS:
        raise ModelError(
            f"{config.path}: {name} is {config.number(name)}; it must be from "
            f"{TIMESTAMPS_MS.start} to {TIMESTAMPS_MS.stop - 1} milliseconds",
            code="timestamp_step_out_of_range",
        )
    return step


def _licence(readme: Path) -> str | None:
    """Return the licence in the front matter of a hub's README, if any."""
    if not readme.is_file():
        return None
    try:
        with readme.open("rb") as file:
            text = file.read(_MAX_FRONT_MATTER).decode("utf-8", "replace")
    except OSError:
        return None
    first, *lines = text.splitlines() or [""]
    if first.rstrip() != _FENCE or _FENCE not in (ends := [line.rstrip() for line in lines]):
        return None
    found = (_LICENCE.fullmatch(line) for line in lines[: ends.index(_FENCE)])
    return next((match[1] for match in found if match), None)
