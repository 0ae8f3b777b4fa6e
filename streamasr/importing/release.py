"""Releases of ONNX graphs with a decoder as GGUF, which are used as they are.

Published folders hold, for a recogniser, an aligner, or both side by side, a front end, a back end
and a decoder, each perhaps in several precisions. Names differ from publisher to publisher and the
0.6B and 1.7B models have the same ones, so a file's role follows from its content:

    front end    takes `chunk_mel`
    back end     takes `hidden_states` and `attention_mask`
    decoder      a GGUF of `qwen3vl` or `qwen3` that knows `<|audio_start|>`; it is an aligner's
                 when the last rows of its output matrix are one constant: the head has a row for
                 each time class, filled up to the size of the vocabulary

The three belong together when their widths fit. Where a recogniser's and an aligner's encoder both
fit a decoder, the wider one is the aligner's, which is true of all that was released (896 against
1024). Only where the widths are the same (1.7B beside an aligner) do other things decide: exports
that went through the same version of the operators, and in the end names. A part whose name says
that it is of the other family is not taken, whatever its width.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.importing.files import entries_of, explain_stub, kind_of
from streamasr.importing.gguf_file import (
    GGUFFile,
    GGUFTensor,
    describe,
    is_speech_decoder,
    precision_rank,
    read_gguf,
)
from streamasr.importing.gguf_text import count_classes, read_text_model
from streamasr.importing.onnx_file import GraphFacts, is_graph, read_graph
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
"""With their numbers of axes."""

_NAMES_TAKEN: Final = frozenset(
    {FACTS_FILE, FRONTEND_FILE, BACKEND_FILE, DECODER_FILE, CLASSIFIER_FILE, "aligner"}
)

_RELEASED_MISMATCHES: Final = frozenset({(RECOGNISER, 1024, 1024), (ALIGNER, 1024, 896)})
"""Family and width of a decoder, and d_model of an encoder that is not its own though it gives as
many values: Qwen3-ASR-0.6B (decoder 1024, encoder 896) against Qwen3-ForcedAligner-0.6B (1024 and
1024). Widths of other models say nothing."""

_COMMON_WORDS: Final = re.compile(r"frontend|backend|encoder|llm|decoder|fp?\d+|int\d+|q\d\w*|\W|_")
"""What names of files of one model may differ in."""


@dataclass(frozen=True, slots=True)
class Release:
    """Two graphs and a decoder that belong together; only their headers have been read."""

    family: str
    """RECOGNISER or ALIGNER."""
    name: str
    """What the model might be called: like its folder."""
    frontend: Path
    backend: Path
    decoder: Path
    data_files: tuple[Path, ...]
    """Weights that the graphs keep in files beside them, under names that must stay."""
    precision: str
    """Of the back end: `fp32`, `fp16`, `int8`, `int4`."""
    encoder_bits: int
    """Of a weight in whichever graph has fewer."""
    n_mels: int
    chunk_frames: int
    d_model: int
    hidden: int
    """Width of the decoder and of what the encoder gives."""
    vocab: int
    n_classes: int | None
    """Time classes of an aligner."""
    head: GGUFTensor | None
    """An aligner's output matrix, whose first rows are its classes."""

    @property
    def classifier(self) -> npt.NDArray[Any] | None:
        """An aligner's head, (n_classes, hidden), without the rows that fill it up."""
        if self.head is None or self.n_classes is None:
            return None
        rows = self.head.rows(0, self.n_classes)
        return rows.astype(np.float16) if self.head.stored_type == "F16" else rows


@dataclass(frozen=True, slots=True)
class _Frontend:
    facts: GraphFacts
    n_mels: int
    chunk_frames: int
    d_model: int | None
    """None where the graph does not say."""


@dataclass(frozen=True, slots=True)
class _Backend:
    facts: GraphFacts
    d_model: int
    output_dim: int | None
    """None where the graph does not say."""


@dataclass(frozen=True, slots=True)
class _Decoder:
    file: GGUFFile
    family: str
    hidden: int
    vocab: int
    n_classes: int | None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a folder holds."""

    frontends: Sequence[_Frontend]
    backends: Sequence[_Backend]
    decoders: Sequence[_Decoder]
    other: str | None
    """What a GGUF is that is none of them."""
    stub: str | None
    """What is wrong with a file that has the name of a part and nothing else of it."""


def read_releases(directory: Path, decoder: Path | None = None) -> list[Release]:
    """Find the models whose parts are in a folder, or in the folders right in it.

    Args:
        directory: holds the files themselves or, in folders of their own, those of each model.
        decoder: the one that is taken of several; None for the best.

    Returns:
        A recogniser, an aligner or both; more where there are several sizes of them.

    Raises:
        ModelError: a file is damaged, or no model is complete.
    """
    entries = entries_of(directory)
    is_flat = any(is_graph(path) for path in entries)
    folders = [directory] if is_flat else [path for path in entries if path.is_dir()]
    all_parts = [_read_parts(folder) for folder in folders]
    releases = [release for parts in all_parts for release in _combine(parts, decoder)]
    if not releases:
        raise ModelError(_what_is_missing(directory, all_parts))
    return releases


def _read_parts(folder: Path) -> _Parts:
    frontends, backends, decoders, other, stub = [], [], [], None, None
    for path in filter(Path.is_file, entries_of(folder)):
        if path.suffix.lower() in (".onnx", ".gguf") and (found := explain_stub(path)):
            stub = found
        elif is_graph(path):
            match _tell_role(read_graph(path)):
                case _Frontend() as frontend:
                    frontends.append(frontend)
                case _Backend() as backend:
                    backends.append(backend)
        elif kind_of(path) == "gguf":
            file = read_gguf(path)
            if file.architecture in _ARCHITECTURES and is_speech_decoder(file):
                decoders.append(_read_decoder(file))
            else:
                other = describe(file)
    return _Parts(frontends, backends, decoders, other, stub)


def _tell_role(facts: GraphFacts) -> _Frontend | _Backend | None:
    """Tell what a graph is by its inputs; None where it is no part of an encoder like ours."""
    axes = {name: len(value.shape) for name, value in facts.inputs.items()}
    if axes == _FRONTEND_INPUTS:
        _, n_mels, n_frames = facts.inputs["chunk_mel"].shape
        if n_mels is None or n_frames is None:
            raise ModelError(f"{facts.path}: chunk_mel must state its mel bins and frames.")
        return _Frontend(facts, n_mels, n_frames, _last_axis(facts, "chunk_out"))
    if axes == _BACKEND_INPUTS:
        d_model = facts.inputs["hidden_states"].shape[-1]
        if d_model is None:
            raise ModelError(f"{facts.path}: hidden_states must state its width.")
        return _Backend(facts, d_model, _last_axis(facts, "last_hidden_state"))
    return None


def _last_axis(facts: GraphFacts, name: str) -> int | None:
    if name not in facts.outputs:
        raise ModelError(f"{facts.path}: the graph has no output named {name}.")
    shape = facts.outputs[name].shape
    return shape[-1] if shape else None


def _read_decoder(file: GGUFFile) -> _Decoder:
    hidden = file.integer(f"{file.architecture}.embedding_length")
    embeddings = file.tensors.get(_EMBEDDINGS)
    if embeddings is None or len(embeddings.shape) != 2 or embeddings.shape[1] != hidden:
        raise ModelError(f"{file.path}: its token embeddings are missing or not {hidden} wide.")
    vocab, n_classes = embeddings.shape[0], None
    if (head := file.tensors.get(_HEAD)) is not None:
        if len(head.shape) != 2 or head.shape[1] != hidden:
            raise ModelError(f"{file.path}: its output matrix is not {hidden} wide.")
        n_classes = count_classes(head)
    family = RECOGNISER if n_classes is None else ALIGNER
    return _Decoder(file, family, hidden, vocab, n_classes)


def _combine(parts: _Parts, wanted: Path | None) -> Iterator[Release]:
    """Put together what fits, the best where there is more than one of the same.

    Args:
        parts: of a folder.
        wanted: the decoder that is taken in any case, if it is there.
    """
    for hidden in sorted({decoder.hidden for decoder in parts.decoders}):
        alike = [decoder for decoder in parts.decoders if decoder.hidden == hidden]
        decoders = {
            family: _best_decoder(alike, family, wanted) for family in {d.family for d in alike}
        }
        backends = [each for each in parts.backends if each.output_dim in {hidden, None}]
        for family, candidates in _share(backends, decoders).items():
            decoder = decoders[family]
            backend = _best_graph(candidates)
            fitting = [each for each in parts.frontends if each.d_model in {backend.d_model, None}]
            frontends = [each for each in fitting if _may_belong(each, decoder)]
            if fitting and not frontends:
                raise _no_encoder(fitting[0], decoder)
            if frontends:
                frontend = _best_graph(_companions(frontends, backend))
                yield _release(frontend, backend, decoder)


def _best_decoder(decoders: Iterable[_Decoder], family: str, wanted: Path | None) -> _Decoder:
    def rank(decoder: _Decoder) -> tuple[bool, tuple[bool, float]]:
        is_other = wanted is not None and not decoder.file.path.samefile(wanted)
        return is_other, precision_rank(decoder.file)

    return min((decoder for decoder in decoders if decoder.family == family), key=rank)


def _share(
    backends: Sequence[_Backend], decoders: Mapping[str, _Decoder]
) -> dict[str, list[_Backend]]:
    """Give to each family the back ends that may be its own, all of one width.

    Raises:
        ModelError: there are some, but none that is a family's own.
    """
    shares: dict[str, list[_Backend]] = {}
    for family, decoder in decoders.items():
        possible = [backend for backend in backends if _may_belong(backend, decoder)]
        widths = {backend.d_model for backend in possible}
        width = max(widths, default=None) if family == ALIGNER else min(widths, default=None)
        shares[family] = [backend for backend in possible if backend.d_model == width]
    if backends and not any(shares.values()):
        raise _no_encoder(backends[0], next(iter(decoders.values())))
    taken = [backend.facts.path for share in shares.values() for backend in share]
    if len(set(taken)) < len(taken):
        for family, decoder in decoders.items():
            key = _key(decoder.file.path)
            shares[family] = [each for each in shares[family] if _key(each.facts.path) == key]
    if backends and not any(shares.values()):
        names = " and ".join(decoder.file.path.name for decoder in decoders.values())
        raise ModelError(
            f"{backends[0].facts.path} could belong to either of {names}: put the files of the "
            "recogniser and of the aligner into folders of their own."
        )
    return {family: share for family, share in shares.items() if share}


def _may_belong(part: _Frontend | _Backend, decoder: _Decoder) -> bool:
    """Whether neither released sizes nor the names say that a graph is of the other family."""
    if (decoder.family, decoder.hidden, part.d_model) in _RELEASED_MISMATCHES:
        return False
    named = _family_in_name(part.facts.path), _family_in_name(decoder.file.path)
    return None in named or named[0] == named[1]


def _family_in_name(path: Path) -> str | None:
    """What a name says of the family; the aligner's may have the recogniser's in it."""
    name = path.name.lower()
    return ALIGNER if "align" in name else RECOGNISER if "asr" in name else None


def _no_encoder(part: _Frontend | _Backend, decoder: _Decoder) -> ModelError:
    words = ("recogniser", "aligner")
    own, other = words if decoder.family == RECOGNISER else words[::-1]
    return ModelError(
        f"there is no encoder of the {own} in {part.facts.path.parent}: {part.facts.path.name} is "
        f"the {other}'s by its name or size; put the graphs that were published with "
        f"{decoder.file.path.name} beside it."
    )


def _companions(frontends: Sequence[_Frontend], backend: _Backend) -> Sequence[_Frontend]:
    """Of front ends whose width fits, those that were exported along with a back end."""
    facts = backend.facts
    exported = [each for each in frontends if each.facts.opset == facts.opset] or frontends
    return [each for each in exported if _key(each.facts.path) == _key(facts.path)] or exported


def _key(path: Path) -> str:
    """What names of all files of one model have in common."""
    return _COMMON_WORDS.sub("", path.stem.lower())


_Part = TypeVar("_Part", _Frontend, _Backend)


def _best_graph(graphs: Sequence[_Part]) -> _Part:
    """The one with most bits."""
    best = max(graphs, key=lambda graph: graph.facts.bits)
    equals = [graph for graph in graphs if graph.facts.bits == best.facts.bits]
    if len(equals) > 1:
        names = " and ".join(graph.facts.path.name for graph in equals)
        raise ModelError(
            f"{best.facts.path.parent} holds {names}, which cannot be told apart: put the files of "
            "each model into a folder of its own."
        )
    return best


def _release(frontend: _Frontend, backend: _Backend, decoder: _Decoder) -> Release:
    read_text_model(decoder.file, decoder.family)
    is_aligner = decoder.family == ALIGNER
    data_files = tuple(dict.fromkeys((*frontend.facts.data_files, *backend.facts.data_files)))
    for path in data_files:
        # It keeps its name, and must not be taken for another file of the model directory.
        if path.name.lower() in _NAMES_TAKEN:
            raise ModelError(
                f"{path} has the name of another file, but a graph's weights are in it."
            )
    return Release(
        family=decoder.family,
        name=decoder.file.path.resolve().parent.name,
        frontend=frontend.facts.path,
        backend=backend.facts.path,
        decoder=decoder.file.path,
        data_files=data_files,
        precision=backend.facts.precision,
        encoder_bits=min(frontend.facts.bits, backend.facts.bits),
        n_mels=frontend.n_mels,
        chunk_frames=frontend.chunk_frames,
        d_model=backend.d_model,
        hidden=decoder.hidden,
        vocab=decoder.vocab,
        n_classes=decoder.n_classes,
        head=decoder.file.tensors[_HEAD] if is_aligner else None,
    )


def _what_is_missing(directory: Path, all_parts: Sequence[_Parts]) -> str:
    """Say in one sentence why there is no model."""
    frontends = [each for parts in all_parts for each in parts.frontends]
    backends = [each for parts in all_parts for each in parts.backends]
    decoders = [each for parts in all_parts for each in parts.decoders]
    other = next((parts.other for parts in all_parts if parts.other), None)
    if stub := next((parts.stub for parts in all_parts if parts.stub), None):
        return stub
    if not (frontends or backends or decoders):
        return other or (
            f"{directory} holds no graph of a Qwen3-ASR encoder as Qwen3-ASR-GGUF and CapsWriter "
            "release it, in two halves that take chunk_mel and hidden_states."
        )
    lacks = []
    if not frontends:
        lacks.append("the encoder's front end (an ONNX graph that takes chunk_mel)")
    if not backends:
        lacks.append("the encoder's back end (an ONNX graph that takes hidden_states)")
    if not decoders:
        lacks.append("the decoder (a GGUF of qwen3vl)")
    if lacks:
        reason = f"; {other}" if other and not decoders else "."
        return f"{directory} lacks {' and '.join(lacks)}{reason}"
    widths = [
        *(f"{each.facts.path.name} gives {each.d_model or '?'}" for each in frontends),
        *(
            f"{each.facts.path.name} takes {each.d_model} and gives {each.output_dim or '?'}"
            for each in backends
        ),
        *(f"{each.file.path.name} takes {each.hidden}" for each in decoders),
    ]
    return f"{directory} holds files of different models: by their widths, {', '.join(widths)}."
