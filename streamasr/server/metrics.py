"""Figures of the daemon for Prometheus. They hold nothing of what was spoken."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from streamasr import __version__
from streamasr.core.model_facts import ModelFacts
from streamasr.core.units import to_seconds
from streamasr.core.versions import library_versions

_PARTIAL_BUCKETS: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_FINAL_BUCKETS: Final = (0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one daemon; see `streamasr.host.latency.Observer`."""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self, readings: "Readings") -> None:
        """Begin at zero.

        Args:
            readings: values that are read when the figures are.
        """
        self._registry = CollectorRegistry()
        self._audio = Counter("streamasr_audio_seconds", "Audio received", registry=self._registry)
        self._partials = Histogram(
            "streamasr_partial_latency_seconds",
            "From the arrival of a partial's last sample to its publication",
            buckets=_PARTIAL_BUCKETS,
            registry=self._registry,
        )
        self._finals = Histogram(
            "streamasr_final_latency_seconds",
            "From the arrival of a final's last sample to its publication, hangover included",
            buckets=_FINAL_BUCKETS,
            registry=self._registry,
        )
        self._work = Counter(
            "streamasr_work_seconds",
            "Time that a stage worked (encode, prefill, verify, decode, punctuate), as far as the "
            "model has it; its rate over that of audio_seconds is the real-time factor",
            labelnames=["stage"],
            registry=self._registry,
        )
        self._registry.register(readings)

    def audio_received(self, n_samples: int) -> None:
        """See `Observer`."""
        self._audio.inc(to_seconds(n_samples))

    def partial_published(self, latency_s: float) -> None:
        """See `Observer`."""
        self._partials.observe(latency_s)

    def final_published(self, latency_s: float) -> None:
        """See `Observer`."""
        self._finals.observe(latency_s)

    def stage_worked(self, stage: str, seconds: float) -> None:
        """See `Observer`."""
        self._work.labels(stage).inc(seconds)

    def text(self) -> bytes:
        """Return all figures in the text format of Prometheus."""
        return generate_latest(self._registry)


class Readings(Collector):
    """Figures that are not counted but read when they are asked for."""

    def __init__(
        self,
        *,
        model: ModelFacts,
        sessions: Callable[[], int],
        connections: Callable[[], int],
        lag_s: Callable[[], float],
        restarts: Callable[[], Mapping[str, int]],
        queues: Callable[[], Mapping[str, int]],
    ) -> None:
        """Keep the functions that return the values.

        Args:
            model: the model of the daemon.
            sessions: the number of open sessions.
            connections: the number of open sockets.
            lag_s: the lag of the session that is furthest behind.
            restarts: the number of restarts of each child process.
            queues: the number of orders that wait for each stage.
        """
        self._model = model
        self._sessions = sessions
        self._connections = connections
        self._lag_s = lag_s
        self._restarts = restarts
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield _build_info()
        yield _model_info(self._model)
        yield GaugeMetricFamily("streamasr_sessions", "Open sessions", self._sessions())
        yield GaugeMetricFamily("streamasr_connections", "Open sockets", self._connections())
        yield GaugeMetricFamily(
            "streamasr_lag_seconds",
            "Finished speech whose text is owed, worst session",
            self._lag_s(),
        )
        restarts = CounterMetricFamily(
            "streamasr_worker_restarts", "Restarts of a child process", labels=["worker"]
        )
        for worker, n_restarts in self._restarts().items():
            restarts.add_metric([worker], n_restarts)
        yield restarts
        queues = GaugeMetricFamily("streamasr_queue_length", "Orders that wait", labels=["stage"])
        for stage, length in self._queues().items():
            queues.add_metric([stage], length)
        yield queues


def _build_info() -> Metric:
    """Return the versions as labels of a constant; no library is loaded for them."""
    versions = {"version": __version__, **library_versions()}
    labels = [re.sub(r"\W", "_", name) for name in versions]
    info = GaugeMetricFamily("streamasr_build_info", "Versions; the value is 1", labels=labels)
    info.add_metric([version or "" for version in versions.values()], 1)
    return info


def _model_info(model: ModelFacts) -> Metric:
    """Return the name and the family of the model as labels of a constant."""
    labels = ["model", "family"]
    info = GaugeMetricFamily("streamasr_model_info", "The model; the value is 1", labels=labels)
    info.add_metric([model.name, model.family], 1)
    return info
