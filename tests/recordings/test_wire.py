"""Recorded conversations with the daemon: the same frames bring the same messages.

`tests/recordings/README.md` says how the recordings were made.
"""

from pathlib import Path

import pytest

from tests.recordings.record import WIRE, play, recorded
from tests.recordings.scenarios import SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_the_wire_is_as_recorded(tmp_path: Path, scenario: Scenario) -> None:
    received, expected = play(scenario, tmp_path), recorded(scenario)
    assert list(received) == list(expected)
    for connection, entries in received.items():
        assert entries == expected[connection], connection


def test_every_recording_has_its_scenario() -> None:
    assert {path.stem for path in WIRE.glob("*.json")} == set(SCENARIOS)
