"""Figures for Prometheus."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from streamasr import __version__
from streamasr.core.model_facts import ModelFacts
from streamasr.core.versions import library_versions
from streamasr.server.metrics import Metrics, Readings


def make_metrics() -> Metrics:
    readings = Readings(
        model=ModelFacts("tiny", "qwen3-asr", ("English",)),
        sessions=lambda: 2,
        connections=lambda: 3,
        lag_s=lambda: 0.5,
        restarts=lambda: {"encoder": 1},
        queues=lambda: {"decode": 4},
    )
    return Metrics(readings)


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return all samples by name and values of labels."""
    families = text_string_to_metric_families(metrics.text().decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_readings_are_read_when_the_figures_are() -> None:
    found = values(make_metrics())
    assert found["streamasr_model_info", "qwen3-asr", "tiny"] == 1
    assert found["streamasr_sessions",] == 2
    assert found["streamasr_connections",] == 3
    assert found["streamasr_lag_seconds",] == 0.5
    assert found["streamasr_worker_restarts_total", "encoder"] == 1
    assert found["streamasr_queue_length", "decode"] == 4


def test_measurements_are_counted() -> None:
    metrics = make_metrics()
    metrics.audio_received(8_000)
    metrics.audio_received(8_000)
    metrics.stage_worked("decode", 0.25)
    metrics.partial_published(0.4)
    metrics.final_published(0.7)
    found = values(metrics)
    assert found["streamasr_audio_seconds_total",] == 1.0
    assert found["streamasr_work_seconds_total", "decode"] == 0.25
    assert found["streamasr_partial_latency_seconds_count",] == 1
    assert found["streamasr_final_latency_seconds_sum",] == 0.7


def test_versions_are_labels() -> None:
    families = text_string_to_metric_families(make_metrics().text().decode())
    [info] = [family for family in families if family.name == "streamasr_build_info"]
    [sample] = info.samples
    assert sample.value == 1
    versions = library_versions()
    assert sample.labels == {
        "version": __version__,
        "onnxruntime": versions["onnxruntime"],
        "llama_cpp_python": versions["llama-cpp-python"],
    }


def test_no_library_is_loaded_for_its_version() -> None:
    code = "import sys; from streamasr.server import metrics; metrics._build_info()"
    code += "; assert not {'onnxruntime', 'llama_cpp'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
