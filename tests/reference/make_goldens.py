"""Generator of the golden arrays in tests/data with transformers.

    python -m tests.reference.make_goldens

Signals and checkpoints are generated from seeds (tests/support/signals.py and checkpoints.py), so
only the results of the reference are stored. Features are the reference's own, in single precision;
all else is computed in double precision and stored with the errors of lower precisions, from which
tolerances follow (tests/support/rounding.py).
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.reference.reference import EncoderStages, Reference, reference_log_mel
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
from tests.support.rounding import gaps
from tests.support.signals import KINDS, signal, speechlike


def make_log_mel() -> None:
    """Store a few rows of every clip: both ends, which depend on the padding."""
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
            checkpoint = write_checkpoint(Path(directory), shape)
            reference, single = Reference(checkpoint), Reference(checkpoint, arithmetic="single")
        for n_samples in ENCODER_CLIPS:
            samples = speechlike(n_samples)
            stages = encoder_stages(reference.encode(samples), single.encode(samples))
            arrays |= {f"{name}/{n_samples}/{stage}": array for stage, array in stages.items()}
    np.savez_compressed(ENCODER_GOLDEN, **arrays)


def encoder_stages(exact: EncoderStages, single: EncoderStages) -> dict[str, np.ndarray]:
    """Return exact arrays by stage, and the errors of single precision."""
    arrays = {stage: getattr(exact, stage).astype(np.float32) for stage in single.errors(exact)}
    errors = {f"{stage}_error": np.array(error) for stage, error in single.errors(exact).items()}
    return arrays | errors


def make_tiny() -> None:
    """Run the embedded model's checkpoints over some of its clips, from samples to tokens."""
    arrays: dict[str, np.ndarray] = {}
    recogniser = Reference(TINY_RECOGNISER)
    single = Reference(TINY_RECOGNISER, arithmetic="single")
    half = Reference(TINY_RECOGNISER, arithmetic="half")
    aligner = Reference(TINY_ALIGNER, is_aligner=True)
    half_aligner = Reference(TINY_ALIGNER, is_aligner=True, arithmetic="half")
    for name in TINY_GOLDEN_CLIPS:
        samples, words = read_clip(name), words_of(clip_facts()[name])
        stages = recogniser.encode(samples)
        prompt = recogniser.prompt("", None, len(stages.embeddings))
        answer = recogniser.greedy(prompt, samples)
        logits = recogniser.answer_logits(prompt, samples, answer)
        rounded = half.answer_logits(prompt, samples, answer)
        found = encoder_stages(stages, single.encode(samples)) | {
            "log_mel": reference_log_mel(samples),
            "prompt": np.array(prompt),
            "first_logits": logits[0].astype(np.float32),
            "logits_error": np.abs(rounded - logits).max(),
            "answer": np.array(answer),
            "answer_gaps": gaps(logits),  # of the end token, too
        }
        if words:
            logits = aligner.classes(samples, words)
            rounded = half_aligner.classes(samples, words)
            found["class_logits"] = logits.astype(np.float32)
            found["class_logits_error"] = np.abs(rounded - logits).max()
        arrays |= {f"{name}/{stage}": array for stage, array in found.items()}
    np.savez_compressed(TINY_GOLDEN, **arrays)


if __name__ == "__main__":
    make_log_mel()
    make_encoder()
    make_tiny()
