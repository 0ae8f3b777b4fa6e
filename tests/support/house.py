"""A daemon without models or microphone: real sessions, store and sockets, and a made-up engine."""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from msgspec import json
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed

from streamasr.core.events import Answer
from streamasr.core.messages import Durable
from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Order, Publish
from streamasr.core.requested_options import OperatorDefaults, OptionsChange, RequestedOptions
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import Float32Array, Samples, to_samples
from streamasr.engine.ports import ChannelSource, Deliver
from streamasr.host.live_session import LiveSession
from streamasr.host.recovery import Recovered, recover
from streamasr.host.registry import SessionRegistry
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.pipeline.stream import Beginning, Stream, StreamSettings
from streamasr.protocols import v1
from streamasr.server.access import Access
from streamasr.server.connection import Timeouts
from streamasr.server.listen import Server
from streamasr.storage.records import SessionRecord
from streamasr.storage.store import Store
from tests.support.fakes import FakeEngine, pcm

T = TypeVar("T")
Json = dict[str, Any]


class PatientEngine(FakeEngine):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Order, Deliver]] = deque()

    def perform(self, order: Order, deliver: Deliver) -> None:
        """Keep an order."""
        self._waiting.append((order, deliver))

    def answer(self) -> None:
        """Do all that waits."""
        while self._waiting:
            super().perform(*self._waiting.popleft())

    async def answer_until(self, task: "asyncio.Task[Any]") -> None:
        """Do what comes until something else is done."""
        while not task.done():
            self.answer()
            await asyncio.sleep(0)
        await task


class Unmeasured:
    """An observer that drops the measurements."""

    def audio_received(self, n_samples: int) -> None:
        """See `Observer`."""

    def stage_worked(self, stage: str, seconds: float) -> None:
        """See `Observer`."""

    def partial_published(self, latency_s: float) -> None:
        """See `Observer`."""

    def final_published(self, latency_s: float) -> None:
        """See `Observer`."""


class SlowArchive(Store):
    """A store that keeps every message, and says so when it is told to."""

    def __init__(self, journal: Path, spool: Path | None) -> None:
        super().__init__(journal, spool, lambda _, __: None)
        self.unsaid: list[Future[None]] = []

    def append_message(self, name: str, seq: int, message: Durable) -> "Future[None]":
        """See `Store.append_message`."""
        super().append_message(name, seq, message)
        self.unsaid.append(Future())
        return self.unsaid[-1]

    def say(self, index: int = 0) -> None:
        """Say that one of the messages is kept."""
        self.unsaid.pop(index).set_result(None)


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """How a house is furnished."""

    engine: ChannelSource | None = None
    token: str | None = None
    origins: frozenset[str] = frozenset()
    max_sessions: int = 8
    resume_s: float = 300.0
    old_connection_s: float = 3.0
    journal_timeout_s: float = 2.0
    max_lag_s: float = 60.0
    settings: StreamSettings = field(default_factory=StreamSettings)
    timeouts: Timeouts = field(default_factory=Timeouts)
    is_ready: bool = True
    is_loopback: bool = True
    socket: Path | None = None


class House:
    """See `streamasr.host.session_host.House`; it has the journal and the spool of a directory."""

    model = ModelFacts("fake", "fakes", ("English", "French"))

    def __init__(self, directory: Path, rooms: Rooms, store: Store | None = None) -> None:
        self.directory = directory
        self.rooms = rooms
        self.engine = rooms.engine or FakeEngine()
        self.access = Access(rooms.token, rooms.origins)
        self.max_lag = to_samples(rooms.max_lag_s)
        self.is_ready = asyncio.Event()
        if rooms.is_ready:
            self.is_ready.set()
        self.troubles: list[str] = []
        journal, spool = directory / "journal.sqlite3", directory / "spool"
        self.store = store or Store(journal, spool, lambda code, _: self.troubles.append(code))
        self.server = Server(
            self, access=lambda: self.access, metrics=self.metrics, timeouts=rooms.timeouts
        )
        self.sessions = SessionRegistry(
            self._open,
            max_sessions=rooms.max_sessions,
            resume_s=rooms.resume_s,
            on_end=self._forget,
            old_connection_s=rooms.old_connection_s,
        )
        self.address = ""
        self._asked: dict[str, RequestedOptions] = {}

    def begin(self, requested: RequestedOptions) -> LiveSession:
        """See `SessionHost.begin`."""
        name = secrets.token_hex(8)
        live = self.sessions.open(name, self._resolve(requested))
        self._asked[name] = requested
        return live

    def configure(self, live: LiveSession, change: OptionsChange) -> None:
        """See `SessionHost.configure`."""
        asked = self._asked[live.name].changed(change)
        live.configure(self._resolve(asked))
        self.store.configure(live.name, live.options)
        self._asked[live.name] = asked

    def metrics(self) -> tuple[bytes, str]:
        """Return made-up figures for Prometheus."""
        return b"streamasr_sessions 1.0\n", "text/plain; version=0.0.4"

    def begin_own(self) -> LiveSession:
        """Begin the session of a microphone."""
        return self.sessions.open(MICROPHONE, SessionOptions(), is_daemons_own=True)

    def recover(self) -> list[LiveSession]:
        """Go on with what another house on the same directory has left."""
        found = recover(self.directory / "journal.sqlite3", self.directory / "spool")
        return [self._go_on(one) for one in found]

    def _go_on(self, one: Recovered) -> LiveSession:
        name = one.record.name
        live = self.sessions.open(name, one.record.options, one.beginning)
        self._asked[name] = RequestedOptions.restored(one.record.options)
        if one.is_over:
            live.mark_over()
            return live
        for final, samples in one.wordless:
            live.restore(final, samples)
        live.warm_up(one.warm_up)
        for start, samples in one.audio:
            if start > live.intake.position:
                live.intake.skip(Samples(start - live.intake.position), "restart")
            live.intake.feed_spooled(samples)
        return live

    def _resolve(self, asked: RequestedOptions) -> SessionOptions:
        options = asked.resolve(OperatorDefaults(), LANGUAGES.resolve)
        context = " ".join([options.context, *options.hotwords]).strip()
        return replace(options, context=context, hotwords=())

    def _open(self, name: str, wishes: SessionOptions, beginning: Beginning) -> LiveSession:
        self.store.begin(SessionRecord(name, "client", time.time(), self.model.name, wishes))
        return LiveSession(
            name,
            wishes,
            recogniser=self.engine,
            settings=self.rooms.settings,
            archive=self.store,
            observer=Unmeasured(),
            beginning=beginning,
            journal_timeout_s=self.rooms.journal_timeout_s,
        )

    def _forget(self, name: str) -> None:
        self._asked.pop(name, None)
        self.store.end(name)

    def url(self, path: str = v1.STREAM_PATH) -> str:
        """Where clients connect."""
        return self.address + path


@contextlib.asynccontextmanager
async def open_house(
    directory: Path, rooms: Rooms = Rooms(), store: Store | None = None
) -> AsyncIterator[House]:
    """A house with open doors. What lies in the directory is recovered first."""
    house = House(directory, rooms, store)
    with house.store:
        house.recover()
        async with house.server.running(
            "127.0.0.1", 0, rooms.socket, is_loopback=rooms.is_loopback
        ) as house.address:
            yield house
        await house.sessions.close()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a raw connection, however it stands."""
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Client:
    """A plain WebSocket client that notes what it is told."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.heard: list[Json] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def visit(
        cls, house: House, path: str = v1.STREAM_PATH, **options: Any
    ) -> AsyncIterator[Self]:
        """Connect, and say nothing."""
        options = {"ping_interval": None, **options}
        if house.rooms.socket:
            connecting = unix_connect(str(house.rooms.socket), f"ws://localhost{path}", **options)
        else:
            connecting = connect(house.url(path), **options)
        connection = await connecting
        try:
            yield cls(connection)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # a server that does not read hears no goodbye
                    await connection.close()
            connection.transport.abort()
            await connection.wait_closed()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, house: House, **fields: Any) -> AsyncIterator[Self]:
        """Connect and start a session, up to its `ready`."""
        async with cls.visit(house) as client:
            await client.say("start", **fields)
            await client.hear("ready")
            yield client

    @property
    def ready(self) -> Json:
        return next(message for message in self.heard if message["type"] == "ready")

    @property
    def session(self) -> str:
        return str(self.ready["session"])

    async def say(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.encode({"type": kind, **fields}).decode())

    async def send(self, samples: Float32Array, frame: int = 3200) -> None:
        """Send samples as 16 bit values, so many in each frame."""
        for begin in range(0, len(samples), frame):
            await self.connection.send(pcm(samples[begin : begin + frame]))

    async def next(self) -> Json:
        """The next message."""
        self.heard.append(json.decode(await self.connection.recv(), type=Json))
        return self.heard[-1]

    async def hear(self, kind: str, n: int = 1) -> Json:
        """Listen until the n-th message of a kind from now on."""
        while True:
            message = await self.next()
            n -= message["type"] == kind
            if not n:
                return message

    async def hear_all(self) -> list[Json]:
        """Listen until the connection is closed; everything heard so far."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.heard

    async def stop(self) -> list[Json]:
        """Say `stop` and listen to the end."""
        await self.say("stop")
        return await self.hear_all()

    async def refusal(self) -> tuple[int | None, Json]:
        """The close code of a connection that is refused, and the last message before."""
        heard = await self.hear_all()
        return self.connection.close_code, heard[-1] if heard else {}

    def of(self, kind: str) -> list[Json]:
        return [message for message in self.heard if message["type"] == kind]


def durable(messages: list[Json]) -> list[Json]:
    """Those with a number."""
    return [message for message in messages if "seq" in message and message["type"] != "ready"]


def in_time_order(messages: list[Json]) -> list[Json]:
    """Durable messages without their numbers; words may come before a later final or after it."""
    kept = durable(messages)
    assert [message["seq"] for message in kept] == list(range(1, len(kept) + 1))
    bare = [{key: value for key, value in m.items() if key != "seq"} for m in kept]
    return sorted(bare, key=lambda m: (m.get("segment", len(kept)), m["type"]))


def float_bytes(samples: Float32Array) -> bytes:
    return np.ascontiguousarray(samples, "<f4").tobytes()


def exact(samples: Float32Array) -> Float32Array:
    """Samples that 16 bits hold exactly."""
    return np.frombuffer(pcm(samples), "<i2").astype(np.float32) / np.float32(32768)


def recognise(samples: Float32Array) -> list[Json]:
    """The durable messages of an undisturbed session, as they go over the wire."""
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
