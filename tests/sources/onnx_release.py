"""Writer of folders and zips of two ONNX graphs with a decoder, named as by their publishers."""

import zipfile
from pathlib import Path
from typing import Final, Literal

from tests.sources.decoder import DecoderOptions, Mix, quantize, write_decoder
from tests.sources.onnx_graphs import Precision, write_graphs
from tests.sources.weights import Weights

DecoderType = Literal["f16"] | Mix
Prefix = Literal["asr", "aligner"]

MEMBER_TIME: Final = (2026, 2, 23, 12, 0, 0)


def write_onnx_release(
    checkpoint: Path,
    directory: Path,
    precision: Precision = "fp32",
    decoder: DecoderType = "f16",
    *,
    infix: bool = True,
) -> Path:
    """Write a release of a recogniser or an aligner and return the directory.

    Args:
        checkpoint: directory of the weights.
        directory: destination; two releases may share one.
        precision: precision of both graphs.
        decoder: type or mix of the GGUF.
        infix: whether to include the precisions in the file names, as one publisher does and the
            other does not.
    """
    weights = Weights(checkpoint)
    prefix: Prefix = "asr" if weights.shape.n_classes is None else "aligner"
    directory.mkdir(parents=True, exist_ok=True)
    encoder = f"qwen3_{prefix}_encoder"
    ending = f".{precision}.onnx" if infix else ".onnx"
    write_graphs(
        weights,
        directory / f"{encoder}_frontend{ending}",
        directory / f"{encoder}_backend{ending}",
        precision,
    )
    name = f"qwen3_{prefix}_llm.{decoder}.gguf" if infix else f"qwen3_{prefix}_llm.gguf"
    write_release_decoder(weights, directory / name, decoder)
    return directory


def write_release_decoder(weights: Weights, path: Path, decoder: DecoderType) -> None:
    """Write the GGUF of a release; the head is stored even if it is tied."""
    if decoder == "f16":
        write_decoder(weights, path, DecoderOptions())
        return
    whole = path.with_name(f"{path.name}.f16")
    write_decoder(weights, whole, DecoderOptions())
    quantize(whole, path, decoder)
    whole.unlink()


def pack(directory: Path, path: Path, folder: str | None = None) -> Path:
    """Zip the files of a release, flat or inside a folder, and return the zip's path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        if folder is not None:
            archive.writestr(zipfile.ZipInfo(f"{folder}/", MEMBER_TIME), b"")
        for file in sorted(directory.iterdir()):
            archive.write(file, f"{folder}/{file.name}" if folder else file.name)
    return path
