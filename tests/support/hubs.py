"""File server on the loopback with scripted failures, and a hub on top of it."""

import contextlib
import hashlib
import json
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class Asked:
    """Received request."""

    target: str
    """Target in the request line; for a proxy, a complete URL."""
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)


@dataclass(slots=True)
class Served:
    """File at a path."""

    content: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    """Whether range requests are supported."""
    has_length: bool = True
    """Whether Content-Length is sent; otherwise the file ends with the connection."""


Answer = Callable[["Handler"], None]
"""Function that answers one request instead of serving the file."""


def status(code: int, /, **headers: str) -> Answer:
    """Answer with a status and no body; `Retry_After` becomes Retry-After."""

    def answer(handler: "Handler") -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(location: str, code: int = 302) -> Answer:
    return status(code, Location=location)


def reply(content: bytes, code: int = 200, /, **headers: str) -> Answer:
    """Answer with exactly these headers and this body, and close the connection."""

    def answer(handler: "Handler") -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


def raw(content: bytes) -> Answer:
    """Answer with bytes that need not be HTTP."""

    def answer(handler: "Handler") -> None:
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


def truncate(after: int) -> Answer:
    """Serve the file, but close the connection regularly after `after` bytes of it."""

    def answer(handler: "Handler") -> None:
        handler.serve(at_most=after)
        handler.close_connection = True

    return answer


def drop(after: int) -> Answer:
    """Serve the file, and reset the connection after `after` bytes of it."""

    def answer(handler: "Handler") -> None:
        handler.serve(at_most=after)
        linger = struct.pack("ii", 1, 0)  # closing then sends a reset
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.close_connection = True

    return answer


def stall(after: int) -> Answer:
    """Serve `after` bytes of the file, then send nothing until the server is closed."""

    def answer(handler: "Handler") -> None:
        handler.serve(at_most=after)
        handler.wfile.flush()
        handler.server.is_over.wait()
        handler.close_connection = True

    return answer


class FileServer(ThreadingHTTPServer):
    """Server of `files`; `script` replaces the answers to the next requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.scripts: dict[str, deque[Answer]] = {}
        self.asked: list[Asked] = []
        self.is_over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, content: bytes, **options: Any) -> str:
        """Publish a file and return its URL."""
        self.files[path] = Served(content, **options)
        return self.url + path

    def script(self, path: str, *answers: Answer) -> None:
        """Set the answers to the next requests for a path."""
        self.scripts.setdefault(path, deque()).extend(answers)

    def asked_for(self, path: str) -> list[Asked]:
        return [each for each in self.asked if each.path == path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore closed connections, which the tests cause on purpose; print other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=[0.01], daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Handler of one connection."""

    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        asked = Asked(self.path, dict(self.headers.items()))
        self.server.asked.append(asked)
        script = self.server.scripts.get(asked.path)
        with contextlib.suppress(ConnectionError):  # the client closed the connection
            if script:
                script.popleft()(self)
            elif asked.path in self.server.files:
                self.serve()
            else:
                status(404)(self)

    def serve(self, at_most: int | None = None) -> None:
        """Answer with the file, or the requested range of it."""
        served = self.server.files[self.server.asked[-1].path]
        begin = self._range(served)
        body = served.content[begin:]
        if begin and not body:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            last = len(served.content) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last}/{len(served.content)}")
        for name, value in (("ETag", served.etag), ("Last-Modified", served.modified)):
            if value is not None:
                self.send_header(name, value)
        if served.has_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[:at_most])

    def _range(self, served: Served) -> int:
        """Return the first byte to send, according to Range and If-Range."""
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if not wanted or not served.ranges:
            return 0
        if condition is not None and condition not in (served.etag, served.modified):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base
        """Ignore log messages."""


@dataclass
class Hub:
    """Part of a hub's interface that streamasr uses."""

    server: FileServer
    is_gated: bool = False
    token: str = "hf_sesame"
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repository -> file -> content."""

    @property
    def url(self) -> str:
        return self.server.url

    def publish(
        self, repository: str, files: Mapping[str, bytes], commit: str = COMMIT, **changes: Any
    ) -> None:
        """Publish a repository; large files have a hash, as in Git LFS.

        Args:
            repository: OWNER/NAME.
            files: content by name.
            commit: commit of the branch main.
            changes: changes to the answer of the interface.
        """
        siblings = [_sibling(name, content) for name, content in files.items()]
        listing = {"id": repository, "sha": commit, "siblings": siblings, **changes}
        for revision in ("main", commit):
            path = f"/api/models/{repository}/revision/{revision}"
            self.server.put(path, json.dumps(listing).encode(), etag=None)
        for name, content in files.items():
            # The files have another address, as on the real hub.
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.server.put(f"/cdn/{commit}/{name}", content, etag=tag)
            at = f"/{repository}/resolve/{commit}/{name}"
            self.server.scripts[at] = _Always(redirect(f"/cdn/{commit}/{name}"))


class _Always(deque[Answer]):
    """Script that repeats one answer forever."""

    def __init__(self, answer: Answer) -> None:
        super().__init__([answer])

    def popleft(self) -> Answer:
        return self[0]


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
    if name.endswith((".safetensors", ".gguf", ".zip", ".onnx")):
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return sibling


@contextlib.contextmanager
def open_hub() -> Iterator[Hub]:
    """Open a hub without repositories."""
    with FileServer() as server:
        yield Hub(server)
