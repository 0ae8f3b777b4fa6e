"""Files that resemble a published model: other models, damaged files, malicious archives."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from tests.sources.decoder import DecoderOptions, write_decoder
from tests.sources.gguf_file import Entry, write_gguf
from tests.sources.weights import Weights

BOMB_BYTES: Final = 128 << 20
"""Content that a zip of a hundred kilobytes claims."""


def write_predict_woo(path: Path) -> Path:
    """Write the format of predict-woo/qwen3-asr.cpp: a hyphen in the architecture, other names."""
    return _write(
        path,
        "qwen3-asr",
        ("audio.encoder.conv1.weight", "audio.encoder.blk.0.attn_q.weight", "token_embd.weight"),
        {"qwen3-asr.audio.encoder.layer_count": 18, "qwen3-asr.embedding_length": 1024},
    )


def write_text_only(checkpoint: Path, path: Path) -> Path:
    """Write a language model without the tokens of speech: an ordinary Qwen3."""
    options = DecoderOptions(architecture="qwen3", has_audio_tokens=False)
    write_decoder(Weights(checkpoint), path, options)
    return path


def write_decoder_alone(checkpoint: Path, path: Path) -> Path:
    """Write a decoder without its encoder, as after an incomplete download."""
    write_decoder(Weights(checkpoint), path, DecoderOptions())
    return path


def write_ctc_aligner(path: Path) -> Path:
    """Write an aligner of another family, as published by CrispASR."""
    names = ("encoder.layers.0.self_attn.linear_q.weight", "ctc.decoder.weight")
    return _write(path, "canary_ctc", names, {"canary_ctc.vocab_size": 1025})


def write_vision_projector(path: Path) -> Path:
    """Write an `mmproj` for images instead of audio."""
    facts = {"clip.vision.embedding_length": 64, "clip.vision.projection_dim": 192}
    return _write(path, "clip", ("v.patch_embd.weight", "v.blk.0.attn_q.weight"), facts)


def _write(path: Path, architecture: str, names: tuple[str, ...], facts: Mapping[str, int]) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in facts.items():
        writer.add_uint32(key, value)
    values = np.ones((32, 32), np.float32)
    write_gguf(writer, path, [Entry(name, (32, 32), Type.F16, lambda: values) for name in names])
    return path


def truncate(path: Path, fraction: float) -> Path:
    """Cut off the end of a file, as an interrupted download does."""
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * fraction))
    return path


def write_climbing_zip(path: Path, member: str = "../climbed.onnx") -> Path:
    """Write an archive with a member whose path leads out of the destination."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"not wanted here")
    return path


def write_linking_zip(path: Path, target: str = "/etc/passwd") -> Path:
    """Write an archive with a symbolic link that leads out of it."""
    entry = zipfile.ZipInfo("qwen3_asr_llm.gguf")
    entry.external_attr = (0o120777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, target)
    return path


def write_bomb(path: Path) -> Path:
    """Write a small archive with a very large content (a zip bomb)."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("qwen3_asr_llm.gguf", "w") as member,
    ):
        for _ in range(BOMB_BYTES >> 20):
            member.write(bytes(1 << 20))
    return path
