"""Much audio through the daemon, as fast as it reads, while memory and promises are watched.

python -m tests.soak --minutes 90 --sessions 3

Prints memory in the second and in the last quarter, the worst lag, and what was recognised; exits
with 1 when memory has grown by more than 3 % or a promise was broken. Memory reaches its plateau
after some 30 s, so runs that are over sooner say little about it.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from streamasr import client
from streamasr.audio.file import open_audio
from streamasr.protocols import v1
from streamasr.units import SAMPLE_RATE
from tests.daemons import RunningDaemon
from tests.fakes import pcm

CLIPS = Path(__file__).parent / "data" / "tiny_clips"
MOST_GROWTH = 0.03
_BLOCK = 2 * SAMPLE_RATE  # bytes, 1 s
_WATCH_S = 0.5


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    minutes: float
    sessions: int
    seconds: float
    finals: int
    words: int
    gaps: int
    second_quarter_mib: float
    last_quarter_mib: float
    worst_lag_s: float

    @property
    def growth(self) -> float:
        """Memory in the last quarter over that in the second."""
        return self.last_quarter_mib / self.second_quarter_mib - 1


def speech() -> bytes:
    """All clips with pauses between them, 16 bit."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    parts = []
    for path in sorted(CLIPS.glob("*.flac")):
        with open_audio(path) as file:
            parts += [*file.blocks(), pause]
    return pcm(np.concatenate(parts))


async def listen(stream: client.Stream) -> tuple[int, int, int]:
    """Count finals, words and gaps; checks that their numbers have no hole."""
    counts = {v1.Final: 0, v1.Words: 0, v1.Gap: 0}
    n_durable = 0
    async for event in stream:
        if isinstance(event, v1.Final | v1.Words | v1.Gap | v1.End):
            n_durable += 1
            assert event.seq == n_durable, f"number {event.seq} in place {n_durable}"
            counts[type(event)] = counts.get(type(event), 0) + 1
    return counts[v1.Final], counts[v1.Words], counts[v1.Gap]


async def speak(url: str, data: bytes, n_bytes: int) -> tuple[int, int, int]:
    """One session of so much audio."""
    async with client.connect(url) as stream, asyncio.TaskGroup() as tasks:
        counts = tasks.create_task(listen(stream))
        for start in range(0, n_bytes, _BLOCK):
            begin = start % (len(data) - _BLOCK)
            await stream.send(data[begin : begin + _BLOCK])
        await stream.stop()
        return await counts


def memory_mib(processes: list[int]) -> float:
    """Proportional set size of these processes."""
    return sum(_pss_kib(Path(f"/proc/{process}/smaps_rollup")) for process in processes) / 1024


def _pss_kib(path: Path) -> int:
    lines = path.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


async def watch(daemon: RunningDaemon, memory: list[float], lags: list[float]) -> None:
    """Note memory and lag until cancelled."""
    processes = [daemon.process.pid, *daemon.children().values()]
    while True:
        memory.append(memory_mib(processes))
        lags.append(await asyncio.to_thread(lag_s, daemon.port))
        await asyncio.sleep(_WATCH_S)


def lag_s(port: int) -> float:
    """What the daemon says itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines: Iterator[str] = iter(answer.read().decode().splitlines())
    return next(float(x.split()[1]) for x in lines if x.startswith("streamasr_lag_seconds "))


async def soak(daemon: RunningDaemon, minutes: float, n_sessions: int) -> Result:
    """Run it."""
    memory: list[float] = []
    lags: list[float] = []
    data = speech()
    n_bytes = round(minutes * 60) * 2 * SAMPLE_RATE
    daemon.wait_for("is loaded")
    begin = time.monotonic()
    watching = asyncio.create_task(watch(daemon, memory, lags))
    counts = await asyncio.gather(*(speak(daemon.url, data, n_bytes) for _ in range(n_sessions)))
    watching.cancel()
    finals, words, gaps = (sum(column) for column in zip(*counts, strict=True))
    quarter = max(1, len(memory) // 4)
    return Result(
        minutes=minutes,
        sessions=n_sessions,
        seconds=time.monotonic() - begin,
        finals=finals,
        words=words,
        gaps=gaps,
        second_quarter_mib=float(np.mean(memory[quarter : 2 * quarter] or memory)),
        last_quarter_mib=float(np.mean(memory[-quarter:])),
        worst_lag_s=max(lags, default=0.0),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=90, help="of audio in each session")
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        RunningDaemon(Path(directory), "--no-mic") as daemon,
    ):
        result = asyncio.run(soak(daemon, options.minutes, options.sessions))
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        for name, value in asdict(result).items():
            print(f"{name:20} {value:10.1f}")
        print(f"{'growth':20} {result.growth:10.1%}")
    sys.exit(result.growth > MOST_GROWTH or result.gaps > 0)


if __name__ == "__main__":
    main()
