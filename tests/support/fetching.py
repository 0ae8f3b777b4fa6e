"""What is fetched in these tests, and what is asked for meanwhile."""

import hashlib
from pathlib import Path
from typing import Any

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.download import download
from streamasr.catalogue.partial_file import Downloaded
from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import DownloadError
from tests.support.errors import raises
from tests.support.hubs import FileServer

CONTENT = bytes(range(256)) * 1200  # 300 kB: several pieces
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
PATH = "/files/model.gguf"

NOW = 1_000_000_000.0
"""Sun, 09 Sep 2001 01:46:40 GMT."""


def fetch(url: str, path: Path, policy: Policy, **options: Any) -> Downloaded:
    with open_session() as session:
        return download(url, path, session=session, policy=policy, **options)


def refusal(url: str, path: Path, policy: Policy, code: str, **options: Any) -> str:
    """The sentence of a download that fails with a code."""
    with raises(DownloadError, code) as caught:
        fetch(url, path, policy, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ranges(server: FileServer, path: str = PATH) -> list[str | None]:
    """What each request asked for."""
    return [each.headers.get("Range") for each in server.asked_for(path)]


def left(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}
