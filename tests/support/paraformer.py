"""Paraformer bundles with graphs that say what they are told.

The columns of the features are a script: the first is the weight of the row, and of the rest, the
largest is the token of the row. A bundle has one frame in a row (`lfr` 1/1) and no normalisation,
so that a script is put in as frames. Real graphs are made from weights in tests/importing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamasr.core.hypothesis import TokenTimes
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.features.fbank import HOP, fbank
from streamasr.features.lfr import stack_frames
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.cif import fire_rows
from streamasr.models.paraformer.recogniser import Paraformer, load
from streamasr.models.paraformer.times import token_times

TOKENS: Final = (
    *("<blank>", "<s>", "</s>", "今", "天", "气", "a", "s", "r", "hello", "world"),
    *("tomo@@", "rrow", "4", "—", "<unk>"),
)
UPSAMPLING: Final = 3
OPTIONS: Final = OnnxOptions(threads=1)
PLAIN: Final = SessionOptions()


def script(
    *rows: tuple[float, str], times: Sequence[Sequence[float]] = (), tokens: Sequence[str] = TOKENS
) -> Float32Array:
    """Return features: the weight and the token of each row.

    Args:
        rows: weight and token of each.
        times: for each row, the weights of its steps of the time head.
        tokens: the vocabulary.
    """
    features = np.zeros((len(rows), 1 + len(tokens) + UPSAMPLING), np.float32)
    for number, (weight, token) in enumerate(rows):
        features[number, 0] = weight
        features[number, 1 + tokens.index(token)] = 1
    if times:
        features[:, 1 + len(tokens) :] = times
    return features


def write_bundle(directory: Path, kind: str = "parts", *, head: bool = False, **facts: Any) -> Path:
    """Write a bundle.

    Args:
        directory: which must not exist.
        kind: `parts` or `whole`.
        head: whether it has a time head.
        facts: others than the usual ones in `model.json`; None for one to leave out.
    """
    directory.mkdir()
    if kind == "parts":
        write_encoder(directory / "encoder.onnx", head=head)
        write_decoder(directory / "decoder.onnx")
    else:
        write_whole(directory / "model.onnx", head=head)
    width = 1 + len(TOKENS) + UPSAMPLING
    identity = np.stack([np.zeros(width, np.float32), np.ones(width, np.float32)])
    usual: dict[str, Any] = {"n_mels": width, "lfr": {"window": 1, "shift": 1}, "graphs": kind}
    if kind == "parts" and head:
        usual["time_upsampling"] = UPSAMPLING
    write_description(directory, tokens=TOKENS, cmvn=identity, **(usual | facts))
    return directory


def write_description(
    directory: Path, *, tokens: Sequence[str], cmvn: Float32Array, **facts: Any
) -> None:
    """Write everything but the graphs.

    Args:
        directory: of the bundle.
        tokens: the vocabulary.
        cmvn: (2, width), shift and scale.
        facts: others than the usual ones in `model.json`; None for one to leave out.
    """
    usual: dict[str, Any] = {
        "format": "streamasr-bundle",
        "version": 1,
        "family": "paraformer",
        "name": "scripted",
        "languages": ["Chinese", "English"],
        "graphs": "parts",
        "vocab": len(tokens),
    }
    if facts.get("graphs", "parts") == "parts":
        usual["predictor"] = {"threshold": 1.0, "tail": 0.45}
    chosen = {key: value for key, value in (usual | facts).items() if value is not None}
    (directory / "model.json").write_text(json.dumps(chosen))
    (directory / "tokens.json").write_text(json.dumps(tokens))
    np.save(directory / "cmvn.npy", cmvn)


def opened(directory: Path) -> Paraformer:
    """Load a bundle."""
    return load(directory, OPTIONS)


def times_by_fires(model: Paraformer, samples: Float32Array, n_tokens: int) -> TokenTimes:
    """Return the times of tokens by the rule of FunASR, from the fires themselves."""
    settings = model.settings
    rows = model.cmvn.apply(stack_frames(fbank(samples), settings.window, settings.shift))
    spoken = model.graphs.run(rows, None)
    assert spoken is not None
    found = spoken.times
    assert found is not None
    fires = None if found.n_fired is None else fire_rows(found.weights)
    step = settings.shift * HOP / found.per_row
    return token_times(found.weights, n_tokens, step, len(samples), fires)


def write_encoder(path: Path, *, head: bool = False) -> None:
    """Write the first graph of a bundle in parts: columns of the features are its outputs."""
    n_tokens = len(TOKENS)
    nodes = [
        *_columns("features", "encoded", 1, 1 + n_tokens),
        *_columns("features", "column", 0, 1),
        helper.make_node("Squeeze", ["column", "squeezed"], ["alphas"]),
    ]
    outputs = {"encoded": (1, "n", n_tokens), "alphas": (1, "n")}
    constants: dict[str, npt.NDArray[Any]] = {"squeezed": np.array([2])}
    if head:
        nodes += [
            *_columns("features", "steps", 1 + n_tokens, 1 + n_tokens + UPSAMPLING),
            helper.make_node("Reshape", ["steps", "flat"], ["time_alphas"]),
        ]
        constants["flat"] = np.array([1, -1])
        outputs["time_alphas"] = (1, "m")
    _save(path, nodes, {"features": (1, "n", None)}, outputs, constants)


def write_decoder(path: Path, n_tokens: int = len(TOKENS)) -> None:
    """Write the second graph: the embedding of a token is its logits."""
    nodes = [
        helper.make_node("ReduceMean", ["encoded", "rows"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "nothing"], ["zeros"]),
        helper.make_node("Add", ["acoustic", "zeros"], ["logits"]),
    ]
    constants = {"rows": np.array([1]), "nothing": np.array(0, np.float32)}
    shapes = {"encoded": (1, "t", n_tokens), "acoustic": (1, "n", n_tokens)}
    _save(path, nodes, shapes, {"logits": (1, "n", n_tokens)}, constants)


def write_whole(path: Path, *, head: bool = False, bias: bool = False) -> None:
    """Write a graph with the inputs and outputs of FunASR's and sherpa-onnx's exports.

    It fires in the first rows, as many as the weights add up to, and fails if there are none, as
    the released ones do. The embedding of hotwords is added to the logits, summed over hotwords.
    """
    n_tokens = len(TOKENS)
    nodes = [
        *_columns("speech", "weights", 0, 1),
        helper.make_node("ReduceSum", ["weights", "both"], ["sum"], keepdims=0),
        helper.make_node("Floor", ["sum"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["token_num"], to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["count"], to=TensorProto.INT64),
        *_columns("speech", "tokens", 1, 1 + n_tokens),
        helper.make_node("Slice", ["tokens", "zero", "count", "row_axis"], ["fired"]),
        helper.make_node("Gather", ["fired", "zero"], ["first"], axis=1),
        helper.make_node("Mul", ["first", "nothing"], ["zeros"]),
        helper.make_node("Cast", ["speech_lengths"], ["length"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["length", "nothing"], ["more_zeros"]),
        helper.make_node("Sum", ["fired", "zeros", "more_zeros"], ["unbiased"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "both": np.array([1, 2]),
        "zero": np.array([0]),
        "row_axis": np.array([1]),
        "nothing": np.array(0, np.float32),
    }
    inputs: dict[str, Any] = {"speech": (1, "n", None), "speech_lengths": (1,)}
    outputs: dict[str, Any] = {"logits": (1, "m", n_tokens), "token_num": (1,)}
    if bias:
        inputs["bias_embed"] = (1, "h", n_tokens)
        nodes.append(helper.make_node("ReduceSum", ["bias_embed", "row_axis"], ["bias"]))
        nodes.append(helper.make_node("Add", ["unbiased", "bias"], ["logits"]))
    else:
        nodes.append(helper.make_node("Identity", ["unbiased"], ["logits"]))
    if head:
        nodes += [
            *_columns("speech", "steps", 1 + n_tokens, 1 + n_tokens + UPSAMPLING),
            helper.make_node("Reshape", ["steps", "flat"], ["us_alphas"]),
            helper.make_node("Identity", ["us_alphas"], ["us_cif_peak"]),
        ]
        constants["flat"] = np.array([1, -1])
        outputs |= {"us_alphas": (1, "s"), "us_cif_peak": (1, "s")}
    _save(path, nodes, inputs, outputs, constants)


def write_hotwords(path: Path, width: int = len(TOKENS)) -> None:
    """Write a graph of hotwords whose state is the sum of one-hot tokens so far."""
    table = np.eye(len(TOKENS), width, dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "hotword"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["by_place"], perm=[1, 0, 2]),
        helper.make_node("CumSum", ["by_place", "first"], ["hw_embed"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {"table": table, "first": np.array(0)}
    shapes = {"hotword": ("h", 10)}
    _save(path, nodes, shapes, {"hw_embed": (10, "h", width)}, constants)


def _columns(source: str, target: str, start: int, stop: int) -> list[onnx.NodeProto]:
    """Return nodes that cut columns out of (1, n, width)."""
    names = [f"{target}_{part}" for part in ("start", "stop", "axis")]
    values = zip(names, (start, stop, 2), strict=True)
    constants = [
        helper.make_node("Constant", [], [name], value_ints=[value]) for name, value in values
    ]
    return [*constants, helper.make_node("Slice", [source, *names], [target])]


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, npt.NDArray[Any]],
) -> None:
    whole = {"speech_lengths", "hotword", "token_num"}
    takes, gives = (
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT32 if name in whole else TensorProto.FLOAT, shape
            )
            for name, shape in group.items()
        ]
        for group in (inputs, outputs)
    )
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "scripted", takes, gives, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
