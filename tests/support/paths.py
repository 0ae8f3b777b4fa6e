"""Directories of the checkout that tests read."""

from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
REPOSITORY: Final = TESTS.parent
DATA: Final = TESTS / "data"
CLIPS: Final = DATA / "tiny_clips"
TINY: Final = TESTS / "tiny"
"""Sources of the embedded model, which its training scripts wrote."""
