"""Checkpoints of any shape with random weights, written without torch.

The directory is like those of `save_pretrained` or the original packages: config.json,
model.safetensors (or shards) and a tokenizer. The weights are large enough for every stage to
contribute: with the usual small initialisation attention is flat, and errors in it would not be
visible.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

KeyStyle = Literal["native", "original"]
StoredType = Literal["F32", "F16", "BF16"]

# Ids follow the 256 bytes and the merges; texts and types are the released ones.
SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio_pad|>",
)
ORDINARY_ADDED_TOKENS: Final = ("<asr_text>", "<timestamp>")  # not removed from decoded text

FIRST_RELEASED: Final = 151_643
"""Id of the first added token of the released tokenizers."""
RELEASED_TOKENS: Final = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>", "<|audio_start|>", "<|audio_end|>"),
    *(f"<unknown{number}>" for number in range(5)),  # tokens of speech synthesis
    "<|audio_pad|>",
    *(f"<blank{number}>" for number in range(1, 28)),
    *ORDINARY_ADDED_TOKENS,
)
"""All added tokens of the released tokenizers, in order."""

MERGES: Final = ("l a", "n g", "la ng", "u a", "g e", "ua ge", "lang uage", "Ġ E", "h e")


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of a checkpoint; the defaults are the smallest that exercise everything."""

    n_mels: int = 128
    channels: int = 8
    d_model: int = 32
    encoder_layers: int = 2
    encoder_heads: int = 2
    encoder_ffn: int = 64
    n_window: int = 50
    n_window_infer: int = 800
    hidden: int = 48
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 96
    vocab: int = 320
    rope_theta: float = 1_000_000.0
    tied: bool = True
    n_classes: int | None = None
    """Number of an aligner's time classes; None for a recogniser."""
    extra_config: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(
    directory: Path,
    shape: Shape | None = None,
    *,
    style: KeyStyle = "native",
    stored_type: StoredType = "F32",
    n_shards: int = 1,
    seed: int = 0,
) -> Path:
    """Write a checkpoint and return its directory."""
    shape = shape or Shape()
    directory.mkdir(parents=True, exist_ok=True)
    config = native_config(shape) if style == "native" else original_config(shape)
    _write_json(directory / "config.json", config | dict(shape.extra_config))
    tensors = random_tensors(shape, seed)
    named = {file_name(name, shape, style): values for name, values in tensors.items()}
    write_weights(directory, named, stored_type, n_shards)
    write_tokenizer(directory, separate_files=style == "original")
    return directory


def native_config(shape: Shape) -> dict[str, Any]:
    """Return the configuration as written by transformers' native classes."""
    config = {
        "model_type": "qwen3_asr",
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "audio_config": {
            "model_type": "qwen3_asr_encoder",
            "num_mel_bins": shape.n_mels,
            "downsample_hidden_size": shape.channels,
            "d_model": shape.d_model,
            "encoder_layers": shape.encoder_layers,
            "encoder_attention_heads": shape.encoder_heads,
            "encoder_ffn_dim": shape.encoder_ffn,
            "n_window": shape.n_window,
            "n_window_infer": shape.n_window_infer,
            "output_dim": shape.hidden,
            "activation_function": "gelu",
            "scale_embedding": False,
            "max_position_embeddings": 13,
        },
        "text_config": _text_config(shape)
        | {"rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"}},
        "audio_token_id": token_id("<|audio_pad|>"),
        "timestamp_token_id": token_id("<timestamp>"),
        "eos_token_id": [token_id("<|endoftext|>"), token_id("<|im_end|>")],
        "pad_token_id": token_id("<|endoftext|>"),
        "tie_word_embeddings": shape.tied,
    }
    if shape.n_classes is not None:
        config["architectures"] = ["Qwen3ASRForTokenClassification"]
        config["id2label"] = {str(label): f"LABEL_{label}" for label in range(shape.n_classes)}
    return config


def original_config(shape: Shape) -> dict[str, Any]:
    """Return the configuration of the released checkpoints: one level deeper."""
    native = native_config(shape)
    thinker: dict[str, Any] = {
        "audio_config": native["audio_config"] | {"max_source_positions": 1500},
        "text_config": _text_config(shape)
        | {
            "rope_theta": shape.rope_theta,
            "rope_scaling": {
                "rope_type": "default",
                "interleaved": True,
                "mrope_section": [8, 4, 4],
            },
        },
        "audio_token_id": native["audio_token_id"],
    }
    config: dict[str, Any] = {"model_type": "qwen3_asr", "thinker_config": thinker}
    if shape.n_classes is not None:
        thinker["classify_num"] = shape.n_classes
        config |= {"timestamp_segment_time": 80, "timestamp_token_id": token_id("<timestamp>")}
    return config | {"support_languages": ["English", "Chinese"]}


def _text_config(shape: Shape) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": shape.tied,
    }


def random_tensors(shape: Shape, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Generate all tensors, with the native names without their outer "model."."""
    # The legacy generator, because numpy guarantees that its numbers never change: golden
    # arrays depend on them.
    rng = np.random.RandomState(seed)
    tensors = {}
    for name, size in tensor_shapes(shape):
        if name.endswith(("norm.weight", "ln_post.weight")):
            values = rng.uniform(0.5, 1.5, size)
        elif len(size) == 1:
            values = rng.normal(0, 0.3, size)
        else:
            values = rng.normal(0, 1.5, size) / np.sqrt(np.prod(size[1:]))
        tensors[name] = values.astype(np.float32)
    return tensors


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every tensor of a checkpoint with its shape, with the names of `random_tensors`."""
    tower, d_model = "audio_tower", shape.d_model
    for number, n_inputs in ((1, 1), (2, shape.channels), (3, shape.channels)):
        yield f"{tower}.conv2d{number}.weight", (shape.channels, n_inputs, 3, 3)
        yield f"{tower}.conv2d{number}.bias", (shape.channels,)
    yield f"{tower}.conv_out.weight", (d_model, shape.channels * -(-shape.n_mels // 8))
    linears = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    for layer in range(shape.encoder_layers):
        prefix = f"{tower}.layers.{layer}"
        sizes = {f"{prefix}.{name}": (d_model, d_model) for name in linears}
        sizes[f"{prefix}.fc1"] = (shape.encoder_ffn, d_model)
        sizes[f"{prefix}.fc2"] = (d_model, shape.encoder_ffn)
        for name, size in sizes.items():
            yield f"{name}.weight", size
            yield f"{name}.bias", size[:1]
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{prefix}.{norm}.weight", (d_model,)
            yield f"{prefix}.{norm}.bias", (d_model,)
    yield f"{tower}.ln_post.weight", (d_model,)
    yield f"{tower}.ln_post.bias", (d_model,)
    for name, width in (("linear_1", d_model), ("linear_2", shape.hidden)):
        yield f"multi_modal_projector.{name}.weight", (width, d_model)
        yield f"multi_modal_projector.{name}.bias", (width,)
    yield from _text_shapes(shape)


def _text_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    model, hidden = "language_model", shape.hidden
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield f"{model}.embed_tokens.weight", (shape.vocab, hidden)
    for layer in range(shape.layers):
        prefix = f"{model}.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}.self_attn.q_norm.weight", (shape.head_dim,)
        yield f"{prefix}.self_attn.k_norm.weight", (shape.head_dim,)
        yield f"{prefix}.mlp.gate_proj.weight", (shape.ffn, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (shape.ffn, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, shape.ffn)
    yield f"{model}.norm.weight", (hidden,)
    if shape.n_classes is not None:
        yield "head.weight", (shape.n_classes, hidden)
    elif not shape.tied:
        yield "head.weight", (shape.vocab, hidden)


def file_name(name: str, shape: Shape, style: KeyStyle) -> str:
    """Return the name in the file for a name of `random_tensors`."""
    if name == "head.weight":
        if style == "original":
            return "thinker.lm_head.weight"
        return "lm_head.weight" if shape.n_classes is None else "score.weight"
    if style == "native":
        return f"model.{name}"
    for native, original in (
        ("language_model.", "thinker.model."),
        ("multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
        ("multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
    ):
        if name.startswith(native):
            return name.replace(native, original, 1)
    return f"thinker.{name}"


def write_weights(
    directory: Path,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    stored_type: StoredType = "F32",
    n_shards: int = 1,
) -> None:
    """Write tensors to one file, or to shards with an index."""
    names = sorted(tensors)
    if n_shards == 1:
        _write_safetensors(directory / "model.safetensors", tensors, names, stored_type)
        return
    weight_map: dict[str, str] = {}
    for shard in range(n_shards):
        shard_name = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        own_names = names[shard::n_shards]
        _write_safetensors(directory / shard_name, tensors, own_names, stored_type)
        weight_map |= dict.fromkeys(own_names, shard_name)
    _write_json(
        directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map}
    )


def _write_safetensors(
    path: Path,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    names: list[str],
    stored_type: StoredType,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name in names:
        start = len(data)
        data += _to_bytes(tensors[name], stored_type)
        header[name] = {
            "dtype": stored_type,
            "shape": tensors[name].shape,
            "data_offsets": [start, len(data)],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _to_bytes(values: npt.NDArray[np.float32], stored_type: StoredType) -> bytes:
    match stored_type:
        case "F32":
            return values.tobytes()
        case "F16":
            return values.astype(np.float16).tobytes()
        case "BF16":  # the upper half of the bits; rounding is irrelevant for random values
            return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def byte_alphabet() -> list[str]:
    """Return the character of byte-level BPE for each byte value."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + rest.index(byte)) for byte in range(256)]


def normal_tokens() -> list[str]:
    """Return the tokens of bytes and merges in the order of their ids."""
    return byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]


def token_id(text: str) -> int:
    """Return the id of a token of `write_tokenizer` by its text."""
    return [*normal_tokens(), *SPECIAL_TOKENS, *ORDINARY_ADDED_TOKENS].index(text)


def write_tokenizer(directory: Path, *, separate_files: bool = False) -> None:
    """Write a byte-level BPE with the released special tokens.

    Args:
        directory: destination.
        separate_files: whether to write vocab.json, merges.txt and tokenizer_config.json, as
            released, instead of tokenizer.json.
    """
    vocab = {text: number for number, text in enumerate(normal_tokens())}
    added = [
        {
            "id": token_id(text),
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": text in SPECIAL_TOKENS,
        }
        for text in (*SPECIAL_TOKENS, *ORDINARY_ADDED_TOKENS)
    ]
    settings: dict[str, Any] = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "audio_token": "<|audio_pad|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }
    if separate_files:
        _write_json(directory / "vocab.json", vocab)
        merges = "\n".join(("#version: 0.2", *MERGES, ""))
        (directory / "merges.txt").write_text(merges, encoding="utf-8")
        settings["added_tokens_decoder"] = {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
            for entry in added
        }
    else:
        _write_json(directory / "tokenizer.json", _tokenizer_json(vocab, added))
    _write_json(directory / "tokenizer_config.json", settings)


def _tokenizer_json(vocab: Mapping[str, int], added: list[dict[str, Any]]) -> dict[str, Any]:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": pattern},
                    "behavior": "Isolated",
                    "invert": False,
                },
                byte_level | {"use_regex": False},
            ],
        },
        "post_processor": byte_level | {"use_regex": False},
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")
