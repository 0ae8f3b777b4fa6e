"""A Paraformer in the encoder process: samples that grow, to a hypothesis of all of them.

    samples --fbank--> frames --LFR, CMVN--> rows --graphs--> logits --> tokens, text, times

Frames of a growing segment are computed once. Everything behind them is computed anew in each
update, because every row attends to all others.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.core.hypothesis import Hypothesis, TokenTimes
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.features.cmvn import Cmvn
from streamasr.features.fbank import HOP, GrowingFbank
from streamasr.features.lfr import stack_frames
from streamasr.models.family import Update
from streamasr.models.onnx import CPU, OnnxOptions
from streamasr.models.paraformer.division import middles
from streamasr.models.paraformer.graphs import Graphs, PartGraphs, Spoken, TimeWeights, WholeGraph
from streamasr.models.paraformer.hotwords import HotwordEncoder, phrases_of
from streamasr.models.paraformer.names import CMVN_FILE, HOTWORDS_FILE, TOKENS_FILE
from streamasr.models.paraformer.settings import Settings, read_cmvn, read_settings, read_tokens
from streamasr.models.paraformer.text import text_of
from streamasr.models.paraformer.times import token_times

logger = logging.getLogger(__name__)

_NOT_TOKENS: Final = (0, 1, 2)
"""Ids of `<blank>`, `<s>` and `</s>`, which stand for nothing said."""

_NOT_TEXT: Final = frozenset({"<blank>", "<s>", "</s>", "<unk>", "<OOV>"})

_FEWEST_ROWS: Final = 3
"""Shorter segments, below 0.15 s, hold no word, and not every graph runs on them."""

_QUIETEST: Final = 2.0
"""Distance of a loud frame from a silent one in the logarithm of its power; see `_loudness`."""


def load(bundle: Path, options: OnnxOptions) -> "Paraformer":
    """Load the model of a bundle, and test whether it works.

    If it fails on a provider other than the CPU, the CPU replaces it.

    Raises:
        ModelError: a file is missing or broken, or the model computes nonsense.
    """
    try:
        return Paraformer(bundle, options)
    except ModelError as error:
        if set(options.providers) <= {CPU}:
            raise
        model = Paraformer(bundle, replace(options, providers=(CPU,)))  # raises if it is the files
        options.warn(f"{options.providers[0]} cannot be used, so the CPU is: {error}")
        return model


class Paraformer:
    """A model that is loaded; see `Encoder`."""

    def __init__(self, bundle: Path, options: OnnxOptions) -> None:
        """Load and test the model of a bundle.

        Raises:
            ModelError: a file is missing or broken, or the model computes nonsense.
        """
        self.settings: Settings = read_settings(bundle)
        self.tokens = read_tokens(bundle / TOKENS_FILE, self.settings.n_tokens)
        self.cmvn: Cmvn = read_cmvn(bundle / CMVN_FILE, self.settings.width)
        self.graphs = _open_graphs(bundle, self.settings, options)
        self.graphs.self_test()
        self._hotwords: HotwordEncoder | None = None
        width = self.graphs.bias_width
        if width is not None and (bundle / HOTWORDS_FILE).is_file():
            self._hotwords = HotwordEncoder(bundle / HOTWORDS_FILE, self.tokens, width, options)

    def begin(self, options: SessionOptions) -> "Utterance":
        """Begin an utterance without samples."""
        return Utterance(self, options)

    def bias(self, hotwords: tuple[str, ...]) -> Float32Array | None:
        """Return the embedding of hotwords, (1, n, width); None for a model that takes none.

        A model that takes them, but came without their graph, gets zeros.

        Raises:
            ModelError: the graph of hotwords computes nonsense.
        """
        width = self.graphs.bias_width
        if width is None:
            return None
        if self._hotwords is None:
            return np.zeros((1, 1, width), np.float32)
        return self._hotwords.embed(hotwords)

    def recognise(
        self,
        frames: Float32Array,
        n_samples: int,
        language: str | None = None,
        hotwords: tuple[str, ...] = (),
    ) -> Hypothesis:
        """Recognise a segment.

        Args:
            frames: (n_frames, n_mels), of `fbank`.
            n_samples: length of the segment.
            language: that the hypothesis is given, whatever it seems to be.
            hotwords: see `hotwords.phrases_of`.

        Raises:
            ModelError: a graph computes nonsense.
        """
        settings = self.settings
        rows = self.cmvn.apply(stack_frames(frames, settings.window, settings.shift))
        if len(rows) < _FEWEST_ROWS or not np.isfinite(rows).all():
            return Hypothesis("", None, ())
        spoken = self.graphs.run(rows, self.bias(hotwords))
        if spoken is None:
            return Hypothesis("", None, ())
        if spoken.times is None:
            spoken = replace(spoken, times=_loudness(frames, settings.shift))
        return self._hypothesis(spoken, n_samples, language)

    def _hypothesis(self, spoken: Spoken, n_samples: int, language: str | None) -> Hypothesis:
        ids = [int(each) for each in spoken.logits.argmax(axis=1) if each not in _NOT_TOKENS]
        assert spoken.times is not None, "estimated where the graph does not give them"
        times = self._times(spoken.times, len(ids), n_samples)
        kept = [number for number, each in enumerate(ids) if self.tokens[each] not in _NOT_TEXT]
        found = text_of(self.tokens[ids[number]] for number in kept)
        return Hypothesis(
            found.text,
            (language or found.language) if found.text else None,
            tuple(ids[number] for number in kept),
            found.ends,
            times=tuple(times[number] for number in kept),
        )

    def _times(self, found: TimeWeights, n_tokens: int, n_samples: int) -> TokenTimes:
        """Return the times of the tokens that were spoken; usually `</s>` fired, too."""
        step = self.settings.shift * HOP / found.per_row
        places = None
        if found.n_fired == n_tokens + 1:
            places = middles(found.weights, n_tokens + 1)
        return token_times(found.weights, n_tokens, step, n_samples, places)


class Utterance:
    """Audio that grows; see `models.family.Utterance`."""

    def __init__(self, model: Paraformer, options: SessionOptions) -> None:
        """Begin without samples."""
        self._model = model
        self._options = options
        self._hotwords = phrases_of(options)
        self._fbank = GrowingFbank(model.settings.n_mels)

    @property
    def n_samples(self) -> int:
        """Number of samples that were appended."""
        return self._fbank.n_samples

    def append(self, samples: Float32Array) -> None:
        """Add the samples that follow.

        Args:
            samples: (n,), mono at SAMPLE_RATE, -1..1.

        Raises:
            AudioError: the samples are empty, not one channel, not float32 or not finite.
        """
        self._fbank.append(samples)

    def update(self, n_samples: int) -> Update:
        """Recognise the first samples as if no others had come.

        Args:
            n_samples: at most the number appended; may be smaller than in the last update.

        Raises:
            AudioError: fewer samples were appended, or none.
            ModelError: a graph computes nonsense.
        """
        frames = self._fbank.frames(n_samples)
        return Update(
            result=self._model.recognise(frames, n_samples, self._options.language, self._hotwords)
        )


def _open_graphs(bundle: Path, settings: Settings, options: OnnxOptions) -> Graphs:
    if not settings.is_whole:
        return PartGraphs(bundle, settings, options)
    graph = WholeGraph(bundle, settings, options)
    if not graph.has_times:
        options.warn(
            f"{graph.path}: this graph does not give the times of its tokens; they are estimated "
            "from the loudness. Use a model with a time head, or a forced aligner (--aligner)."
        )
    return graph


def _loudness(frames: Float32Array, shift: int) -> TimeWeights:
    """Return weights for times where the graph gives none: rows count as far as they are loud.

    Args:
        frames: (n_frames, n_mels).
        shift: frames of a row.
    """
    level = frames.mean(axis=1)
    level = level[: len(level) // shift * shift].reshape(-1, shift).mean(axis=1)
    quiet, loud = np.quantile(level, (0.1, 0.9))
    weights = np.clip((level - quiet) / max(loud - quiet, _QUIETEST), 0, 1)
    return TimeWeights(weights.astype(np.float32), 1)
