"""Makes the golden arrays in tests/data from transformers.

    python -m tests.reference.make_goldens

Signals and checkpoints are made from seeds (tests/signals.py, tests/checkpoints.py), so
only what the reference computes is stored.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.checkpoints import write_checkpoint
from tests.goldens import (
    ENCODER_CLIPS,
    ENCODER_GOLDEN,
    ENCODER_SHAPES,
    LOG_MEL_GOLDEN,
    LOG_MEL_LENGTHS,
    LOG_MEL_ROWS,
)
from tests.reference.reference import Reference, reference_log_mel
from tests.signals import KINDS, signal, speechlike


def make_log_mel() -> None:
    """Keep a few rows of every clip: both ends, where padding matters."""
    arrays = {}
    for kind in KINDS:
        for n_samples in LOG_MEL_LENGTHS:
            mel = reference_log_mel(signal(kind, n_samples))
            arrays[f"{kind}/{n_samples}"] = mel[LOG_MEL_ROWS]
            arrays[f"{kind}/{n_samples}/n_frames"] = np.array(len(mel))
    np.savez_compressed(LOG_MEL_GOLDEN, **arrays)


def make_encoder() -> None:
    """Run random encoders of several shapes over clips of several lengths."""
    arrays = {}
    for name, shape in ENCODER_SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            reference = Reference(write_checkpoint(Path(directory), shape))
        for n_samples in ENCODER_CLIPS:
            stages = reference.encode(speechlike(n_samples))
            arrays[f"{name}/{n_samples}/conv_output"] = stages.conv_output
            arrays[f"{name}/{n_samples}/encoder_output"] = stages.encoder_output
            arrays[f"{name}/{n_samples}/embeddings"] = stages.embeddings
    np.savez_compressed(ENCODER_GOLDEN, **arrays)


if __name__ == "__main__":
    make_log_mel()
    make_encoder()
