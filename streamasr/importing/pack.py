"""Making a model directory (a bundle) of whatever source: what `streamasr models import` does.

DIR/model.json             what the other files cannot tell, where they are from, their hashes
DIR/encoder_frontend.onnx  see graphs.py; weights in a file beside it
DIR/encoder_backend.onnx
DIR/decoder.gguf           see gguf_writer.py
DIR/classifier.npy         an aligner's head, (n_classes, hidden)
DIR/aligner/               a model directory of its own, where the source has both

Files that can be used as they are become hard links where the file system allows it, else copies.
"""

import glob
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from streamasr.errors import ConfigError
from streamasr.importing.checkpoint import HEAD, Checkpoint, encoder_shapes
from streamasr.importing.files import link_or_copy
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.gguf_writer import WrittenWidth, write_decoder
from streamasr.importing.graphs import EncoderWidth, write_backend, write_frontend
from streamasr.importing.quantize import QuantizedWidth, quantize_decoder
from streamasr.importing.release import Release
from streamasr.importing.source import Source, is_archive, open_sources
from streamasr.importing.tensors import FLOAT_TYPES, Progress, Tensor, silent
from streamasr.models.bundle import (
    ALIGNER,
    BACKEND_FILE,
    CLASSIFIER_FILE,
    DECODER_FILE,
    FACTS_FILE,
    FORMAT,
    FRONTEND_FILE,
    VERSION,
    Bundle,
    open_bundle,
)

DecoderWidth: TypeAlias = Literal["f32", "f16", "q8_0", "q4_k", "keep"]

_SCRATCH: Final = ".unpacked"
_ALIGNER: Final = "aligner"
_WINDOW_CHUNKS: Final = 8  # of an attention window of the released models, 8 s
_PIECE: Final = 1 << 22  # bytes read at a time


@dataclass(frozen=True, slots=True)
class Wish:
    """What a model directory shall be like; None leaves it to the source."""

    encoder: EncoderWidth | None = None
    """Of graphs that are made: by default fp16 where the source is quantised, else fp32."""
    decoder: DecoderWidth | None = None
    """By default a GGUF's blocks are kept, and safetensors become q8_0."""
    name: str | None = None
    """What the model is called; by default like the source."""
    licence: str | None = None
    """Where the source does not state one."""
    languages: tuple[str, ...] | None = None
    """Where the source does not list them."""
    provenance: Mapping[str, str] | None = None
    """Where the source was downloaded from."""


def import_model(
    path: Path, destination: Path, wish: Wish | None = None, progress: Progress = silent
) -> Bundle:
    """Make a model directory, whole or not at all. The source is only read.

    Args:
        path: a source in any of the forms of `source.py`.
        destination: the directory, which must not exist.
        wish: what it shall be like.
        progress: told about every step.

    Raises:
        ConfigError: the destination exists, cannot be written or has no room, or a wish cannot be
            fulfilled.
        ModelError: the source cannot be used.
    """
    wish = wish or Wish()
    with whole_or_nothing(destination) as partial:
        scratch = partial / _SCRATCH
        sources = open_sources(path, scratch, progress)
        packer = _Packer(wish, progress, destination.parent)
        given = [path] if is_archive(path) else None
        packer.pack(sources.main, partial, wish.name or name_of(path), given)
        if sources.recogniser and sources.aligner:
            (partial / _ALIGNER).mkdir()
            packer.pack(sources.aligner, partial / _ALIGNER, f"{name_of(path)}-aligner", given)
        shutil.rmtree(scratch, ignore_errors=True)
    return open_bundle(destination)


def name_of(path: Path) -> str:
    """What a source is called when nobody says it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links keep their name; what they lead to may have none
    if path.parent.name == "snapshots":  # of a hub's cache: models--OWNER--NAME/snapshots/COMMIT
        return path.parent.parent.name.rpartition("--")[2]
    return path.name if path.is_dir() else path.stem


@contextmanager
def whole_or_nothing(destination: Path) -> Iterator[Path]:
    """Make a directory that becomes the destination when all has gone well, and else vanishes.

    What a killed process has left of an earlier try is removed.

    Raises:
        ConfigError: the destination exists already, or cannot be written.
    """
    if destination.exists():
        raise ConfigError(f"{destination}: this exists already; remove it or choose another name.")
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(destination)
        partial.mkdir()
    except OSError as error:
        raise ConfigError(f"{destination}: cannot be made ({error.strerror}).") from error
    try:
        yield partial
        partial.rename(destination)
    except OSError as error:
        raise ConfigError(f"{destination}: cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(destination: Path) -> None:
    """Remove partial directories of this destination whose process is gone."""
    for path in destination.parent.glob(f".{glob.escape(destination.name)}.*.partial"):
        pid = path.suffixes[-2].removeprefix(".")
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(path, ignore_errors=True)


class _Packer:
    """Writes bundles, and hashes each file once, however many names it has."""

    def __init__(self, wish: Wish, progress: Progress, parent: Path) -> None:
        self._wish = wish
        self._progress = progress
        self._parent = parent
        self._hashes: dict[tuple[int, int], str] = {}

    def pack(
        self, source: Source, directory: Path, name: str, given: Sequence[Path] | None
    ) -> None:
        """Write one bundle.

        Args:
            source: of one family.
            directory: where to; it exists.
            name: what the model is called.
            given: the files that the user has, if they are not the source's own.
        """
        self._check_room(source)
        match source:
            case Checkpoint():
                facts = self._pack_checkpoint(source, directory, name)
            case Release():
                facts = self._pack_release(source, directory)
            case Bundle():
                facts = self._pack_bundle(source, directory)
        of_all = {"format": FORMAT, "version": VERSION, "family": source.family, "name": name}
        facts = of_all | facts | of_all
        facts["licence"] = facts.get("licence") or self._wish.licence
        facts["languages"] = facts.get("languages") or self._wish.languages
        facts["source"] = self._describe_source(given or _files(source), source)
        names = sorted(path.name for path in directory.iterdir() if path.is_file())
        facts["files"] = {name: self._describe_file(directory / name) for name in names}
        text = json.dumps(facts, ensure_ascii=False, indent=2)
        with (directory / FACTS_FILE).open("x", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def _pack_checkpoint(self, source: Checkpoint, directory: Path, name: str) -> dict[str, Any]:
        bits = _encoder_bits(source)
        # Blocks of 8 bits and fewer lose nothing that matters in half precision.
        width = self._wish.encoder or ("fp32" if bits >= 16 else "fp16")
        write_frontend(source, directory / FRONTEND_FILE, width, self._progress)
        write_backend(source, directory / BACKEND_FILE, width, self._progress)
        self._write_decoder(source, directory / DECODER_FILE, name)
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
            "precision": {"encoder": width, "decoder": _decoder_type(directory / DECODER_FILE)},
            "encoder_bits": min(bits, {"fp32": 32, "fp16": 16, "int8": 8}[width]),
        }
        if source.family == ALIGNER:
            facts["n_classes"] = source.tensors[HEAD].shape[0]
            facts["timestamp_step_ms"] = source.timestamp_ms
        return facts

    def _pack_release(self, source: Release, directory: Path) -> dict[str, Any]:
        if self._wish.encoder is not None:
            raise ConfigError(
                f"the encoder of {source.frontend.parent} is a finished graph "
                f"({source.precision}), which is used as it is: leave --encoder out."
            )
        link_or_copy(source.frontend, directory / FRONTEND_FILE, self._progress)
        link_or_copy(source.backend, directory / BACKEND_FILE, self._progress)
        for path in source.data_files:
            link_or_copy(path, directory / path.name, self._progress)
        self._keep_decoder(source.decoder, directory / DECODER_FILE)
        facts: dict[str, Any] = {
            "n_mels": source.n_mels,
            "n_window": source.chunk_frames // 2,
            "n_window_infer": _WINDOW_CHUNKS * source.chunk_frames,
            "d_model": source.d_model,
            "hidden": source.hidden,
            "vocab": source.vocab,
            "precision": {
                "encoder": source.precision,
                "decoder": _decoder_type(directory / DECODER_FILE),
            },
            "encoder_bits": source.encoder_bits,
        }
        if source.classifier is not None:
            np.save(directory / CLASSIFIER_FILE, source.classifier)
        return facts

    def _pack_bundle(self, source: Bundle, directory: Path) -> dict[str, Any]:
        if self._wish.encoder is not None:
            raise ConfigError(
                f"the encoder of {source.directory} is a finished graph, which is used as it is: "
                "leave --encoder out."
            )
        source.check_files()
        for path in _files(source):
            if path.name != DECODER_FILE:
                link_or_copy(path, directory / path.name, self._progress)
        self._keep_decoder(source.decoder, directory / DECODER_FILE)
        precision = dict(source.precision) | {"decoder": _decoder_type(directory / DECODER_FILE)}
        return source.facts | {"precision": precision}

    def _write_decoder(self, source: Checkpoint, path: Path, name: str) -> None:
        """Write the decoder of a checkpoint: kept, or through a file that is then quantised."""
        if source.decoder_file is not None:
            self._keep_decoder(source.decoder_file, path)
            return
        width = self._wish.decoder or ("keep" if source.path.is_file() else "q8_0")
        if width == "q8_0" or width == "q4_k":  # noqa: PLR1714 - which a type checker understands
            whole = path.with_suffix(".whole.gguf")
            own: WrittenWidth = "keep" if _is_quantized(source) else "f16"
            write_decoder(source, whole, own, name, self._progress)
            self._quantize(whole, path, width)
            whole.unlink()
        else:
            write_decoder(source, path, width, name, self._progress)

    def _keep_decoder(self, source: Path, path: Path) -> None:
        width = self._wish.decoder or "keep"
        if width == "keep":
            link_or_copy(source, path, self._progress)
        else:
            self._quantize(source, path, width)

    def _quantize(self, source: Path, path: Path, width: QuantizedWidth) -> None:
        size = source.stat().st_size
        self._progress(f"decoder, to {width}", 0, size)
        quantize_decoder(source, path, width)
        self._progress(f"decoder, to {width}", size, size)

    def _describe_source(self, files: Sequence[Path], source: Source) -> dict[str, Any]:
        """Where the model is from; that of a bundle is what the bundle itself was made from."""
        if isinstance(source, Bundle) and source.source:
            return dict(source.source)
        described: dict[str, Any] = dict(self._wish.provenance or {})
        described["files"] = [
            {
                "path": str(path.absolute()),
                "modified_ns": path.stat().st_mtime_ns,
                **self._describe_file(path),
            }
            for path in files
        ]
        return described

    def _describe_file(self, path: Path) -> dict[str, Any]:
        return {"bytes": path.stat().st_size, "sha256": self._hash(path)}

    def _hash(self, path: Path) -> str:
        """The SHA-256 of a file; a file with several names is read once."""
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        if key not in self._hashes:
            self._hashes[key] = hash_file(path, self._progress)
        return self._hashes[key]

    def _check_room(self, source: Source) -> None:
        """Find out before hours of work whether there is room for the result.

        Raises:
            ConfigError: there is not.
        """
        needed = _most_bytes(source, self._wish)
        free = shutil.disk_usage(self._parent).free
        if needed > free:
            raise ConfigError(
                f"{self._parent}: importing may need {_gigabytes(needed)}, and only "
                f"{_gigabytes(free)} are free."
            )


def hash_file(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest, done = hashlib.sha256(), 0
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            progress(f"checking {path.name}", done, size)
    return digest.hexdigest()


def _files(source: Source) -> list[Path]:
    """The files with the weights."""
    match source:
        case Checkpoint():
            paths = {tensor.path for tensor in source.tensors.values()}
            return sorted(paths | ({source.decoder_file} if source.decoder_file else set()))
        case Release():
            return [source.frontend, source.backend, *source.data_files, source.decoder]
        case Bundle():
            # What stands in a description is not believed: it may name anything.
            names = {Path(name).name for name in source.files} - {FACTS_FILE}
            named = [source.directory / name for name in sorted(names)]
            usual = [source.frontend, source.backend, source.decoder]
            usual += [source.classifier] if source.family == ALIGNER else []
            return named or usual


def _classifier(head: Tensor) -> npt.NDArray[Any]:
    """An aligner's head, in half precision where the source has no more."""
    values = head.float32()
    return values.astype(np.float16) if head.stored_type in {"F16", "BF16"} else values


def _is_quantized(source: Checkpoint) -> bool:
    language_model = (t for name, t in source.tensors.items() if name.startswith("language_model."))
    return any(tensor.stored_type not in FLOAT_TYPES for tensor in language_model)


def _encoder_bits(source: Checkpoint) -> int:
    """Bits of a weight in the matrices that have least."""
    matrices = [
        source.tensors[n] for n, shape in encoder_shapes(source.audio).items() if len(shape) > 1
    ]
    return min(8 * tensor.stored().nbytes // math.prod(tensor.shape) for tensor in matrices)


def _decoder_type(path: Path) -> str:
    """How most of a decoder's weights are stored, as in `q4_k`."""
    sizes: Counter[str] = Counter()
    for tensor in read_gguf(path).tensors.values():
        sizes[tensor.stored_type] += math.prod(tensor.shape)
    return sizes.most_common(1)[0][0].lower()


def _most_bytes(source: Source, wish: Wish) -> float:
    """What a bundle of this source takes at most, with what is only there meanwhile."""
    given = sum(path.stat().st_size for path in _files(source))
    if not isinstance(source, Checkpoint):
        return given
    n_encoder = sum(math.prod(shape) for shape in encoder_shapes(source.audio).values())
    n_decoder = sum(math.prod(tensor.shape) for tensor in source.tensors.values()) - n_encoder
    encoder = {"fp32": 4, "fp16": 2, "int8": 1}[wish.encoder or "fp32"] * n_encoder
    kept = source.decoder_file.stat().st_size if source.decoder_file else 0
    # Half precision, and beside it, for a while, at most 8.5 bits of each weight.
    return encoder + max(kept, 4 * n_decoder if wish.decoder == "f32" else 3.1 * n_decoder)


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
