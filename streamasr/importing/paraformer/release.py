"""Reader for released ONNX graphs of whole Paraformers, which are used unchanged.

FunASR exports a folder of

    model.onnx or model_quant.onnx        features and their number -> logits, number of tokens;
                                          BiCif and SeACo: also weights and peaks of the time head
    model_eb.onnx or model_eb_quant.onnx  SeACo only: hotwords -> embeddings, a third input of the
                                          other graph
    am.mvn, tokens.json, config.yaml

sherpa-onnx publishes `model.onnx` and `model.int8.onnx`, the same graphs with am.mvn as metadata,
and `tokens.txt`. A graph's role follows from its inputs and outputs. Of several precisions the one
with the most bits is used, as for all encoders.

Source: funasr 1.4.16, models/{paraformer,bicif_paraformer,seaco_paraformer}/export_meta.py;
sherpa-onnx, csrc/offline-paraformer-model.cc.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.features.cmvn import checked_cmvn
from streamasr.importing.bundle_writer import BundleWriter, copied_bytes
from streamasr.importing.config_file import read_yaml
from streamasr.importing.files import placeholder_error
from streamasr.importing.onnx_file import GraphInfo, is_graph, read_graph
from streamasr.importing.options import ImportOptions
from streamasr.importing.paraformer.sidecars import (
    STEP,
    WINDOW,
    check_features,
    check_tokens,
    check_width,
    licence_of,
    read_cmvn,
    read_tokens,
    stack_cmvn,
    streaming_error,
)
from streamasr.importing.released_graphs import best_graph, check_data_files
from streamasr.models.bundle import FACTS_FILE
from streamasr.models.paraformer.names import (
    CMVN_FILE,
    DECODER_GRAPH_FILE,
    ENCODER_FILE,
    HOTWORDS_FILE,
    PARAFORMER,
    TOKENS_FILE,
    WHOLE_FILE,
)

_RECOGNISER_INPUTS: Final = {"speech": 3, "speech_lengths": 1}
_BIAS: Final = {"bias_embed": 3}
"""Additional input of graphs with hotwords."""
_HOTWORD_INPUTS: Final = {"hotword": 2}
_N_OUTPUTS: Final = (2, 4)
_STREAMING_OUTPUTS: Final = frozenset({"enc", "alphas"})
_TYPE: Final = "paraformer"
_CONFIG: Final = "config.yaml"
_RESERVED_NAMES: Final = frozenset(
    {
        FACTS_FILE,
        WHOLE_FILE,
        HOTWORDS_FILE,
        TOKENS_FILE,
        CMVN_FILE,
        ENCODER_FILE,
        DECODER_GRAPH_FILE,
        "aligner",
    }
)


@dataclass(frozen=True, slots=True)
class WholeRelease:
    """Released graph with its tokens and normalisation; implements `Source`."""

    model: GraphInfo
    hotwords: GraphInfo | None
    """Graph that embeds hotwords, if the other graph takes them."""
    tokens: tuple[str, ...]
    cmvn: Float32Array
    """(2, n_features): shift and scale."""
    window: int
    step: int
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name of the family."""
        return PARAFORMER

    @property
    def path(self) -> Path:
        """The graph."""
        return self.model.path

    def parts(self) -> Sequence[Path]:
        """Return the files that may have been chosen among others."""
        return [self.model.path, *([self.hotwords.path] if self.hotwords else [])]

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""
        graphs = [self.model, *([self.hotwords] if self.hotwords else [])]
        return [path for graph in graphs for path in (graph.path, *graph.data_files)]

    def max_bytes(self, _options: ImportOptions, directory: Path) -> float:
        """Return an upper bound for the size of the bundle."""
        return copied_bytes(self.files(), directory)

    def write(self, writer: BundleWriter) -> dict[str, Any]:
        """Store the files of the bundle and return the facts for `model.json`."""
        from streamasr.importing.paraformer.packing import LANGUAGES, write_vocabulary

        writer.refuse_encoder_option(self.path.parent, self.model.precision)
        writer.refuse_decoder_option(self.path.parent)
        write_vocabulary(self.tokens, self.cmvn, writer.directory)
        writer.keep(self.model.path, WHOLE_FILE)
        if self.hotwords is not None:
            writer.keep(self.hotwords.path, HOTWORDS_FILE)
        for path in self.files():
            if path not in self.parts():
                writer.keep(path, path.name)
        return {
            "languages": LANGUAGES,
            "licence": licence_of(len(self.tokens)),
            "graphs": "whole",
            "n_mels": self.cmvn.shape[1] // self.window,
            "lfr": {"window": self.window, "shift": self.step},
            "vocab": len(self.tokens),
            "precision": {"encoder": self.model.precision, "decoder": self.model.precision},
            "encoder_bits": self.model.bits,
        }


def read_release(folder: Path, files: Sequence[Path]) -> WholeRelease | None:
    """Find the released graph in a folder.

    Args:
        folder: the folder.
        files: the regular files in it.

    Returns:
        The graph with its parts; None if no graph is of a Paraformer.

    Raises:
        ModelError: a file is damaged or missing, or is of the streaming variant.
    """
    paths = [path for path in files if is_graph(path)]
    placeholders = [error for path in paths if (error := placeholder_error(path))]
    graphs = [read_graph(path) for path in paths if not placeholder_error(path)]
    recognisers = [graph for graph in graphs if _is_recogniser(graph)]
    if not recognisers:
        if any(map(_is_streaming, graphs)):
            raise streaming_error(folder)
        if placeholders:
            raise placeholders[0]
        return None
    model = best_graph(recognisers)
    takes_hotwords = "bias_embed" in model.inputs
    embedders = [graph for graph in graphs if _axes(graph) == _HOTWORD_INPUTS]
    if takes_hotwords and not embedders:
        if placeholders:
            raise placeholders[0]
        raise ModelError(
            f"{model.path} takes hotwords, but the graph that embeds them (model_eb.onnx) is not "
            "in its folder; download it, too.",
            code="hotword_graph_missing",
        )
    check_data_files([model, *embedders], _RESERVED_NAMES)
    tokens = read_tokens(folder)
    vocab = _vocab(model)
    check_tokens(tokens, len(tokens) if vocab is None else vocab, folder)
    window, step = _stacking(model, folder, files)
    return WholeRelease(
        model=model,
        hotwords=best_graph(embedders) if takes_hotwords else None,
        tokens=tokens,
        cmvn=_cmvn(model, folder),
        window=window,
        step=step,
    )


def _axes(graph: GraphInfo) -> dict[str, int]:
    return {name: len(value.shape) for name, value in graph.inputs.items()}


def _is_recogniser(graph: GraphInfo) -> bool:
    axes = _axes(graph)
    is_known = axes in (_RECOGNISER_INPUTS, _RECOGNISER_INPUTS | _BIAS)
    return is_known and len(graph.outputs) in _N_OUTPUTS and not _is_streaming(graph)


def _is_streaming(graph: GraphInfo) -> bool:
    """Return whether a graph is the encoder or the decoder of the streaming variant."""
    is_decoder = {"acoustic_embeds", "in_cache_0"} <= graph.inputs.keys()
    return is_decoder or graph.outputs.keys() >= _STREAMING_OUTPUTS


def _vocab(model: GraphInfo) -> int | None:
    """Return the number of tokens, if the graph states it."""
    stated = model.metadata.get("vocab_size")
    if stated is not None:
        return _integer(model, "vocab_size")
    shape = next(iter(model.outputs.values())).shape
    return shape[-1] if shape else None


def _integer(model: GraphInfo, name: str) -> int:
    value = model.metadata[name].strip()
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not int(value):
        raise ModelError(
            f"{model.path}: {name} in its metadata must be a positive integer, not {value!r:.40}.",
            code="metadata_value",
        )
    return int(value)


def _stacking(model: GraphInfo, folder: Path, files: Sequence[Path]) -> tuple[int, int]:
    """Return the frames in a row of features, and the frames between two rows."""
    width = model.inputs["speech"].shape[-1]
    if "lfr_window_size" in model.metadata and "lfr_window_shift" in model.metadata:
        window, step = (_integer(model, f"lfr_window_{kind}") for kind in ("size", "shift"))
    elif folder / _CONFIG in files and width is not None:
        return check_features(read_yaml(folder / _CONFIG), width)
    else:
        window, step = WINDOW, STEP
    if width is not None:
        check_width(width, window, step, model.path)
    return window, step


def _cmvn(model: GraphInfo, folder: Path) -> Float32Array:
    """Read the normalisation from the metadata, else from `am.mvn`."""
    names = ("neg_mean", "inv_stddev")
    width = model.inputs["speech"].shape[-1] or WINDOW * 80
    if not all(name in model.metadata for name in names):
        return read_cmvn(folder, width)
    shift, scale = (_numbers(model, name) for name in names)
    try:
        cmvn = checked_cmvn(shift, scale)
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}", code=error.code) from error
    return stack_cmvn(cmvn, width, model.path)


def _numbers(model: GraphInfo, name: str) -> Float32Array:
    try:
        with np.errstate(over="ignore"):  # infinite numbers are refused later
            return np.array([float(part) for part in _split(model.metadata[name])], np.float32)
    except (ValueError, OverflowError) as error:
        raise ModelError(
            f"{model.path}: {name} in its metadata holds more than numbers.", code="cmvn_broken"
        ) from error


def _split(text: str) -> Iterator[str]:
    return (part for part in text.split(",") if part.strip())
