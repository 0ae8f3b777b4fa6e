"""Clips, and folders of models as FunASR has them, for comparisons from samples to text."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from funasr.frontends.wav_frontend import WavFrontend
from funasr.tokenizer.char_tokenizer import CharTokenizer

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.models.paraformer.recogniser import Paraformer
from tests.sources.paraformer.weights import Sizes
from tests.support.goldens import read_clip
from tests.support.signals import signal, speechlike

TOKENS: Final = (
    *(
        "<blank>",
        "<s>",
        "</s>",
        *"今天气好一二三四五六七八九十上下左右东西南北人口日月",
        "a",
        "s",
        "r",
        "i",
    ),
    *("hello", "world", "yes", "no", "<unk>"),
)
CLIPS: Final = ("espeak_1", "mandarin", "noise", "speechlike", "short", "silence")


def clip(name: str) -> Float32Array:
    """Return the samples of one of `CLIPS`."""
    if name == "speechlike":
        return speechlike(40_123)
    if name == "short":
        return signal("noise", 2320)
    if name == "silence":
        return signal("silence", 16_000)
    return read_clip(name)


def write_original(folder: Path, model: Any, sizes: Sizes) -> None:
    """Write a folder as FunASR does."""
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pt")
    write_sidecars(folder, sizes)


def write_sidecars(folder: Path, sizes: Sizes) -> None:
    """Write the files of a folder beside the weights."""
    frontend = {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
        "dither": 0.0,
    }
    config = sizes.config() | {"frontend": "WavFrontend", "frontend_conf": frontend}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "tokens.json").write_text(json.dumps(TOKENS))
    generator = np.random.RandomState(0)
    shift, scale = generator.uniform(-14, -8, 560), generator.uniform(0.2, 0.4, 560)
    lines = ["<Nnet>", "<Splice> 560 560", "[ 0 ]"]
    for name, values in (("AddShift", shift), ("Rescale", scale)):
        numbers = " ".join(f"{value:.6f}" for value in values)
        lines += [f"<{name}> 560 560", f"<LearnRateCoef> 0 [ {numbers} ]"]
    (folder / "am.mvn").write_text("\n".join([*lines, "</Nnet>", ""]))


def infer(model: Any, folder: Path, samples: Float32Array, **options: Any) -> dict[str, Any] | None:
    """Have FunASR recognise a clip; None where it finds nothing.

    Args:
        model: FunASR's.
        folder: with its tokens and its normalisation.
        samples: the clip.
        options: of `inference`.
    """
    tokens = json.loads((folder / "tokens.json").read_text("utf-8"))
    frontend = WavFrontend(
        cmvn_file=str(folder / "am.mvn"), window="hamming", lfr_m=7, lfr_n=6, dither=0.0
    )
    with torch.no_grad():
        found = model.inference(
            [torch.from_numpy(samples)],
            key=["clip"],
            tokenizer=CharTokenizer(token_list=tokens, unk_symbol="<unk>"),
            frontend=frontend,
            device="cpu",
            **options,
        )
    if not found:
        return None
    result: dict[str, Any] = found[0][0]
    return result


def recognise(
    ours: Paraformer, samples: Float32Array, hotwords: tuple[str, ...] = ()
) -> Hypothesis:
    """Recognise a clip with our model."""
    utterance = ours.begin(SessionOptions(hotwords=hotwords))
    utterance.append(samples)
    found = utterance.update(len(samples)).result
    assert isinstance(found, Hypothesis)
    return found
