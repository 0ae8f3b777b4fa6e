"""Writer of folders as published by sherpa-onnx: names, inputs and metadata, without weights.

FunASR's own export of SenseVoice is among them, because it differs only in names and metadata.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, helper

Inputs = Sequence[str]


@dataclass(frozen=True, slots=True)
class SherpaForm:
    """Folder of one kind of model."""

    title: str
    """Name of the model and its form for people."""
    graphs: Mapping[str, Inputs]
    """Inputs of each graph by file name."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the first graph."""
    others: Sequence[str] = ("tokens.txt",)


FORMS: Final = {
    "qwen3-asr": SherpaForm(
        "Qwen3-ASR in the form of sherpa-onnx",
        {
            "conv_frontend.onnx": ("input_features",),
            "encoder.int8.onnx": ("features", "feature_attention_mask"),
            "decoder.int8.onnx": (
                "input_ids",
                "audio_features",
                "attention_mask",
                "cache_position",
            ),
        },
        others=("tokenizer/vocab.json", "tokenizer/merges.txt"),
    ),
    "zipformer": SherpaForm(
        "a Zipformer transducer in the form of sherpa-onnx",
        {
            "encoder-epoch-99-avg-1.onnx": ("x", "x_lens"),
            "decoder-epoch-99-avg-1.onnx": ("y",),
            "joiner-epoch-99-avg-1.onnx": ("encoder_out", "decoder_out"),
        },
        {"model_type": "zipformer2"},
    ),
    "transducer without a type": SherpaForm(
        "a transducer in the form of sherpa-onnx",
        {
            "encoder.onnx": ("x", "x_lens"),
            "decoder.onnx": ("y",),
            "joiner.onnx": ("encoder_out", "decoder_out"),
        },
    ),
    "parakeet": SherpaForm(
        "a NeMo transducer such as Parakeet in the form of sherpa-onnx",
        {
            "encoder.int8.onnx": ("audio_signal", "length"),
            "decoder.int8.onnx": ("targets", "target_length", "states.1", "onnx::Slice_3"),
            "joiner.int8.onnx": ("encoder_outputs", "decoder_outputs"),
        },
        {"model_type": "EncDecRNNTBPEModel"},
    ),
    "sense-voice": SherpaForm(
        "SenseVoice in the form of sherpa-onnx",
        {"model.int8.onnx": ("x", "x_length", "language", "text_norm")},
        {"model_type": "sense_voice_ctc", "comment": "iic/SenseVoiceSmall"},
    ),
    "sense-voice of funasr": SherpaForm(
        "SenseVoice as exported by FunASR",
        {"model.onnx": ("speech", "speech_lengths", "language", "textnorm")},
    ),
    "nano ctc": SherpaForm(
        "Fun-ASR-Nano in the form of sherpa-onnx",
        {"model.onnx": ("x",)},
        {"model_type": "sense_voice_ctc", "comment": "FunAudioLLM/Fun-ASR-Nano-2512"},
    ),
    "nano": SherpaForm(
        "Fun-ASR-Nano in the form of sherpa-onnx",
        {
            "embedding.int8.onnx": ("input_ids",),
            "encoder_adaptor.int8.onnx": ("features",),
            "llm.int8.onnx": ("inputs_embeds",),
        },
        others=("Qwen3-0.6B/vocab.json",),
    ),
    "whisper": SherpaForm(
        "Whisper in the form of sherpa-onnx",
        {
            "base-encoder.int8.onnx": ("mel",),
            "base-decoder.int8.onnx": (
                "tokens",
                "in_n_layer_self_k_cache",
                "in_n_layer_self_v_cache",
                "n_layer_cross_k",
                "n_layer_cross_v",
                "offset",
            ),
        },
        {"model_type": "whisper-base"},
        ("base-tokens.txt",),
    ),
    "zipformer ctc": SherpaForm(
        "a Zipformer CTC model in the form of sherpa-onnx",
        {"model.onnx": ("x", "x_lens")},
        {"model_type": "zipformer2_ctc"},
    ),
    "moonshine": SherpaForm(
        "Moonshine in the form of sherpa-onnx",
        {
            "cached_decode.int8.onnx": ("args_0", "args_1"),
            "encode.int8.onnx": ("args_0", "args_1"),
            "preprocess.onnx": ("args_0",),
            "uncached_decode.int8.onnx": ("args_0", "args_1", "args_2"),
        },
    ),
    "canary": SherpaForm(
        "Canary in the form of sherpa-onnx",
        {"encoder.int8.onnx": ("x", "x_lens"), "decoder.int8.onnx": ("decoder_input_ids",)},
        {"model_type": "EncDecMultiTaskModel"},
    ),
}


def write_sherpa(directory: Path, name: str) -> Path:
    """Write one of `FORMS` into a new directory and return the directory."""
    form = FORMS[name]
    directory.mkdir(parents=True)
    metadata = form.metadata
    for file_name, inputs in form.graphs.items():
        write_graph(directory / file_name, inputs, metadata)
        metadata = {}
    for other in form.others:
        path = directory / other
        path.parent.mkdir(exist_ok=True)
        path.write_text("<blk> 0\n", "utf-8")
    return directory


def write_graph(path: Path, inputs: Inputs, metadata: Mapping[str, str]) -> None:
    """Write a graph that returns its first input."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in inputs]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n"])
    node = helper.make_node("Identity", [inputs[0]], ["out"])
    model = helper.make_model(helper.make_graph([node], "graph", values, [output]))
    if metadata:
        helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
