"""A user, and a hub on the loopback that has a small checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.hubs import Hub, open_hub
from tests.support.model_homes import REPOSITORY, Home


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "STREAMASR_CONFIG", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path, capsys)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(directory)
    return directory


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model."""
    with open_hub() as hub:
        files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        hub.publish(REPOSITORY, {**files, "README.md": b"words", "extra.bin": b"other"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
