"""Names of sessions that every part of the program knows."""

from typing import Final

MICROPHONE: Final = "microphone"
"""The daemon's own session."""
