"""Daemon without models or microphone: real sessions, store and sockets, and a scripted engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from msgspec import json
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed

from streamasr.core.events import Answer
from streamasr.core.messages import Durable
from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Publish
from streamasr.core.requested_options import OperatorDefaults, RequestedOptions
from streamasr.core.units import Float32Array, Samples, to_samples
from streamasr.engine.ports import ChannelSource
from streamasr.host.live_session import LiveSession
from streamasr.host.local_host import HostSettings, LocalSessionHost
from streamasr.host.recovery import recover
from streamasr.host.registry import SessionRegistry
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.pipeline.stream import Stream, StreamSettings
from streamasr.protocols import v1
from streamasr.protocols.dialect import Dialect
from streamasr.protocols.v1_dialect import V1Dialect
from streamasr.server.access import Access
from streamasr.server.listen import Server
from streamasr.server.timeouts import Timeouts
from streamasr.storage.store import Store
from tests.support.fakes import FakeEngine, pcm

T = TypeVar("T")
Json = dict[str, Any]


class Unmeasured:
    """Observer that drops the measurements."""

    def audio_received(self, n_samples: int) -> None:
        """See `Observer`."""

    def stage_worked(self, stage: str, seconds: float) -> None:
        """See `Observer`."""

    def partial_published(self, latency_s: float) -> None:
        """See `Observer`."""

    def final_published(self, latency_s: float) -> None:
        """See `Observer`."""


class SlowArchive(Store):
    """Store that keeps every message, and confirms it when a test asks for it."""

    def __init__(self, journal: Path, spool: Path | None) -> None:
        super().__init__(journal, spool, lambda _, __: None)
        self.unconfirmed: list[Future[None]] = []

    def append_message(self, name: str, seq: int, message: Durable) -> "Future[None]":
        """See `Store.append_message`."""
        super().append_message(name, seq, message)
        self.unconfirmed.append(Future())
        return self.unconfirmed[-1]

    def confirm(self, index: int = 0) -> None:
        """Confirm that one of the messages is kept."""
        self.unconfirmed.pop(index).set_result(None)


@dataclass(frozen=True, kw_only=True)
class DaemonOptions:
    """Options of a `FakeDaemon`."""

    engine: ChannelSource | None = None
    token: str | None = None
    origins: frozenset[str] = frozenset()
    max_sessions: int = 8
    resume_s: float = 300.0
    old_connection_s: float = 3.0
    journal_timeout_s: float = 2.0
    max_lag_s: float = 60.0
    streams: StreamSettings = field(default_factory=StreamSettings)
    timeouts: Timeouts = field(default_factory=Timeouts)
    dialects: tuple[Dialect, ...] = (V1Dialect(),)
    is_ready: bool = True
    is_loopback: bool = True
    socket: Path | None = None


class FakeDaemon:
    """The daemon's own parts but for the engine and the microphone, on a directory's storage."""

    model = ModelFacts("fake", "fakes", ("English", "French"))

    def __init__(self, directory: Path, options: DaemonOptions, store: Store | None = None) -> None:
        self.directory = directory
        self.options = options
        self.engine = options.engine or FakeEngine()
        self.reported: list[str] = []
        journal, spool = directory / "journal.sqlite3", directory / "spool"
        self.store = store or Store(journal, spool, lambda code, _: self.reported.append(code))
        self._settings = HostSettings(
            streams=options.streams,
            max_lag=to_samples(options.max_lag_s),
            max_sessions=options.max_sessions,
            resume_s=options.resume_s,
        )
        self.host = LocalSessionHost(
            self._settings,
            model=self.model,
            recogniser=self.engine,
            resolve=_resolve,
            store=self.store,
            observer=Unmeasured(),
            journal_timeout_s=options.journal_timeout_s,
            old_connection_s=options.old_connection_s,
        )
        if options.is_ready:
            self.host.is_ready.set()
        access = Access(options.token, options.origins)
        self.server = Server(
            self.host,
            access=lambda: access,
            metrics=lambda: (b"streamasr_sessions 1.0\n", "text/plain; version=0.0.4"),
            dialects=options.dialects,
            timeouts=options.timeouts,
        )
        self.address = ""

    @property
    def sessions(self) -> SessionRegistry:
        """All sessions."""
        return self.host.sessions

    @property
    def max_lag(self) -> Samples:
        """Audio of a session that may wait for recognition."""
        return self.host.max_lag

    @max_lag.setter
    def max_lag(self, max_lag: Samples) -> None:
        self.host.apply(replace(self._settings, max_lag=max_lag))

    @property
    def port(self) -> int:
        """TCP port."""
        return int(self.address.rsplit(":", 1)[1])

    def url(self, path: str = v1.STREAM_PATH) -> str:
        """Return the URL of a path."""
        return self.address + path

    async def recover(self) -> list[LiveSession]:
        """Continue the sessions of another daemon on the same directory."""
        found = recover(self.directory / "journal.sqlite3", self.directory / "spool")
        return [await self.host.resume(each) for each in found]


def _resolve(requested: RequestedOptions, defaults: OperatorDefaults) -> SessionOptions:
    return requested.resolve(defaults, LANGUAGES.resolve)


@contextlib.asynccontextmanager
async def running_daemon(
    directory: Path, options: DaemonOptions = DaemonOptions(), store: Store | None = None
) -> AsyncIterator[FakeDaemon]:
    """Run a daemon; sessions in the directory are continued first."""
    daemon = FakeDaemon(directory, options, store)
    with daemon.store:
        await daemon.recover()
        async with daemon.server.running(
            "127.0.0.1", 0, options.socket, is_loopback=options.is_loopback
        ) as daemon.address:
            yield daemon
        await daemon.sessions.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a raw connection in any state."""
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Client:
    """Plain WebSocket client that keeps the messages it receives."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.received: list[Json] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, daemon: FakeDaemon, path: str = v1.STREAM_PATH, **options: Any
    ) -> AsyncIterator[Self]:
        """Connect, and send nothing."""
        options = {"ping_interval": None, **options}
        if daemon.options.socket:
            connecting = unix_connect(
                str(daemon.options.socket), f"ws://localhost{path}", **options
            )
        else:
            connecting = websocket_connect(daemon.url(path), **options)
        connection = await connecting
        try:
            yield cls(connection)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # the server may not read
                    await connection.close()
            connection.transport.abort()
            await connection.wait_closed()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, daemon: FakeDaemon, **fields: Any) -> AsyncIterator[Self]:
        """Connect and start a session, up to its `ready`."""
        async with cls.connect(daemon) as client:
            await client.send_message("start", **fields)
            await client.receive("ready")
            yield client

    @property
    def ready(self) -> Json:
        return next(message for message in self.received if message["type"] == "ready")

    @property
    def session(self) -> str:
        return str(self.ready["session"])

    async def send_message(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.encode({"type": kind, **fields}).decode())

    async def send_audio(self, samples: Float32Array, frame: int = 3200) -> None:
        """Send samples as 16-bit values, in frames of `frame` samples."""
        for begin in range(0, len(samples), frame):
            await self.connection.send(pcm(samples[begin : begin + frame]))

    async def next(self) -> Json:
        """Receive the next message."""
        self.received.append(json.decode(await self.connection.recv(), type=Json))
        return self.received[-1]

    async def receive(self, kind: str, n: int = 1) -> Json:
        """Receive messages up to the n-th of a kind from now on, and return that one."""
        while True:
            message = await self.next()
            n -= message["type"] == kind
            if not n:
                return message

    async def receive_all(self) -> list[Json]:
        """Receive messages until the connection is closed; return all of the connection."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.received

    async def stop(self) -> list[Json]:
        """Send `stop` and receive everything up to the end."""
        await self.send_message("stop")
        return await self.receive_all()

    async def refusal(self) -> tuple[int | None, Json]:
        """Return the close code of a refused connection, and the last message before it."""
        received = await self.receive_all()
        return self.connection.close_code, received[-1] if received else {}

    async def refused_with(self, code: str, close_code: int) -> Json:
        """Check the error and the close code of a refused connection; return the error."""
        closed_with, error = await self.refusal()
        assert (error["type"], error["code"], closed_with) == ("error", code, close_code)
        return error

    def of(self, kind: str) -> list[Json]:
        return [message for message in self.received if message["type"] == kind]


def durable(messages: list[Json]) -> list[Json]:
    """Return the messages that have a number."""
    return [message for message in messages if "seq" in message and message["type"] != "ready"]


def in_time_order(messages: list[Json]) -> list[Json]:
    """Return durable messages in the order of time, without their numbers.

    Words may come before a later final or after it.
    """
    kept = durable(messages)
    assert [message["seq"] for message in kept] == list(range(1, len(kept) + 1))
    bare = [{key: value for key, value in m.items() if key != "seq"} for m in kept]
    return sorted(bare, key=lambda m: (m.get("segment", len(kept)), m["type"]))


def float_bytes(samples: Float32Array) -> bytes:
    return np.ascontiguousarray(samples, "<f4").tobytes()


def exact(samples: Float32Array) -> Float32Array:
    """Round samples to values that 16 bits hold exactly."""
    return np.frombuffer(pcm(samples), "<i2").astype(np.float32) / np.float32(32768)


def recognise(samples: Float32Array) -> list[Json]:
    """Return the durable messages of an undisturbed session, as they go over the wire."""
    answers: list[Answer] = []
    published: list[Publish] = []
    stream = Stream(FakeEngine(), StreamSettings(), SessionOptions(), answers.append)
    for begin in range(0, len(samples) + 1600, 1600):
        block = samples[begin : begin + 1600]
        published += stream.feed(block) if len(block) else stream.finish()
        while answers:
            published += stream.receive(answers.pop(0))
    messages = [v1.from_event(each.message, each.seq) for each in published if each.seq]
    return [json.decode(v1.encode(message), type=Json) for message in messages]
