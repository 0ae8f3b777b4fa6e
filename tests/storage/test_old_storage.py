"""Storage directories that an earlier version left: they are read, and their sessions go on.

`tests/data/old_storage/README.md` says how they were made.
"""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recordings.audio import silence
from tests.recordings.embedded import LiveClient, in_order, load
from tests.recordings.old_storage import (
    KILLED,
    STOPPED,
    TINY,
    durable,
    files,
    history,
    read_expected,
    resume,
    running,
    unpack,
)
from tests.recordings.player import normalise
from tests.recordings.test_tiny_sessions import with_tolerance
from tests.support.daemons import RunningDaemon

SCRIPTED = [KILLED, STOPPED]


@pytest.mark.parametrize("name", [KILLED, TINY])
def test_the_newest_sessions_are_in_the_log_of_writes_alone(tmp_path: Path, name: str) -> None:
    found = files(unpack(name, tmp_path))
    expected = read_expected(name)
    names = [known["session"] for known in expected.get("sessions", {"only": expected}).values()]
    for session in {*names} - {"microphone"}:
        assert session.encode() in found["journal.sqlite3-wal"]
        assert session.encode() not in found["journal.sqlite3"]


@pytest.mark.parametrize("name", [*SCRIPTED, TINY])
def test_history_is_read_and_nothing_is_changed(tmp_path: Path, name: str) -> None:
    storage = unpack(name, tmp_path)
    before = files(storage)
    assert history(storage) == read_expected(name)["history"]
    assert files(storage) == before


@pytest.mark.parametrize("n_crashes", [0, 1, 2])
@pytest.mark.parametrize("name", SCRIPTED)
def test_sessions_go_on_as_with_the_earlier_version(
    tmp_path: Path, name: str, n_crashes: int
) -> None:
    expected = read_expected(name)
    resumed = resume(name, tmp_path, n_crashes=n_crashes)
    assert resumed == expected["resumed"][min(n_crashes, 1)]


@pytest.mark.parametrize("name", SCRIPTED)
def test_clients_keep_what_they_received(tmp_path: Path, name: str) -> None:
    """The guarantees of the protocol, apart from the recording."""
    resumed = resume(name, tmp_path)
    for label, known in read_expected(name)["sessions"].items():
        received, entries = known["received"], resumed[label]
        messages = durable(entries)
        assert messages[: len(received)] == normalise({label: received})[label], label
        assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
        assert messages[-1]["type"] == "end"
        assert entries[-1] == {"closed": 1000, "reason": ""}
        if not known["is_over"] and known["session"] != "microphone":
            [ready] = [entry for entry in entries if entry.get("type") == "ready"]
            assert ready["next_sample"] == known["next_sample"], label
        if known["stable"]:
            [final] = [
                message
                for message in messages
                if message["type"] == "final" and message["segment"] == known["stable"]["segment"]
            ]
            assert final["text"].startswith(known["stable"]["text"]), label


@pytest.mark.parametrize("name", SCRIPTED)
async def test_history_is_read_while_a_daemon_runs_and_afterwards(
    tmp_path: Path, name: str
) -> None:
    storage = unpack(name, tmp_path)

    async def read_beside_a_daemon() -> list[dict[str, Any]]:
        async with running(tmp_path):
            return await asyncio.to_thread(history, storage)

    expected = [without_words(final) for final in read_expected(name)["history"]]
    for found in (await read_beside_a_daemon(), history(storage)):
        finals = [without_words(final) for final in found]
        assert [final for final in finals if final in expected] == expected


def without_words(final: dict[str, Any]) -> dict[str, Any]:
    """Return a final as history shows it, without its words, which may come later."""
    return {key: value for key, value in final.items() if key != "words"}


async def test_a_session_of_the_embedded_model_goes_on(tmp_path: Path) -> None:
    known = read_expected(TINY)
    unpack(TINY, tmp_path)
    with RunningDaemon(
        tmp_path, "--no-mic", "--model", "tiny", settings="history_days = 36500"
    ) as daemon:
        samples = np.concatenate([load(known["clip"]), silence(1.0)])
        client = LiveClient(daemon, samples, known["session"])
        client.stable[1] = known["stable"]
        await client.run()
        assert daemon.stop() == 0
    assert in_order(client.lasting) == with_tolerance(known["lasting"])
    assert client.lasting[0]["text"].startswith(known["stable"])
