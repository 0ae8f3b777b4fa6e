"""The embedded model against golden arrays of the reference, stage by stage.

The checkpoints in tests/tiny go through the export as any others do.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from streamasr.models.qwen3.aligner import ForcedAligner
from tests.support.goldens import (
    TINY_ALIGNER,
    TINY_GOLDEN,
    TINY_GOLDEN_CLIPS,
    TINY_RECOGNISER,
    clip_facts,
    read_clip,
    words_of,
)
from tests.support.parity import Recogniser, assert_same, assert_same_logits, open_aligner


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recogniser]:
    with Recogniser(TINY_RECOGNISER, tmp_path_factory.mktemp("tiny") / "bundle") as recogniser:
        yield recogniser


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForcedAligner]:
    with open_aligner(TINY_ALIGNER, tmp_path_factory.mktemp("tiny") / "bundle") as aligner:
        yield aligner


@pytest.mark.parametrize("name", TINY_GOLDEN_CLIPS)
def test_every_stage_equals_the_reference(recogniser: Recogniser, name: str) -> None:
    stages = recogniser.run(read_clip(name))
    with np.load(TINY_GOLDEN) as golden:
        expected = {key.removeprefix(f"{name}/"): golden[key] for key in golden.files}
    np.testing.assert_allclose(stages.log_mel, expected["log_mel"], rtol=0, atol=1e-4)
    assert_same(stages.conv_output, expected["conv_output"])
    assert_same(stages.encoder_output, expected["encoder_output"])
    assert_same(stages.embeddings, expected["embeddings"])
    assert_same_logits(stages.first_logits, expected["first_logits"])
    assert stages.prompt == tuple(expected["prompt"])
    assert stages.answer == tuple(expected["answer"])


@pytest.mark.parametrize("name", [name for name in TINY_GOLDEN_CLIPS if name != "noise"])
def test_every_time_class_equals_the_reference(aligner: ForcedAligner, name: str) -> None:
    samples, words = read_clip(name), words_of(clip_facts()[name])
    with np.load(TINY_GOLDEN) as golden:
        expected = golden[f"{name}/classes"]
    ours = np.array(aligner.align(samples, words).milliseconds) // 80
    # One near tie may fall the other way on another processor.
    assert (ours != expected).sum() <= 1
    assert np.abs(ours - expected).max() <= 1
