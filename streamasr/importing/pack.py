"""Making a model directory (a bundle) of whatever source: what `streamasr models import` does.

DIR/model.json             what the other files cannot tell, where they are from, their hashes
DIR/encoder_frontend.onnx  see graphs.py; weights in a file beside it
DIR/encoder_backend.onnx
DIR/decoder.gguf           see gguf_writer.py
DIR/classifier.npy         an aligner's head, (n_classes, hidden)
DIR/aligner/               a model directory of its own, where the source has both

Files that can be used as they are become hard links where the file system allows it, else copies.
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
from streamasr.importing.checkpoint import HEAD, Checkpoint, encoder_shapes
from streamasr.importing.files import hash_file, link_or_copy
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.gguf_text import check_decoder
from streamasr.importing.gguf_writer import WrittenWidth, write_decoder
from streamasr.importing.graphs import EncoderWidth, write_backend, write_frontend
from streamasr.importing.onnx_file import read_graph
from streamasr.importing.origin import given_path, stamp_of
from streamasr.importing.placing import whole_or_nothing
from streamasr.importing.quantize import quantize_decoder
from streamasr.importing.release import Release
from streamasr.importing.source import Source, family_name, open_sources
from streamasr.importing.tensors import FLOAT_TYPES, Notice, Progress, Tensor, silent, unheard
from streamasr.models.bundle import FACTS_FILE, FORMAT, VERSION, Bundle, open_bundle
from streamasr.models.family import DECODER_FILE
from streamasr.models.qwen3.names import ALIGNER, BACKEND_FILE, CLASSIFIER_FILE, FRONTEND_FILE

DecoderWidth: TypeAlias = Literal["f32", "f16", "q8_0", "q4_k", "keep"]

_PUBLISHED: Final = ("repository", "revision", "commit", "url", "checkpoint")
_SCRATCH: Final = ".unpacked"
_ALIGNER: Final = "aligner"
_WINDOW_CHUNKS: Final = 8  # of an attention window of the released models, 8 s


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
    is_automatic: bool = False
    """Whether nobody asked for an import, but only for the use of the source."""


def import_model(
    path: Path,
    destination: Path,
    wish: Wish | None = None,
    progress: Progress = silent,
    *,
    notice: Notice = unheard,
    replaces: bool = False,
) -> Bundle:
    """Make a model directory, whole or not at all. The source is only read.

    Args:
        path: a source in any of the forms of `source.py`.
        destination: the directory.
        wish: what it shall be like.
        progress: told about every step.
        notice: told in a sentence what is taken where there is a choice.
        replaces: whether the directory may exist already; then it is replaced at the end.

    Raises:
        ConfigError: the destination exists, cannot be written or has no room, or a wish cannot be
            fulfilled.
        ModelError: the source cannot be used, or changes meanwhile.
    """
    wish = wish or Wish()
    name = wish.name or name_of(path)
    with whole_or_nothing(destination, replaces=replaces) as partial:
        given = given_path(path)
        origin = _begin_origin(given, wish)
        scratch = partial / _SCRATCH
        sources = open_sources(path, scratch, progress)
        for note in sources.notes:
            notice(note)
        packer = _Packer(wish, progress, origin, [given] if scratch.exists() else None)
        packer.pack(sources.main, partial, name)
        if sources.recogniser and sources.aligner:
            (partial / _ALIGNER).mkdir()
            packer.pack(sources.aligner, partial / _ALIGNER, f"{name}-aligner")
        if stamp_of(given) != origin["stamp"]:
            raise ModelError(f"{path} was changed while it was imported; import it again.")
        shutil.rmtree(scratch, ignore_errors=True)
        open_bundle(partial).check_files()
    return open_bundle(destination)


def wish_facts(wish: Wish) -> dict[str, Any]:
    """What a model directory notes of a wish, to know it again."""
    return {"encoder": wish.encoder, "decoder": wish.decoder}


def _begin_origin(given: Path, wish: Wish) -> dict[str, Any]:
    """Note what a model is made from before any of it is read."""
    try:
        origin = dict(wish.provenance or {}) | {"path": str(given), "stamp": stamp_of(given)}
        json.dumps(origin).encode()
    except FileNotFoundError as error:
        raise ModelError(f"{given}: there is no such file or directory.") from error
    except OSError as error:
        where = error.filename or given
        raise ModelError(f"{where} cannot be read: {error.strerror}.") from error
    return origin | {"wish": wish_facts(wish), "automatic": wish.is_automatic}


def name_of(path: Path) -> str:
    """What a source is called when nobody says it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links keep their name; what they lead to may have none
    if path.parent.name == "snapshots":  # of a hub's cache: models--OWNER--NAME/snapshots/COMMIT
        return path.parent.parent.name.rpartition("--")[2]
    return path.name if path.is_dir() else path.stem


class _Packer:
    """Writes bundles, and hashes each file once, however many names it has."""

    def __init__(
        self,
        wish: Wish,
        progress: Progress,
        origin: Mapping[str, Any],
        archives: Sequence[Path] | None,
    ) -> None:
        """Prepare.

        Args:
            wish: what the bundles shall be like.
            progress: told about every step.
            origin: what is noted of where they are from.
            archives: what the user has, where the sources are only unpacked from it.
        """
        self._wish = wish
        self._progress = progress
        self._origin = origin
        self._archives = archives
        self._hashes: dict[tuple[int, int], str] = {}
        self._linked: set[Path] = set()

    def pack(self, source: Source, directory: Path, name: str) -> None:
        """Write one bundle.

        Args:
            source: of one family.
            directory: where to; it exists.
            name: what the model is called.
        """
        self._check_room(source, directory)
        match source:
            case Checkpoint():
                facts = self._pack_checkpoint(source, directory, name)
            case Release():
                facts = self._pack_release(source, directory)
            case Bundle():
                facts = self._pack_bundle(source, directory)
        family = family_name(source)
        of_all = {"format": FORMAT, "version": VERSION, "family": family, "name": name}
        facts = of_all | facts | of_all
        facts["licence"] = facts.get("licence") or self._wish.licence
        facts["languages"] = facts.get("languages") or self._wish.languages
        facts["source"] = self._describe_source(source)
        paths = sorted(path for path in directory.iterdir() if path.is_file())
        facts["files"] = {path.name: self._describe_stored(path) for path in paths}
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
            "parameters": _n_weights(directory / DECODER_FILE),
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
        if self._wish.encoder is not None:
            raise ConfigError(
                f"the encoder of {source.directory} is a finished graph, which is used as it is: "
                "leave --encoder out."
            )
        source.check_files()
        for path in _files(source):
            stated = source.files.get(path.name)
            if stated and stated.sha256 and stated.sha256 != self._hash(path):
                raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {FACTS_FILE}.")
            if path.name != DECODER_FILE:
                self._keep(path, directory / path.name)
        check_decoder(source.decoder, source.family.name)
        self._keep_decoder(source.decoder, directory / DECODER_FILE)
        precision = dict(source.precision) | {"decoder": _decoder_type(directory / DECODER_FILE)}
        return source.facts | {"precision": precision}

    def _keep(self, source: Path, path: Path) -> None:
        """Take a file as it is."""
        if link_or_copy(source, path, self._progress) and self._archives is None:
            self._linked.add(path)

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
            quantize_decoder(whole, path, width, self._progress)
            whole.unlink()
        else:
            write_decoder(source, path, width, name, self._progress)

    def _keep_decoder(self, source: Path, path: Path) -> None:
        width = self._wish.decoder or "keep"
        if width == "keep":
            self._keep(source, path)
        else:
            quantize_decoder(source, path, width, self._progress)

    def _describe_source(self, source: Source) -> dict[str, Any]:
        """Where a model is from."""
        files = self._archives or _files(source)
        described = [
            {
                "path": str(path),
                "modified_ns": path.stat().st_mtime_ns,
                **self._describe_file(path),
            }
            for path in files
        ]
        # What a bundle was made of is gone perhaps, but not where it had been published.
        published = source.source if isinstance(source, Bundle) else {}
        known = {key: published[key] for key in _PUBLISHED if key in published}
        return known | dict(self._origin) | {"files": described}

    def _describe_stored(self, path: Path) -> dict[str, Any]:
        """What a file of the bundle must be; of one that others can change, also its time."""
        described = self._describe_file(path)
        if path in self._linked:
            described["modified_ns"] = path.stat().st_mtime_ns
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

    def _check_room(self, source: Source, directory: Path) -> None:
        """Find out before minutes of work whether there is room for the result.

        Raises:
            ConfigError: there is not.
        """
        needed = round(_most_bytes(source, self._wish, directory))
        free = shutil.disk_usage(directory).free
        if needed > free:
            raise ConfigError(
                f"{directory.parent}: importing may need {size_text(needed)}, and only "
                f"{size_text(free)} are free."
            )


def _files(source: Source) -> list[Path]:
    """The files with the weights."""
    match source:
        case Checkpoint():
            paths = {tensor.path for tensor in source.tensors.values()}
            return sorted(paths | ({source.decoder_file} if source.decoder_file else set()))
        case Release():
            return [source.frontend, source.backend, *source.data_files, source.decoder]
        case Bundle():
            # What stands in a description is not believed: it may name anything, or too little.
            names = {Path(name).name for name in source.files} - {FACTS_FILE}
            names |= {*source.family.files(source)}
            data = {
                p for graph in source.directory.glob("*.onnx") for p in read_graph(graph).data_files
            }
            return sorted(data | {source.directory / name for name in names})


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


def _most_bytes(source: Source, wish: Wish, directory: Path) -> float:
    """What a bundle of this source takes at most, with what is only there meanwhile."""
    width = _DECODER_BYTES[wish.decoder or "q8_0"]
    if not isinstance(source, Checkpoint):
        kept = _copied(_files(source), directory)
        return kept + (_n_weights(source.decoder) * width if wish.decoder not in _KEPT else 0)
    n_encoder = sum(math.prod(shape) for shape in encoder_shapes(source.audio).values())
    encoder = {"fp32": 4, "fp16": 2, "int8": 1}[wish.encoder or "fp32"] * n_encoder
    if source.decoder_file is not None:
        if wish.decoder in _KEPT:
            return encoder + _copied([source.decoder_file], directory)
        return encoder + _n_weights(source.decoder_file) * width
    n_decoder = sum(math.prod(tensor.shape) for tensor in source.tensors.values()) - n_encoder
    # Before it is quantised it is there in half precision.
    return encoder + n_decoder * (width if wish.decoder in {"f32", "f16"} else 2 + width)


_KEPT: Final = (None, "keep")
_DECODER_BYTES: Final[dict[DecoderWidth, float]] = {
    "f32": 4,
    "f16": 2,
    "q8_0": 1.1,
    "q4_k": 0.7,
    "keep": 2,
}
"""Of a weight, at most."""


def _copied(files: Iterable[Path], directory: Path) -> int:
    """Bytes of files that cannot be linked."""
    here = directory.stat().st_dev
    return sum(path.stat().st_size for path in files if path.stat().st_dev != here)


def _n_weights(decoder: Path) -> int:
    """Weights of an LLM as people count them: without the encoder, tied embeddings once."""
    tensors = read_gguf(decoder).tensors.items()
    return sum(math.prod(tensor.shape) for name, tensor in tensors if name != "output.weight")
