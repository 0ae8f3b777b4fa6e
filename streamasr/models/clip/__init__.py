"""The clip that a model is verified with: a synthetic voice, whose words and their times are known.

`tests/tiny/make_verification_clip.py` made it. Its words are among those that the embedded model
knows, and there is one way to write them.
"""

from pathlib import Path
from typing import Final

CLIP: Final = Path(__file__).parent / "clip.flac"
FACTS: Final = Path(__file__).parent / "clip.json"
"""What is said in it: `text`, `language`, and `words` with `start` and `end` in seconds."""
