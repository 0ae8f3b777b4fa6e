"""Sessions through the public socket, with the times of audio and messages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr import client
from streamasr.bench.delays import Endpointing, Summary, summarise
from streamasr.bench.recording import Recording
from streamasr.bench.speech import Speech
from streamasr.bench.telemetry import Consumption, Look, Telemetry, consumption
from streamasr.client import v1
from streamasr.core.units import SAMPLE_RATE, to_seconds

BLOCK: Final = SAMPLE_RATE * 20 // 1000
"""Samples in a block, 20 ms, as a device would deliver them."""

FAST_BLOCK: Final = SAMPLE_RATE // 2
"""Samples in a block without a pace."""

STAGGER_S: Final = 0.73
"""Seconds between the beginnings of two sessions, so that they do not pause together."""

WARM_UP_S: Final = 16.0
"""Seconds of audio before the measurement, so that everything is loaded: the built-in clip."""

Report = Callable[[float], None]
"""Receives the seconds of audio that were sent."""


@dataclass(frozen=True, slots=True)
class Server:
    """Address of the daemon, and its token."""

    url: str
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Sessions that ran at the same time."""

    recordings: Sequence[Recording]
    looks: Sequence[Look]
    began: float
    """Time on the clock of the looks."""


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """Figures of sessions, and the resources that they used."""

    summary: Summary
    consumption: Consumption
    wall_s: float


async def measure(
    server: Server,
    speech: Speech,
    *,
    pace: float,
    n_sessions: int,
    telemetry: Telemetry,
    partials: bool = True,
    report: Report = lambda _: None,
) -> Run:
    """Play speech to a daemon in so many sessions at once.

    Raises:
        ProtocolError: the daemon refused a session.
        UnreachableError: the daemon does not answer.
    """
    clock = asyncio.get_running_loop().time
    await telemetry.look(clock)
    began = clock()
    watching = asyncio.create_task(telemetry.watch(clock))
    try:
        async with _plain_errors(), asyncio.TaskGroup() as sessions:
            tasks = [
                sessions.create_task(
                    _speak_later(
                        number * STAGGER_S if pace else 0.0,
                        server,
                        speech,
                        pace,
                        partials=partials,
                        report=report if number == 0 else lambda _: None,
                    )
                )
                for number in range(n_sessions)
            ]
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await telemetry.look(clock)
    return Run([task.result() for task in tasks], telemetry.looks, began)


def result_of(run: Run, rules: Endpointing) -> LatencyResult:
    """Return the figures of a run."""
    wall = run.looks[-1].at - run.began
    return LatencyResult(summarise(run.recordings, rules), consumption(list(run.looks)), wall)


async def warm_up(server: Server, speech: Speech) -> None:
    """Run a session, so that all models are loaded, the aligner included."""
    await speak(server, speech, pace=0.0)


async def speak(
    server: Server,
    speech: Speech,
    *,
    pace: float,
    partials: bool = True,
    report: Report = lambda _: None,
) -> Recording:
    """Run one session from its first sample to its end; return its messages with their times."""
    clock = asyncio.get_running_loop().time
    recording = Recording(pace=pace)
    stream = client.connect(server.url, token=server.token, partials=partials)
    async with _plain_errors(), stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(_receive(stream, recording, clock))
        recording.began = clock()
        block = BLOCK if pace else FAST_BLOCK
        for start in range(0, speech.n_samples, block):
            end = min(start + block, speech.n_samples)
            if pace:
                due = recording.began + to_seconds(end) / pace
                await asyncio.sleep(max(0.0, due - clock()))
            await stream.send(speech.pcm(start, end))
            recording.note_sent(to_seconds(end), clock())
            report(to_seconds(end))
        recording.stopped = clock()
        await stream.stop()
    return recording


async def _speak_later(
    delay: float,
    server: Server,
    speech: Speech,
    pace: float,
    *,
    partials: bool,
    report: Report,
) -> Recording:
    await asyncio.sleep(delay)
    return await speak(server, speech, pace=pace, partials=partials, report=report)


async def _receive(
    stream: client.AudioSession, recording: Recording, clock: Callable[[], float]
) -> None:
    async for event in stream:
        if not isinstance(event, client.Reconnecting | client.Resumed):
            recording.note_received(event, clock())


@contextlib.asynccontextmanager
async def _plain_errors() -> AsyncIterator[None]:
    """Raise the first error of a group of tasks by itself."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def texts(recording: Recording) -> list[str]:
    """Return the text of each segment."""
    messages = (one.message for one in recording.received)
    return [message.text for message in messages if isinstance(message, v1.Final)]
