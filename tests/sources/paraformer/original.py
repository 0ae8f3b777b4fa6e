"""Writer of FunASR's folders: a PyTorch checkpoint without torch, and the files beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.sources.paraformer.weights import N_FEATURES, Float32Array, Weights, cmvn, token_list
from tests.sources.torch_checkpoint import TorchType, write_checkpoint


def write_original(
    weights: Weights,
    folder: Path,
    kind: TorchType = "F32",
    *,
    wrapper: str | None = None,
    weights_name: str = "model.pt",
) -> Path:
    """Write a folder and return it.

    Args:
        weights: of the model.
        folder: which must not exist.
        kind: type of the weights.
        wrapper: key under which the weights are, in checkpoints of the training program.
        weights_name: name of the checkpoint.
    """
    folder.mkdir(parents=True)
    write_sidecars(weights, folder)
    path = folder / weights_name
    write_checkpoint(path, weights.shapes, weights.read, kind, wrapper=wrapper)
    return folder


def write_sidecars(weights: Weights, folder: Path, tokens: Sequence[str] | None = None) -> None:
    """Write config.yaml, am.mvn and tokens.json."""
    (folder / "config.yaml").write_text(_yaml(config_of(weights)), "utf-8")
    (folder / "am.mvn").write_text(am_mvn(), "utf-8")
    shown = tokens or token_list(weights.sizes.vocab)
    (folder / "tokens.json").write_text(json.dumps(shown, ensure_ascii=False, indent=0), "utf-8")


def config_of(weights: Weights) -> dict[str, Any]:
    """Return the content of `config.yaml`."""
    return weights.sizes.config() | {
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
            "dither": 0.0,
        },
        "specaug": "SpecAugLFR",
        "specaug_conf": {"apply_freq_mask": True, "freq_mask_width_range": [0, 30]},
        "train_conf": {"max_epoch": 150, "best_model_criterion": [["valid", "acc", "max"]]},
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
        "input_size": N_FEATURES,
        "normalize": None,
    }


def _yaml(values: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:\n{_yaml(value, indent + '    ')}")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}\n")
    return "".join(lines)


def am_mvn() -> str:
    """Return the normalisation as Kaldi writes a network."""
    shift, scale = cmvn()
    width = len(shift)

    def vector(values: Float32Array) -> str:
        return f"[ {' '.join(f'{value:.6f}' for value in values)} ]"

    return (
        f"<Nnet>\n<Splice> {width} {width}\n[ 0 ]\n"
        f"<AddShift> {width} {width}\n<LearnRateCoef> 0 {vector(shift)}\n"
        f"<Rescale> {width} {width}\n<LearnRateCoef> 0 {vector(scale)}\n</Nnet>\n"
    )
