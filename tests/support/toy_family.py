"""Model family that "recognises" the loudness of each second; it proves that one can be added.

It is not autoregressive and has no language model: its encoder process gives hypotheses. It times
its words itself, and cannot be forced to begin with a given text. The last word of a growing
segment changes with each update, since its second is not over yet.
"""

import contextlib
import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.audio_form import check_samples
from streamasr.core.errors import AudioError, ModelError
from streamasr.core.growable import GrowingSamples
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.languages import Languages
from streamasr.core.options import SessionOptions
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples
from streamasr.models import registry
from streamasr.models.bundle import Bundle
from streamasr.models.family import Family, Recognition, Update
from streamasr.models.onnx import OnnxOptions

NAME: Final = "toy-loudness"
LEVELS_FILE: Final = "levels.json"
WORDS: Final = {"English": ("quiet", "soft", "loud", "huge"), "Chinese": ("静", "轻", "响", "巨")}

PROGRAM: Final = """
from tests.support import toy_family
from streamasr.cli.main import main
with toy_family.registered():
    main()
"""
"""`streamasr` with this family."""


class LoudnessEncoder:
    """In the encoder process: the model, which is its three thresholds."""

    def __init__(self, levels: tuple[float, ...]) -> None:
        self.levels = levels

    def begin(self, options: SessionOptions) -> "LoudUtterance":
        """Begin an utterance; see `Encoder.begin`."""
        return LoudUtterance(self.levels, options.language or "English")


class LoudUtterance:
    """Audio that grows; see `Utterance`."""

    def __init__(self, levels: tuple[float, ...], language: str) -> None:
        self._levels = levels
        self._language = language
        self._samples = GrowingSamples()

    @property
    def n_samples(self) -> int:
        """Number of samples that were appended."""
        return len(self._samples)

    def append(self, samples: Float32Array) -> None:
        """Add the samples that follow."""
        check_samples(samples)
        self._samples.append(samples)

    def update(self, n_samples: int) -> Update:
        """Recognise the first samples."""
        if not 0 < n_samples <= self.n_samples:
            raise AudioError(f"{n_samples} samples of {self.n_samples} were asked for")
        return Update(
            result=recognise(self._samples.first(n_samples), self._levels, self._language)
        )


def recognise(samples: Float32Array, levels: tuple[float, ...], language: str) -> Hypothesis:
    """Name the loudness of each second, the last of which may be shorter."""
    if not samples.any():
        return Hypothesis("", None, ())
    starts = range(0, len(samples), SAMPLE_RATE)
    seconds = [samples[start : start + SAMPLE_RATE] for start in starts]
    tokens = [int(np.searchsorted(levels, np.sqrt(np.mean(second**2)))) for second in seconds]
    words = [WORDS[language][token] for token in tokens]
    space = "" if language == "Chinese" else " "
    lengths = [len(words[0]), *(len(space) + len(word) for word in words[1:])]
    times = [
        (Samples(a), Samples(a + len(second))) for a, second in zip(starts, seconds, strict=True)
    ]
    return Hypothesis(
        space.join(words), language, tuple(tokens), tuple(accumulate(lengths)), times=tuple(times)
    )


def load_encoder(bundle: Path, options: OnnxOptions, *, window_s: int | None) -> LoudnessEncoder:
    """Load the model; see `LoadEncoder`."""
    del window_s  # there are no windows
    path = bundle / LEVELS_FILE
    try:
        levels = tuple(map(float, json.loads(path.read_text())))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}", code="levels_unreadable") from error
    if len(levels) != 3:
        options.warn(f"{path} has {len(levels)} levels instead of 3")
    return LoudnessEncoder(levels)


def _files(_: Bundle) -> tuple[str, ...]:
    return (LEVELS_FILE,)


FAMILY: Final = Family(
    name=NAME,
    title="Loudness",
    languages=Languages({"en": "English", "zh": "Chinese"}),
    files=_files,
    recognition=Recognition(
        load_encoder=load_encoder,
        traits=FamilyTraits(can_force=False, word_method="cif", punctuates=False),
    ),
)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Add the family to the registry for a while."""
    registry.register(FAMILY)
    try:
        yield
    finally:
        registry.unregister(FAMILY)


def write_bundle(directory: Path, levels: tuple[float, ...] = (0.02, 0.08, 0.3)) -> Path:
    """Write a model of the family."""
    directory.mkdir()
    facts = {"format": "streamasr-bundle", "version": 1, "family": NAME, "name": "loudness"}
    (directory / "model.json").write_text(json.dumps(facts))
    (directory / LEVELS_FILE).write_text(json.dumps(levels))
    return directory
