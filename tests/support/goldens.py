"""Files, clips and shapes of the golden arrays in tests/data; see the README there."""

import json
from typing import Any, Final

import numpy as np

from streamasr.alignment.words import split_words
from streamasr.audio.file import open_audio
from streamasr.core.units import Float32Array
from tests.support.checkpoints import Shape
from tests.support.paths import DATA, TINY

LOG_MEL_GOLDEN: Final = DATA / "golden_log_mel.npz"
ENCODER_GOLDEN: Final = DATA / "golden_encoder.npz"

LOG_MEL_LENGTHS: Final = (
    *(1, 3),  # much too short
    *(159, 160, 161, 399, 400, 401),  # one hop, one window
    *(7999, 8000, 8001),  # the minimum, 0.5 s
    *(15_999, 16_000, 16_001),  # one chunk, 1 s
    *(16_159, 16_160, 16_161, 16_319, 16_320),  # hops after it
    *(127_999, 128_000, 128_001, 128_160),  # one attention window, 8 s
)
LOG_MEL_ROWS: Final = [0, 1, 2, -5, -4, -3, -2, -1]

ENCODER_SHAPES: Final = {
    "small": Shape(),
    "wide output": Shape(hidden=160, d_model=24, encoder_heads=3, encoder_layers=1),
    "short window": Shape(n_window_infer=200, encoder_layers=3, channels=5, n_mels=80),
}
ENCODER_CLIPS: Final = (100, 16_000, 16_160, 70_001, 129_280)  # samples; the last two: 5, 9 chunks

TINY_GOLDEN: Final = DATA / "golden_tiny.npz"
TINY_RECOGNISER: Final = TINY / "asr"
TINY_ALIGNER: Final = TINY / "aligner"
TINY_CLIPS: Final = DATA / "tiny_clips"
TINY_GOLDEN_CLIPS: Final = ("espeak_1", "mandarin", "noise")


def read_clip(name: str) -> Float32Array:
    """Read a clip of `TINY_CLIPS`: (n,), mono at SAMPLE_RATE."""
    with open_audio(TINY_CLIPS / f"{name}.flac") as source:
        return np.concatenate(list(source.blocks()))


def clip_facts() -> dict[str, dict[str, Any]]:
    """Return the texts and other facts of `TINY_CLIPS` by the clips' names."""
    facts = json.loads((TINY_CLIPS / "clips.json").read_text(encoding="utf-8"))
    return {clip["file"].removesuffix(".flac"): clip for clip in facts["clips"]}


def words_of(clip: dict[str, Any]) -> list[str]:
    """Divide a clip's text into words as for the aligner."""
    return [word.spoken for word in split_words(clip["text"], clip["language"])]
