"""Settings and fixtures for all tests."""

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


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The embedded model's directory; no test writes into it."""
    return tiny.BUNDLE
