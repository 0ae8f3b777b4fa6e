"""Writer of ct-punc in its published forms, with weights under the names of the checkpoint.

    FunASR's export    model.onnx, tokens.json, config.yaml
    its checkpoint     model.pt, tokens.json, config.yaml
    sherpa-onnx        model.onnx whose metadata holds vocabulary and marks

The graph takes `inputs` int32 [batch, n] and `text_lengths` int32 [batch], and gives `logits`
[batch, n, n_marks]. That of a realtime model takes the masks `vad_masks` and `sub_masks` [batch, 1,
n, n], too: 1 where a word may attend.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamasr.models.ct_punc.segmentation import Segmentation
from tests.sources.torch_checkpoint import TorchType, write_checkpoint

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

MARKS: Final = ("<unk>", "_", "，", "。", "？", "、")

WORDS: Final = (
    "<blank>", "<s>", "</s>", *"今天气很好我们去公园吧你觉得怎么样一二三四五六七八九十",
    "hello", "world", "how", "are", "you", "asr", "it's", "<unk>",
)  # fmt: skip

_OPSET: Final = 17
_EPSILON: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model."""

    width: int = 16
    """Of the embeddings."""
    hidden: int = 16
    heads: int = 4
    inner: int = 32
    blocks: int = 3
    kernel: int = 11


def random_weights(
    shape: Shape, n_words: int, n_marks: int, seed: int = 0, *, rare: Sequence[int] = ()
) -> Weights:
    """Return random weights whose classes vary from word to word.

    Args:
        shape: sizes.
        n_words: of the vocabulary.
        n_marks: classes.
        seed: of the random numbers.
        rare: classes that are never chosen.
    """
    generator = np.random.RandomState(seed)  # whose numbers are the same in any version

    def normal(*dims: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        return (generator.standard_normal(dims) * scale).astype(np.float32)

    weights = {"embed.weight": normal(n_words, shape.width)}
    for name, n_in in block_names(shape):
        hidden, inner = shape.hidden, shape.inner
        for norm, size in (("norm1", n_in), ("norm2", hidden)):
            weights[f"{name}.{norm}.weight"] = 1 + normal(size, scale=0.1)
            weights[f"{name}.{norm}.bias"] = normal(size, scale=0.1)
        linears = (
            ("self_attn.linear_q_k_v", n_in, 3 * hidden), ("self_attn.linear_out", hidden, hidden),
            ("feed_forward.w_1", hidden, inner), ("feed_forward.w_2", inner, hidden),
        )  # fmt: skip
        for linear, size, n_out in linears:
            weights[f"{name}.{linear}.weight"] = normal(n_out, size, scale=size**-0.5)
            weights[f"{name}.{linear}.bias"] = normal(n_out, scale=0.1)
        weights[f"{name}.self_attn.fsmn_block.weight"] = normal(hidden, 1, shape.kernel, scale=0.3)
    weights["encoder.after_norm.weight"] = 1 + normal(shape.hidden, scale=0.1)
    weights["encoder.after_norm.bias"] = normal(shape.hidden, scale=0.1)
    weights["decoder.weight"] = normal(n_marks, shape.hidden)
    bias = np.zeros(n_marks, np.float32)
    bias[[*rare]] = -1000
    return weights | {"decoder.bias": bias}


def block_names(shape: Shape) -> list[tuple[str, int]]:
    """Return the names of the encoder's blocks, with the width of their inputs."""
    others = [(f"encoder.encoders.{i}", shape.hidden) for i in range(shape.blocks - 1)]
    return [("encoder.encoders0.0", shape.width), *others]


class _Graph:
    """Graph under construction."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        value = self._weights[name]
        array = np.ascontiguousarray(value.T if transposed else value)
        self.initializers[name] = numpy_helper.from_array(array, name)
        return name

    def linear(self, x: str, name: str, output: str = "") -> str:
        product = self.add("MatMul", x, self.weight(f"{name}.weight", transposed=True))
        return self.add("Add", product, self.weight(f"{name}.bias"), output=output)

    def norm(self, x: str, name: str) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.add("LayerNormalization", x, scale, shift, epsilon=_EPSILON)

    def positions(self, x: str, width: int) -> str:
        """Return x with the encoding of positions that count from 1."""
        n_words = self.add("Gather", self.add("Shape", x), self.constant(1, np.int64), axis=0)
        one = self.constant(1, np.int64)
        places = self.add("Range", one, self.add("Add", n_words, one), one)
        places = self.add("Cast", places, to=TensorProto.FLOAT)
        places = self.add("Unsqueeze", places, self.constant([1], np.int64))
        step = np.log(10000) / (width / 2 - 1)
        angles = self.add("Mul", places, self.constant(np.exp(np.arange(width // 2) * -step)))
        encoding = self.add("Concat", self.add("Sin", angles), self.add("Cos", angles), axis=1)
        return self.add("Add", x, encoding)

    def block(self, x: str, name: str, shape: Shape, mask: str | None, *, residual: bool) -> str:
        attended = self.attention(self.norm(x, f"{name}.norm1"), f"{name}.self_attn", shape, mask)
        x = self.add("Add", x, attended) if residual else attended
        inner = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.feed_forward.w_1")
        return self.add("Add", x, self.linear(self.add("Relu", inner), f"{name}.feed_forward.w_2"))

    def attention(self, x: str, name: str, shape: Shape, mask: str | None) -> str:
        parts = [f"{name}.q", f"{name}.k", f"{name}.v"]
        joined = self.linear(x, f"{name}.linear_q_k_v")
        sizes = self.constant([shape.hidden] * 3, np.int64)
        self.nodes.append(helper.make_node("Split", [joined, sizes], parts, axis=2))
        size = shape.hidden // shape.heads
        split = self.constant([0, 0, shape.heads, size], np.int64)
        q, k, v = (
            self.add("Transpose", self.add("Reshape", part, split), perm=[0, 2, 1, 3])
            for part in parts
        )
        q = self.add("Mul", q, self.constant(size**-0.5))
        scores = self.add("MatMul", q, self.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = scores if mask is None else self.add("Add", scores, mask)
        seen = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        seen = self.add("Transpose", seen, perm=[0, 2, 1, 3])
        seen = self.add("Reshape", seen, self.constant([0, 0, shape.hidden], np.int64))
        memory = self.add("Transpose", parts[2], perm=[0, 2, 1])
        kernel = self.weight(f"{name}.fsmn_block.weight")
        side = (shape.kernel - 1) // 2
        pads = [side, shape.kernel - 1 - side]
        memory = self.add("Conv", memory, kernel, group=shape.hidden, pads=pads)
        memory = self.add("Add", self.add("Transpose", memory, perm=[0, 2, 1]), parts[2])
        return self.add("Add", self.linear(seen, f"{name}.linear_out"), memory)


def write_graph(
    path: Path,
    weights: Weights,
    shape: Shape,
    *,
    realtime: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the graph."""
    graph = _Graph(weights)
    x = graph.add("Gather", graph.weight("embed.weight"), "inputs", axis=0)
    x = graph.add("Mul", x, graph.constant(shape.hidden**0.5))
    x = graph.positions(x, shape.width)
    masks = dict.fromkeys(("sub_masks", "vad_masks")) if not realtime else {
        name: graph.add(
            "Mul", graph.add("Sub", graph.constant(1), name), graph.constant(-10000)
        )
        for name in ("sub_masks", "vad_masks")
    }  # fmt: skip
    names = block_names(shape)
    for name, n_in in names:
        mask = masks["vad_masks" if name == names[-1][0] else "sub_masks"]
        x = graph.block(x, name, shape, mask, residual=n_in == shape.hidden)
    x = graph.norm(x, "encoder.after_norm")
    graph.linear(x, "decoder", "logits")
    # As in the exports, the lengths are an input: without padding they change nothing.
    length = graph.add("Cast", "text_lengths", to=TensorProto.FLOAT)
    graph.add("Mul", length, graph.constant(0), output="lengths")
    _save(path, graph, len(weights["decoder.bias"]), realtime=realtime, metadata=metadata or {})


def _save(
    path: Path, graph: _Graph, n_marks: int, *, realtime: bool, metadata: Mapping[str, str]
) -> None:
    def value(name: str, kind: int, *dims: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dims)

    inputs = [
        value("inputs", TensorProto.INT32, "batch_size", "feats_length"),
        value("text_lengths", TensorProto.INT32, "batch_size"),
    ]
    names = ("vad_masks", "sub_masks") if realtime else ()
    sides = ("feats_length1", "feats_length2")
    inputs += [value(name, TensorProto.FLOAT, 1, 1, *sides) for name in names]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "torch_jit",
            inputs,
            [value("logits", TensorProto.FLOAT, "batch_size", "logits_length", n_marks)],
            [*graph.initializers.values()],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)


def write_funasr_folder(
    folder: Path,
    weights: Weights,
    shape: Shape,
    words: Sequence[str] = WORDS,
    *,
    realtime: bool = False,
    graph_name: str = "model.onnx",
) -> Path:
    """Write FunASR's export."""
    folder.mkdir(parents=True)
    write_graph(folder / graph_name, weights, shape, realtime=realtime)
    write_sidecars(folder, shape, words, realtime=realtime)
    return folder


def write_original(
    folder: Path,
    weights: Weights,
    shape: Shape,
    words: Sequence[str] = WORDS,
    *,
    kind: TorchType = "F32",
) -> Path:
    """Write FunASR's PyTorch checkpoint."""
    folder.mkdir(parents=True)
    shapes = {name: values.shape for name, values in weights.items()}
    write_checkpoint(folder / "model.pt", shapes, weights.__getitem__, kind)
    write_sidecars(folder, shape, words)
    return folder


def write_sidecars(
    folder: Path, shape: Shape, words: Sequence[str], *, realtime: bool = False
) -> None:
    """Write tokens.json and config.yaml."""
    (folder / "tokens.json").write_text(json.dumps(words, ensure_ascii=False), "utf-8")
    write_config(folder, shape, realtime=realtime)


def write_config(
    folder: Path, shape: Shape, marks: Sequence[str] = MARKS, *, realtime: bool = False
) -> None:
    """Write config.yaml."""
    model = "CTTransformerStreaming" if realtime else "CTTransformer"
    shown = "\n".join(f"        - {mark if mark not in ',?' else repr(mark)}" for mark in marks)
    weights = "\n".join("        - 1.0" for _ in marks)
    (folder / "config.yaml").write_text(
        f"# settings of the model\nmodel: {model}\nmodel_conf:\n    ignore_id: 0\n"
        f"    embed_unit: {shape.width}\n    att_unit: {shape.hidden}\n    dropout_rate: 0.1\n"
        f"    punc_list:\n{shown}\n    punc_weight:\n{weights}\n    sentence_end_id: 3\n"
        "encoder: SANMEncoder\n"
        f"encoder_conf:\n    input_size: {shape.width}\n    output_size: {shape.hidden}\n"
        f"    attention_heads: {shape.heads}\n    linear_units: {shape.inner}\n"
        f"    num_blocks: {shape.blocks}\n    input_layer: pe\n"
        "    pos_enc_class: SinusoidalPositionEncoder\n    normalize_before: true\n"
        f"    kernel_size: {shape.kernel}\n    sanm_shfit: 0\n"
        "    selfattention_layer_type: sanm\n    padding_idx: 0\n"
        "tokenizer: CharTokenizer\ntokenizer_conf:\n  unk_symbol: <unk>\n",
        "utf-8",
    )


def write_sherpa_folder(
    folder: Path, weights: Weights, shape: Shape, words: Sequence[str] = WORDS
) -> Path:
    """Write the export for sherpa-onnx."""
    folder.mkdir(parents=True)
    metadata = {
        "tokens": "|".join(words),
        "punctuations": "|".join(MARKS),
        "unk_symbol": "<unk>",
        "vocab_size": str(len(words)),
        "model_type": "ct_transformer",
    }
    write_graph(folder / "model.onnx", weights, shape, metadata=metadata)
    return folder


def write_bundle(
    folder: Path,
    weights: Weights,
    shape: Shape = Shape(),
    words: Sequence[str] = WORDS,
    *,
    realtime: bool = False,
    segmentation: Segmentation | None = None,
) -> Path:
    """Write a model directory of ours."""
    folder.mkdir(parents=True)
    write_graph(folder / "model.onnx", weights, shape, realtime=realtime)
    (folder / "tokens.json").write_text(json.dumps(words, ensure_ascii=False), "utf-8")
    facts = {
        "format": "streamasr-bundle", "version": 1, "family": "ct-punc", "name": folder.name,
        "marks": MARKS, "vocab": len(words),
    }  # fmt: skip
    facts |= {"realtime": True} if realtime else {}
    if segmentation is not None:
        segmentation.write(folder / "segmentation.txt")
        facts |= {"segmented": True}
    (folder / "model.json").write_text(json.dumps(facts, ensure_ascii=False), "utf-8")
    return folder
