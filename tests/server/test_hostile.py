"""Clients that behave badly, beside a client that must not be disturbed by them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from streamasr.server.timeouts import Timeouts
from tests.support.fake_daemon import (
    Client,
    DaemonOptions,
    FakeDaemon,
    durable,
    exact,
    hang_up,
    recognise,
    running_daemon,
)
from tests.support.fakes import PatientEngine, pcm, talk
from tests.support.waiting import eventually

TALK = exact(talk(1.0, 1.5, 1.0))
EXPECTED = recognise(TALK)


@contextlib.asynccontextmanager
async def well_behaved(daemon: FakeDaemon) -> AsyncIterator[None]:
    """Run a client that sends audio all the time, and check that it receives everything."""
    is_enough = asyncio.Event()

    async def converse() -> int:
        n_rounds = 0
        while not (is_enough.is_set() and n_rounds):
            async with Client.start(daemon) as client:
                for begin in range(0, len(TALK), 1600):
                    await client.connection.send(pcm(TALK[begin : begin + 1600]))
                    await client.send_message("ping")
                    async with asyncio.timeout(10):
                        await client.receive("pong")
                async with asyncio.timeout(10):
                    assert durable(await client.stop()) == EXPECTED
            n_rounds += 1
        return n_rounds

    conversing = asyncio.create_task(converse())
    try:
        yield
    finally:
        is_enough.set()
        await conversing


async def raw_connection(
    daemon: FakeDaemon,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = daemon.address.removeprefix("ws://").rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def upgrade(daemon: FakeDaemon) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket on which any bytes can be sent."""
    reader, writer = await raw_connection(daemon)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a frame with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


async def test_a_client_that_never_reads_is_closed_and_can_resume_with_all_messages(
    tmp_path: Path,
) -> None:
    options = DaemonOptions(timeouts=Timeouts(send=0.3, close=0.2))
    async with running_daemon(tmp_path, options) as daemon, well_behaved(daemon):
        async with Client.start(daemon) as client:
            await client.send_audio(TALK)
            await client.receive("words", 3)
            client.connection.transport.pause_reading()
            live = daemon.sessions.find(client.session)
            # The kernel buffers megabytes, more than speech has messages.
            noise = "x" * 100_000
            with contextlib.suppress(ConnectionClosed):
                while live.publisher.n_readers:
                    live.notify("test", noise)
                    await asyncio.sleep(0)
        async with Client.start(daemon, session=client.session, since=0) as again:
            assert durable(again.received) == EXPECTED[:-1]
            assert again.ready["next_sample"] == len(TALK)
            assert durable(await again.stop()) == EXPECTED


async def test_a_reader_that_does_not_read_delays_no_other_client(tmp_path: Path) -> None:
    options = DaemonOptions(timeouts=Timeouts(send=0.3, close=0.2))
    async with running_daemon(tmp_path, options) as daemon, well_behaved(daemon):
        live = daemon.host.begin_own()
        async with Client.connect(daemon, "/v1/events?session=microphone") as client:
            await client.receive("ready")
            client.connection.transport.pause_reading()
            while live.publisher.n_readers:
                live.notify("test", "x" * 100_000)
                await asyncio.sleep(0)


async def test_a_reader_that_pings_and_does_not_read_takes_no_memory(tmp_path: Path) -> None:
    options = DaemonOptions(timeouts=Timeouts(send=0.3, close=0.2))
    async with running_daemon(tmp_path, options) as daemon, well_behaved(daemon):
        live = daemon.host.begin_own()
        async with Client.connect(daemon, "/v1/events?session=microphone") as client:
            await client.receive("ready")
            client.connection.transport.pause_reading()
            [reader] = live.publisher._readers
            ping = masked(1, b'{"type":"ping","id":"' + 90 * b"x" + b'"}') * 100
            while live.publisher.n_readers and not client.connection.transport.is_closing():
                client.connection.transport.write(ping)
                await asyncio.sleep(0)
                assert len(reader.outbox) <= 64


async def test_a_flood_of_tiny_frames_is_taken(tmp_path: Path) -> None:
    options = DaemonOptions(timeouts=Timeouts(close=0.2))
    async with running_daemon(tmp_path, options) as daemon, well_behaved(daemon):
        reader, writer = await upgrade(daemon)
        writer.write(masked(1, b'{"type":"start"}'))
        frame = masked(2, b"\0")
        for _ in range(4):
            writer.write(frame * 5_000)
            await writer.drain()
        writer.write(masked(1, b'{"type":"stop"}'))
        received = await reader.read()
        await hang_up(writer)
        assert b'"type":"end"' in received
        assert b'"duration":0.625' in received


@pytest.mark.parametrize("seed", range(4))
async def test_garbage_instead_of_frames_closes_the_connection(tmp_path: Path, seed: int) -> None:
    options = DaemonOptions(timeouts=Timeouts(start=0.5, close=0.2))
    async with running_daemon(tmp_path, options) as daemon, well_behaved(daemon):
        for _ in range(10):
            reader, writer = await upgrade(daemon)
            writer.write(masked(1, b'{"type":"start"}'))
            writer.write(random.Random(seed).randbytes(5_000))
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            await hang_up(writer)
        await eventually(lambda: daemon.server.n_connections <= 1)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /v1/stream HTTP/1.1\r\nHost",
        b"\x82\xff",
        masked(1, b'{"type":"start"}')[:-3],
        masked(1, b'{"type":"start"}') + masked(2, bytes(1000))[:500],
        masked(1, b'{"type":"start"}') + b"\x02\x81\0\0\0\0\0",  # a fragment, and no other
    ],
)
async def test_an_incomplete_request_or_frame_does_not_keep_a_connection(
    tmp_path: Path, said: bytes
) -> None:
    options = DaemonOptions(max_sessions=64, timeouts=Timeouts(start=0.3, close=0.2))
    async with running_daemon(tmp_path, options) as daemon:
        silent = []
        async with well_behaved(daemon):
            for number in range(20):
                is_http = not said or said.startswith(b"GET")
                _, writer = await (raw_connection(daemon) if is_http else upgrade(daemon))
                writer.write(said)
                silent.append(writer)
                if number % 2:
                    writer.transport.abort()
        for writer in silent:
            await hang_up(writer)
        await eventually(lambda: not daemon.server.n_connections)


def has_heard(daemon: FakeDaemon, name: str) -> bool:
    return daemon.sessions.find(name).intake.position > 0


async def test_abandoned_sessions_take_places_for_a_limited_time(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path, DaemonOptions(max_sessions=3, resume_s=2.0)) as daemon:
        for _ in range(3):
            async with Client.start(daemon) as client:
                await client.send_audio(TALK[:1600])
                await eventually(partial(has_heard, daemon, client.session))
                client.connection.transport.abort()
        async with Client.connect(daemon) as client:
            await client.send_message("start")
            assert (await client.refusal())[1]["code"] == "overloaded"
        await eventually(lambda: not len(daemon.sessions))
        async with Client.start(daemon) as client:
            assert (await client.stop())[-1]["type"] == "end"


@pytest.mark.parametrize("code", [1000, 1001])
async def test_pages_that_are_left_and_opened_again_take_no_places(
    tmp_path: Path, code: int
) -> None:
    async with running_daemon(tmp_path, DaemonOptions(max_sessions=2)) as daemon:
        for _ in range(6):
            async with Client.start(daemon) as client:
                await client.send_audio(TALK[:1600])
                await eventually(partial(has_heard, daemon, client.session))
                await client.connection.close(code)
            await eventually(lambda: not daemon.server.n_connections)


async def test_many_oversized_messages_at_once_are_all_refused(tmp_path: Path) -> None:
    async def say_too_much(daemon: FakeDaemon) -> str:
        async with Client.connect(daemon) as client:
            await client.send_message("start", context="x" * 1_000_000)
            return str((await client.refusal())[1]["code"])

    async with running_daemon(tmp_path) as daemon, well_behaved(daemon):
        codes = await asyncio.gather(*(say_too_much(daemon) for _ in range(30)))
        assert set(codes) == {"too_big"}


async def test_a_session_that_is_never_answered_takes_only_its_own_memory(tmp_path: Path) -> None:
    """The engine is stuck: nothing is read beyond the room, and nothing else is held up."""
    options = DaemonOptions(engine=PatientEngine(), max_lag_s=5.0, timeouts=Timeouts(close=0.2))
    async with running_daemon(tmp_path, options) as daemon:
        speech = np.tile(TALK, 60)
        clients = [Client.start(daemon) for _ in range(4)]
        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(client) for client in clients]
            sending = [asyncio.create_task(client.send_audio(speech)) for client in opened]
            lives = list(daemon.sessions)
            await eventually(
                lambda: not any(live.intake.has_room(daemon.max_lag) for live in lives)
            )
            for _ in range(100):
                await asyncio.sleep(0)
            assert all(live.intake.position < 10 * 16_000 for live in lives)
            path = f"/v1/events?session={opened[0].session}"
            async with Client.connect(daemon, path) as listener:
                assert (await listener.receive("ready"))["next_sample"] == lives[0].intake.position
            for task in sending:
                task.cancel()
