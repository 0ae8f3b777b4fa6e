"""Files beside the weights of a Paraformer: tokens, normalisation and settings of the features."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.features.cmvn import Cmvn, read_am_mvn
from streamasr.importing.config_file import Config, is_text_list, read_text, read_yaml

_LICENCE: Final = "FunASR Model License"
_RELEASED_VOCAB: Final = 8404  # tokens

N_MELS: Final = 80
WINDOW: Final = 7
"""Frames in a row of features."""
STEP: Final = 6
"""Frames between two rows."""

_FIRST_TOKENS: Final = ("<blank>", "<s>", "</s>")
_MAX_SHOWN: Final = 40  # characters of a token in an error message


def licence_of(vocab: int) -> str | None:
    """Return the licence of the released models, which their files do not state.

    Args:
        vocab: number of tokens; the released models share one list.
    """
    return _LICENCE if vocab == _RELEASED_VOCAB else None


def read_tokens(folder: Path) -> tuple[str, ...]:
    """Read the tokens from `tokens.json`, else `tokens.txt`, else `config.yaml`.

    FunASR's exports before version 1.0 list them in `config.yaml`.

    Raises:
        ModelError: all of them are missing, or the file that is there is damaged.
    """
    path = folder / "tokens.json"
    if path.exists():
        return _read_json_tokens(path)
    path = folder / "tokens.txt"
    if path.exists():
        return _read_text_tokens(path)
    path = folder / "config.yaml"
    if path.exists() and (tokens := read_yaml(path).get("token_list")) is not None:
        return _checked_list(tokens, path)
    raise ModelError(
        f"{folder} has neither tokens.json nor tokens.txt, which state the text of each token; "
        "download it into the same folder.",
        code="tokens_missing",
    )


def _read_json_tokens(path: Path) -> tuple[str, ...]:
    try:
        tokens = json.loads(read_text(path))
    except RecursionError as error:
        raise ModelError(
            f"{path} is not valid JSON: it is nested too deeply", code="json_invalid"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}", code="json_invalid") from error
    return _checked_list(tokens, path)


def _checked_list(tokens: Any, path: Path) -> tuple[str, ...]:
    if not is_text_list(tokens):
        raise ModelError(f"{path} does not contain a list of tokens.", code="tokens_invalid")
    return tuple(tokens)


def _read_text_tokens(path: Path) -> tuple[str, ...]:
    """Read one token a line, followed by its id as in sherpa-onnx, or without it."""
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    pairs = [line.rstrip("\r").rpartition(" ") for line in lines]
    if all(number.isascii() and number.isdigit() for _, _, number in pairs):
        if any(int(number[:10]) != index for index, (_, _, number) in enumerate(pairs)):
            raise ModelError(
                f"{path}: the ids are not 0, 1, 2, ... in order.", code="tokens_invalid"
            )
        return tuple(token for token, _, _ in pairs)
    return tuple(line.strip() for line in lines)


def check_tokens(tokens: Sequence[str], vocab: int, path: Path) -> None:
    """Check that a list of tokens belongs to a model.

    Args:
        tokens: text of each id.
        vocab: number of the model's outputs.
        path: origin of the tokens.

    Raises:
        ModelError: their number is another one, or the first three are not FunASR's.
    """
    if len(tokens) != vocab:
        raise ModelError(
            f"{path}: there are {len(tokens)} tokens, but the model has {vocab} outputs; the files "
            "belong to different models.",
            code="tokens_count",
        )
    if tuple(tokens[:3]) != _FIRST_TOKENS:
        shown = ", ".join(ascii(token)[:_MAX_SHOWN] for token in tokens[:3])
        raise ModelError(
            f"{path}: the first tokens are {shown} instead of {', '.join(_FIRST_TOKENS)}; this is "
            "the list of another model.",
            code="tokens_invalid",
        )


def read_cmvn(folder: Path, width: int) -> Float32Array:
    """Read the normalisation from `am.mvn`.

    Returns:
        (2, width): shift and scale.

    Raises:
        ModelError: the file is missing or damaged, or is for features of another width.
    """
    path = folder / "am.mvn"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no am.mvn, which states the normalisation of the features; download it "
            "into the same folder.",
            code="cmvn_missing",
        )
    return stack_cmvn(read_am_mvn(path), width, path)


def stack_cmvn(cmvn: Cmvn, width: int, path: Path) -> Float32Array:
    """Return a normalisation as one array, if it has the right width.

    Returns:
        (2, width): shift and scale.

    Raises:
        ModelError: it is for features of another width.
    """
    if cmvn.shift.shape != (width,):
        raise ModelError(
            f"{path}: the normalisation is for {len(cmvn.shift)} features, but the model takes "
            f"{width}; the files belong to different models.",
            code="cmvn_width",
        )
    return np.stack([cmvn.shift, cmvn.scale])


def check_features(config: Config, n_features: int) -> tuple[int, int]:
    """Check the settings of the features in `config.yaml`.

    Returns:
        Frames in a row, and frames between two rows.

    Raises:
        ModelError: the model was trained on features other than ours.
    """
    section = config.optional_section("frontend_conf")
    section.only("fs", SAMPLE_RATE)
    section.only("window", "hamming")
    section.only("n_mels", N_MELS)
    section.only("frame_length", 25)
    section.only("frame_shift", 10)
    section.only("upsacle_samples", True)  # spelt so
    window = section.integer("lfr_m") if "lfr_m" in section else WINDOW
    step = section.integer("lfr_n") if "lfr_n" in section else STEP
    check_width(n_features, window, step, config.path)
    return window, step


def check_width(n_features: int, window: int, step: int, path: Path) -> None:
    """Refuse rows of another width than the model takes.

    Raises:
        ModelError: the sizes contradict each other.
    """
    if window * N_MELS != n_features or not 1 <= step <= window:
        raise ModelError(
            f"{path}: the model takes {n_features} features, but rows of {window} frames of "
            f"{N_MELS} mel bins, {step} frames apart, are stated.",
            code="features_differ",
        )


def streaming_error(path: Path) -> ModelError:
    """Return the error for the streaming (online) variant of the model."""
    return ModelError(
        f"{path} is the streaming (online) Paraformer, which recognises pieces of 0.6 s and is not "
        "supported; use the ordinary model, such as speech_seaco_paraformer_large_asr_nat-zh-cn-"
        "16k-common-vocab8404-onnx or sherpa-onnx-paraformer-zh, which also recognises while you "
        "speak.",
        code="paraformer_streaming",
    )
