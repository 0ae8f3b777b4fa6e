"""Kinds of GGUF files: the model that a file contains, and the reason why it cannot be used."""

import math
from collections.abc import Iterable
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile

_ENOUGH_BITS: Final = 8

_AUDIO_START: Final = "<|audio_start|>"
_PROMPT_TOKENS: Final = frozenset({"<asr_text>", "<timestamp>"})
"""Tokens of a recogniser's and of an aligner's prompt; a model needs only its own."""
_TEXT_ARCHITECTURES: Final = ("qwen3", "qwen3vl", "qwen3moe", "qwen3vlmoe")
_REMEDY: Final = "`streamasr models pull qwen3-asr-0.6b` downloads a model that works"
_SPEECH: Final = {
    "qwen3-asr": (
        "a Qwen3-ASR in the format of qwen3-asr.cpp (architecture qwen3-asr), which only that "
        f"program reads; {_REMEDY}",
        "gguf_qwen3_asr_cpp",
    ),
    "qwen3asr": (
        "CrispASR's GGUF of a Qwen3-ASR or Qwen3-ForcedAligner, which has its own encoder; give "
        "the path of the file itself",
        "gguf_crispasr",
    ),
    "qwen3_asr": (
        "transcribe.cpp's GGUF of a Qwen3-ASR, as downloaded by Handy, which has its own encoder; "
        "give the path of the file itself",
        "gguf_transcribe_cpp",
    ),
}
"""Architectures of whole models with their kinds, and the codes of the errors."""
_AUDIO_CPP: Final = "audiocpp"
_AUDIO_CPP_FAMILY: Final = "audiocpp.model_spec.family"
_INSTEAD_OF_AUDIO_CPP: Final = {
    "paraformer": "`streamasr models pull paraformer-zh-q8_0` downloads the model in a form that "
    "works",
    "qwen3_forced_aligner": "`streamasr models pull qwen3-aligner-0.6b` downloads the aligner in a "
    "form that works",
}
_READABLE: Final = (
    "streamasr reads the GGUFs of CrispASR and transcribe.cpp of Qwen3-ASR, a text GGUF with its "
    "mmproj GGUF, a decoder with its ONNX graphs, the original safetensors, and the GGUFs of "
    "CrispASR and FunASR of Paraformer"
)


def precision_rank(file: GGUFFile) -> tuple[bool, float]:
    """Return a sort key that orders the files of one model by precision, the preferred one first.

    The preferred file is the nearest to 8 bits from above, because this costs no accuracy; without
    one, the file with the most bits.
    """
    tensors = file.tensors.values()
    n_weights = sum(math.prod(tensor.shape) for tensor in tensors)
    bits = 8 * sum(tensor.n_bytes for tensor in tensors) / max(1, n_weights)
    return bits < _ENOUGH_BITS, abs(bits - _ENOUGH_BITS)


def best_of(files: Iterable[GGUFFile]) -> GGUFFile:
    """Return the preferred one of the files of one model."""
    return min(files, key=precision_rank)


def group_by_model(files: Iterable[GGUFFile]) -> dict[object, list[GGUFFile]]:
    """Group files that contain the same model in different precisions.

    Axes of length 1 do not count: some programs drop them.
    """
    groups: dict[object, list[GGUFFile]] = {}
    for file in files:
        shapes = frozenset(
            (tensor.name, tuple(length for length in tensor.shape if length != 1))
            for tensor in file.tensors.values()
        )
        groups.setdefault(shapes, []).append(file)
    return groups


def projector_type(file: GGUFFile) -> str | None:
    """Return the projector type of an `mmproj` file; None if it does not state one."""
    return file.text("clip.audio.projector_type", "clip.projector_type")


def is_speech_decoder(file: GGUFFile) -> bool:
    """Return whether a language model has the tokens of a recogniser's or an aligner's prompt."""
    tokens = file.texts("tokenizer.ggml.tokens")
    return _AUDIO_START in tokens and not _PROMPT_TOKENS.isdisjoint(tokens)


def is_split(file: GGUFFile) -> bool:
    """Return whether a file holds only some of a model's tensors, and other files the rest."""
    return file.metadata.get("split.count", 0) not in (0, 1)


def unusable(file: GGUFFile) -> ModelError:
    """Return the error for a file that cannot be used, or not alone: its kind, and a remedy."""
    path, architecture = file.path, file.architecture
    if is_split(file):
        return ModelError(
            f"{path} is one part of a model that was split into several files; join them with "
            "llama.cpp's `llama-gguf-split --merge`, and give the path of the result.",
            code="gguf_split",
        )
    if (kind := file.text("general.type")) not in (None, "model", "mmproj"):
        return ModelError(
            f"{path} contains the {_plain(kind)} of a model, not the model; {_READABLE}.",
            code="gguf_not_a_model",
        )
    if architecture == _AUDIO_CPP or file.text(_AUDIO_CPP_FAMILY) is not None:
        return _audio_cpp(file)
    if architecture in _SPEECH:
        kind, code = _SPEECH[architecture]
        return ModelError(f"{path} is {kind}.", code=code)
    match architecture:
        case "clip":
            return _unusable_projector(file)
        case _ if architecture in _TEXT_ARCHITECTURES:
            return _unusable_text(file)
        case "":
            return ModelError(
                f"{path} does not state its architecture (general.architecture); {_READABLE}.",
                code="gguf_architecture_missing",
            )
        case _ if "ctc" in architecture or architecture.startswith(("wav2vec", "hubert")):
            return ModelError(
                f"{path} is a CTC model ({_plain(architecture)}), which streamasr does not use; "
                "for word times, run `streamasr models pull qwen3-aligner-0.6b`.",
                code="gguf_ctc",
            )
        case _:
            return ModelError(
                f"{path} is a model of the architecture {_plain(architecture)}, not a Qwen3-ASR; "
                f"{_REMEDY}.",
                code="gguf_other_model",
            )


def _audio_cpp(file: GGUFFile) -> ModelError:
    """Return the error for a GGUF that only audio.cpp reads, with the form to use instead."""
    family = file.text(_AUDIO_CPP_FAMILY) or ""
    model = f"a model of the family {_plain(family)}" if family else "a model"
    return ModelError(
        f"{file.path} is {model} in the format of audio.cpp, which only that program reads; "
        f"{_INSTEAD_OF_AUDIO_CPP.get(family, _REMEDY)}.",
        code="gguf_audio_cpp",
    )


def _unusable_projector(file: GGUFFile) -> ModelError:
    kind = projector_type(file)
    if kind == "qwen3a":
        return ModelError(
            f"{file.path} is the encoder of a Qwen3-ASR without its language model; put the text "
            "GGUF of the same release into the same folder.",
            code="gguf_encoder_alone",
        )
    purpose = f"with the projector {_plain(kind)}" if kind else "for images"
    return ModelError(
        f"{file.path} is the encoder (mmproj) of another model, {purpose}; the encoder of a "
        "Qwen3-ASR has the projector qwen3a.",
        code="gguf_other_encoder",
    )


def _unusable_text(file: GGUFFile) -> ModelError:
    if is_speech_decoder(file):
        return ModelError(
            f"{file.path} is the language model of a Qwen3-ASR without its encoder; put the mmproj "
            "GGUF or the two ONNX graphs of the same release into the same folder.",
            code="gguf_decoder_alone",
        )
    return ModelError(
        f"{file.path} is a language model for text ({file.architecture}) without the speech tokens "
        f"of a Qwen3-ASR; {_REMEDY}.",
        code="gguf_text_model",
    )


def _plain(text: str | None) -> str:
    """Format a string from a file for an error message."""
    shown = "".join(c if c.isprintable() else "?" for c in text or "")
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
