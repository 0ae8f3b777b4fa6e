"""Deterministic conversations with a daemon, at the level of frames.

A scenario sends audio in fixed blocks and goes on when everything that follows from a block has
happened, so that the same messages come each time. Where audio is sent as fast as possible, the
recording is compared without the order in which segments overtake each other.
"""

from tests.recordings.scenarios import access, formats, listening, live, refusals, resuming
from tests.recordings.scenarios.registry import SCENARIOS, Scenario

__all__ = [
    "SCENARIOS",
    "Scenario",
    "access",
    "formats",
    "listening",
    "live",
    "refusals",
    "resuming",
]
