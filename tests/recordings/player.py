"""Raw clients that note what the daemon sends, and the form in which that is kept.

Nothing here knows the package: messages are JSON objects, audio is bytes, and pages are HTTP.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.recordings.audio import BLOCK, RATE, Audio, pcm_s16le
from tests.recordings.engine import RunningServer

Json = dict[str, Any]
Recording = dict[str, list[Json]]
"""Entries that each connection received, by the name that the scenario gave it."""

STREAM: Final = "/v1/stream"
EVENTS: Final = "/v1/events"

_PACE: Final = "pace"
"""Identifier of the pings that keep a client in step; their answers are not recorded."""

_ADDED: Final = {"ready": {"family", "languages"}}
"""Fields that later versions add to messages; they are not compared."""

_HEADERS: Final = (
    "content-type",
    "www-authenticate",
    "cache-control",
    "x-content-type-options",
    "content-security-policy",
    "sec-websocket-protocol",
)
"""Headers of a response that are recorded."""

_VERSION: Final = re.compile(r" version=[^;]*;?")
"""Part of the content type of metrics, which depends on a library."""

_IS_SENTENCE: Final = re.compile(r"\S\s+\S")


class Connection:
    """WebSocket client; everything that it receives is noted."""

    def __init__(self, websocket: ClientConnection, server: RunningServer, log: list[Json]) -> None:
        self.received: list[Json] = []
        self._websocket = websocket
        self._server = server
        self._log = log
        self._n_seen = 0
        self._changed = asyncio.Event()
        self._is_closed = False
        self._receiving = asyncio.create_task(self._receive())

    @property
    def session(self) -> str:
        """The session's name, from `ready`."""
        ready = next(message for message in self.received if message["type"] == "ready")
        return str(ready["session"])

    @property
    def last_seq(self) -> int:
        """The number of the newest durable message, 0 before the first."""
        numbers = [m["seq"] for m in self.received if m["type"] != "ready" and "seq" in m]
        return max(numbers, default=0)

    @property
    def next_sample(self) -> int:
        """The first sample that the server lacks, from `ready`."""
        ready = next(message for message in self.received if message["type"] == "ready")
        return int(ready["next_sample"])

    async def say(self, kind: str, **fields: Any) -> None:
        """Send a control message."""
        await self.send(json.dumps({"type": kind, **fields}))

    async def send(self, frame: str | bytes) -> None:
        """Send a frame, whatever is in it; the server may have closed meanwhile."""
        with contextlib.suppress(ConnectionClosed):
            await self._websocket.send(frame)

    async def start(self, **fields: Any) -> None:
        """Send `start`, and wait for `ready` and for everything that follows from it."""
        await self.say("start", **fields)
        await self.wait("ready")
        await self._server.settle()

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send a control message, and wait until everything that follows from it has happened."""
        await self.say(kind, **fields)
        await self.pace()

    async def speak(self, samples: Audio, block: int = BLOCK) -> None:
        """Send samples block by block, each when everything that follows has happened."""
        for begin in range(0, len(samples), block):
            await self.send(pcm_s16le(samples[begin : begin + block]))
            await self.pace()

    async def pace(self) -> None:
        """Wait until everything that follows from what was sent has happened and been received."""
        for _ in range(2):
            n_pongs = self._n_pongs
            await self.say("ping", id=_PACE)
            while self._n_pongs == n_pongs and not self._is_closed:
                await self._next()
            await self._server.settle()

    async def wait(self, kind: str) -> Json:
        """Wait for the next message of a type; one that another wait has passed does not count."""
        while True:
            while self._n_seen < len(self.received):
                message = self.received[self._n_seen]
                self._n_seen += 1
                if message["type"] == kind:
                    return message
            assert not self._is_closed, f"the connection was closed before {kind!r} came"
            await self._next()

    async def stop(self) -> None:
        """Send `stop`, and wait until the server has closed the connection."""
        await self.say("stop")
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the server has closed the connection."""
        await self._receiving
        await self._server.settle()

    async def close(self, code: int = 1000) -> None:
        """Close the connection with a code."""
        await self._websocket.close(code)
        await self.wait_closed()

    async def close_without_code(self) -> None:
        """Close the connection with a close frame that has no code, as browsers do by default."""
        self._websocket.protocol.send_close()
        self._websocket.send_data()
        await self.wait_closed()

    async def drop(self) -> None:
        """Lose the connection without closing it."""
        await self.pace()
        self._websocket.transport.abort()
        await self.wait_closed()

    @property
    def _n_pongs(self) -> int:
        return sum(m["type"] == "pong" and m.get("id") == _PACE for m in self.received)

    async def _next(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _receive(self) -> None:
        try:
            while True:
                message = json.loads(await self._websocket.recv())
                self.received.append(message)
                if not (message["type"] == "pong" and message.get("id") == _PACE):
                    self._log.append(message)
                self._changed.set()
        except ConnectionClosed:
            self._log.append(
                {"closed": self._websocket.close_code, "reason": self._websocket.close_reason}
            )
        finally:
            self._is_closed = True
            self._changed.set()


class Player:
    """Everything that one scenario uses."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.recording: Recording = {}

    @contextlib.asynccontextmanager
    async def connect(
        self,
        name: str,
        path: str = STREAM,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
    ) -> AsyncIterator[Connection]:
        """Open a WebSocket; the connection is closed with 4000 at the end, if it is still open.

        Args:
            name: of the connection in the recording, different for each.
            path: with its query.
            headers: besides the usual ones.
            subprotocols: that the client offers.
        """
        websocket = await open_websocket(
            self.server.url + path,
            additional_headers=headers,
            subprotocols=None if subprotocols is None else [Subprotocol(s) for s in subprotocols],
            ping_interval=None,
            compression=None,
            max_size=None,
            open_timeout=60,
        )
        log = self._begin(name)
        if websocket.subprotocol is not None:
            log.append({"subprotocol": websocket.subprotocol})
        connection = Connection(websocket, self.server, log)
        try:
            yield connection
            await connection.close(4000)
        finally:
            websocket.transport.abort()
            await connection.wait_closed()

    async def refused(
        self,
        name: str,
        path: str = STREAM,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
    ) -> None:
        """Try to open a WebSocket that the server refuses with an HTTP status."""
        try:
            async with self.connect(name, path, headers=headers, subprotocols=subprotocols):
                pass
        except InvalidStatus as error:
            response = error.response
            headers_of = {key.lower(): value for key, value in response.headers.raw_items()}
            self._begin(name).append(_response(response.status_code, headers_of))

    async def request(self, name: str, method: str, path: str, *headers: str) -> str:
        """Send a plain HTTP request; the recording has its status and some headers.

        Returns:
            The body.
        """
        host, _, port = self.server.url.removeprefix("ws://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.decode().partition("\r\n\r\n")
        status, *fields = head.split("\r\n")
        named = dict(field.split(": ", 1) for field in fields)
        found = {key.lower(): value for key, value in named.items()}
        response = _response(int(status.split()[1]), found)
        response["has_body"] = bool(body)
        self._begin(name).append(response)
        return body

    def note(self, name: str, entry: Json) -> None:
        """Add something that a scenario found out itself."""
        self.recording.setdefault(name, []).append(entry)

    def _begin(self, name: str) -> list[Json]:
        assert name not in self.recording, f"two connections are called {name!r}"
        self.recording[name] = []
        return self.recording[name]


def _response(status: int, headers: Mapping[str, str]) -> Json:
    found = {key: headers[key] for key in _HEADERS if key in headers}
    found["content-type"] = _VERSION.sub("", found.get("content-type", ""))
    return {"status": status, "headers": found}


def normalise(recording: Recording, *, keeps_order: bool = True) -> Recording:
    """Leave out what differs from run to run, or may differ between versions.

    Args:
        recording: of a scenario, or read from a file.
        keeps_order: False for scenarios that send audio as fast as possible, in which the segments
            overtake each other. Then the messages of a connection are sorted by segment, without
            their numbers, which must be 1, 2, 3 and so on.
    """
    names: dict[str, str] = {"microphone": "microphone"}
    result: Recording = {}
    for connection, entries in recording.items():
        clock = _Clock()
        kept = [clock.remove(_normalise(entry, names)) for entry in entries]
        result[connection] = kept if keeps_order else _sorted(kept)
    return result


def _normalise(entry: Json, names: dict[str, str]) -> Json:
    """Return an entry without additions, sentences and the session's own name."""
    kind = entry.get("type", "")
    entry = {key: value for key, value in entry.items() if key not in _ADDED.get(kind, ())}
    if kind in ("error", "warning"):
        entry.pop("message", None)
    if _IS_SENTENCE.search(str(entry.get("reason", ""))):
        entry["reason"] = "(a sentence)"
    if kind == "ready":
        name = entry["session"]
        if not name.startswith("session-"):
            entry["session"] = names.setdefault(name, f"session-{len(names)}")
    return entry


class _Clock:
    """Removes the time that a daemon was away from the times of a session.

    It is measured and not counted, so it differs from run to run. Times behind the gap that it
    leaves count from the end of that gap.
    """

    def __init__(self) -> None:
        self._end = 0  # of the gap, in samples; 0 before there is one

    def remove(self, entry: Json) -> Json:
        is_gap = entry.get("type") == "gap" and entry["reason"] == "restart"
        if is_gap and isinstance(entry["end"], float):
            self._end = round(entry["end"] * RATE)
            return {**entry, "end": "measured"}
        return {key: self._moved(key, value) for key, value in entry.items()}

    def _moved(self, key: str, value: Any) -> Any:
        if not self._end:
            return value
        if key in ("start", "end", "duration"):
            position = round(value * RATE)
            return value if position < self._end else (position - self._end) / RATE
        if key == "next_sample":
            return value if value < self._end else value - self._end
        if key == "words" and isinstance(value, list):
            return [{k: self._moved(k, v) for k, v in word.items()} for word in value]
        return value


def _sorted(entries: list[Json]) -> list[Json]:
    numbered = [e for e in entries if "seq" in e and e["type"] != "ready"]
    if numbered:
        assert [e["seq"] for e in numbered] == list(range(1, len(numbered) + 1)), "numbers"
    order = ["ready", "speech", "final", "words", "gap", "end"]
    bare = [
        entry if entry.get("type") == "ready" else {k: v for k, v in entry.items() if k != "seq"}
        for entry in entries
        if entry.get("type") != "partial"
    ]
    messages = [entry for entry in bare if entry.get("type") in order]
    others = [entry for entry in bare if entry.get("type") not in order]
    return [
        *sorted(
            messages,
            key=lambda m: (m["type"] == "end", m.get("segment", 0), order.index(m["type"])),
        ),
        *others,
    ]


def read(path: Path) -> Recording:
    """Read a recording."""
    recording: Recording = json.loads(path.read_text(encoding="utf-8"))
    return recording


def write(path: Path, recording: Recording) -> None:
    """Write a recording, one entry a line so that differences can be read."""
    connections = []
    for name, entries in recording.items():
        lines = ",\n".join(
            "    " + json.dumps(entry, ensure_ascii=False, sort_keys=True) for entry in entries
        )
        connections.append(f"  {json.dumps(name)}: [\n{lines}\n  ]")
    path.write_text("{\n" + ",\n".join(connections) + "\n}\n", encoding="utf-8")
