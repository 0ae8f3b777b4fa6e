"""Files of a bundle of Qwen3-ASR or Qwen3-ForcedAligner, from a checkpoint or a release.

DIR/encoder_frontend.onnx  see graphs.py; weights in a file beside it
DIR/encoder_backend.onnx
DIR/decoder.gguf           see gguf_writer.py
DIR/classifier.npy         an aligner's head, (n_classes, hidden)
"""

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.importing.bundle_writer import BundleWriter, copied_bytes
from streamasr.importing.decoder_file import DECODER_BYTES, KEPT, count_weights, decoder_type
from streamasr.importing.options import ImportOptions
from streamasr.importing.quantize import quantize_decoder
from streamasr.importing.qwen3.checkpoint import HEAD, Checkpoint, encoder_shapes
from streamasr.importing.qwen3.gguf_writer import WrittenWidth, write_decoder
from streamasr.importing.qwen3.graphs import write_backend, write_frontend
from streamasr.importing.qwen3.release import OnnxRelease
from streamasr.importing.tensors import FLOAT_TYPES, Tensor
from streamasr.models.family import DECODER_FILE
from streamasr.models.qwen3.names import ALIGNER, BACKEND_FILE, CLASSIFIER_FILE, FRONTEND_FILE

_WINDOW_CHUNKS: Final = 8  # chunks in an attention window of the released models, 8 s


def write_checkpoint(source: Checkpoint, writer: BundleWriter) -> dict[str, Any]:
    """Convert the encoder and write the decoder; return the facts for `model.json`."""
    directory, bits = writer.directory, _encoder_bits(source)
    # Blocks of 8 bits and fewer lose nothing relevant in half precision.
    width = writer.options.encoder or ("fp32" if bits >= 16 else "fp16")
    write_frontend(source, directory / FRONTEND_FILE, width, writer.progress)
    write_backend(source, directory / BACKEND_FILE, width, writer.progress)
    _write_decoder(source, writer)
    if source.family == ALIGNER:
        np.save(directory / CLASSIFIER_FILE, _classifier(source.tensors[HEAD]))
    audio, text = source.audio, source.text
    facts: dict[str, Any] = {
        "languages": source.languages,
        "licence": source.licence,
        "n_mels": audio.n_mels,
        "n_window": audio.n_window,
        "n_window_infer": audio.n_window_infer,
        "d_model": audio.d_model,
        "hidden": text.hidden,
        "vocab": text.vocab,
        "parameters": count_weights(directory / DECODER_FILE),
        "precision": {"encoder": width, "decoder": decoder_type(directory / DECODER_FILE)},
        "encoder_bits": min(bits, {"fp32": 32, "fp16": 16, "int8": 8}[width]),
    }
    if source.family == ALIGNER:
        facts["n_classes"] = source.tensors[HEAD].shape[0]
        facts["timestamp_step_ms"] = source.timestamp_ms
    return facts


def write_release(source: OnnxRelease, writer: BundleWriter) -> dict[str, Any]:
    """Store the graphs and the decoder; return the facts for `model.json`."""
    writer.refuse_encoder_option(source.frontend.parent, source.precision)
    writer.keep(source.frontend, FRONTEND_FILE)
    writer.keep(source.backend, BACKEND_FILE)
    for path in source.data_files:
        writer.keep(path, path.name)
    writer.keep_decoder(source.decoder, DECODER_FILE)
    facts: dict[str, Any] = {
        "n_mels": source.n_mels,
        "n_window": source.chunk_frames // 2,
        "n_window_infer": _WINDOW_CHUNKS * source.chunk_frames,
        "d_model": source.d_model,
        "hidden": source.hidden,
        "vocab": source.vocab,
        "parameters": count_weights(source.decoder),
        "precision": {
            "encoder": source.precision,
            "decoder": decoder_type(writer.directory / DECODER_FILE),
        },
        "encoder_bits": source.encoder_bits,
    }
    if source.classifier is not None:
        np.save(writer.directory / CLASSIFIER_FILE, source.classifier)
    return facts


def max_checkpoint_bytes(source: Checkpoint, options: ImportOptions, directory: Path) -> float:
    """Return an upper bound for the size of a checkpoint's bundle, temporary files included."""
    width = DECODER_BYTES[options.decoder or "q8_0"]
    n_encoder = sum(math.prod(shape) for shape in encoder_shapes(source.audio).values())
    encoder = {"fp32": 4, "fp16": 2, "int8": 1}[options.encoder or "fp32"] * n_encoder
    if source.decoder_file is not None:
        if options.decoder in KEPT:
            return encoder + copied_bytes([source.decoder_file], directory)
        return encoder + count_weights(source.decoder_file) * width
    n_decoder = sum(math.prod(tensor.shape) for tensor in source.tensors.values()) - n_encoder
    # Quantisation starts from a temporary file in half precision.
    return encoder + n_decoder * (width if options.decoder in {"f32", "f16"} else 2 + width)


def _write_decoder(source: Checkpoint, writer: BundleWriter) -> None:
    """Write the decoder of a checkpoint, through a temporary file if it is quantised."""
    if source.decoder_file is not None:
        writer.keep_decoder(source.decoder_file, DECODER_FILE)
        return
    path = writer.directory / DECODER_FILE
    width = writer.options.decoder or ("keep" if source.path.is_file() else "q8_0")
    if width == "q8_0" or width == "q4_k":  # noqa: PLR1714 - mypy narrows only this form
        whole = path.with_suffix(".whole.gguf")
        own: WrittenWidth = "keep" if _is_quantized(source) else "f16"
        write_decoder(source, whole, own, writer.name, writer.progress)
        quantize_decoder(whole, path, width, writer.progress)
        whole.unlink()
    else:
        write_decoder(source, path, width, writer.name, writer.progress)


def _classifier(head: Tensor) -> npt.NDArray[Any]:
    """Return an aligner's head, in half precision if the source has half precision."""
    values = head.float32()
    return values.astype(np.float16) if head.stored_type in {"F16", "BF16"} else values


def _is_quantized(source: Checkpoint) -> bool:
    language_model = (t for name, t in source.tensors.items() if name.startswith("language_model."))
    return any(tensor.stored_type not in FLOAT_TYPES for tensor in language_model)


def _encoder_bits(source: Checkpoint) -> int:
    """Return the smallest number of bits of a weight in the encoder's matrices."""
    matrices = [
        source.tensors[n] for n, shape in encoder_shapes(source.audio).items() if len(shape) > 1
    ]
    return min(8 * tensor.stored().nbytes // math.prod(tensor.shape) for tensor in matrices)
