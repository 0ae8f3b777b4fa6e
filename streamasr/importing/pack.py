"""Creation of a model directory (a bundle) from any source, as `streamasr models import` does.

DIR/model.json             facts that the other files do not state, their origin, their hashes
DIR/encoder_frontend.onnx  see graphs.py; weights in a file beside it
DIR/encoder_backend.onnx
DIR/decoder.gguf           see gguf_writer.py
DIR/classifier.npy         an aligner's head, (n_classes, hidden)
DIR/aligner/               a second model directory, if the source has both families

Files that are used unchanged become hard links if the file system allows it, else copies.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ConfigError, ModelError
from streamasr.core.sizes import size_text
from streamasr.importing.atomic import atomic_directory
from streamasr.importing.checkpoint import HEAD, Checkpoint, encoder_shapes
from streamasr.importing.files import hash_file, link_or_copy
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.gguf_text import check_decoder
from streamasr.importing.gguf_writer import WrittenWidth, write_decoder
from streamasr.importing.graphs import EncoderWidth, write_backend, write_frontend
from streamasr.importing.onnx_file import read_graph
from streamasr.importing.origin import canonical_path, stamp_of
from streamasr.importing.quantize import quantize_decoder
from streamasr.importing.release import OnnxRelease
from streamasr.importing.source import Source, family_name, open_sources
from streamasr.importing.tensors import (
    FLOAT_TYPES,
    Notify,
    Progress,
    Tensor,
    ignore_notice,
    ignore_progress,
)
from streamasr.models.bundle import FACTS_FILE, FORMAT, VERSION, Bundle, open_bundle
from streamasr.models.family import DECODER_FILE
from streamasr.models.qwen3.names import ALIGNER, BACKEND_FILE, CLASSIFIER_FILE, FRONTEND_FILE

DecoderWidth: TypeAlias = Literal["f32", "f16", "q8_0", "q4_k", "keep"]

_PUBLISHED: Final = ("repository", "revision", "commit", "url", "checkpoint")
_SCRATCH: Final = ".unpacked"
_ALIGNER: Final = "aligner"
_WINDOW_CHUNKS: Final = 8  # chunks in an attention window of the released models, 8 s


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Requested properties of a model directory; None leaves the choice to the source."""

    encoder: EncoderWidth | None = None
    """Precision of converted graphs; by default fp16 if the source is quantised, else fp32."""
    decoder: DecoderWidth | None = None
    """Type of the decoder; by default the blocks of a GGUF are kept, and safetensors become
    q8_0."""
    name: str | None = None
    """Name of the model; by default that of the source."""
    licence: str | None = None
    """Licence, if the source does not state one."""
    languages: tuple[str, ...] | None = None
    """Languages, if the source does not list them."""
    provenance: Mapping[str, str] | None = None
    """Address from which the source was downloaded."""
    is_automatic: bool = False
    """Whether the user asked only to use the source, and not for an import."""


def import_model(
    path: Path,
    destination: Path,
    options: ImportOptions | None = None,
    progress: Progress = ignore_progress,
    *,
    notice: Notify = ignore_notice,
    replaces: bool = False,
) -> Bundle:
    """Create a model directory atomically. The source is only read.

    Args:
        path: a source in any of the forms of `source.py`.
        destination: the directory.
        options: its requested properties.
        progress: called after every step.
        notice: called with a sentence about the chosen files if there is a choice.
        replaces: whether the directory may exist already; then it is replaced at the end.

    Raises:
        ConfigError: the destination exists, cannot be written or is on a full disk, or an option
            does not apply to the source.
        ModelError: the source cannot be used, or was changed meanwhile.
    """
    options = options or ImportOptions()
    name = options.name or default_name(path)
    with atomic_directory(destination, replaces=replaces) as partial:
        given = canonical_path(path)
        origin = _begin_origin(given, options)
        scratch = partial / _SCRATCH
        sources = open_sources(path, scratch, progress)
        for note in sources.notes:
            notice(note)
        packer = _Packer(options, progress, origin, [given] if scratch.exists() else None)
        packer.pack(sources.main, partial, name)
        if sources.recogniser and sources.aligner:
            (partial / _ALIGNER).mkdir()
            packer.pack(sources.aligner, partial / _ALIGNER, f"{name}-aligner")
        if stamp_of(given) != origin["stamp"]:
            raise ModelError(
                f"{path} was changed during the import; import it again.", code="source_changed"
            )
        shutil.rmtree(scratch, ignore_errors=True)
        open_bundle(partial).check_files()
    return open_bundle(destination)


def recorded_options(options: ImportOptions) -> dict[str, Any]:
    """Return the options that a model directory records, for comparison with later requests."""
    return {"encoder": options.encoder, "decoder": options.decoder}


def _begin_origin(given: Path, options: ImportOptions) -> dict[str, Any]:
    """Record the identity of a source before any of it is read."""
    try:
        origin = dict(options.provenance or {}) | {"path": str(given), "stamp": stamp_of(given)}
        json.dumps(origin).encode()
    except FileNotFoundError as error:
        raise ModelError(f"{given} does not exist.", code="file_missing") from error
    except OSError as error:
        unreadable = error.filename or given
        raise ModelError(
            f"{unreadable} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    return origin | {"wish": recorded_options(options), "automatic": options.is_automatic}


def default_name(path: Path) -> str:
    """Return the default name of a source."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a link's own name is the better one
    if path.parent.name == "snapshots":  # of a hub's cache: models--OWNER--NAME/snapshots/COMMIT
        return path.parent.parent.name.rpartition("--")[2]
    return path.name if path.is_dir() else path.stem


class _Packer:
    """Writer of bundles; hashes each file only once, even if it has several names."""

    def __init__(
        self,
        options: ImportOptions,
        progress: Progress,
        origin: Mapping[str, Any],
        archives: Sequence[Path] | None,
    ) -> None:
        """Store the options of all bundles.

        Args:
            options: requested properties of the bundles.
            progress: called after every step.
            origin: recorded identity of the source.
            archives: the user's files, if the sources were extracted from them; else None.
        """
        self._options = options
        self._progress = progress
        self._origin = origin
        self._archives = archives
        self._hashes: dict[tuple[int, int], str] = {}
        self._linked: set[Path] = set()

    def pack(self, source: Source, directory: Path, name: str) -> None:
        """Write one bundle.

        Args:
            source: a model of one family.
            directory: destination, which exists.
            name: name of the model.
        """
        self._check_space(source, directory)
        match source:
            case Checkpoint():
                facts = self._pack_checkpoint(source, directory, name)
            case OnnxRelease():
                facts = self._pack_release(source, directory)
            case Bundle():
                facts = self._pack_bundle(source, directory)
        family = family_name(source)
        of_all = {"format": FORMAT, "version": VERSION, "family": family, "name": name}
        facts = of_all | facts | of_all
        facts["licence"] = facts.get("licence") or self._options.licence
        facts["languages"] = facts.get("languages") or self._options.languages
        facts["source"] = self._describe_source(source)
        paths = sorted(path for path in directory.iterdir() if path.is_file())
        facts["files"] = {path.name: self._describe_stored(path) for path in paths}
        text = json.dumps(facts, ensure_ascii=False, indent=2)
        with (directory / FACTS_FILE).open("x", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def _pack_checkpoint(self, source: Checkpoint, directory: Path, name: str) -> dict[str, Any]:
        bits = _encoder_bits(source)
        # Blocks of 8 bits and fewer lose nothing relevant in half precision.
        width = self._options.encoder or ("fp32" if bits >= 16 else "fp16")
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
            "parameters": _n_weights(directory / DECODER_FILE),
            "precision": {"encoder": width, "decoder": _decoder_type(directory / DECODER_FILE)},
            "encoder_bits": min(bits, {"fp32": 32, "fp16": 16, "int8": 8}[width]),
        }
        if source.family == ALIGNER:
            facts["n_classes"] = source.tensors[HEAD].shape[0]
            facts["timestamp_step_ms"] = source.timestamp_ms
        return facts

    def _pack_release(self, source: OnnxRelease, directory: Path) -> dict[str, Any]:
        if self._options.encoder is not None:
            raise ConfigError(
                f"the encoder in {source.frontend.parent} is a finished graph "
                f"({source.precision}), which is used unchanged; omit --encoder.",
                code="encoder_fixed",
            )
        self._keep(source.frontend, directory / FRONTEND_FILE)
        self._keep(source.backend, directory / BACKEND_FILE)
        for path in source.data_files:
            self._keep(path, directory / path.name)
        self._keep_decoder(source.decoder, directory / DECODER_FILE)
        facts: dict[str, Any] = {
            "n_mels": source.n_mels,
            "n_window": source.chunk_frames // 2,
            "n_window_infer": _WINDOW_CHUNKS * source.chunk_frames,
            "d_model": source.d_model,
            "hidden": source.hidden,
            "vocab": source.vocab,
            "parameters": _n_weights(source.decoder),
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
        if self._options.encoder is not None:
            raise ConfigError(
                f"the encoder in {source.directory} is a finished graph, which is used unchanged; "
                "omit --encoder.",
                code="encoder_fixed",
            )
        source.check_files()
        for path in _files(source):
            stated = source.files.get(path.name)
            if stated and stated.sha256 and stated.sha256 != self._hash(path):
                raise ModelError(
                    f"{path} is damaged: its SHA-256 differs from the one in {FACTS_FILE}; get the "
                    "model again.",
                    code="model_file_damaged",
                )
            if path.name != DECODER_FILE:
                self._keep(path, directory / path.name)
        check_decoder(source.decoder, source.family.name)
        self._keep_decoder(source.decoder, directory / DECODER_FILE)
        precision = dict(source.precision) | {"decoder": _decoder_type(directory / DECODER_FILE)}
        return source.facts | {"precision": precision}

    def _keep(self, source: Path, path: Path) -> None:
        """Link or copy a file unchanged."""
        if link_or_copy(source, path, self._progress) and self._archives is None:
            self._linked.add(path)

    def _write_decoder(self, source: Checkpoint, path: Path, name: str) -> None:
        """Write the decoder of a checkpoint, through a temporary file if it is quantised."""
        if source.decoder_file is not None:
            self._keep_decoder(source.decoder_file, path)
            return
        width = self._options.decoder or ("keep" if source.path.is_file() else "q8_0")
        if width == "q8_0" or width == "q4_k":  # noqa: PLR1714 - mypy narrows only this form
            whole = path.with_suffix(".whole.gguf")
            own: WrittenWidth = "keep" if _is_quantized(source) else "f16"
            write_decoder(source, whole, own, name, self._progress)
            quantize_decoder(whole, path, width, self._progress)
            whole.unlink()
        else:
            write_decoder(source, path, width, name, self._progress)

    def _keep_decoder(self, source: Path, path: Path) -> None:
        width = self._options.decoder or "keep"
        if width == "keep":
            self._keep(source, path)
        else:
            quantize_decoder(source, path, width, self._progress)

    def _describe_source(self, source: Source) -> dict[str, Any]:
        """Describe the origin of a model."""
        files = self._archives or _files(source)
        described = [
            {
                "path": str(path),
                "modified_ns": path.stat().st_mtime_ns,
                **self._describe_file(path),
            }
            for path in files
        ]
        # The files of a bundle's source may be gone, but the place of publication stays valid.
        published = source.source if isinstance(source, Bundle) else {}
        known = {key: published[key] for key in _PUBLISHED if key in published}
        return known | dict(self._origin) | {"files": described}

    def _describe_stored(self, path: Path) -> dict[str, Any]:
        """Describe a stored file; for a link to a user's file, include its modification time."""
        described = self._describe_file(path)
        if path in self._linked:
            described["modified_ns"] = path.stat().st_mtime_ns
        return described

    def _describe_file(self, path: Path) -> dict[str, Any]:
        return {"bytes": path.stat().st_size, "sha256": self._hash(path)}

    def _hash(self, path: Path) -> str:
        """Return the SHA-256 of a file; a file with several names is read once."""
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        if key not in self._hashes:
            self._hashes[key] = hash_file(path, self._progress)
        return self._hashes[key]

    def _check_space(self, source: Source, directory: Path) -> None:
        """Check before minutes of work that the disk has space for the result.

        Raises:
            ConfigError: the disk has too little free space.
        """
        needed = round(_max_bytes(source, self._options, directory))
        free = shutil.disk_usage(directory).free
        if needed > free:
            raise ConfigError(
                f"{directory.parent} has only {size_text(free)} free, and the import may need "
                f"{size_text(needed)}; free some space, or choose another directory.",
                code="disk_full",
            )


def _files(source: Source) -> list[Path]:
    """Return the files with the weights of a source."""
    match source:
        case Checkpoint():
            paths = {tensor.path for tensor in source.tensors.values()}
            return sorted(paths | ({source.decoder_file} if source.decoder_file else set()))
        case OnnxRelease():
            return [source.frontend, source.backend, *source.data_files, source.decoder]
        case Bundle():
            # The file names in a description are not trusted: they may be wrong or incomplete.
            names = {Path(name).name for name in source.files} - {FACTS_FILE}
            names |= {*source.family.files(source)}
            data = {
                p for graph in source.directory.glob("*.onnx") for p in read_graph(graph).data_files
            }
            return sorted(data | {source.directory / name for name in names})


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


def _decoder_type(path: Path) -> str:
    """Return the type of most of a decoder's weights, for example `q4_k`."""
    sizes: Counter[str] = Counter()
    for tensor in read_gguf(path).tensors.values():
        sizes[tensor.stored_type] += math.prod(tensor.shape)
    return sizes.most_common(1)[0][0].lower()


def _max_bytes(source: Source, options: ImportOptions, directory: Path) -> float:
    """Return an upper bound for the size of the bundle, temporary files included."""
    width = _DECODER_BYTES[options.decoder or "q8_0"]
    if not isinstance(source, Checkpoint):
        kept = _copied(_files(source), directory)
        return kept + (_n_weights(source.decoder) * width if options.decoder not in _KEPT else 0)
    n_encoder = sum(math.prod(shape) for shape in encoder_shapes(source.audio).values())
    encoder = {"fp32": 4, "fp16": 2, "int8": 1}[options.encoder or "fp32"] * n_encoder
    if source.decoder_file is not None:
        if options.decoder in _KEPT:
            return encoder + _copied([source.decoder_file], directory)
        return encoder + _n_weights(source.decoder_file) * width
    n_decoder = sum(math.prod(tensor.shape) for tensor in source.tensors.values()) - n_encoder
    # Quantisation starts from a temporary file in half precision.
    return encoder + n_decoder * (width if options.decoder in {"f32", "f16"} else 2 + width)


_KEPT: Final = (None, "keep")
_DECODER_BYTES: Final[dict[DecoderWidth, float]] = {
    "f32": 4,
    "f16": 2,
    "q8_0": 1.1,
    "q4_k": 0.7,
    "keep": 2,
}
"""Upper bounds for a weight."""


def _copied(files: Iterable[Path], directory: Path) -> int:
    """Return the size of the files that cannot be linked."""
    here = directory.stat().st_dev
    return sum(path.stat().st_size for path in files if path.stat().st_dev != here)


def _n_weights(decoder: Path) -> int:
    """Count the parameters of an LLM as usual: without the encoder, tied embeddings once."""
    tensors = read_gguf(decoder).tensors.items()
    return sum(math.prod(tensor.shape) for name, tensor in tensors if name != "output.weight")
