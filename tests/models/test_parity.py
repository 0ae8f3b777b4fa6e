"""The embedded model against golden arrays of the reference, stage by stage.

The checkpoints in tests/tiny are exported like any others.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from streamasr.models.qwen3.aligner import ForcedAligner
from tests.support.exact_log_mel import ExactLogMel, assert_correct
from tests.support.goldens import (
    TINY_ALIGNER,
    TINY_GOLDEN,
    TINY_GOLDEN_CLIPS,
    TINY_RECOGNISER,
    clip_facts,
    read_clip,
    words_of,
)
from tests.support.parity import Recogniser, open_aligner
from tests.support.rounding import (
    DOUBLE,
    SINGLE,
    assert_chosen,
    assert_same,
    assert_same_logits,
    gaps,
    near_tie,
)


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
    stages, expected = recogniser.run(read_clip(name)), golden(name)
    exact_log_mel = ExactLogMel(read_clip(name))
    assert_correct(expected["log_mel"], exact_log_mel, SINGLE)
    assert_correct(stages.log_mel, exact_log_mel, DOUBLE)
    for stage in ("conv_output", "encoder_output", "embeddings"):
        assert_same(getattr(stages, stage), expected[stage], expected[f"{stage}_error"])
    assert_same_logits(stages.first_logits, expected["first_logits"], expected["logits_error"])
    assert stages.prompt == tuple(expected["prompt"])
    assert stages.answer == tuple(expected["answer"])


@pytest.mark.parametrize("name", TINY_GOLDEN_CLIPS)
def test_a_small_error_exceeds_the_tolerances(recogniser: Recogniser, name: str) -> None:
    stages, expected = recogniser.run(np.float32(1.001) * read_clip(name)), golden(name)
    for stage in ("conv_output", "encoder_output", "embeddings"):
        with pytest.raises(AssertionError):
            assert_same(getattr(stages, stage), expected[stage], expected[f"{stage}_error"])
    with pytest.raises(AssertionError):
        assert_correct(stages.log_mel, ExactLogMel(read_clip(name)), SINGLE)
    logits = np.roll(stages.first_logits, 1)
    with pytest.raises(AssertionError):
        assert_same_logits(logits, expected["first_logits"], expected["logits_error"])


@pytest.mark.parametrize("name", TINY_GOLDEN_CLIPS)
def test_no_golden_answer_depends_on_rounding(name: str) -> None:
    expected = golden(name)
    assert len(expected["answer_gaps"]) == len(expected["answer"]) + 1
    assert expected["answer_gaps"].min() > near_tie(expected["logits_error"])


@pytest.mark.parametrize("name", [name for name in TINY_GOLDEN_CLIPS if name != "noise"])
def test_every_time_class_equals_the_reference(aligner: ForcedAligner, name: str) -> None:
    samples, words = read_clip(name), words_of(clip_facts()[name])
    logits, error = golden(name)["class_logits"], golden(name)["class_logits_error"]
    ours = np.array(aligner.align(samples, words).milliseconds) // 80
    assert_chosen(ours, logits, error)
    assert (gaps(logits) > near_tie(error)).mean() > 0.8  # if only one class is correct
    with pytest.raises(AssertionError):
        assert_chosen(np.roll(ours, 1), logits, error)


def golden(name: str) -> dict[str, Any]:
    with np.load(TINY_GOLDEN) as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays.files if name in key}
