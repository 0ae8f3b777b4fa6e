"""Storage directories of an earlier version, and the conversations that go on from them.

The directories and what clients knew when they were left are in `tests/data/old_storage`, made by
`make_old_storage.py`. Nothing here knows internals of the package.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.recordings.audio import RATE, silence
from tests.recordings.engine import RunningServer
from tests.recordings.player import EVENTS, Connection, Json, Player, Recording, normalise
from tests.recordings.script import Script

DIRECTORY: Final = Path(__file__).parents[1] / "data" / "old_storage"

KILLED: Final = "killed"
"""Storage of a daemon with the scripted model that was killed in mid-segment."""

STOPPED: Final = "stopped"
"""Storage of a daemon with the scripted model that was stopped as a service manager does."""

TINY: Final = "tiny_killed"
"""Storage of a daemon with the embedded model that was killed in mid-segment."""

SCRIPT: Final = Script(failing=frozenset({4}))
"""Script of the daemons that made the directories."""

LATER_SCRIPT: Final = replace(SCRIPT, shift=7)
"""Script of later daemons: what is not forced is recognised as something else."""


SETTINGS: Final = {"storage": {"history_days": 36_500}}
"""The directories become older and older, and nothing in them is to be removed for that."""


def read_expected(name: str) -> Json:
    """Return what is known of a directory.

    `sessions` has, for each session by a label: `session`, its name; `received`, the durable
    messages that had been published; `stable` with `segment` and `text`, what was stable of the
    open segment, or null; `next_sample`; `is_over`. `history` is the output of `streamasr history`.
    `resumed` is what clients received from the version that made the directory: when they resumed
    at once, and when they resumed after another crash.
    """
    expected: Json = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return expected


def unpack(name: str, directory: Path) -> Path:
    """Unpack a storage directory into another directory; its path."""
    with tarfile.open(DIRECTORY / f"{name}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / "storage"


def pack(name: str, storage: Path) -> None:
    """Keep a storage directory as an archive."""
    with tarfile.open(DIRECTORY / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(storage, "storage", filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def resume(name: str, directory: Path, *, n_crashes: int = 0) -> Recording:
    """Start a daemon with the scripted model over a directory, and resume each session.

    Each session is asked for all its messages, gets a second of silence and is stopped. The
    daemon's own session is listened to.

    Args:
        name: of the directory.
        directory: into which it is unpacked.
        n_crashes: so many times the daemon crashes before anyone connects.

    Returns:
        What the clients received, normalised.
    """
    unpack(name, directory)
    return asyncio.run(_resume(read_expected(name), directory, n_crashes))


async def _resume(expected: Json, directory: Path, n_crashes: int) -> Recording:
    async with running(directory) as server, asyncio.timeout(120):
        for _ in range(n_crashes):
            await server.crash()
        player = Player(server)
        for label, known in expected["sessions"].items():
            await _resume_one(player, label, known)
        return normalise(player.recording)


@contextlib.asynccontextmanager
async def running(directory: Path) -> AsyncIterator[RunningServer]:
    """Run a daemon with the scripted model over `storage` in a directory."""
    server = RunningServer(directory, SETTINGS, LATER_SCRIPT)
    await server.start()
    try:
        yield server
    finally:
        await server.abandon()


async def _resume_one(player: Player, label: str, known: Json) -> None:
    if known["session"] == "microphone":
        async with player.connect(label, f"{EVENTS}?session=microphone&since=0") as listener:
            await listener.wait_closed()
        return
    async with player.connect(label) as client:
        if known["is_over"]:
            await client.say("start", session=known["session"], since=0)
            await client.wait_closed()
            return
        await client.start(session=known["session"], since=0)
        await _go_on(client)


async def _go_on(client: Connection) -> None:
    await client.speak(silence(1.0), block=RATE // 2)
    await client.stop()


def history(storage: Path, *options: str) -> list[Json]:
    """Return what `streamasr history` prints of a storage directory, in UTC."""
    config = storage.parent / "history.toml"
    config.write_text(f'[storage]\ndirectory = "{storage}"\n', encoding="utf-8")
    environment = os.environ | {"TZ": "UTC", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "streamasr", "history", "--config", str(config)]
    done = subprocess.run(
        [*command, "--format", "json", *options],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def files(storage: Path) -> dict[str, bytes]:
    """Return the files of the database that hold data, by name."""
    found = [path for path in storage.glob("journal*") if not path.name.endswith("-shm")]
    return {path.name: path.read_bytes() for path in found if path.stat().st_size}


def durable(entries: list[Json]) -> list[Any]:
    """Return the messages that have a number."""
    return [entry for entry in entries if "seq" in entry and entry["type"] != "ready"]
