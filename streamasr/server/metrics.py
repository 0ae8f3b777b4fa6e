"""What the daemon counts about itself, for Prometheus. Nothing of what was spoken."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from streamasr.core.units import to_seconds

_PARTIAL_BUCKETS: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_FINAL_BUCKETS: Final = (0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one daemon."""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self, readings: "Readings") -> None:
        """Begin at zero."""
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
            "Time that a stage worked (encode, prefill, verify, decode); its rate over that of "
            "audio_seconds is the real-time factor",
            labelnames=["stage"],
            registry=self._registry,
        )
        self._registry.register(readings)

    def audio_received(self, n_samples: int) -> None:
        """See `streamasr.host.latency.Observer`."""
        self._audio.inc(to_seconds(n_samples))

    def partial_published(self, latency_s: float) -> None:
        """See `streamasr.host.latency.Observer`."""
        self._partials.observe(latency_s)

    def final_published(self, latency_s: float) -> None:
        """See `streamasr.host.latency.Observer`."""
        self._finals.observe(latency_s)

    def stage_worked(self, stage: str, seconds: float) -> None:
        """See `streamasr.host.latency.Observer`."""
        self._work.labels(stage).inc(seconds)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class Readings(Collector):
    """What is not counted but looked up when somebody asks."""

    def __init__(
        self,
        *,
        sessions: Callable[[], int],
        connections: Callable[[], int],
        lag_s: Callable[[], float],
        restarts: Callable[[], Mapping[str, int]],
        queues: Callable[[], Mapping[str, int]],
    ) -> None:
        """Remember where to look."""
        self._sessions = sessions
        self._connections = connections
        self._lag_s = lag_s
        self._restarts = restarts
        self._queues = queues

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield GaugeMetricFamily("streamasr_sessions", "Open sessions", self._sessions())
        yield GaugeMetricFamily("streamasr_connections", "Open sockets", self._connections())
        yield GaugeMetricFamily(
            "streamasr_lag_seconds",
            "Finished speech whose text is owed, worst session",
            self._lag_s(),
        )
        restarts = CounterMetricFamily(
            "streamasr_worker_restarts", "How often a child was replaced", labels=["worker"]
        )
        for worker, n_restarts in self._restarts().items():
            restarts.add_metric([worker], n_restarts)
        yield restarts
        queues = GaugeMetricFamily("streamasr_queue_length", "Orders that wait", labels=["stage"])
        for stage, length in self._queues().items():
            queues.add_metric([stage], length)
        yield queues
