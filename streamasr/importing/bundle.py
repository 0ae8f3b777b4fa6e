"""Writing a whole bundle: what `streamasr export` does.

DIR/model.json             facts that the other files cannot tell
DIR/encoder_frontend.onnx  see graphs.py
DIR/encoder_backend.onnx
DIR/decoder.gguf           see gguf_writer.py
DIR/classifier.npy         an aligner's head, (n_classes, hidden)
DIR/aligner/               a recogniser's aligner, a bundle of its own
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from streamasr.errors import ConfigError, ModelError
from streamasr.importing.checkpoint import HEAD, Checkpoint
from streamasr.importing.gguf_writer import write_decoder
from streamasr.importing.graphs import build_backend, build_frontend
from streamasr.importing.quantize import quantize_backend, quantize_decoder
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.models.bundle import ALIGNER, FORMAT, RECOGNISER, VERSION

EncoderWidth = Literal["fp32", "int8"]
DecoderWidth = Literal["f32", "f16", "q8_0", "q4_k"]
Progress = Callable[[str], None]
"""Told what is being done now, in a few words."""


@dataclass(frozen=True, slots=True)
class _Precision:
    encoder: EncoderWidth
    decoder: DecoderWidth


def export_checkpoint(
    source: Path,
    destination: Path,
    *,
    encoder: EncoderWidth = "fp32",
    decoder: DecoderWidth = "q8_0",
    aligner: Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Turn a checkpoint into a bundle, whole or not at all.

    Args:
        source: the checkpoint's directory, a recogniser or an aligner.
        destination: the bundle's directory, which must not exist.
        encoder: precision of the transformer graph; the convolutions are always float32.
        decoder: precision of the LLM.
        aligner: an aligner's checkpoint to go with a recogniser.
        name: what the model is called, else the source directory's name.
        progress: told about every step.

    Raises:
        ConfigError: the destination exists or cannot be written.
        ModelError: a checkpoint is broken, of the wrong kind or not supported.
    """
    bundles = {".": read_checkpoint(source)}
    if aligner is not None:
        _require_family(bundles["."], RECOGNISER)
        bundles["aligner"] = read_checkpoint(aligner)
        _require_family(bundles["aligner"], ALIGNER)
    precision = _Precision(encoder, decoder)
    partial = _begin(destination)
    try:
        for place, checkpoint in bundles.items():
            own_name = (name if place == "." else None) or checkpoint.path.resolve().name
            (partial / place).mkdir(exist_ok=True)
            _write_bundle(checkpoint, partial / place, own_name, precision, progress or _silent)
        partial.rename(destination)
    except OSError as error:
        raise ConfigError(f"{destination}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _begin(destination: Path) -> Path:
    """Make the directory that becomes the destination when everything is in it."""
    if destination.exists():
        raise ConfigError(f"{destination}: this exists already; remove it or choose another name")
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{destination}: cannot be made ({error.strerror})") from error
    return partial


def _require_family(checkpoint: Checkpoint, family: str) -> None:
    if checkpoint.family != family:
        raise ModelError(f"{checkpoint.path}: this is a {checkpoint.family}, not a {family}")


def _silent(_step: str) -> None:
    """Tell nobody."""


def _write_bundle(
    checkpoint: Checkpoint, directory: Path, name: str, precision: _Precision, progress: Progress
) -> None:
    progress(f"{name}: encoder, {precision.encoder}")
    _write_encoder(checkpoint, directory, precision.encoder)
    progress(f"{name}: decoder, {precision.decoder}")
    _write_decoder(checkpoint, directory / "decoder.gguf", precision.decoder, name)
    if checkpoint.family == ALIGNER:
        np.save(directory / "classifier.npy", _classifier(checkpoint))
    facts = _facts(checkpoint, name) | {"precision": asdict(precision)}
    text = json.dumps(facts, ensure_ascii=False, indent=2)
    (directory / "model.json").write_text(f"{text}\n", "utf-8")


def _write_encoder(checkpoint: Checkpoint, directory: Path, width: EncoderWidth) -> None:
    onnx.save(build_frontend(checkpoint), directory / "encoder_frontend.onnx")
    backend = directory / "encoder_backend.onnx"
    match width:
        case "fp32":
            onnx.save(build_backend(checkpoint), backend)
        case "int8":
            quantize_backend(build_backend(checkpoint, keep_half=False), backend)


def _write_decoder(checkpoint: Checkpoint, path: Path, width: DecoderWidth, name: str) -> None:
    match width:
        case "f32" | "f16":
            write_decoder(checkpoint, path, width, name)
        case "q8_0" | "q4_k":
            unquantized = path.with_suffix(".f16.gguf")
            write_decoder(checkpoint, unquantized, "f16", name)
            quantize_decoder(unquantized, path, width)
            unquantized.unlink()


def _classifier(checkpoint: Checkpoint) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    """Return an aligner's head, in half precision where the checkpoint has no more."""
    head = checkpoint.tensors[HEAD]
    return head.float32().astype(np.float32 if head.stored_type == "F32" else np.float16)


def _facts(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """State what a reader of the bundle needs to know before opening the other files."""
    audio, text = checkpoint.audio, checkpoint.text
    facts: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "family": checkpoint.family,
        "name": name,
        "languages": checkpoint.languages,
        "n_mels": audio.n_mels,
        "n_window": audio.n_window,
        "n_window_infer": audio.n_window_infer,
        "d_model": audio.d_model,
        "hidden": text.hidden,
        "vocab": text.vocab,
    }
    if checkpoint.family == ALIGNER:
        facts["n_classes"] = checkpoint.tensors[HEAD].shape[0]
        facts["timestamp_step_ms"] = checkpoint.timestamp_ms
    return facts
