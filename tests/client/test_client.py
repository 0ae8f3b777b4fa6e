"""The client: audio and messages arrive once and in order, over any number of connections."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import Server, ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from streamasr.client import (
    ENDLESS_TIMEOUTS,
    AudioSession,
    Reconnecting,
    Resumed,
    Timeouts,
    UnreachableError,
    connect,
    listen,
    v1,
)
from streamasr.client.audio_session import encode_audio
from streamasr.client.resend_buffer import Control, ResendBuffer
from streamasr.core.audio_format import Encoding
from streamasr.core.errors import AudioError, ConfigError, ProtocolError
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.protocols.v1_dialect import CLOSE_CODES
from tests.support.errors import raises

T = TypeVar("T")
Step = Callable[[ServerConnection], Awaitable[None]]

QUICK = Timeouts(open=30, shortest_pause=0, longest_pause=0)
PATIENT = Timeouts(first=60, resume=60, shortest_pause=0.01, longest_pause=0.01)
FINAL_EVERY = 1000  # samples, in the scripted server


def pcm(n_samples: int, start: int = 0) -> bytes:
    """Return samples whose values are their positions."""
    return (np.arange(start, start + n_samples) % 32_000).astype("<i2").tobytes()


@dataclass
class Script:
    """Script for the connections of a `ScriptedServer`."""

    lives: list[int] = field(default_factory=list)
    """After so many frames, received or sent, each connection breaks; later ones do not."""
    forgets: list[int] = field(default_factory=list)
    """Samples that were received and are lost with the connection, for each that breaks."""


class BrokenError(Exception):
    """The script ends the connection."""


class ScriptedServer:
    """Server of one session, with a final and its words for each 1000 samples."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.audio = bytearray()
        self.orders: list[tuple[int, v1.ClientMessage]] = []
        self.starts: list[v1.Start] = []
        self.requests: list[Request] = []
        self.durable: list[v1.Durable] = []
        self.greeting: Step | None = None
        self.close_codes: list[int | None] = []
        self._life = math.inf

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[str]:
        options: dict[str, Any] = {"compression": None, "process_request": self._note_request}
        async with serve(self.converse, "127.0.0.1", port, **options) as server:
            yield url_of(server)

    def _note_request(self, _: ServerConnection, request: Request) -> None:
        self.requests.append(request)

    @property
    def position(self) -> int:
        return len(self.audio) // 2

    @property
    def has_ended(self) -> bool:
        return bool(self.durable) and isinstance(self.durable[-1], v1.End)

    @property
    def n_segments(self) -> int:
        return sum(isinstance(message, v1.Final) for message in self.durable)

    async def converse(self, connection: ServerConnection) -> None:
        self._life = self.script.lives.pop(0) if self.script.lives else math.inf
        try:
            if self.greeting is not None:
                await self.greeting(connection)
            path, _, since = connection.request.path.partition("since=")  # type: ignore[union-attr]
            if path.startswith(v1.EVENTS_PATH):
                await self._serve_events(connection, int(since) if since else None)
            else:
                await self._serve_stream(connection)
        except BrokenError:
            connection.transport.abort()
            if not self.has_ended and self.script.forgets:
                lost = self.script.forgets.pop(0)
                kept = max(self.n_segments * FINAL_EVERY, self.position - lost)
                del self.audio[2 * kept :]
        except ConnectionClosed:
            self.close_codes.append(connection.close_code)

    async def _serve_stream(self, connection: ServerConnection) -> None:
        start = await self._receive(connection)
        assert isinstance(start, v1.Start)
        self.starts.append(start)
        await self._greet(connection, start.since or 0)
        while not self.has_ended:
            said = await self._receive(connection)
            if isinstance(said, bytes):
                self.audio += said
                for message in self._recognise():
                    await self._send(connection, message)
                continue
            self.orders.append((self.position, said))
            if isinstance(said, v1.Stop):
                await self._send(connection, self._keep(v1.End, duration=0, segments=0, words=0))

    async def _serve_events(self, connection: ServerConnection, since: int | None) -> None:
        await self._greet(connection, len(self.durable) if since is None else since)
        while not self.has_ended:
            self.audio += pcm(FINAL_EVERY, self.position)
            for message in self._recognise():
                await self._send(connection, message)
            if self.n_segments >= 5:
                await self._send(connection, self._keep(v1.End, duration=0, segments=5, words=0))

    async def _greet(self, connection: ServerConnection, since: int) -> None:
        for message in self.durable[since:]:
            await self._send(connection, message)
        await self._send(connection, self.ready())

    def ready(self) -> v1.Ready:
        return v1.Ready(session="s", model="m", seq=len(self.durable), next_sample=self.position)

    def _recognise(self) -> Iterator[v1.ServerMessage]:
        while self.position >= (self.n_segments + 1) * FINAL_EVERY:
            yield self.say(f"segment {self.n_segments + 1}")
            said = v1.Word(text="segment", start=0, end=1, score=None)
            yield self._keep(v1.Words, segment=self.n_segments, words=(said,), method="spread")
        segment = self.n_segments + 1
        yield v1.Partial(segment=segment, text="", stable=0, start=0, end=0, language=None)

    def say(self, text: str) -> v1.Final:
        segment = self.n_segments + 1
        final = self._keep(
            v1.Final, segment=segment, text=text, language=None, start=0, end=1, reason="silence"
        )
        assert isinstance(final, v1.Final)
        return final

    def _keep(self, kind: Callable[..., v1.Durable], **fields: Any) -> v1.Durable:
        message = kind(seq=len(self.durable) + 1, **fields)
        self.durable.append(message)
        return message

    async def _receive(self, connection: ServerConnection) -> bytes | v1.ClientMessage:
        frame = await connection.recv()
        self._age()
        return frame if isinstance(frame, bytes) else v1.decode_client(frame)

    async def _send(self, connection: ServerConnection, message: v1.ServerMessage) -> None:
        self._age()
        await connection.send(v1.encode(message))

    def _age(self) -> None:
        self._life -= 1
        if self._life < 0:
            raise BrokenError


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def until(is_so: Callable[[], bool]) -> None:
    """Run other tasks until a condition holds."""
    while not is_so():
        await asyncio.sleep(0)


async def let_others_run() -> None:
    """Run other tasks until all of them wait."""
    for _ in range(100):
        await asyncio.sleep(0)


async def read_all(stream: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in stream]


async def write_all(stream: AudioSession, n_samples: int, block: int) -> None:
    for start in range(0, n_samples, block):
        await stream.send(pcm(min(block, n_samples - start), start))
    await stream.stop()


def durable(events: list[Any]) -> list[v1.Durable]:
    return [event for event in events if isinstance(event, v1.Durable)]


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


async def refuse(connection: ServerConnection, code: str) -> None:
    await connection.send(v1.encode(v1.Error(code=code, message=f"no, {code}")))
    await connection.close(CLOSE_CODES.get(code, 1008))


lives = st.lists(st.integers(0, 25), max_size=8)
forgets = st.lists(st.integers(0, 3000), max_size=8)


@given(lives, forgets, st.integers(1, 6000), st.sampled_from([37, 250, 4000]))
@settings(max_examples=50)
async def test_audio_and_messages_arrive_once_and_in_order_over_broken_connections(
    lives: list[int], forgets: list[int], n_samples: int, block: int
) -> None:
    server = ScriptedServer(Script([5, *lives], list(forgets)))
    async with server.running() as url, connect(url, timeouts=QUICK) as stream:
        _, events = await asyncio.gather(write_all(stream, n_samples, block), read_all(stream))
    assert bytes(server.audio) == pcm(n_samples)
    assert durable(events) == server.durable
    assert isinstance(events[-1], v1.End)
    assert kinds(events)[0] == "Ready"


@given(lives)
@settings(max_examples=30)
async def test_a_reader_misses_no_message_over_broken_connections(lives: list[int]) -> None:
    server = ScriptedServer(Script(list(lives)))
    server.say("before")
    async with server.running() as url:
        events = await read_all(listen(url, session="s", since=0, timeouts=PATIENT))
    assert durable(events) == server.durable


async def test_unread_messages_do_not_block_a_program_that_only_writes() -> None:
    server = ScriptedServer(Script(lives=[300, 500]))
    async with server.running() as url, connect(url, timeouts=QUICK) as stream:
        await write_all(stream, 100_000, 160)
    assert bytes(server.audio) == pcm(100_000)


async def test_a_program_that_writes_first_and_reads_afterwards_gets_everything() -> None:
    server = ScriptedServer()
    async with server.running() as url, connect(url) as stream:
        await write_all(stream, 50_000, 16_000)
        events = await read_all(stream)
    assert durable(events) == server.durable
    assert "Reconnecting" not in kinds(events)


async def test_of_unread_partials_only_the_newest_waits() -> None:
    server = ScriptedServer()
    async with server.running() as url, connect(url) as stream:
        await write_all(stream, 900, 9)
        await until(lambda: stream._is_over)
        events = await read_all(stream)
    assert kinds(events) == ["Ready", "Partial", "End"]


async def test_loss_and_return_of_a_connection_are_reported() -> None:
    server = ScriptedServer(Script(lives=[4]))
    async with server.running() as url, connect(url, timeouts=QUICK) as stream:
        _, events = await asyncio.gather(write_all(stream, 2000, 500), read_all(stream))
    [lost] = [event for event in events if isinstance(event, Reconnecting)]
    [back] = [event for event in events if isinstance(event, Resumed)]
    assert lost == Reconnecting("the connection to the server is lost", 1, 0.0)
    assert back.ready.session == "s"
    assert events.index(lost) < events.index(back)
    assert (server.starts[0].session, server.starts[1].session) == (None, "s")


async def test_control_messages_are_sent_again_in_their_places() -> None:
    server = ScriptedServer(Script(lives=[7], forgets=[600]))
    async with server.running() as url, connect(url, timeouts=QUICK) as stream:
        await stream.send(pcm(300))
        await stream.flush()
        await stream.send(pcm(400, 300))
        await stream.flush()
        await stream.send(pcm(100, 700))
        await stream.stop()
        await read_all(stream)
    assert bytes(server.audio) == pcm(800)
    assert {at for at, order in server.orders if isinstance(order, v1.Flush)} == {300, 700}
    assert server.orders[-1] == (800, v1.Stop())


async def test_options_hold_after_a_connection_was_lost() -> None:
    server = ScriptedServer(Script(lives=[5]))
    async with (
        server.running() as url,
        connect(url, language="English", hotwords=["a"], timeouts=QUICK) as stream,
    ):
        await stream.configure(language=None, context="trees")
        await write_all(stream, 2000, 500)
        await read_all(stream)
    first, second = server.starts
    assert (first.language, first.context, first.hotwords) == ("English", "", ("a",))
    assert (second.language, second.context, second.hotwords) == (None, "trees", ("a",))
    [configure] = {order for _, order in server.orders if isinstance(order, v1.Configure)}
    assert configure == v1.Configure(language=None, context="trees")


async def test_audio_that_was_not_kept_cannot_be_sent_again() -> None:
    server = ScriptedServer(Script(lives=[12], forgets=[900]))
    async with (
        server.running() as url,
        connect(url, timeouts=QUICK, buffer_s=100 / 16_000) as stream,
    ):
        with raises(ProtocolError, "audio_not_kept"):
            await write_all(stream, 5000, 90)
        with raises(ProtocolError, "audio_not_kept"):
            await read_all(stream)


async def test_a_session_that_is_not_resumed_is_an_error_for_reader_and_writer() -> None:
    server = ScriptedServer(Script(lives=[4]))

    async def forget(connection: ServerConnection) -> None:
        if server.starts:
            await refuse(connection, "unknown_session")

    server.greeting = forget
    async with server.running() as url, connect(url, timeouts=QUICK) as stream:
        with raises(RefusalError, "unknown_session"):
            await asyncio.gather(write_all(stream, 100_000, 500), read_all(stream))
        with raises(RefusalError, "unknown_session"):
            await stream.send(pcm(1))
        with raises(RefusalError, "unknown_session"):
            await stream.flush()


@pytest.mark.parametrize("code", ["session_busy", "overloaded", "internal", "too_slow"])
async def test_a_transient_refusal_is_tried_again(code: str) -> None:
    server = ScriptedServer(Script(lives=[4]))
    refusals = [code, code]

    async def busy(connection: ServerConnection) -> None:
        if server.starts and refusals:
            await refuse(connection, refusals.pop())

    server.greeting = busy
    async with server.running() as url, connect(url, timeouts=QUICK) as stream:
        _, events = await asyncio.gather(write_all(stream, 2000, 500), read_all(stream))
    assert durable(events) == server.durable
    assert not refusals


@pytest.mark.parametrize("code", [*RefusalCode, "newer"])
async def test_the_first_connection_is_refused_with_the_servers_sentence(code: str) -> None:
    server = ScriptedServer()
    server.greeting = lambda connection: refuse(connection, code)
    async with server.running() as url:
        with raises(RefusalError, code) as caught:
            async with connect(url):
                pass
    assert str(caught.value) == f"no, {code}"


@pytest.mark.parametrize("status", [401, 403, 404, 418])
async def test_a_refused_handshake_is_an_error(status: int) -> None:
    def answer(connection: ServerConnection, _: Request) -> Response:
        return connection.respond(status, "no")

    async with serve(ignore, "127.0.0.1", 0, process_request=answer) as server:
        for attempt in (enter(url_of(server)), read_all(listen(url_of(server)))):
            with raises(RefusalError, f"http_{status}") as caught:
                await attempt
            assert url_of(server) in str(caught.value)


async def ignore(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def enter(url: str, **options: Any) -> None:
    async with connect(url, **options):
        pass


async def test_a_server_that_is_starting_is_waited_for() -> None:
    statuses = [503, 503]

    def answer(connection: ServerConnection, _: Request) -> Response | None:
        return connection.respond(statuses.pop(), "soon") if statuses else None

    scripted = ScriptedServer()
    async with serve(scripted.converse, "127.0.0.1", 0, process_request=answer) as server:
        await enter(url_of(server), timeouts=PATIENT)
    assert not statuses


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009])
async def test_a_lasting_close_code_ends_the_session(code: int) -> None:
    server = ScriptedServer()
    server.greeting = lambda connection: connection.close(code, "enough")
    async with server.running() as url:
        with raises(ProtocolError, "policy") as caught:
            await enter(url, timeouts=PATIENT)
    assert f"{code} enough" in str(caught.value)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013])
async def test_another_close_is_a_lost_connection(code: int) -> None:
    server = ScriptedServer()
    closes = [code]

    async def leave(connection: ServerConnection) -> None:
        if closes:
            await connection.close(closes.pop(), "later")

    server.greeting = leave
    async with server.running() as url:
        [lost, *_] = await read_all(listen(url, since=0, timeouts=PATIENT))
    assert lost.reason == f"the connection was closed with code {code} later"


async def test_a_client_that_will_resume_closes_with_4000() -> None:
    """With 4000 the server keeps the session; with 1000 it may evict it."""
    server = ScriptedServer()
    stalls = [True]

    async def stall(connection: ServerConnection) -> None:
        if stalls:
            stalls.pop()
            await connection.wait_closed()

    server.greeting = stall
    async with server.running() as url:
        timeouts = Timeouts(open=0.5, first=60, resume=60, shortest_pause=0.01)
        await read_all(listen(url, since=0, timeouts=timeouts))
    assert server.close_codes[0] not in {1000, 1001, 1005}


async def test_an_address_without_a_server_is_an_error() -> None:
    async with serve(ignore, "127.0.0.1", 0) as server:
        url = url_of(server)
    for attempt in (enter(url), read_all(listen(url))):
        with pytest.raises(UnreachableError) as caught:
            await attempt
        assert str(caught.value) == f"there is no server at {url}: Connection refused"


async def test_a_missing_socket_is_an_error(tmp_path: Path) -> None:
    with raises(UnreachableError, "unreachable") as caught:
        await enter(f"unix://{tmp_path}/s")
    assert "No such file or directory" in str(caught.value)


async def test_a_server_without_websockets_is_an_error() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        with raises(UnreachableError, "unreachable") as caught:
            await enter(url_of(server))  # type: ignore[arg-type]
        assert "not a streamasr server" in str(caught.value)


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    async with serve(ignore, "127.0.0.1", 0) as server:
        with raises(UnreachableError, "unreachable") as caught:
            await enter(url_of(server), timeouts=Timeouts(open=0.05))
        assert "does not answer" in str(caught.value)


async def test_a_server_that_does_not_come_back_is_given_up() -> None:
    server = ScriptedServer(Script(lives=[4]))
    server.say("before")
    timeouts = Timeouts(resume=0.1, shortest_pause=0.01, longest_pause=0.01)
    async with server.running() as url:
        events = listen(url, since=0, timeouts=timeouts)
        await anext(events)
    with raises(UnreachableError, "unreachable"):
        await read_all(events)


async def test_a_reader_may_start_before_the_server() -> None:
    async with serve(ignore, "127.0.0.1", 0) as server:
        url = url_of(server)
    events = listen(url, since=0, timeouts=PATIENT)
    first = await anext(events)
    assert isinstance(first, Reconnecting)
    assert first.reason == f"there is no server at {url}: Connection refused"
    scripted = ScriptedServer()
    scripted.say("hello")
    async with scripted.running(int(url.rpartition(":")[2])):
        rest = await read_all(events)
    assert durable(rest) == scripted.durable


async def test_a_reader_without_since_receives_new_messages_only() -> None:
    server = ScriptedServer(Script(lives=[5]))
    server.say("before")
    async with server.running() as url:
        events = await read_all(listen(url, session="a b", timeouts=QUICK))
    assert durable(events) == server.durable[1:]
    paths = [request.path for request in server.requests]
    assert paths[0] == "/v1/events?session=a+b"
    assert paths[1].startswith("/v1/events?session=a+b&since=")


async def test_a_token_goes_into_the_header() -> None:
    server = ScriptedServer()
    async with server.running() as url:
        await enter(url, token="secret")
        await enter(url)
    shown = [request.headers.get("Authorization") for request in server.requests]
    assert shown == ["Bearer secret", None]
    assert server.requests[0].headers["Sec-WebSocket-Protocol"] == v1.SUBPROTOCOL
    assert "Sec-WebSocket-Extensions" not in server.requests[0].headers


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    scripted = ScriptedServer()
    async with (
        unix_serve(scripted.converse, str(tmp_path / "s"), compression=None),
        connect(f"unix://{tmp_path}/s") as stream,
    ):
        await write_all(stream, 2000, 100)
        events = await read_all(stream)
    assert durable(events) == scripted.durable


@pytest.mark.parametrize("path", ["", "/", "/v1/stream", "/v1/events"])
async def test_the_path_may_be_left_out(path: str) -> None:
    server = ScriptedServer()
    async with server.running() as url:
        await enter(url + path)
    assert server.requests[0].path == "/v1/stream"


async def test_another_program_can_continue_a_session() -> None:
    server = ScriptedServer()
    async with server.running() as url:
        async with connect(url) as stream:
            await stream.send(pcm(1500))
            [ready, final, *_] = [await anext(stream) for _ in range(3)]
        assert isinstance(ready, v1.Ready)
        assert isinstance(final, v1.Final)
        async with connect(url, session=ready.session, since=final.seq) as stream:
            assert stream.ready.next_sample == 1500
            await stream.send(pcm(1500, 1500))
            await stream.stop()
            events = await read_all(stream)
    assert bytes(server.audio) == pcm(3000)
    assert durable(events) == server.durable[1:]


async def test_a_session_that_ends_by_itself_takes_no_more_audio() -> None:
    server = ScriptedServer()
    end = server._keep(v1.End, duration=0, segments=0, words=0)
    async with server.running() as url, connect(url) as stream:
        assert durable(await read_all(stream)) == [end]
        with raises(ProtocolError, "session_over"):
            await stream.send(pcm(1))
        with raises(ProtocolError, "session_over"):
            await stream.stop()


async def test_nothing_can_be_sent_after_stop() -> None:
    server = ScriptedServer()
    async with server.running() as url, connect(url) as stream:
        await stream.stop()
        await stream.stop()  # once more does no harm
        with pytest.raises(ProtocolError):
            await stream.send(pcm(1))


async def test_a_server_that_does_not_read_holds_the_writer_back() -> None:
    async def read_nothing(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(v1.encode(ScriptedServer().ready()))
        await reads.wait()
        connection.transport.abort()

    reads = asyncio.Event()
    async with (
        serve(read_nothing, "127.0.0.1", 0) as server,
        connect(url_of(server), timeouts=Timeouts(resume=0)) as stream,
    ):
        writing = asyncio.create_task(write_all(stream, 30_000_000, 1_000_000))
        await until(lambda: stream._buffer.n_waiting >= 1 << 16)
        await let_others_run()
        assert not writing.done()
        assert stream._buffer.n_waiting < 200_000
        reads.set()
        with pytest.raises(UnreachableError):
            await writing


async def test_audio_is_kept_while_there_is_no_connection_up_to_a_limit() -> None:
    server = ScriptedServer(Script(lives=[2]))
    away = asyncio.Event()

    async def stay_away(_: ServerConnection) -> None:
        if server.starts:
            await away.wait()

    server.greeting = stay_away
    async with (
        server.running() as url,
        connect(url, timeouts=QUICK, buffer_s=1000 / 16_000) as stream,
    ):
        await stream.send(pcm(10))
        while not isinstance(await anext(stream), Reconnecting):
            pass
        await stream.send(pcm(1000, 10))  # returns, although no caller reads it
        sending = asyncio.create_task(stream.send(pcm(90, 1010)))
        await let_others_run()
        assert not sending.done()
        away.set()
        await sending
        await stream.stop()
        await read_all(stream)
    assert bytes(server.audio) == pcm(1100)


async def test_a_cancelled_wait_for_an_event_loses_none() -> None:
    server = ScriptedServer()
    async with server.running() as url, connect(url) as stream:
        writing = asyncio.create_task(write_all(stream, 20_000, 50))
        events: list[Any] = []
        while not (events and isinstance(events[-1], v1.End)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.0001):
                    events.append(await anext(stream))
        await writing
    assert durable(events) == server.durable


async def test_leaving_closes_the_connection_and_leaves_no_task() -> None:
    codes: list[int | None] = []

    async def be_quiet(connection: ServerConnection) -> None:
        await connection.send(v1.encode(ScriptedServer().ready()))
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with serve(be_quiet, "127.0.0.1", 0) as server:
        url = url_of(server)
        async with connect(url) as stream:
            await stream.send(pcm(10))
        with pytest.raises(ValueError, match="mine"):
            await stop_and_fail(url)
        async with contextlib.aclosing(listen(url)) as events:
            await anext(events)
        left = [task for task in asyncio.all_tasks() if "ResumableSession" in repr(task)]
    assert codes == [1000, 1000, 1000]
    assert not left


async def stop_and_fail(url: str) -> None:
    async with connect(url) as stream:
        await stream.stop()
        raise ValueError("mine")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (["{"], "bad_server_json"),
        (['{"type":"final"}'], "bad_server_message"),
        (['{"type":"end","seq":2,"duration":0,"segments":0,"words":0}'], "message_missing"),
    ],
)
async def test_a_server_that_breaks_the_protocol_is_given_up(frames: list[str], code: str) -> None:
    server = ScriptedServer()

    async def talk(connection: ServerConnection) -> None:
        for frame in frames:
            await connection.send(frame)

    server.greeting = talk
    async with server.running() as url:
        with raises(ProtocolError, code):
            await enter(url, timeouts=PATIENT)


async def test_a_session_that_was_begun_anew_is_not_mixed_up_with_the_old_one() -> None:
    server = ScriptedServer(Script(lives=[4]))
    server.say("one")
    server.say("two")

    async def forget(connection: ServerConnection) -> None:
        if len(server.requests) > 1:
            server.durable.clear()

    server.greeting = forget
    async with server.running() as url:
        with raises(ProtocolError, "session_restarted"):
            await read_all(listen(url, since=0, timeouts=QUICK))


async def test_messages_of_a_newer_server_are_skipped() -> None:
    server = ScriptedServer()
    server.greeting = lambda connection: connection.send('{"type":"mood"}')
    async with server.running() as url, connect(url) as stream:
        await stream.stop()
        assert kinds(await read_all(stream)) == ["Ready", "End"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sample_rate": 7000}, "int >= 8000"),
        ({"encoding": "opus"}, "'opus'"),
        ({"hotwords": ["a", 1]}, "'hotwords[1]'"),
        ({"languages": ["a", ""]}, "'languages[1]'"),
        ({"channel": 1}, "'channel'"),
        ({"session": "s", "since": -1}, "'since'"),
        ({"context": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_a_wrong_option_is_refused_before_there_is_a_connection(
    options: dict[str, Any], part: str
) -> None:
    with raises(RefusalError, "bad_value") as caught:
        connect("ws://127.0.0.1:1", **options)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("http://127.0.0.1", None),
        ("ws://", None),
        ("", None),
        ("unix://", None),
        ("ws://[::1", None),
        ("ws://host:port", None),
        ("ws://host/?token=a", None),
        ("ws://host/#a", None),
        ("ws://host", ""),
        ("ws://host", "a\r\nb: c"),
        ("ws://host", "é"),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(url: str, token: str | None) -> None:
    with raises(ConfigError, "bad_address" if token is None else "bad_token"):
        connect(url, token=token)


def test_pauses_grow_up_to_a_limit() -> None:
    timeouts = Timeouts()
    for tries, longest in [(1, 0.2), (2, 0.4), (3, 0.8), (6, 5.0), (10_000, 5.0)]:
        pauses = [timeouts.pause(tries) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert math.isinf(ENDLESS_TIMEOUTS.resume)


@pytest.mark.parametrize(
    ("audio", "encoding", "expected"),
    [
        (b"\x01\x00\x02", "pcm_s16le", b"\x01\x00\x02"),
        (bytearray(b"ab"), "pcm_f32le", b"ab"),
        (np.array([0, 1, -1], np.float32), "pcm_s16le", b"\x00\x00\xff\x7f\x00\x80"),
        (np.array([0.5, math.nan, 9], np.float64), "pcm_s16le", b"\x00\x40\x00\x00\xff\x7f"),
        (np.array([[1], [2]], np.int16), "pcm_s16le", b"\x01\x00\x02\x00"),
        (np.array([1, 2], ">i2"), "pcm_s16le", b"\x01\x00\x02\x00"),
        (np.array([-32_768, 16_384], np.int16), "pcm_f32le", np.array([-1, 0.5], "<f4").tobytes()),
        (np.array([0.5], np.float64), "pcm_f32le", np.array([0.5], "<f4").tobytes()),
    ],
)
def test_audio_is_brought_into_the_encoding(
    audio: Any, encoding: Encoding, expected: bytes
) -> None:
    assert encode_audio(audio, v1.Start(encoding=encoding)) == expected


def test_channels_are_interleaved() -> None:
    stereo = np.array([[1, 2], [3, 4]], np.int16)
    assert encode_audio(stereo, v1.Start(channels=2)) == np.array([1, 2, 3, 4], "<i2").tobytes()


@pytest.mark.parametrize(
    ("audio", "channels"),
    [
        (np.zeros((2, 2), np.float32), 1),
        (np.zeros(2, np.float32), 2),
        (np.zeros((), np.float32), 1),
        (np.zeros(2, np.int32), 1),
        (np.zeros(2, np.complex64), 1),
    ],
)
def test_an_array_of_a_wrong_shape_or_type_is_refused(audio: Any, channels: int) -> None:
    with pytest.raises(AudioError):
        encode_audio(audio, v1.Start(channels=channels))


@pytest.mark.parametrize(
    ("rate", "next_sample", "expected"),
    [(16_000, 600, 600), (48_000, 600, 1800), (8000, 600, 300), (44_100, 600, 1654)],
)
async def test_audio_goes_on_where_the_server_says_at_any_rate(
    rate: int, next_sample: int, expected: int
) -> None:
    server = ScriptedServer(Script(lives=[4]))
    ready = msgspec.structs.replace(server.ready(), next_sample=next_sample)
    server.ready = lambda: ready if len(server.starts) > 1 else ScriptedServer().ready()  # type: ignore[method-assign]
    async with (
        server.running() as url,
        connect(url, sample_rate=rate, timeouts=QUICK) as stream,
    ):
        for start in range(0, 5000, 500):
            await stream.send(pcm(500, start))
        while not isinstance(await anext(stream), Resumed):
            pass
        received = server.position
        await stream.stop()
        await read_all(stream)
    first = np.frombuffer(bytes(server.audio[2 * received :])[:2], "<i2")
    assert first[0] == expected
    assert server.audio.endswith(pcm(1, 4999))


content = st.binary(min_size=1, max_size=6) | st.sampled_from([v1.Flush(), v1.Stop()])


def expected_from(position: int, contents: list[bytes | Control]) -> list[tuple[int, Any]]:
    """Return each byte and each control message with its position, from a position on."""
    placed: list[tuple[int, Any]] = []
    at = 0
    for one in contents:
        if isinstance(one, bytes):
            placed += [(at + i, byte) for i, byte in enumerate(one)]
            at += len(one)
        else:
            placed.append((at, one))
    return [entry for entry in placed if entry[0] >= position]


@given(st.data(), st.lists(content, max_size=12), st.integers(0, 30))
@settings(max_examples=300)
def test_a_resend_buffer_can_be_rewound_to_any_kept_position(
    data: st.DataObject, contents: list[bytes | Control], keep: int
) -> None:
    buffer = ResendBuffer(keep)
    for one in contents:
        buffer.put(one)
    furthest = 0
    for _ in range(data.draw(st.integers(0, 4))):
        for _ in range(data.draw(st.integers(0, 12))):
            if buffer.is_sent:
                break
            buffer.next()
            buffer.advance()
        furthest = max(furthest, buffer.end - buffer.n_waiting)
        buffer.rewind(data.draw(st.integers(max(0, furthest - keep), buffer.end)))
        furthest = max(furthest, buffer.end - buffer.n_waiting)
    position = buffer.end - buffer.n_waiting
    played: list[bytes | Control] = []
    while not buffer.is_sent:
        played.append(buffer.next())
        buffer.advance()
    found = expected_from(0, played)
    assert [(at + position, what) for at, what in found] == expected_from(position, contents)
    assert buffer.n_waiting == 0


def test_a_resend_buffer_keeps_a_control_message_as_long_as_the_audio_after_it() -> None:
    buffer = ResendBuffer(keep=2)
    contents: list[bytes | Control] = [b"ab", v1.Flush(), b"cd"]
    for one in contents:
        buffer.put(one)
        buffer.advance()
    buffer.rewind(2)
    assert buffer.next() == v1.Flush()


def test_a_resend_buffer_refuses_positions_that_it_does_not_have() -> None:
    buffer = ResendBuffer(keep=2)
    for _ in range(3):
        buffer.put(b"ab")
        buffer.advance()
    buffer.rewind(4)
    with raises(ProtocolError, "audio_not_kept"):
        buffer.rewind(3)
    with raises(ProtocolError, "audio_never_sent"):
        buffer.rewind(7)


def test_control_messages_are_those_of_the_protocol() -> None:
    assert set(get_args(Control)) < set(get_args(v1.ClientMessage))
