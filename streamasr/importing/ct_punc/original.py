"""Reader for the original folders of ct-punc, and writer of their weights as a graph.

    model.pt      PyTorch checkpoint, read without torch
    config.yaml   settings and marks
    tokens.json   vocabulary

    graph   inputs int32 [1, words], text_lengths int32 [1] -> logits [1, words, classes]

The graph has the inputs of FunASR's export; the number of words follows from the first one. The
layer that gives the classes stays in float32 in int8.

Source: funasr 1.4.16, models/ct_transformer/model.py, and the classes that `config.yaml` names.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.importing.bundle_writer import BundleWriter
from streamasr.importing.config_file import Config, read_yaml
from streamasr.importing.ct_punc.segmentation import DICTIONARY_BYTES, find_dictionary
from streamasr.importing.ct_punc.sidecars import (
    CONFIG,
    LANGUAGES,
    LICENCE,
    check_vocabulary,
    marks_of,
    read_tokens,
    write_vocabulary,
)
from streamasr.importing.graph_writer import GraphWriter, linear
from streamasr.importing.options import EncoderWidth, ImportOptions
from streamasr.importing.sanm_graph import EncoderShape, add_encoder
from streamasr.importing.tensors import Progress, Tensor
from streamasr.importing.torch_file import TorchTensor, is_torch_file, read_state_dict
from streamasr.models.ct_punc.names import FAMILY_NAME, MODEL_FILE

_WEIGHTS: Final = "model.pt"
_MODEL: Final = "CTTransformer"
_REALTIME: Final = "CTTransformerStreaming"
_EMBEDDING: Final = "embed.weight"
_CLASSES: Final = "decoder"

_HEADS: Final = 4  # of the class SANMEncoder, where config.yaml states none
_MAX_BLOCKS: Final = 512
_ONLY: Final[Mapping[str, Any]] = {
    "input_layer": "pe",
    "selfattention_layer_type": "sanm",
    "positionwise_layer_type": "linear",
    "normalize_before": True,
    "concat_after": False,
}
"""Settings of the encoder that the graph is written for."""

_BYTES: Final[Mapping[EncoderWidth, int]] = {"fp32": 4, "fp16": 2, "int8": 4}
"""Upper bounds for a weight: the vocabulary, which is most of them, is not quantised."""
_OVERHEAD: Final = 1 << 24  # bytes of graph and vocabulary


@dataclass(frozen=True, slots=True)
class PunctuationCheckpoint:
    """Validated weights, which are still on disk; implements `Source`."""

    path: Path
    shape: EncoderShape
    tensors: Mapping[str, Tensor]
    """By name, in the order of the forward pass."""
    tokens: tuple[str, ...]
    marks: tuple[str, ...]
    """The mark of each class."""
    dictionary: Path | None = None
    """Dictionary of words, for a vocabulary that consists of them."""
    notes: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Name of the family."""
        return FAMILY_NAME

    def parts(self) -> Sequence[Path]:
        """Return the files that may have been chosen among others."""
        return self.files()

    def files(self) -> Sequence[Path]:
        """Return the files with the weights."""
        return sorted({tensor.path for tensor in self.tensors.values()})

    def max_bytes(self, options: ImportOptions, _directory: Path) -> float:
        """Return an upper bound for the size of the bundle."""
        n_weights = sum(math.prod(tensor.shape) for tensor in self.tensors.values())
        words = DICTIONARY_BYTES if self.dictionary else 0
        return n_weights * _BYTES[options.encoder or "fp32"] + _OVERHEAD + words

    def write(self, writer: BundleWriter) -> dict[str, Any]:
        """Write the files of the bundle and return the facts for `model.json`."""
        writer.refuse_decoder_option(self.path)
        width = writer.options.encoder or "fp32"
        write_graph(self, writer.directory / MODEL_FILE, width, writer.progress)
        return {
            "languages": LANGUAGES,
            "licence": LICENCE,
            **write_vocabulary(self.tokens, self.marks, self.dictionary, writer),
            "parameters": sum(math.prod(tensor.shape) for tensor in self.tensors.values()),
            "precision": {"encoder": width},
            "encoder_bits": {"fp32": 32, "fp16": 16, "int8": 8}[width],
        }


def write_graph(
    source: PunctuationCheckpoint, path: Path, width: EncoderWidth, progress: Progress
) -> None:
    """Write the graph, and its weights beside it.

    Raises:
        ModelError: a weight is not finite, or exceeds the range of float16.
    """
    names = [*source.tensors]
    with GraphWriter(
        source.tensors, path, width, names, progress=progress, part="punctuation model"
    ) as graph:
        words = graph.add("Gather", graph.weight(_EMBEDDING), "inputs", axis=0)
        hidden = add_encoder(graph, words, source.shape)
        linear(graph, hidden, _CLASSES, output="logits", is_exact=True)
        graph.close(
            {"inputs": (1, "words"), "text_lengths": (1,)},
            {"logits": (1, "words", len(source.marks))},
            integers=("inputs", "text_lengths"),
        )


def is_original(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether a folder has a PyTorch checkpoint of ct-punc.

    Args:
        folder: the folder.
        files: the regular files in it.

    Raises:
        ModelError: `config.yaml` is not a mapping in YAML.
    """
    config = folder / CONFIG
    if config not in files or not any(map(is_torch_file, files)):
        return False
    return read_yaml(config).get("model") in (_MODEL, _REALTIME)


def read_original(folder: Path, files: Sequence[Path]) -> PunctuationCheckpoint:
    """Read a folder with a PyTorch checkpoint.

    Raises:
        ModelError: a file is missing or damaged, or the model is not supported.
    """
    config = read_yaml(folder / CONFIG)
    if config.get("model") == _REALTIME:
        raise ModelError(
            f"{folder} is the PyTorch checkpoint of a realtime punctuation model, which is "
            "supported as ONNX only; use its ONNX export, or the ordinary model, such as "
            "iic/punc_ct-transformer_cn-en-common-vocab471067-large.",
            code="punctuation_realtime",
        )
    weights = folder / _WEIGHTS
    if weights not in files:
        raise ModelError(
            f"{folder} has no {_WEIGHTS}; rename the checkpoint to use to {_WEIGHTS}.",
            code="ambiguous_parts",
        )
    tensors = read_state_dict(weights)
    marks = marks_of(config)
    shape = _shape_of(tensors, config, weights)
    expected = _expected_shapes(tensors, shape, len(marks), weights)
    for name, dims in expected.items():
        _check_shape(tensors, name, dims, weights)
    tokens = read_tokens(folder / "tokens.json")
    check_vocabulary(tokens, marks, weights)
    if len(tokens) != (n_rows := tensors[_EMBEDDING].shape[0]):
        raise ModelError(
            f"{folder}: the vocabulary has {len(tokens)} words, but the model knows {n_rows}; the "
            "files belong to different models.",
            code="tokens_count",
        )
    ordered: dict[str, Tensor] = {name: tensors[name] for name in expected}
    dictionary = find_dictionary(folder)
    return PunctuationCheckpoint(folder, shape, ordered, tokens, marks, dictionary)


def _shape_of(tensors: Mapping[str, TorchTensor], config: Config, path: Path) -> EncoderShape:
    """Infer the sizes of the encoder.

    Raises:
        ModelError: a tensor is missing, or a setting is not supported.
    """
    config.only("encoder", "SANMEncoder")
    encoder = config.optional_section("encoder_conf")
    for name, allowed in _ONLY.items():
        encoder.only(name, allowed)
    encoder.only("sanm_shfit", 0)
    n_blocks = 0
    while f"encoder.encoders.{n_blocks}.norm1.weight" in tensors and n_blocks < _MAX_BLOCKS:
        n_blocks += 1
    merged = _axes(tensors, "encoder.encoders0.0.self_attn.linear_q_k_v.weight", 2, path)
    kernel = _axes(tensors, "encoder.encoders0.0.self_attn.fsmn_block.weight", 3, path)[2]
    n_heads = encoder.integer("attention_heads") if "attention_heads" in encoder else _HEADS
    n_features, d_model = _axes(tensors, _EMBEDDING, 2, path)[1], merged[0] // 3
    if n_features < 4 or n_features % 2 or d_model % n_heads:
        raise ModelError(
            f"{path}: words of {n_features} values and {n_heads} heads of {d_model} together are "
            "not those of a punctuation model.",
            code="tensor_shape",
        )
    return EncoderShape(n_features, d_model, n_heads, kernel, 0, n_blocks)


def _expected_shapes(
    tensors: Mapping[str, TorchTensor], shape: EncoderShape, n_marks: int, path: Path
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name, in the order of the forward pass."""
    wide = _axes(tensors, "encoder.encoders0.0.feed_forward.w_1.weight", 2, path)[0]
    width = shape.d_model
    expected: dict[str, tuple[int, ...]] = {_EMBEDDING: tensors[_EMBEDDING].shape}
    blocks = [f"encoder.encoders.{number}" for number in range(shape.n_blocks)]
    for prefix in ("encoder.encoders0.0", *blocks):
        inputs = shape.n_features if prefix == "encoder.encoders0.0" else width
        expected |= {
            f"{prefix}.{name}.{kind}": dims if kind == "weight" else dims[:1]
            for name, dims in {
                "norm1": (inputs,),
                "self_attn.linear_q_k_v": (3 * width, inputs),
                "self_attn.linear_out": (width, width),
                "norm2": (width,),
                "feed_forward.w_1": (wide, width),
                "feed_forward.w_2": (width, wide),
            }.items()
            for kind in ("weight", "bias")
        }
        expected[f"{prefix}.self_attn.fsmn_block.weight"] = (width, 1, shape.kernel)
    for name, dims in {"encoder.after_norm": (width,), _CLASSES: (n_marks, width)}.items():
        expected |= {f"{name}.weight": dims, f"{name}.bias": dims[:1]}
    return expected


def _axes(
    tensors: Mapping[str, TorchTensor], name: str, n_axes: int, path: Path
) -> tuple[int, ...]:
    """Return the shape of a tensor that has so many axes."""
    if name not in tensors:
        raise ModelError(f"{path}: tensor {name} is missing.", code="tensor_missing")
    shape = tensors[name].shape
    if len(shape) != n_axes or min(shape) < 1:
        raise ModelError(
            f"{path}: tensor {name} has the shape {shape}; {n_axes} axes are required.",
            code="tensor_shape",
        )
    return shape


def _check_shape(
    tensors: Mapping[str, TorchTensor], name: str, shape: tuple[int, ...], path: Path
) -> None:
    if _axes(tensors, name, len(shape), path) != shape:
        raise ModelError(
            f"{path}: tensor {name} has the shape {tensors[name].shape}, but the other tensors "
            f"require {shape}.",
            code="tensor_shape",
        )
