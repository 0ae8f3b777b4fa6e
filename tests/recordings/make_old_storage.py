"""Make the storage directories in `tests/data/old_storage`, with the code before the restructuring.

    python -m tests.recordings.make_old_storage

This runs only in a checkout of commit 2f8ad9c with this directory put into it (or in the commits
that added it): the point of the directories is that an earlier version wrote them. With any later
version it would overwrite them with directories of that version.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import numpy as np

from tests.recordings.audio import Audio, buzz, silence
from tests.recordings.embedded import LiveClient, in_order, load
from tests.recordings.engine import RunningServer, Settings
from tests.recordings.old_storage import (
    DIRECTORY,
    KILLED,
    SCRIPT,
    STOPPED,
    TINY,
    durable,
    history,
    pack,
    resume,
)
from tests.recordings.player import EVENTS, Connection, Json, Player
from tests.support.daemons import RunningDaemon

MICROPHONE: Final[Settings] = {"microphone": {"enabled": True}, "server": {"stop_timeout_s": 0.5}}

SPOKEN: Final = np.concatenate([silence(0.7), buzz(1.2), silence(1.0)])
"""A segment with its end."""

CLIP: Final = "espeak_1"
"""Clip that the embedded model recognises."""


class Maker:
    """Daemon over the directory, and what its clients know."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.player = Player(server)
        self.sessions: dict[str, Json] = {}

    @contextlib.asynccontextmanager
    async def session(self, label: str, **options: object) -> AsyncIterator[Connection]:
        """Begin a session whose connection is lost at the end."""
        async with self.player.connect(label) as client:
            await client.start(**options)
            yield client
            await client.drop()

    async def note(self, label: str, n_samples: int, *, is_over: bool = False) -> None:
        """Note the state of a session, as a listener receives it."""
        received = self.player.recording[label]
        ready = next(entry for entry in received if entry.get("type") == "ready")
        path = f"{EVENTS}?session={ready['session']}&since=0"
        name = f"{label}, listener"
        async with self.player.connect(name, path) as listener:
            await (listener.wait_closed() if is_over else listener.wait("ready"))
        messages = self.player.recording[name]
        known = next(entry for entry in messages if entry.get("type") == "ready")
        assert known["next_sample"] == n_samples
        self.sessions[label] = {
            "session": ready["session"],
            "received": durable(messages),
            "stable": _stable(received),
            "next_sample": n_samples,
            "is_over": is_over,
        }


def _stable(received: list[Json]) -> Json | None:
    """Return the stable text of the segment that is open."""
    finals = [entry["segment"] for entry in received if entry.get("type") == "final"]
    partials = [entry for entry in received if entry.get("type") == "partial"]
    if not partials or partials[-1]["segment"] in finals or not partials[-1]["stable"]:
        return None
    newest = partials[-1]
    return {"segment": newest["segment"], "text": newest["text"][: newest["stable"]]}


async def make_sessions(maker: Maker) -> None:
    """Leave sessions in every state."""
    await maker.server.speak(SPOKEN)
    await maker.server.lose_audio(8000, "overflow")
    async with maker.player.connect("microphone", f"{EVENTS}?session=microphone") as listener:
        await listener.wait("ready")
        for begin in range(0, 48_000, 1600):
            await maker.server.speak(buzz(3.0)[begin : begin + 1600])
        await listener.pace()
    await maker.note("microphone", len(SPOKEN) + 8000 + 48_000)

    async with maker.session("nothing received"):
        pass
    await maker.note("nothing received", 0)

    samples = _joined(SPOKEN, buzz(4.0))
    async with maker.session("in mid-segment") as client:
        await client.speak(samples)
    await maker.note("in mid-segment", len(samples))

    options = {"language": "de", "context": "Kontext", "hotwords": ["eins", "zwei"]}
    async with maker.session("with options", words=False, **options) as client:
        await client.speak(samples)
    await maker.note("with options", len(samples))

    async with maker.session("in silence", partials=False) as client:
        await client.speak(_joined(SPOKEN, SPOKEN, SPOKEN))
    await maker.note("in silence", 3 * len(SPOKEN))

    flushed = _joined(SPOKEN, buzz(1.5))
    async with maker.session("flushed") as client:
        await client.speak(flushed)
        await client.tell("flush")
    await maker.note("flushed", len(flushed))

    gap = _joined(SPOKEN, SPOKEN, SPOKEN, SPOKEN)
    async with maker.session("after a gap") as client:
        await client.speak(gap)
    await maker.note("after a gap", len(gap))

    await maker.server.hold("words")
    async with maker.session("ended, not received") as client:
        await client.speak(SPOKEN)
        await client.say("stop")
    await maker.server.release()
    await maker.note("ended, not received", len(SPOKEN), is_over=True)

    await maker.server.hold("words")
    wordless = _joined(SPOKEN, SPOKEN, buzz(3.0))
    async with maker.session("without words") as client:
        await client.speak(wordless)
    await maker.note("without words", len(wordless))


def _joined(*parts: Audio) -> Audio:
    return np.concatenate(parts)


async def leave_killed(directory: Path) -> None:
    """Leave a directory of two daemons: one that was stopped, and one that waits to be killed."""
    server = RunningServer(directory, MICROPHONE, SCRIPT)
    await server.start()
    async with Player(server).connect("an earlier session") as client:
        await client.start()
        await client.speak(SPOKEN)
        await client.stop()
    await server.restart()
    maker = Maker(server)
    await make_sessions(maker)
    _write_sessions(directory, maker)
    print("waiting to be killed", flush=True)
    await asyncio.sleep(600)


async def leave_stopped(directory: Path) -> None:
    """Leave a directory of a daemon that was stopped, with one session that was not finished."""
    server = RunningServer(directory, MICROPHONE, SCRIPT)
    await server.start()
    maker = Maker(server)
    await server.speak(SPOKEN)
    async with maker.player.connect("complete") as client:
        await client.start()
        await client.speak(SPOKEN)
        await client.stop()
    async with maker.session("ended, not received") as client:
        await client.speak(SPOKEN)
    async with maker.session("not finished") as client:
        await client.speak(_joined(SPOKEN, buzz(4.0)))
        await server.hold("text")
    n_samples = len(SPOKEN) + 64_000
    await maker.note("not finished", n_samples)
    await maker.note("ended, not received", len(SPOKEN))
    await server.stop()
    ended = maker.sessions["ended, not received"]
    ended["is_over"] = True  # by the stop
    _write_sessions(directory, maker)


def _write_sessions(directory: Path, maker: Maker) -> None:
    text = json.dumps(maker.sessions)
    (directory / "sessions.json").write_text(text, encoding="utf-8")


def _finish(name: str, directory: Path) -> None:
    """Pack a directory, and write what is known of it."""
    storage = directory / "storage"
    pack(name, storage)
    expected = json.loads((directory / "sessions.json").read_text(encoding="utf-8"))
    known: Json = {"sessions": expected, "history": history(storage)}
    _write(name, known)
    known["resumed"] = []
    for n_crashes in (0, 1):
        with tempfile.TemporaryDirectory() as other:
            known["resumed"].append(resume(name, Path(other), n_crashes=n_crashes))
    _write(name, known)


def _write(name: str, known: Json) -> None:
    text = json.dumps(known, ensure_ascii=False, indent=1, sort_keys=True)
    (DIRECTORY / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def make_killed() -> None:
    """Make the directory of a daemon that is killed."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tests.recordings.make_old_storage", directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "waiting to be killed\n"
            process.send_signal(signal.SIGKILL)
        _finish(KILLED, Path(directory))


def make_stopped() -> None:
    """Make the directory of a daemon that is stopped."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(leave_stopped(Path(directory)))
        _finish(STOPPED, Path(directory))


def make_tiny() -> None:
    """Make the directory of a daemon with the embedded model that is killed in mid-segment."""
    samples = np.concatenate([load(CLIP), silence(1.0)])
    with tempfile.TemporaryDirectory() as directory:
        with RunningDaemon(Path(directory), "--no-mic", "--model", "tiny") as daemon:
            undisturbed = LiveClient(daemon, samples)
            asyncio.run(undisturbed.run())
            daemon.stop()
        whole = in_order(undisturbed.lasting)
    with tempfile.TemporaryDirectory() as directory:
        with RunningDaemon(Path(directory), "--no-mic", "--model", "tiny") as daemon:
            client = LiveClient(daemon, samples)

            def kill(message: Json) -> None:
                if message["type"] == "partial" and message["stable"] > 0:
                    daemon.kill()
                    raise _KilledError

            with contextlib.suppress(_KilledError):
                asyncio.run(client.run(kill))
        pack(TINY, Path(directory) / "storage")
        known = {
            "session": client.session,
            "stable": client.stable[1],
            "history": history(Path(directory) / "storage"),
            "clip": CLIP,
            "lasting": whole,
        }
        _write(TINY, known)


class _KilledError(Exception):
    """The daemon was killed; nothing more is to be received."""


def main() -> None:
    """Make all directories, or with an argument leave one in which the process can be killed."""
    if len(sys.argv) > 1:
        asyncio.run(leave_killed(Path(sys.argv[1])))
        return
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    make_killed()
    make_stopped()
    make_tiny()


if __name__ == "__main__":
    main()
