"""The graphs of a Paraformer: rows of features to logits of tokens and weights for their times.

    parts     encoder.onnx -> encoded rows, weights --integrate and fire--> decoder.onnx -> logits
    whole     model.onnx, as FunASR or sherpa-onnx released it: everything in one graph

Parts are made by our importer. Inputs and outputs of a released graph are known by their position:
features and their number, and of a model that takes hotwords (SeACo) their embedding; logits, the
number of tokens, and of a model with a time head the weights of its steps, scaled already, and its
fires, which are not used: they follow from the weights.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.models.onnx import OnnxOptions, OnnxSession, open_any, open_session
from streamasr.models.paraformer.cif import fire, with_tail
from streamasr.models.paraformer.names import DECODER_GRAPH_FILE, ENCODER_FILE, WHOLE_FILE
from streamasr.models.paraformer.settings import Settings

logger = logging.getLogger(__name__)

_TEST_ROWS: Final = (50, 200, 500)
"""Lengths of the features that graphs are tested with; released graphs fail where nothing fires."""


_HEAVIEST: Final = 2.0
"""Of the weights of a row, which are the output of a sigmoid: so few tokens can fire."""

_FATAL: Final = 4
"""See `OnnxOptions.log_level`."""

_BIAS_WIDTH: Final = 512
"""Of the embeddings of hotwords in the released models."""


@dataclass(frozen=True, slots=True, eq=False)
class TimeWeights:
    """Weights of the steps from which the times of tokens are found; see `times`."""

    weights: Float32Array
    """(n_steps,)."""
    per_row: int
    """Steps of a row."""
    n_fired: int | None = None
    """Number of tokens that fired with these weights; None if these are weights of a time head."""


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """Result for a segment."""

    logits: Float32Array
    """(n, vocabulary), of each token that fired, the end of the sentence included."""
    times: TimeWeights | None
    """None where the graph does not give them."""


class Graphs(Protocol):
    """Graphs of either kind."""

    @property
    def bias_width(self) -> int | None:
        """Width of the embeddings of hotwords; None for graphs that take none."""

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers of onnxruntime that are in use."""

    def run(self, rows: Float32Array, bias: Float32Array | None) -> Spoken | None:
        """Recognise a segment.

        Args:
            rows: (n_rows, width), normalised features.
            bias: (1, n_hotwords, bias_width), for graphs that take it.

        Returns:
            None if no token fires.

        Raises:
            ModelError: a graph does not run, or computes arrays of another shape, for another
                vocabulary, or numbers that are not finite.
        """

    def self_test(self) -> None:
        """Run the graphs on features of noise.

        Raises:
            ModelError: a condition of `run`, or the encoder computes the same for every sound.
        """


class PartGraphs:
    """An encoder and a decoder, with the integrate-and-fire between them."""

    bias_width: Final = None

    def __init__(self, directory: Path, settings: Settings, options: OnnxOptions) -> None:
        """Open both graphs.

        Raises:
            ModelError: a file is missing or broken, or a graph has other inputs or outputs.
        """
        self._settings = settings
        self._outputs = {"encoded": 3, "alphas": 2}
        if settings.time_upsampling is not None:
            self._outputs["time_alphas"] = 2
        self._encoder = open_session(
            directory / ENCODER_FILE, options, inputs={"features": 3}, outputs=self._outputs
        )
        self._decoder = open_session(
            directory / DECODER_GRAPH_FILE,
            options,
            inputs={"encoded": 3, "acoustic": 3},
            outputs={"logits": 3},
        )

    @property
    def providers(self) -> tuple[str, ...]:
        """See `Graphs.providers`."""
        return tuple(dict.fromkeys((*self._encoder.providers, *self._decoder.providers)))

    def run(self, rows: Float32Array, bias: Float32Array | None) -> Spoken | None:
        """See `Graphs.run`."""
        del bias
        encoded, times = self._encode(rows)
        fired = fire(encoded, times[0], self._settings.tail)
        if not len(fired.rows):
            return None
        logits = self._decode(encoded, fired.acoustic)
        if self._settings.time_upsampling is not None:
            return Spoken(logits, TimeWeights(times[1], self._settings.time_upsampling))
        weights = with_tail(times[0], self._settings.tail)
        return Spoken(logits, TimeWeights(weights, 1, len(fired.rows)))

    def self_test(self) -> None:
        """See `Graphs.self_test`."""
        encoded, _ = self._encode(_noise(_TEST_ROWS[0], self._settings.width))
        if not (np.ptp(encoded, axis=0).any() and np.ptp(encoded, axis=1).any()):
            raise ModelError(
                f"{self._encoder.path}: the encoder computes the same for every sound: the file is "
                "damaged or quantised too far; get the model again.",
                code="encoder_constant",
            )
        self._decode(encoded, encoded[:3])

    def _encode(self, rows: Float32Array) -> tuple[Float32Array, list[Float32Array]]:
        """Return encoded rows, and their weights, with those of the time head behind them."""
        encoded, *weights = self._encoder.run_for(list(self._outputs), {"features": rows[None]})
        if encoded.ndim != 3 or encoded.shape[:2] != (1, len(rows)):
            raise _wrong_shape(self._encoder, "encoded", encoded)
        for name, array, n_steps in zip(
            list(self._outputs)[1:],
            weights,
            (len(rows), len(rows) * (self._settings.time_upsampling or 1)),
            strict=False,
        ):
            if array.shape != (1, n_steps):
                raise _wrong_shape(self._encoder, name, array)
        _check_finite(self._encoder, encoded, *weights)
        return encoded[0], [np.clip(array[0], 0, _HEAVIEST) for array in weights]

    def _decode(self, encoded: Float32Array, acoustic: Float32Array) -> Float32Array:
        logits = self._decoder.run("logits", encoded=encoded[None], acoustic=acoustic[None])
        if logits.ndim != 3 or logits.shape[:2] != (1, len(acoustic)):
            raise _wrong_shape(self._decoder, "logits", logits)
        _check_vocabulary(self._decoder, logits, self._settings.n_tokens)
        _check_finite(self._decoder, logits)
        return np.asarray(logits[0])


class WholeGraph:
    """A released graph that does everything."""

    def __init__(self, directory: Path, settings: Settings, options: OnnxOptions) -> None:
        """Open the graph.

        Raises:
            ModelError: the file is missing or broken, or has not the inputs and outputs of a
                released graph.
        """
        self.path = directory / WHOLE_FILE
        self._settings = settings
        self._warn = options.warn
        # A failure where nothing fires is expected, and no matter for onnxruntime's own log.
        self._graph = graph = open_any(self.path, replace(options, log_level=_FATAL))
        axes = [len(port.shape) for port in graph.inputs.values()]
        if axes not in ([3, 1], [3, 1, 3]):
            raise ModelError(
                f"{graph.path}: the graph takes {', '.join(graph.inputs) or 'nothing'} instead of "
                "features, their number and perhaps an embedding of hotwords.",
                code="graph_inputs",
            )
        if [len(port.shape) for port in graph.outputs.values()][:3] not in ([3, 1], [3, 1, 2]):
            raise ModelError(
                f"{graph.path}: the graph gives {', '.join(graph.outputs)} instead of logits, the "
                "number of tokens and perhaps the weights of their times.",
                code="graph_outputs",
            )
        self.has_times = len(graph.outputs) > 2
        self._outputs = list(graph.outputs)[:3]
        self.bias_width: int | None = None
        if len(axes) == 3:
            self.bias_width = list(graph.inputs.values())[2].shape[-1] or _BIAS_WIDTH
        self._n_proven: int | None = None
        """Rows of noise on which the graph runs."""
        self._is_reported = False

    @property
    def providers(self) -> tuple[str, ...]:
        """See `Graphs.providers`."""
        return self._graph.providers

    def run(self, rows: Float32Array, bias: Float32Array | None) -> Spoken | None:
        """See `Graphs.run`.

        Released graphs fail where no token fires. If the graph still runs on as much noise, that
        is the reason, and nothing is spoken.
        """
        try:
            return self._run(rows, bias)
        except ModelError as error:
            if error.code != "graph_does_not_run":
                raise
            if self._n_proven is not None:
                self._run_on_noise(max(len(rows), self._n_proven))
            if not self._is_reported:
                self._is_reported = True
                logger.info("released graphs fail where no token fires: %s", error)
            return None

    def self_test(self) -> None:
        """See `Graphs.self_test`; a graph that runs on no noise is used, with a warning."""
        for n_rows in _TEST_ROWS:
            try:
                self._run_on_noise(n_rows)
            except ModelError as error:
                if error.code != "graph_does_not_run":
                    raise
                failure = error
            else:
                self._n_proven = n_rows
                return
        self._warn(f"the graph may be broken: it does not run on noise: {failure}")

    def _run_on_noise(self, n_rows: int) -> None:
        bias = None if self.bias_width is None else np.zeros((1, 1, self.bias_width), np.float32)
        self._run(_noise(n_rows, self._settings.width), bias)

    def _run(self, rows: Float32Array, bias: Float32Array | None) -> Spoken | None:
        inputs = [rows[None], np.array([len(rows)])]
        if self.bias_width is not None:
            assert bias is not None, "the recogniser gives an embedding to graphs that take one"
            inputs.append(bias)
        feeds = dict(zip(self._graph.inputs, inputs, strict=True))
        logits, n_spoken, *times = self._graph.run_for(self._outputs, feeds)
        if logits.ndim != 3 or len(logits) != 1:
            raise _wrong_shape(self._graph, "logits", logits)
        if n_spoken.shape != (1,):
            raise _wrong_shape(self._graph, "the number of tokens", n_spoken)
        _check_vocabulary(self._graph, logits, self._settings.n_tokens)
        _check_finite(self._graph, logits, n_spoken, *times)
        n_tokens = min(int(n_spoken[0]), logits.shape[1])
        if n_tokens < 1:
            return None
        return Spoken(logits[0, :n_tokens], self._times(times, len(rows)))

    def _times(self, times: list[Float32Array], n_rows: int) -> TimeWeights | None:
        if not times:
            return None
        n_steps = times[0].shape[-1]
        if times[0].shape[:-1] != (1,) or n_steps < n_rows or n_steps % n_rows:
            raise _wrong_shape(self._graph, "the weights of times", times[0])
        return TimeWeights(np.clip(times[0][0], 0, None), n_steps // n_rows)


def _noise(n_rows: int, width: int) -> Float32Array:
    return np.random.default_rng(0).normal(size=(n_rows, width)).astype(np.float32)


def _wrong_shape(graph: OnnxSession, name: str, array: Float32Array) -> ModelError:
    shape = " by ".join(map(str, array.shape))
    return ModelError(
        f"{graph.path}: {name} came as {shape}, which does not fit its inputs; import the model "
        "again.",
        code="graph_result_shape",
    )


def _check_finite(graph: OnnxSession, *arrays: Float32Array) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise ModelError(
            f"{graph.path}: the graph computes numbers that are not finite: the file is damaged, "
            "or this execution provider cannot run it; get the model again, or use "
            "CPUExecutionProvider.",
            code="encoder_not_finite",
        )


def _check_vocabulary(graph: OnnxSession, logits: Float32Array, n_tokens: int) -> None:
    if logits.shape[-1] != n_tokens:
        raise ModelError(
            f"{graph.path}: the graph has a vocabulary of {logits.shape[-1]} tokens instead of "
            f"{n_tokens}; import the model again.",
            code="graph_vocabulary",
        )
