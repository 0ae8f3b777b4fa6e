"""Clients that behave badly, and one beside each of them that does not suffer from it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from streamasr.server.connection import Timeouts
from tests.support.fakes import pcm, talk
from tests.support.house import (
    Client,
    House,
    PatientEngine,
    Rooms,
    durable,
    exact,
    hang_up,
    open_house,
    recognise,
)
from tests.support.waiting import eventually

TALK = exact(talk(1.0, 1.5, 1.0))
EXPECTED = recognise(TALK)


@contextlib.asynccontextmanager
async def well_behaved(house: House) -> AsyncIterator[None]:
    """A client that speaks all the while, and again and again hears all it should."""
    is_enough = asyncio.Event()

    async def converse() -> int:
        n_rounds = 0
        while not (is_enough.is_set() and n_rounds):
            async with Client.start(house) as client:
                for begin in range(0, len(TALK), 1600):
                    await client.connection.send(pcm(TALK[begin : begin + 1600]))
                    await client.say("ping")
                    async with asyncio.timeout(10):
                        await client.hear("pong")
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
    house: House,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = house.address.removeprefix("ws://").rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def upgrade(house: House) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket on which we can write what we like."""
    reader, writer = await raw_connection(house)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame with a mask of zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


async def test_one_that_never_reads_is_closed_and_can_come_back_for_everything(
    tmp_path: Path,
) -> None:
    rooms = Rooms(timeouts=Timeouts(send=0.3, close=0.2))
    async with open_house(tmp_path, rooms) as house, well_behaved(house):
        async with Client.start(house) as client:
            await client.send(TALK)
            await client.hear("words", 3)
            client.connection.transport.pause_reading()
            live = house.sessions.find(client.session)
            # Nobody can say so much, but the kernel takes megabytes for us.
            noise = "x" * 100_000
            with contextlib.suppress(ConnectionClosed):
                while live.publisher.n_readers:
                    live.notify("test", noise)
                    await asyncio.sleep(0)
        async with Client.start(house, session=client.session, since=0) as again:
            assert durable(again.heard) == EXPECTED[:-1]
            assert again.ready["next_sample"] == len(TALK)
            assert durable(await again.stop()) == EXPECTED


async def test_a_listener_that_never_reads_holds_nobody_up(tmp_path: Path) -> None:
    rooms = Rooms(timeouts=Timeouts(send=0.3, close=0.2))
    async with open_house(tmp_path, rooms) as house, well_behaved(house):
        live = house.begin_own()
        async with Client.visit(house, "/v1/events?session=microphone") as client:
            await client.hear("ready")
            client.connection.transport.pause_reading()
            while live.publisher.n_readers:
                live.notify("test", "x" * 100_000)
                await asyncio.sleep(0)


async def test_a_listener_that_pings_and_never_reads_costs_no_memory(tmp_path: Path) -> None:
    rooms = Rooms(timeouts=Timeouts(send=0.3, close=0.2))
    async with open_house(tmp_path, rooms) as house, well_behaved(house):
        live = house.begin_own()
        async with Client.visit(house, "/v1/events?session=microphone") as client:
            await client.hear("ready")
            client.connection.transport.pause_reading()
            [reader] = live.publisher._readers
            ping = masked(1, b'{"type":"ping","id":"' + 90 * b"x" + b'"}') * 100
            while live.publisher.n_readers and not client.connection.transport.is_closing():
                client.connection.transport.write(ping)
                await asyncio.sleep(0)
                assert len(reader.outbox) <= 64


async def test_a_flood_of_tiny_frames(tmp_path: Path) -> None:
    rooms = Rooms(timeouts=Timeouts(close=0.2))
    async with open_house(tmp_path, rooms) as house, well_behaved(house):
        reader, writer = await upgrade(house)
        writer.write(masked(1, b'{"type":"start"}'))
        frame = masked(2, b"\0")
        for _ in range(4):
            writer.write(frame * 5_000)
            await writer.drain()
        writer.write(masked(1, b'{"type":"stop"}'))
        heard = await reader.read()
        await hang_up(writer)
        assert b'"type":"end"' in heard
        assert b'"duration":0.625' in heard


@pytest.mark.parametrize("seed", range(4))
async def test_garbage_instead_of_frames(tmp_path: Path, seed: int) -> None:
    rooms = Rooms(timeouts=Timeouts(start=0.5, close=0.2))
    async with open_house(tmp_path, rooms) as house, well_behaved(house):
        for _ in range(10):
            reader, writer = await upgrade(house)
            writer.write(masked(1, b'{"type":"start"}'))
            writer.write(random.Random(seed).randbytes(5_000))
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 20)
            await hang_up(writer)
        await eventually(lambda: house.server.n_connections <= 1)


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
async def test_half_of_something_and_then_silence_or_an_abrupt_end(
    tmp_path: Path, said: bytes
) -> None:
    rooms = Rooms(max_sessions=64, timeouts=Timeouts(start=0.3, close=0.2))
    async with open_house(tmp_path, rooms) as house:
        silent = []
        async with well_behaved(house):
            for number in range(20):
                is_http = not said or said.startswith(b"GET")
                _, writer = await (raw_connection(house) if is_http else upgrade(house))
                writer.write(said)
                silent.append(writer)
                if number % 2:
                    writer.transport.abort()
        for writer in silent:
            await hang_up(writer)
        await eventually(lambda: not house.server.n_connections)


def has_heard(house: House, name: str) -> bool:
    return house.sessions.find(name).intake.position > 0


async def test_sessions_that_are_begun_and_left_fill_the_house_only_for_a_while(
    tmp_path: Path,
) -> None:
    async with open_house(tmp_path, Rooms(max_sessions=3, resume_s=2.0)) as house:
        for _ in range(3):
            async with Client.start(house) as client:
                await client.send(TALK[:1600])
                await eventually(partial(has_heard, house, client.session))
                client.connection.transport.abort()
        async with Client.visit(house) as client:
            await client.say("start")
            assert (await client.refusal())[1]["code"] == "overloaded"
        await eventually(lambda: not len(house.sessions))
        async with Client.start(house) as client:
            assert (await client.stop())[-1]["type"] == "end"


@pytest.mark.parametrize("code", [1000, 1001])
async def test_pages_that_are_left_and_opened_again_never_fill_the_house(
    tmp_path: Path, code: int
) -> None:
    async with open_house(tmp_path, Rooms(max_sessions=2)) as house:
        for _ in range(6):
            async with Client.start(house) as client:
                await client.send(TALK[:1600])
                await eventually(partial(has_heard, house, client.session))
                await client.connection.close(code)
            await eventually(lambda: not house.server.n_connections)


async def test_many_that_say_too_much_at_once_are_each_told_so(tmp_path: Path) -> None:
    async def say_too_much(house: House) -> str:
        async with Client.visit(house) as client:
            await client.say("start", context="x" * 1_000_000)
            return str((await client.refusal())[1]["code"])

    async with open_house(tmp_path) as house, well_behaved(house):
        codes = await asyncio.gather(*(say_too_much(house) for _ in range(30)))
        assert set(codes) == {"too_big"}


async def test_one_that_is_never_answered_costs_only_its_own_room(tmp_path: Path) -> None:
    """The engine is stuck: nothing is read beyond the room, and nothing else is held up."""
    rooms = Rooms(engine=PatientEngine(), max_lag_s=5.0, timeouts=Timeouts(close=0.2))
    async with open_house(tmp_path, rooms) as house:
        speech = np.tile(TALK, 60)
        clients = [Client.start(house) for _ in range(4)]
        async with contextlib.AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(client) for client in clients]
            sending = [asyncio.create_task(client.send(speech)) for client in opened]
            lives = list(house.sessions)
            await eventually(lambda: not any(live.intake.has_room(house.max_lag) for live in lives))
            for _ in range(100):
                await asyncio.sleep(0)
            assert all(live.intake.position < 10 * 16_000 for live in lives)
            path = f"/v1/events?session={opened[0].session}"
            async with Client.visit(house, path) as listener:
                assert (await listener.hear("ready"))["next_sample"] == lives[0].intake.position
            for task in sending:
                task.cancel()
