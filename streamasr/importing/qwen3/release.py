"""Reader for releases of ONNX graphs with a decoder as GGUF, which are used unchanged.

Published folders contain a front end, a back end and a decoder for a recogniser, an aligner, or
both, each possibly in several precisions. Names differ between publishers, and the 0.6B and 1.7B
models have the same names, so the role of a file follows from its content:

    front end    has the input `chunk_mel`
    back end     has the inputs `hidden_states` and `attention_mask`
    decoder      a GGUF of `qwen3vl` or `qwen3` with the token `<|audio_start|>`; an aligner's if
                 the last rows of its output matrix are constant: its head has one row per time
                 class and is padded to the size of the vocabulary

The three belong together if their widths agree. If a recogniser's and an aligner's encoder both fit
a decoder, the wider one is the aligner's, which is true of all released models (896 against 1024).
Only if the widths are equal (1.7B beside an aligner) do other criteria decide: the same opset, and
finally the names. A part whose name contains the other family is never used, whatever its width.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.importing.bundle_writer import BundleWriter, copied_bytes
from streamasr.importing.decoder_file import DECODER_BYTES, KEPT, count_weights
from streamasr.importing.files import entries_of, kind_of, placeholder_error
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor, read_gguf
from streamasr.importing.gguf_kind import is_speech_decoder, precision_rank, unusable
from streamasr.importing.onnx_file import GraphInfo, is_graph, read_graph
from streamasr.importing.options import ImportOptions
from streamasr.importing.qwen3.gguf_text import count_classes, read_text_model
from streamasr.importing.released_graphs import best_graph, check_data_files
from streamasr.models.bundle import FACTS_FILE
from streamasr.models.family import DECODER_FILE
from streamasr.models.qwen3.names import (
    ALIGNER,
    BACKEND_FILE,
    CLASSIFIER_FILE,
    FRONTEND_FILE,
    RECOGNISER,
)

_ARCHITECTURES: Final = frozenset({"qwen3vl", "qwen3"})
_EMBEDDINGS: Final = "token_embd.weight"
_HEAD: Final = "output.weight"

_FRONTEND_INPUTS: Final = {"chunk_mel": 3}
_BACKEND_INPUTS: Final = {"hidden_states": 3, "attention_mask": 4}
"""Inputs with their numbers of axes."""

_RESERVED_NAMES: Final = frozenset(
    {FACTS_FILE, FRONTEND_FILE, BACKEND_FILE, DECODER_FILE, CLASSIFIER_FILE, "aligner"}
)

_RELEASED_MISMATCHES: Final = frozenset({(RECOGNISER, 1024, 1024), (ALIGNER, 1024, 896)})
"""Family and width of a decoder, and d_model of an encoder of the other family with the same output
width: Qwen3-ASR-0.6B (decoder 1024, encoder 896) against Qwen3-ForcedAligner-0.6B (1024 and 1024).
The widths of other models are not conclusive."""

_COMMON_WORDS: Final = re.compile(r"frontend|backend|encoder|llm|decoder|fp?\d+|int\d+|q\d\w*|\W|_")
"""Parts in which the file names of one model may differ."""


@dataclass(frozen=True, slots=True)
class OnnxRelease:
    """Two graphs and a decoder that belong together, headers read; implements `Source`."""

    family: str
    """RECOGNISER or ALIGNER."""
    name: str
    """Suggested name of the model: that of its folder."""
    frontend: Path
    backend: Path
    decoder: Path
    data_files: tuple[Path, ...]
    """External weights of the graphs; the graphs refer to these names."""
    precision: str
    """Precision of the back end: `fp32`, `fp16`, `int8`, `int4`."""
    encoder_bits: int
    """Bits of a weight in the graph with fewer bits."""
    n_mels: int
    chunk_frames: int
    d_model: int
    hidden: int
    """Width of the decoder and of the encoder's output."""
    vocab: int
    n_classes: int | None
    """Number of an aligner's time classes; None for a recogniser."""
    head: GGUFTensor | None
    """Output matrix of an aligner, whose first rows are the time classes."""

    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The decoder, because a folder may hold several models."""
        return self.decoder

    def parts(self) -> Sequence[Path]:
        """Return the files that may have been chosen among others."""
        return [self.frontend, self.backend, self.decoder]

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""
        return [self.frontend, self.backend, *self.data_files, self.decoder]

    def max_bytes(self, options: ImportOptions, directory: Path) -> float:
        """Return an upper bound for the size of the bundle."""
        kept = copied_bytes(self.files(), directory)
        if options.decoder in KEPT:
            return kept
        return kept + count_weights(self.decoder) * DECODER_BYTES[options.decoder or "keep"]

    def write(self, writer: BundleWriter) -> dict[str, Any]:
        """Store the files of the bundle and return the facts for `model.json`."""
        from streamasr.importing.qwen3.packing import write_release  # imports onnx

        return write_release(self, writer)

    @property
    def classifier(self) -> npt.NDArray[Any] | None:
        """Head of an aligner, (n_classes, hidden), without the padding."""
        if self.head is None or self.n_classes is None:
            return None
        rows = self.head.rows(0, self.n_classes)
        return rows.astype(np.float16) if self.head.stored_type == "F16" else rows


@dataclass(frozen=True, slots=True)
class _Frontend:
    info: GraphInfo
    n_mels: int
    chunk_frames: int
    d_model: int | None
    """Width of the output; None if the graph does not state it."""


@dataclass(frozen=True, slots=True)
class _Backend:
    info: GraphInfo
    d_model: int
    output_dim: int | None
    """Width of the output; None if the graph does not state it."""


@dataclass(frozen=True, slots=True)
class _Decoder:
    file: GGUFFile
    family: str
    hidden: int
    vocab: int
    n_classes: int | None


@dataclass(frozen=True, slots=True)
class _Parts:
    """Parts of models in a folder."""

    frontends: Sequence[_Frontend]
    backends: Sequence[_Backend]
    decoders: Sequence[_Decoder]
    other: ModelError | None
    """Error for a GGUF that is not a decoder of ours."""
    placeholder: ModelError | None
    """Error for a file that has only the name of a part."""


def read_releases(directory: Path, decoder: Path | None = None) -> list[OnnxRelease]:
    """Find the models whose parts are in a folder, or in its immediate subfolders.

    Args:
        directory: contains the files, or one folder with the files of each model.
        decoder: preferred decoder if there are several; None for the best.

    Returns:
        A recogniser, an aligner or both; more if there are several sizes of them.

    Raises:
        ModelError: a file is damaged, or no model is complete.
    """
    entries = entries_of(directory)
    is_flat = any(is_graph(path) for path in entries)
    folders = [directory] if is_flat else [path for path in entries if path.is_dir()]
    all_parts = [_read_parts(folder) for folder in folders]
    releases = [release for parts in all_parts for release in _combine(parts, decoder)]
    if not releases:
        raise _incomplete(directory, all_parts)
    return releases


def _read_parts(folder: Path) -> _Parts:
    frontends, backends, decoders, other, placeholder = [], [], [], None, None
    for path in filter(Path.is_file, entries_of(folder)):
        if path.suffix.lower() in (".onnx", ".gguf") and (error := placeholder_error(path)):
            placeholder = error
        elif is_graph(path):
            match _role_of(read_graph(path)):
                case _Frontend() as frontend:
                    frontends.append(frontend)
                case _Backend() as backend:
                    backends.append(backend)
        elif kind_of(path) == "gguf":
            file = read_gguf(path)
            if file.architecture in _ARCHITECTURES and is_speech_decoder(file):
                decoders.append(_read_decoder(file))
            else:
                other = unusable(file)
    return _Parts(frontends, backends, decoders, other, placeholder)


def _role_of(info: GraphInfo) -> _Frontend | _Backend | None:
    """Identify a graph by its inputs; None if it is not a part of a Qwen3-ASR encoder."""
    axes = {name: len(value.shape) for name, value in info.inputs.items()}
    if axes == _FRONTEND_INPUTS:
        _, n_mels, n_frames = info.inputs["chunk_mel"].shape
        if n_mels is None or n_frames is None:
            raise ModelError(
                f"{info.path}: the input chunk_mel does not state its numbers of mel bins and "
                "frames; export the graph with fixed lengths for both.",
                code="graph_axes_dynamic",
            )
        return _Frontend(info, n_mels, n_frames, _last_axis(info, "chunk_out"))
    if axes == _BACKEND_INPUTS:
        d_model = info.inputs["hidden_states"].shape[-1]
        if d_model is None:
            raise ModelError(
                f"{info.path}: the input hidden_states does not state its width; export the graph "
                "with a fixed one.",
                code="graph_axes_dynamic",
            )
        return _Backend(info, d_model, _last_axis(info, "last_hidden_state"))
    return None


def _last_axis(info: GraphInfo, name: str) -> int | None:
    if name not in info.outputs:
        raise ModelError(
            f"{info.path}: the graph has no output {name}.", code="graph_output_missing"
        )
    shape = info.outputs[name].shape
    return shape[-1] if shape else None


def _read_decoder(file: GGUFFile) -> _Decoder:
    hidden = file.integer(f"{file.architecture}.embedding_length")
    embeddings = file.tensors.get(_EMBEDDINGS)
    if embeddings is None or len(embeddings.shape) != 2 or embeddings.shape[1] != hidden:
        raise ModelError(
            f"{file.path}: tensor {_EMBEDDINGS} is missing, or its width is not {hidden}.",
            code="tensor_missing",
        )
    vocab, n_classes = embeddings.shape[0], None
    if (head := file.tensors.get(_HEAD)) is not None:
        if len(head.shape) != 2 or head.shape[1] != hidden:
            raise ModelError(
                f"{file.path}: tensor {_HEAD} has the shape {head.shape}, but its width must be "
                f"{hidden}.",
                code="tensor_shape",
            )
        n_classes = count_classes(head)
    family = RECOGNISER if n_classes is None else ALIGNER
    return _Decoder(file, family, hidden, vocab, n_classes)


def _combine(parts: _Parts, wanted: Path | None) -> Iterator[OnnxRelease]:
    """Combine matching parts; of several versions of a part, use the best.

    Args:
        parts: the parts in a folder.
        wanted: the decoder to use in any case, if it is among them.
    """
    for hidden in sorted({decoder.hidden for decoder in parts.decoders}):
        same_width = [decoder for decoder in parts.decoders if decoder.hidden == hidden]
        families = {decoder.family for decoder in same_width}
        decoders = {family: _best_decoder(same_width, family, wanted) for family in families}
        backends = [each for each in parts.backends if each.output_dim in {hidden, None}]
        for family, candidates in _assign(backends, decoders).items():
            decoder = decoders[family]
            backend = _best_graph(candidates)
            fitting = [each for each in parts.frontends if each.d_model in {backend.d_model, None}]
            frontends = [each for each in fitting if _may_belong(each, decoder)]
            if fitting and not frontends:
                raise _no_encoder(fitting[0], decoder)
            if frontends:
                frontend = _best_graph(_of_same_export(frontends, backend))
                yield _release(frontend, backend, decoder)


def _best_decoder(decoders: Iterable[_Decoder], family: str, wanted: Path | None) -> _Decoder:
    def rank(decoder: _Decoder) -> tuple[bool, tuple[bool, float]]:
        is_other = wanted is not None and not decoder.file.path.samefile(wanted)
        return is_other, precision_rank(decoder.file)

    return min((decoder for decoder in decoders if decoder.family == family), key=rank)


def _assign(
    backends: Sequence[_Backend], decoders: Mapping[str, _Decoder]
) -> dict[str, list[_Backend]]:
    """Assign to each family its possible back ends, all of the same width.

    Raises:
        ModelError: none of the back ends can be assigned to a family.
    """
    assigned: dict[str, list[_Backend]] = {}
    for family, decoder in decoders.items():
        possible = [backend for backend in backends if _may_belong(backend, decoder)]
        widths = {backend.d_model for backend in possible}
        width = max(widths, default=None) if family == ALIGNER else min(widths, default=None)
        assigned[family] = [backend for backend in possible if backend.d_model == width]
    if backends and not any(assigned.values()):
        raise _no_encoder(backends[0], next(iter(decoders.values())))
    paths = [backend.info.path for candidates in assigned.values() for backend in candidates]
    if len(set(paths)) < len(paths):
        for family, decoder in decoders.items():
            key = _key(decoder.file.path)
            assigned[family] = [each for each in assigned[family] if _key(each.info.path) == key]
    if backends and not any(assigned.values()):
        names = " and ".join(decoder.file.path.name for decoder in decoders.values())
        raise ModelError(
            f"{backends[0].info.path} may belong to each of {names}; put the files of the "
            "recogniser and of the aligner into separate folders.",
            code="ambiguous_parts",
        )
    return {family: candidates for family, candidates in assigned.items() if candidates}


def _may_belong(part: _Frontend | _Backend, decoder: _Decoder) -> bool:
    """Return whether neither released sizes nor names assign a graph to the other family."""
    if (decoder.family, decoder.hidden, part.d_model) in _RELEASED_MISMATCHES:
        return False
    named = _family_in_name(part.info.path), _family_in_name(decoder.file.path)
    return None in named or named[0] == named[1]


def _family_in_name(path: Path) -> str | None:
    """Return the family in a file name; an aligner's name may contain `asr`, too."""
    name = path.name.lower()
    return ALIGNER if "align" in name else RECOGNISER if "asr" in name else None


def _no_encoder(part: _Frontend | _Backend, decoder: _Decoder) -> ModelError:
    words = ("recogniser", "aligner")
    own, other = words if decoder.family == RECOGNISER else words[::-1]
    return ModelError(
        f"{part.info.path.parent} has no encoder of the {own}: {part.info.path.name} belongs to "
        f"the {other} by its name or size; put the graphs of the same release as "
        f"{decoder.file.path.name} into the folder.",
        code="encoder_of_other_family",
    )


def _of_same_export(frontends: Sequence[_Frontend], backend: _Backend) -> Sequence[_Frontend]:
    """Return the front ends of the right width that were exported together with a back end."""
    info = backend.info
    exported = [each for each in frontends if each.info.opset == info.opset] or frontends
    return [each for each in exported if _key(each.info.path) == _key(info.path)] or exported


def _key(path: Path) -> str:
    """Return the part of a name that all files of one model share."""
    return _COMMON_WORDS.sub("", path.stem.lower())


_Part = TypeVar("_Part", _Frontend, _Backend)


def _best_graph(graphs: Sequence[_Part]) -> _Part:
    """Return the graph with the most bits.

    Raises:
        ModelError: several graphs have the most bits.
    """
    best = best_graph([graph.info for graph in graphs])
    return next(graph for graph in graphs if graph.info is best)


def _release(frontend: _Frontend, backend: _Backend, decoder: _Decoder) -> OnnxRelease:
    read_text_model(decoder.file, decoder.family)
    is_aligner = decoder.family == ALIGNER
    data_files = tuple(dict.fromkeys((*frontend.info.data_files, *backend.info.data_files)))
    check_data_files([frontend.info, backend.info], _RESERVED_NAMES)
    return OnnxRelease(
        family=decoder.family,
        name=decoder.file.path.resolve().parent.name,
        frontend=frontend.info.path,
        backend=backend.info.path,
        decoder=decoder.file.path,
        data_files=data_files,
        precision=backend.info.precision,
        encoder_bits=min(frontend.info.bits, backend.info.bits),
        n_mels=frontend.n_mels,
        chunk_frames=frontend.chunk_frames,
        d_model=backend.d_model,
        hidden=decoder.hidden,
        vocab=decoder.vocab,
        n_classes=decoder.n_classes,
        head=decoder.file.tensors[_HEAD] if is_aligner else None,
    )


def _incomplete(directory: Path, all_parts: Sequence[_Parts]) -> ModelError:
    """Return the error for a folder without a complete model."""
    frontends = [each for parts in all_parts for each in parts.frontends]
    backends = [each for parts in all_parts for each in parts.backends]
    decoders = [each for parts in all_parts for each in parts.decoders]
    other = next((parts.other for parts in all_parts if parts.other), None)
    if placeholder := next((parts.placeholder for parts in all_parts if parts.placeholder), None):
        return placeholder
    if not (frontends or backends or decoders):
        return other or ModelError(
            f"{directory} contains no encoder of a Qwen3-ASR as released by Qwen3-ASR-GGUF and "
            "CapsWriter: two ONNX graphs with the inputs chunk_mel and hidden_states.",
            code="no_encoder_graphs",
        )
    missing = []
    if not frontends:
        missing.append("the encoder's front end (an ONNX graph with the input chunk_mel)")
    if not backends:
        missing.append("the encoder's back end (an ONNX graph with the input hidden_states)")
    if not decoders:
        missing.append("the decoder (a GGUF of qwen3vl)")
    if missing:
        reason = f"; {other}" if other and not decoders else "."
        return ModelError(
            f"{directory} lacks {' and '.join(missing)}{reason}", code="model_parts_missing"
        )
    widths = [
        *(f"{each.info.path.name} outputs {each.d_model or '?'}" for each in frontends),
        *(
            f"{each.info.path.name} takes {each.d_model} and outputs {each.output_dim or '?'}"
            for each in backends
        ),
        *(f"{each.file.path.name} takes {each.hidden}" for each in decoders),
    ]
    return ModelError(
        f"{directory} contains files of different models, as their widths show: "
        f"{', '.join(widths)}.",
        code="model_parts_differ",
    )
