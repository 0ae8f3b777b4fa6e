"""Frames of a WebSocket on a raw socket: messages in pieces, control frames, and the close."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamasr.server.timeouts import Timeouts
from tests.support.fake_daemon import DaemonOptions, FakeDaemon, hang_up, running_daemon
from tests.support.waiting import eventually

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
QUICK = Timeouts(start=2.0, send=2.0, close=0.3)


def frame(opcode: int, payload: bytes, *, is_last: bool = True, mask: bytes = b"abcd") -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 * is_last | opcode]) + length + mask + masked


START = frame(TEXT, b'{"type":"start"}')


class Peer:
    """The client's end of a WebSocket, which sends any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def next(self) -> tuple[int, bytes]:
        """Read a frame of the server: its opcode and payload."""
        first, size = await self.reader.readexactly(2)
        assert first & 0x80, "the server sends whole messages"
        assert size < 0x80, "the server does not mask"
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        return first & 0xF, await self.reader.readexactly(size)

    async def message(self) -> Any:
        opcode, payload = await self.next()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    async def close_code(self) -> int:
        """Read up to the close frame of the server."""
        while True:
            opcode, payload = await self.next()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


@contextlib.asynccontextmanager
async def peer(directory: Path) -> AsyncIterator[tuple[FakeDaemon, Peer]]:
    """A WebSocket on which a session is open."""
    async with running_daemon(directory, DaemonOptions(timeouts=QUICK)) as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        client = Peer(reader, writer)
        await client.send(START)
        assert (await client.message())["type"] == "ready"
        try:
            yield daemon, client
        finally:
            await hang_up(writer)


async def test_a_message_may_come_in_pieces_with_control_frames_between(tmp_path: Path) -> None:
    async with peer(tmp_path) as (_, client):
        await client.send(
            frame(TEXT, b'{"type":"pi', is_last=False),
            frame(PING, b"are you there"),
            frame(CONTINUATION, b'ng","id":', is_last=False),
            frame(CONTINUATION, b"7}"),
        )
        assert await client.next() == (PONG, b"are you there")
        assert await client.message() == {"type": "pong", "id": 7}


async def test_letters_may_be_cut_between_pieces(tmp_path: Path) -> None:
    text = '{"type":"ping","id":"é"}'.encode()
    cut = text.index(b"\xc3") + 1
    async with peer(tmp_path) as (_, client):
        await client.send(frame(TEXT, text[:cut], is_last=False), frame(CONTINUATION, text[cut:]))
        assert await client.message() == {"type": "pong", "id": "é"}


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"x", is_last=False) + frame(TEXT, b"x"), 1002),
        (frame(3, b"x"), 1002),
        (frame(PING, 126 * b"x"), 1002),
        (bytes([0x82, 1, 0]), 1002),  # not masked
        (bytes([0xC2, 0x81, 0, 0, 0, 0, 0]), 1002),  # a reserved bit
        (bytes([0x82, 0xFF, *(2**21 + 1).to_bytes(8, "big")]), 1009),
        (frame(BINARY, 2**20 * b"x", is_last=False) * 1 + frame(0, (2**20 + 1) * b"x"), 1009),
        (frame(BINARY, b"", is_last=False) + 4096 * frame(CONTINUATION, b"", is_last=False), 1009),
        (frame(CLOSE, b"\0"), 1002),
        (frame(CLOSE, b"\3\xe8"), 1000),
        (frame(CLOSE, b"\x0f\xa0bye"), 4000),
    ],
)
async def test_the_close_code_says_what_was_wrong(tmp_path: Path, sent: bytes, code: int) -> None:
    async with peer(tmp_path) as (daemon, client):
        await client.send(sent)
        assert await client.close_code() == code
        assert await client.is_closed()
        await eventually(lambda: daemon.server.n_connections == 0)


async def test_a_close_without_a_code_is_answered_without_one(tmp_path: Path) -> None:
    async with peer(tmp_path) as (_, client):
        await client.send(frame(CLOSE, b""))
        assert await client.next() == (CLOSE, b"")


async def test_a_client_that_never_closes_its_end_is_cut_off(tmp_path: Path) -> None:
    async with peer(tmp_path) as (daemon, client):
        await client.send(frame(CLOSE, b"\3\xe8"))
        assert await client.close_code() == 1000
        while daemon.server.n_connections:  # goes on as if nothing had happened
            with contextlib.suppress(ConnectionError):
                await client.send(frame(BINARY, 1000 * b"x"))
            await asyncio.sleep(0)


async def test_a_client_that_does_not_answer_a_close_is_cut_off(tmp_path: Path) -> None:
    async with peer(tmp_path) as (daemon, client):
        await client.send(frame(TEXT, b'{"type":"stop"}'))
        assert await client.close_code() == 1000
        await eventually(lambda: daemon.server.n_connections == 0)
        # Its end may be lost, so it is kept.
        [live] = daemon.sessions
        assert live.is_over.is_set()


async def test_a_close_that_is_answered_ends_the_session(tmp_path: Path) -> None:
    async with peer(tmp_path) as (daemon, client):
        await client.send(frame(TEXT, b'{"type":"stop"}'))
        assert await client.close_code() == 1000
        await client.send(frame(CLOSE, b"\3\xe8"))
        assert await client.is_closed()
        await eventually(lambda: not len(daemon.sessions))


async def test_pings_of_a_client_that_does_not_read_do_not_pile_up(tmp_path: Path) -> None:
    async with peer(tmp_path) as (daemon, client):
        [stream] = daemon.server.connections
        pings = frame(PING, 100 * b"x") * 1000
        client.writer.transport.set_write_buffer_limits(high=1 << 18)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    await client.send(pings)
        assert stream._transport.get_write_buffer_size() < 1 << 18
