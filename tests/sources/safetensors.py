"""Writer of original checkpoints: both key styles, any float type, with or without shards."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from tests.sources.weights import Float32Array, Weights, read_vocabulary
from tests.support.checkpoints import KeyStyle, StoredType, file_name

LANGUAGES: Final = ("Chinese", "English", "Cantonese")

_ITEM_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


def write_safetensors(
    checkpoint: Path,
    directory: Path,
    style: KeyStyle = "original",
    stored_type: StoredType = "BF16",
    n_shards: int = 1,
) -> Path:
    """Write a checkpoint in the released form, tensor by tensor, and return its directory.

    Args:
        checkpoint: a native checkpoint.
        directory: destination.
        style: style of the keys, the configuration and the tokenizer files.
        stored_type: type of all tensors.
        n_shards: number of files with tensors.
    """
    weights = Weights(checkpoint)
    directory.mkdir(parents=True, exist_ok=True)
    if style == "original":
        _write_json(directory / "config.json", original_config(weights))
        _write_vocabulary(checkpoint, directory)
    else:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(checkpoint / name, directory / name)
    names = {file_name(name, weights.shape, style): name for name in weights.names}
    ordered = sorted(names)
    if n_shards == 1:
        _write_file(directory / "model.safetensors", weights, names, ordered, stored_type)
        return directory
    places: dict[str, str] = {}
    for shard in range(n_shards):
        path = directory / f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        own = ordered[shard::n_shards]
        _write_file(path, weights, names, own, stored_type)
        places |= dict.fromkeys(own, path.name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    _write_json(directory / "model.safetensors.index.json", index)
    return directory


def original_config(weights: Weights) -> dict[str, Any]:
    """Return the configuration of the released checkpoints: one level deeper than the native."""
    native, shape = weights.config, weights.shape
    vocabulary = read_vocabulary(weights.directory)
    text = {key: value for key, value in native["text_config"].items() if key != "rope_parameters"}
    sections = [shape.head_dim // 2 - 2 * (side := shape.head_dim * 20 // 128), side, side]
    text |= {
        "rope_theta": shape.rope_theta,
        "rope_scaling": {
            "interleaved": True,
            "mrope_interleaved": True,
            "mrope_section": sections,
            "rope_type": "default",
            "type": "default",
        },
    }
    thinker: dict[str, Any] = {
        "audio_config": native["audio_config"]
        | {"max_source_positions": 1500, "conv_chunksize": 500},
        "text_config": text,
        "audio_token_id": vocabulary.find("<|audio_pad|>"),
        "audio_start_token_id": vocabulary.find("<|audio_start|>"),
        "audio_end_token_id": vocabulary.find("<|audio_end|>"),
        "model_type": "qwen3_asr_thinker",
    }
    config: dict[str, Any] = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "thinker_config": thinker,
    }
    if shape.n_classes is None:
        return config | {"support_languages": list(LANGUAGES)}
    thinker["classify_num"] = shape.n_classes
    timestamp = vocabulary.find("<timestamp>")
    return config | {"timestamp_token_id": timestamp, "timestamp_segment_time": 80}


def _write_vocabulary(checkpoint: Path, directory: Path) -> None:
    vocabulary = read_vocabulary(checkpoint)
    ids = {text: number for number, text in vocabulary.ordinary.items()}
    _write_json(directory / "vocab.json", ids)
    merges = "\n".join(("#version: 0.2", *vocabulary.merges, ""))
    (directory / "merges.txt").write_text(merges, "utf-8")
    added = {
        str(number): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": number in vocabulary.special,
        }
        for number, text in vocabulary.added.items()
    }
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    _write_json(directory / "tokenizer_config.json", settings)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")


def _write_file(
    path: Path,
    weights: Weights,
    names: Mapping[str, str],
    own: Sequence[str],
    stored_type: StoredType,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in own:
        size = weights.size(names[name])
        begin, end = end, end + int(np.prod(size)) * _ITEM_BYTES[stored_type]
        header[name] = {"dtype": stored_type, "shape": size, "data_offsets": [begin, end]}
    with path.open("wb") as file:
        write_header(file, header)
        for name in own:
            file.write(_store(weights.read(names[name]), stored_type))


def write_header(file: BinaryIO, header: Mapping[str, Any]) -> None:
    """Write the header, padded so that the tensors start at a multiple of 8 bytes."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _store(values: Float32Array, stored_type: StoredType) -> bytes:
    match stored_type:
        case "F32":
            return values.tobytes()
        case "F16":
            return values.astype(np.float16).tobytes()
        case "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
