"""A server, and a policy whose pauses are not waited for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamasr.catalogue.timeouts import Policy
from tests.support.fetching import CONTENT, NOW, PATH
from tests.support.hubs import FileServer


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def url(server: FileServer) -> str:
    return server.put(PATH, CONTENT)


@pytest.fixture
def waited() -> list[float]:
    """Seconds of pauses, which the tests do not wait for."""
    return []


@pytest.fixture
def policy(waited: list[float]) -> Policy:
    return Policy(
        connect_s=60, silence_s=60, sleep=waited.append, chance=lambda: 1.0, now=lambda: NOW
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"
