"""The embedded model: a Qwen3-ASR and a ForcedAligner of a few million weights.

It knows 95 English words and the Mandarin numerals, and makes everything work on a fresh machine
without a download. `tests/tiny/README.md` describes how it was made.
"""

from pathlib import Path
from typing import Final

NAME: Final = "tiny"
BUNDLE: Final = Path(__file__).parent
WARNING: Final = (
    "no --model was given: using the embedded tiny, which knows 95 English words and the "
    "Mandarin numerals; `streamasr models pull qwen3-asr-0.6b` gets a real one"
)
DEMO: Final = BUNDLE / "demo.flac"
"""A speech clip within its vocabulary."""
