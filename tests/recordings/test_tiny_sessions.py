"""Recorded sessions and transcripts of the embedded model, from real processes.

`tests/recordings/README.md` says how the recordings were made.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.recordings.embedded import (
    DIRECTORY,
    TRANSCRIPTS,
    record_crash,
    record_live,
    record_microphone,
    transcribe,
)

SCORE_TOLERANCE = 0.02
"""Scores of words depend a little on the processor."""


def recorded(name: str) -> Any:
    return with_tolerance(json.loads((DIRECTORY / name).read_text(encoding="utf-8")))


def with_tolerance(value: Any) -> Any:
    """Return a recording whose scores are equal to all that are close."""
    if isinstance(value, list):
        return [with_tolerance(entry) for entry in value]
    if isinstance(value, dict):
        return {
            key: close_to(v) if key == "score" else with_tolerance(v) for key, v in value.items()
        }
    return value


def close_to(score: float | None) -> Any:
    return score if score is None else pytest.approx(score, abs=SCORE_TOLERANCE)


def test_a_live_session_and_its_history_are_as_recorded(tmp_path: Path) -> None:
    messages, history = record_live(tmp_path)
    assert messages == recorded("live.json")
    assert history == recorded("history.json")


def test_a_session_through_two_crashes_is_as_recorded(tmp_path: Path) -> None:
    assert record_crash(tmp_path) == recorded("live.json")


def test_a_file_in_place_of_a_microphone_is_as_recorded(tmp_path: Path) -> None:
    assert record_microphone(tmp_path) == recorded("microphone.json")


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts_in_all_formats_are_as_recorded(tmp_path: Path, name: str) -> None:
    written = transcribe(name, tmp_path)
    assert set(written) == {path.name for path in (DIRECTORY / name).iterdir()}
    for file, text in written.items():
        if file.endswith(".json"):
            assert json.loads(text) == recorded(f"{name}/{file}"), file
        else:
            assert text == (DIRECTORY / name / file).read_text(encoding="utf-8"), file
