"""Settings and fixtures for all tests."""

import asyncio
import functools
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from streamasr.models import tiny
from tests.support.embedded import EMBEDDED_MODELS, EmbeddedModel
from tests.support.examples import USUAL
from tests.support.markers import KINDS, kept_pure, kind_of

# The same examples on every run, and no verdict by the clock: machines differ.
settings.register_profile(
    "streamasr",
    deadline=None,
    derandomize=True,
    max_examples=USUAL,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("quick", settings.get_profile("streamasr"), max_examples=USUAL // 6)
settings.load_profile("streamasr")

# Some tests import onnxruntime directly, which would otherwise report that to its makers.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"

# Shells start background jobs with SIGINT ignored, and programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEADLINE_S = 150.0
"""Limit for an async test, far above what any needs, and below pytest-timeout's."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the kinds of tests."""
    for kind, description in KINDS.items():
        config.addinivalue_line("markers", f"{kind}: {description}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import modules without pure tests when only those are to run."""
    is_test = collection_path.name.startswith("test_")
    wants_pure = config.option.markexpr == "pure"
    return True if is_test and wants_pure and kind_of(collection_path) != "pure" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its kind, and give every async test a deadline."""
    for item in items:
        if not any(map(item.get_closest_marker, KINDS)):
            item.add_marker(kind_of(item.path))
        if isinstance(item, pytest.Function):
            if inspect.iscoroutinefunction(item.obj):
                item.obj = _with_deadline(item.obj)
            property_test = getattr(item.obj, "hypothesis", None)
            if property_test and inspect.iscoroutinefunction(property_test.inner_test):
                property_test.inner_test = _with_deadline(property_test.inner_test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep pure tests pure."""
    with kept_pure(item.nodeid) if item.get_closest_marker("pure") else nullcontext():
        return (yield)


def _with_deadline(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Wrap a test so that it is cancelled after `DEADLINE_S`.

    The cause of the TimeoutError is the CancelledError, whose traceback ends at the `await`
    that did not return; the other tasks go to stderr.
    """
    if hasattr(test, "__wrapped__"):  # a property test with parameters, which are one function
        return test

    @functools.wraps(test)
    async def limited(*args: object, **kwargs: object) -> None:
        report = asyncio.get_running_loop().call_later(DEADLINE_S, _report_tasks)
        try:
            async with asyncio.timeout(DEADLINE_S) as deadline:
                await test(*args, **kwargs)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimeoutError(f"still running after {DEADLINE_S:.0f} s") from error.__cause__
        finally:
            report.cancel()

    return limited


def _report_tasks() -> None:
    print(f"Tasks after {DEADLINE_S:.0f} s:", *asyncio.all_tasks(), sep="\n", file=sys.stderr)


@pytest.fixture(scope="session")
def bundle() -> Path:
    """Return the directory of the embedded model; no test writes to it."""
    return tiny.BUNDLE


@pytest.fixture(scope="module", params=EMBEDDED_MODELS, ids=str)
def embedded(request: pytest.FixtureRequest) -> EmbeddedModel:
    """Return each embedded model in turn."""
    model = request.param
    assert isinstance(model, EmbeddedModel)
    return model


@pytest.fixture(scope="session", autouse=True)
def _no_sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the sound server of the machine from all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULSE_RUNTIME_PATH", str(tmp_path_factory.mktemp("pulse")))
        yield
