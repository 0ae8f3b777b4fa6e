"""The embedded model: a Qwen3-ASR and a ForcedAligner of a few million weights.

It knows about a hundred English words and the Mandarin numerals, and makes everything work on a
fresh machine without a download. `tests/tiny/README.md` says how it was made.
"""

from pathlib import Path
from typing import Final

NAME: Final = "tiny"
BUNDLE: Final = Path(__file__).parent
DEMO: Final = BUNDLE / "demo.flac"
"""A speech clip that it understands."""
