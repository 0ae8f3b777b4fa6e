"""Sessions of a real daemon: play audio to it, collect its events, check what it guarantees."""

import asyncio
import math
from collections.abc import Callable
from typing import TypeGuard

import numpy as np

from streamasr import client
from streamasr.audio.file import open_audio
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.protocols import v1
from tests.support.fakes import pcm
from tests.support.paths import CLIPS

BLOCK = 2 * SAMPLE_RATE // 10  # bytes, 100 ms


def load_clip(name: str) -> Float32Array:
    """Return the samples of a clip of the tests."""
    with open_audio(CLIPS / name) as file:
        return np.concatenate(list(file.blocks()))


def check_guarantees(events: list[client.Event]) -> None:
    """Check the guarantees of the protocol, which hold whatever happened."""
    durable = [e.seq for e in events if isinstance(e, v1.Final | v1.Words | v1.Gap | v1.End)]
    assert durable == list(range(1, len(durable) + 1)), "a number is missing or was used twice"
    finals = [e for e in events if isinstance(e, v1.Final)]
    assert len({final.segment for final in finals}) == len(finals), "two finals of one segment"
    stable: dict[int, str] = {}
    for event in events:
        if isinstance(event, v1.Partial | v1.Final):
            assert event.text.startswith(stable.get(event.segment, "")), "stable text has changed"
        if isinstance(event, v1.Partial):
            assert event.stable >= len(stable.get(event.segment, ""))
            stable[event.segment] = event.text[: event.stable]
    words = {e.segment: "".join(word.text for word in e.words) for e in events if _has_words(e)}
    assert sum(map(_has_words, events)) == len(words), "the words of a segment came twice"
    assert words == {f.segment: "".join(f.text.split()) for f in finals if f.text}


def _has_words(event: client.Event) -> TypeGuard[v1.Words]:
    return isinstance(event, v1.Words)


async def send_all(stream: client.AudioSession, speech: Float32Array, speed: float) -> None:
    """Send at a multiple of the speed of speech; below infinity there is time for partials."""
    loop, data = asyncio.get_running_loop(), pcm(speech)
    begin = loop.time()
    for start in range(0, len(data), BLOCK):
        await asyncio.sleep(begin + start / (2 * SAMPLE_RATE) / speed - loop.time())
        await stream.send(data[start : start + BLOCK])
    await stream.stop()


async def collect(
    stream: client.AudioSession, react: Callable[[client.Event], None] = lambda _: None
) -> list[client.Event]:
    events = []
    async for event in stream:
        events.append(event)
        react(event)
    return events


async def dictate(
    url: str,
    speech: Float32Array,
    react: Callable[[client.Event], None] = lambda _: None,
    speed: float = math.inf,
) -> list[client.Event]:
    """Send all audio, and return all events."""
    async with asyncio.timeout(240), client.connect(url) as stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(send_all(stream, speech, speed))
        return await collect(stream, react)
