"""Names of models whose ONNX graphs streamasr does not use, mostly in the forms of sherpa-onnx.

sherpa-onnx states the type of a model in the metadata of its first graph. Some graphs state none;
they are identified by their inputs, or by the names that sherpa-onnx requires.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.onnx_file import GraphInfo, is_graph, read_graph

_OWN: Final = frozenset({"paraformer", "ct_transformer"})
"""Types for which there are importers, which explain files that cannot be used."""

_TYPES: Final[Mapping[str, str]] = {
    "sense_voice_ctc": "SenseVoice",
    "zipformer": "a Zipformer transducer",
    "zipformer2": "a Zipformer transducer",
    "conformer": "a Conformer transducer",
    "lstm": "an LSTM transducer",
    "EncDecRNNTBPEModel": "a NeMo transducer such as Parakeet",
    "EncDecHybridRNNTCTCBPEModel": "a NeMo transducer such as Parakeet",
    "EncDecMultiTaskModel": "Canary",
    "EncDecCTCModel": "a NeMo CTC model",
    "EncDecCTCModelBPE": "a NeMo CTC model",
    "zipformer2_ctc": "a Zipformer CTC model",
    "wenet_ctc": "a WeNet CTC model",
    "telespeech_ctc": "TeleSpeech",
    "dolphin": "Dolphin",
    "fire-red-asr": "FireRedASR",
    "fire-red-asr-2-ctc": "FireRedASR",
    "omnilingual-asr": "Omnilingual ASR",
    "medasr_ctc": "MedASR",
    "t-one": "T-one",
}
"""Names by `model_type`."""

_FUNASR_SENSE_VOICE: Final = "SenseVoice as exported by FunASR"
_NANO: Final = "Fun-ASR-Nano"
_QWEN3: Final = "Qwen3-ASR"

_STEMS: Final[Mapping[str, str]] = {
    "conv_frontend": _QWEN3,
    "encoder_adaptor": _NANO,
    "uncached_decode": "Moonshine",
}
"""Names by the beginning of a file name."""

_INPUTS: Final[Mapping[frozenset[str], str]] = {
    frozenset({"encoder_out", "decoder_out"}): "a transducer",
    frozenset({"encoder_outputs", "decoder_outputs"}): "a NeMo transducer such as Parakeet",
    frozenset({"in_n_layer_self_k_cache", "in_n_layer_self_v_cache"}): "Whisper",
    frozenset({"language", "text_norm"}): "SenseVoice",
    frozenset({"language", "textnorm"}): _FUNASR_SENSE_VOICE,
}
"""Names by inputs of a graph."""

_REMEDIES: Final[Mapping[str, str]] = {
    _QWEN3: "`streamasr models pull qwen3-asr-0.6b` downloads a form that works",
}
_REMEDY: Final = "`streamasr models list` shows the models that can be used in its place"


def explain_graphs(files: Sequence[Path]) -> ModelError | None:
    """Return the error for graphs of a model that is not supported; None if they are unknown.

    Args:
        files: the regular files of a folder.
    """
    graphs = list(_readable(path for path in files if is_graph(path)))
    name = next(filter(None, map(_by_type, graphs)), None)
    name = name or next(filter(None, map(_by_structure, graphs)), None)
    if name is None:
        return None
    return ModelError(
        f"{graphs[0].path.parent} contains {_form_of(name)}, which is not supported; "
        f"{_REMEDIES.get(name, _REMEDY)}.",
        code="foreign_graphs",
    )


def _form_of(name: str) -> str:
    return name if name == _FUNASR_SENSE_VOICE else f"{name} in the form of sherpa-onnx"


def _readable(paths: Iterable[Path]) -> Iterator[GraphInfo]:
    for path in paths:
        with contextlib.suppress(ModelError):
            yield read_graph(path)


def _by_type(graph: GraphInfo) -> str | None:
    """Return the name of the model whose type is stated by a graph."""
    stated = graph.metadata.get("model_type")
    if stated is None or stated in _OWN:
        return None
    if _NANO in graph.metadata.get("comment", ""):
        return _NANO
    if stated.startswith("whisper"):
        return "Whisper"
    shown = "".join(c if c.isprintable() else "?" for c in stated[:40])
    return _TYPES.get(stated, f"a model of the type {shown}")


def _by_structure(graph: GraphInfo) -> str | None:
    """Return the name of the model that a graph without a stated type belongs to."""
    if "model_type" in graph.metadata:
        return None
    for inputs, name in _INPUTS.items():
        if inputs <= graph.inputs.keys():
            return name
    stem = graph.path.name.partition(".")[0]
    return _STEMS.get(stem)
