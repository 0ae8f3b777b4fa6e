"""The golden arrays of Paraformer: small models with their weights, and FunASR's results."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array
from streamasr.importing.paraformer.checkpoint import Checkpoint, Settings, check_tensors
from streamasr.importing.paraformer.graphs import write_decoder, write_encoder
from tests.support.goldens import read_clip
from tests.support.paraformer import write_description
from tests.support.paths import DATA
from tests.support.signals import speechlike

GOLDEN: Final = DATA / "golden_paraformer.npz"
N_FEATURES: Final = 560
HEADS: Final = 2
TOKENS: Final = (
    *(
        "<blank>",
        "<s>",
        "</s>",
        *"今天气好一二三四五六",
        "a",
        "s",
        "hello",
        "tomo@@",
        "rrow",
        "<unk>",
    ),
)
MODELS: Final = ("plain", "time head")
ROWS: Final = (3, 40)
"""Lengths of random features."""
CLIPS: Final = ("espeak_1", "mandarin", "speechlike")


def clip(name: str) -> Float32Array:
    """Return a clip of `CLIPS`."""
    return speechlike(40_123) if name == "speechlike" else read_clip(name)


def random_features(n_rows: int) -> Float32Array:
    """Return features like those after normalisation, the same on every machine."""
    return np.random.RandomState(n_rows).normal(size=(n_rows, N_FEATURES)).astype(np.float32)


def cmvn() -> Float32Array:
    """Return a normalisation: (2, N_FEATURES)."""
    generator = np.random.RandomState(0)
    shift, scale = generator.uniform(-14, -8, N_FEATURES), generator.uniform(0.2, 0.4, N_FEATURES)
    return np.stack([shift, scale]).astype(np.float32)


@contextmanager
def golden() -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Open the file."""
    with np.load(GOLDEN) as arrays:
        yield dict(arrays)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor in memory; see `Tensor`."""

    path: Path
    name: str
    values: Float32Array
    stored_type: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def stored(self) -> Float32Array:
        return self.values

    def float32(self) -> Float32Array:
        return self.values


def write_golden_bundle(directory: Path, model: str) -> Path:
    """Write a bundle of one of `MODELS` from its weights."""
    with golden() as arrays:
        prefix = f"{model}/weights/"
        weights = {
            name.removeprefix(prefix): values.astype(np.float32)
            for name, values in arrays.items()
            if name.startswith(prefix)
        }
    tensors = {name: _Stored(GOLDEN, name, values) for name, values in weights.items()}
    settings = Settings(encoder_heads=HEADS, decoder_heads=HEADS)
    dimensions, ordered, _ = check_tensors(tensors, settings, GOLDEN)
    checkpoint = Checkpoint(GOLDEN, dimensions, settings, ordered, TOKENS, cmvn)
    directory.mkdir()
    write_encoder(checkpoint, directory / "encoder.onnx", "fp32")
    write_decoder(checkpoint, directory / "decoder.onnx", "fp32")
    head = {"time_upsampling": dimensions.upsampling} if dimensions.upsampling else {}
    lfr = {"window": 7, "shift": 6}
    write_description(directory, tokens=TOKENS, cmvn=cmvn(), n_mels=80, lfr=lfr, **head)
    return directory
