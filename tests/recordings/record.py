"""Play scenarios, and keep or compare what the clients receive.

    python -m tests.recordings.record [SCENARIO...]

makes the recordings anew, those of the named scenarios or all. Do this with a version whose
behaviour is known to be right; the README beside this file says which one made those that are here.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.recordings.engine import serve
from tests.recordings.player import Player, Recording, normalise, read, write
from tests.recordings.scenarios import SCENARIOS, Scenario

WIRE: Final = Path(__file__).parent / "wire"
"""Directory of the recordings."""

_LONGEST_S: Final = 240.0


def play(scenario: Scenario, directory: Path) -> Recording:
    """Play a scenario with a daemon of its own.

    Returns:
        What its connections received, normalised.
    """
    return asyncio.run(_play(scenario, directory))


async def _play(scenario: Scenario, directory: Path) -> Recording:
    async with (
        asyncio.timeout(_LONGEST_S),
        serve(
            directory,
            scenario.settings,
            scenario.script,
            token=scenario.token,
            is_loaded=scenario.is_loaded,
        ) as server,
    ):
        player = Player(server)
        await scenario.play(player)
        return normalise(player.recording, keeps_order=scenario.keeps_order)


def recorded(scenario: Scenario) -> Recording:
    """Return the recording of a scenario, normalised."""
    return normalise(read(WIRE / f"{scenario.name}.json"), keeps_order=scenario.keeps_order)


def main() -> None:
    """Record the scenarios that the command line names, or all."""
    for name in sys.argv[1:] or SCENARIOS:
        with tempfile.TemporaryDirectory() as directory:
            recording = play(SCENARIOS[name], Path(directory))
        WIRE.mkdir(exist_ok=True)
        write(WIRE / f"{name}.json", recording)
        n_entries = sum(len(entries) for entries in recording.values())
        print(f"{name}: {len(recording)} connections, {n_entries} entries")


if __name__ == "__main__":
    main()
