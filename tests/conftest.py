"""Settings and fixtures for all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from streamasr.models import tiny

# The same examples on every run, and no verdict by the clock: machines differ.
settings.register_profile(
    "streamasr",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("streamasr")

# Some tests import onnxruntime by themselves, which else reports that to its makers.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"

# Shells start background jobs with Ctrl-C ignored, and programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The embedded model's directory; no test writes into it."""
    return tiny.BUNDLE


@pytest.fixture(scope="session", autouse=True)
def _no_sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test but one that starts a sound server hears of one, or leaves a directory for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULSE_RUNTIME_PATH", str(tmp_path_factory.mktemp("pulse")))
        yield
