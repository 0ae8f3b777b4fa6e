"""Makes the golden arrays in tests/data from transformers.

    python -m tests.reference.make_goldens

Signals and checkpoints are made from seeds (tests/signals.py, tests/checkpoints.py), so
only what the reference computes is stored.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.reference.reference import Reference, reference_log_mel
from tests.support.checkpoints import write_checkpoint
from tests.support.goldens import (
    ENCODER_CLIPS,
    ENCODER_GOLDEN,
    ENCODER_SHAPES,
    LOG_MEL_GOLDEN,
    LOG_MEL_LENGTHS,
    LOG_MEL_ROWS,
    TINY_ALIGNER,
    TINY_GOLDEN,
    TINY_GOLDEN_CLIPS,
    TINY_RECOGNISER,
    clip_facts,
    read_clip,
    words_of,
)
from tests.support.signals import KINDS, signal, speechlike


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


def make_tiny() -> None:
    """Run the embedded model's checkpoints over some of its clips, from samples to tokens."""
    arrays: dict[str, np.ndarray] = {}
    recogniser, aligner = Reference(TINY_RECOGNISER), Reference(TINY_ALIGNER, is_aligner=True)
    for name in TINY_GOLDEN_CLIPS:
        samples, words = read_clip(name), words_of(clip_facts()[name])
        stages = recogniser.encode(samples)
        prompt = recogniser.prompt("", None, len(stages.embeddings))
        answer = recogniser.greedy(prompt, samples)
        found = {
            "log_mel": reference_log_mel(samples),
            "conv_output": stages.conv_output,
            "encoder_output": stages.encoder_output,
            "embeddings": stages.embeddings,
            "prompt": np.array(prompt),
            "first_logits": recogniser.logits(prompt, samples)[-1],
            "answer": np.array(answer),
        }
        if words:
            found["classes"] = aligner.classes(samples, words).argmax(axis=-1)
        arrays |= {f"{name}/{stage}": array for stage, array in found.items()}
    np.savez_compressed(TINY_GOLDEN, **arrays)


if __name__ == "__main__":
    make_log_mel()
    make_encoder()
    make_tiny()
