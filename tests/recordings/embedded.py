"""Sessions and transcripts of the embedded model, from real processes that the command line starts.

    python -m tests.recordings.embedded

makes the recordings in `tiny/` anew. Partials depend on the time that a machine takes, so that only
finals, words and the end are kept.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.recordings.audio import BLOCK, RATE, Audio, pcm_s16le, silence
from tests.support.daemons import RunningDaemon

Json = dict[str, Any]

DIRECTORY: Final = Path(__file__).parent / "tiny"
CLIPS: Final = Path(__file__).parents[1] / "data" / "tiny_clips"

SPOKEN: Final = ("espeak_1", "mandarin", "noise", "espeak_joined", "flite_joined_1")
"""Clips of the live session, with a second of silence after each."""

SPEED: Final = 4.0
"""Seconds of audio that a client sends in a second."""

FORMATS: Final = ("txt", "json", "srt", "vtt")

TRANSCRIPTS: Final[dict[str, list[str]]] = {
    "default": ["espeak_1.flac", "mandarin_joined.flac", "noise.flac"],
    "no-words": ["--no-words", "espeak_2.flac"],
    "part": ["--start", "1.5", "--duration", "2.5", "espeak_1.flac"],
    "digits": ["--itn", "espeak_1.flac", "mandarin.flac"],
    "spread": ["--aligner", "none", "flite.flac"],
    "language": ["--language", "English", "--context", "coffee", "flite_joined_1.flac"],
    "cut": ["--max-segment", "3", "--cut-search", "1", "--hangover", "0.3", "espeak_1.flac"],
}
"""Options and files of `streamasr transcribe`, by the directory of what it writes."""

_TIMEOUT_S: Final = 120.0


def load(name: str) -> Audio:
    """Return the samples of a clip, (n,)."""
    with av.open(str(CLIPS / f"{name}.flac")) as file:
        blocks = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    return np.concatenate(blocks).astype(np.float32) / np.float32(32768)


def speech() -> Audio:
    """Return what is said in the live session, (n,)."""
    parts = [part for name in SPOKEN for part in (load(name), silence(1.0))]
    return np.concatenate(parts)


class LiveClient:
    """Client that sends audio several times as fast as it was spoken, and survives crashes."""

    def __init__(self, daemon: RunningDaemon, samples: Audio, session: str | None = None) -> None:
        """Prepare; `run` does it.

        Args:
            daemon: to connect to.
            samples: (n,), everything that the session gets.
            session: to resume; None begins one.
        """
        self.session = session
        self.lasting: list[Json] = []
        self.stable: dict[int, str] = {}
        """Text of each segment that its newest partial declared stable."""
        self._daemon = daemon
        self._data = pcm_s16le(samples)

    async def run(self, react: Callable[[Json], None] = lambda _: None) -> None:
        """Send everything and receive everything; a lost connection is opened again."""
        async with asyncio.timeout(_TIMEOUT_S):
            while not (self.lasting and self.lasting[-1]["type"] == "end"):
                try:
                    await self._connect(react)
                except (ConnectionClosed, OSError):
                    await asyncio.sleep(0.05)

    async def _connect(self, react: Callable[[Json], None]) -> None:
        start: Json = {"type": "start"}
        if self.session is not None:
            since = self.lasting[-1]["seq"] if self.lasting else 0
            start |= {"session": self.session, "since": since}
        url = f"{self._daemon.url}/v1/stream"
        async with connect(url, ping_interval=None, open_timeout=_TIMEOUT_S) as websocket:
            await websocket.send(json.dumps(start))
            sending: asyncio.Task[None] | None = None
            try:
                async for frame in websocket:
                    message = json.loads(frame)
                    if message["type"] == "ready":
                        self.session = message["session"]
                        sending = asyncio.create_task(self._send(websocket, message["next_sample"]))
                    self._take(message)
                    react(message)
            finally:
                if sending:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, websocket: Any, position: int) -> None:
        loop = asyncio.get_running_loop()
        began, first = loop.time(), position
        while position * 2 < len(self._data):
            await asyncio.sleep(began + (position - first) / RATE / SPEED - loop.time())
            await websocket.send(self._data[2 * position : 2 * (position + BLOCK)])
            position += BLOCK
        await websocket.send('{"type": "stop"}')

    def _take(self, message: Json) -> None:
        kind = message["type"]
        if kind in ("partial", "final"):
            known = self.stable.get(message["segment"], "")
            assert message["text"].startswith(known), "stable text was taken back"
        if kind == "partial":
            self.stable[message["segment"]] = message["text"][: message["stable"]]
        if kind != "ready" and "seq" in message:
            self.lasting.append(message)


def record_live(directory: Path) -> tuple[list[Json], list[Json]]:
    """Speak to a daemon, and ask for the history afterwards.

    Returns:
        The lasting messages, and the finals as `streamasr history` prints them.
    """
    with RunningDaemon(directory, "--no-mic", "--model", "tiny") as daemon:
        client = LiveClient(daemon, speech())
        asyncio.run(client.run())
        history = read_history(daemon.config)
        assert daemon.stop() == 0
    return in_order(client.lasting), history


def record_crash(directory: Path) -> list[Json]:
    """Speak to a daemon that is killed twice, in mid-segment and after a final."""
    with RunningDaemon(directory, "--no-mic", "--model", "tiny") as daemon:
        client = LiveClient(daemon, speech())
        kills: list[str] = []

        def kill(message: Json) -> None:
            wanted = ("partial", "final")
            is_stable = message["type"] != "partial" or message["stable"] > 0
            if len(kills) < len(wanted) and message["type"] == wanted[len(kills)] and is_stable:
                kills.append(message["type"])
                daemon.kill()
                daemon.start()

        asyncio.run(client.run(kill))
        assert len(kills) == 2
        assert daemon.stop() == 0
    return in_order(client.lasting)


def record_microphone(directory: Path) -> list[Json]:
    """Listen to a daemon that plays a clip in place of a microphone."""
    options = ["--input", str(CLIPS / "espeak_joined.flac"), "--speed", str(SPEED)]
    received: list[Json] = []

    async def listen(url: str) -> None:
        async with asyncio.timeout(_TIMEOUT_S), connect(url, ping_interval=None) as websocket:
            received.extend([json.loads(frame) async for frame in websocket])

    with RunningDaemon(directory, "--model", "tiny", *options) as daemon:
        asyncio.run(listen(f"{daemon.url}/v1/events?session=microphone&since=0"))
        assert daemon.stop(signal.SIGINT) == 0
    return in_order([m for m in received if m["type"] != "ready" and "seq" in m])


def in_order(messages: list[Json]) -> list[Json]:
    """Sort lasting messages by segment, without their numbers, which must have no holes."""
    assert [m["seq"] for m in messages] == list(range(1, len(messages) + 1))
    bare = [{key: value for key, value in m.items() if key != "seq"} for m in messages]
    return sorted(bare, key=lambda m: (m["type"] == "end", m.get("segment", 0), m["type"]))


def read_history(config: Path) -> list[Json]:
    """Return the finals that `streamasr history` prints, without sessions and clocks."""
    output = run_command("history", "--config", str(config), "--format", "json")
    finals = [json.loads(line) for line in output.splitlines()]
    left_out = ("session", "began", "time", "seq")
    return [{key: v for key, v in final.items() if key not in left_out} for final in finals]


def transcribe(name: str, directory: Path) -> dict[str, str]:
    """Run `streamasr transcribe` with the options of `TRANSCRIPTS`.

    Returns:
        What it writes, by file name.
    """
    formats = [option for kind in FORMATS for option in ("--format", kind)]
    options = ["--model", "tiny", "--threads", "1", "--output-dir", str(directory), *formats]
    run_command("transcribe", *options, *TRANSCRIPTS[name], cwd=CLIPS)
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(directory.iterdir())}


def run_command(*arguments: str, cwd: Path | None = None) -> str:
    """Run `streamasr`, without any file of settings; its standard output."""
    environment = os.environ | {"STREAMASR_CONFIG": os.devnull, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "streamasr", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _write(name: str, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True)
    (DIRECTORY / name).write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Make the recordings anew."""
    DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        live, history = record_live(Path(directory))
        _write("live.json", live)
        _write("history.json", history)
    with tempfile.TemporaryDirectory() as directory:
        _write("microphone.json", record_microphone(Path(directory)))
    for name in TRANSCRIPTS:
        with tempfile.TemporaryDirectory() as directory:
            written = transcribe(name, Path(directory))
        (DIRECTORY / name).mkdir(exist_ok=True)
        for file, text in written.items():
            (DIRECTORY / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
