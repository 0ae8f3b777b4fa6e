"""The forced aligner in this process, on the embedded weights, whatever they have learned."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamasr.core.errors import AudioError, DecodeError, ModelError
from streamasr.core.orders import Align
from streamasr.core.units import SAMPLE_RATE, Samples
from streamasr.engine.aligner import align
from streamasr.models.bundle import Bundle
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.aligner import ForcedAligner, _read_classifier, _softmax, _step_ms
from streamasr.models.qwen3.family import QWEN3_FORCED_ALIGNER
from tests.support.errors import raises
from tests.support.fakes import talk
from tests.support.rounding import LOGIT_TOLERANCE

SAMPLES = talk(1.5)
WORDS = ["one", "two", "零"]


@pytest.fixture(scope="module")
def aligner(bundle: Path) -> Iterator[ForcedAligner]:
    with ForcedAligner(bundle / "aligner", OnnxOptions(threads=1), 1) as opened:
        yield opened


def test_each_word_has_two_times_on_the_grid(aligner: ForcedAligner) -> None:
    answer = aligner.align(SAMPLES, WORDS)
    assert len(answer.milliseconds) == len(answer.probabilities) == 2 * len(WORDS)
    assert all(
        time % 80 == 0 and 0 <= time < 1000 * aligner.max_seconds for time in answer.milliseconds
    )
    assert all(0 < p <= 1 for p in answer.probabilities)


def test_the_answer_is_the_same_every_time(aligner: ForcedAligner) -> None:
    first = aligner.align(SAMPLES, WORDS)
    aligner.align(SAMPLES[:8000], ["two"])
    assert aligner.align(SAMPLES, WORDS) == first


def test_there_are_logits_of_every_class_at_every_slot(
    aligner: ForcedAligner, bundle: Path
) -> None:
    n_classes, n_embd = np.load(bundle / "aligner" / "classifier.npy").shape
    logits = aligner.classify(np.zeros((13, n_embd), np.float32), WORDS)
    assert logits.shape == (2 * len(WORDS), n_classes)


def test_a_later_word_does_not_change_the_logits_of_an_earlier_one(
    aligner: ForcedAligner, bundle: Path
) -> None:
    n_embd = np.load(bundle / "aligner" / "classifier.npy").shape[1]
    embeddings = np.ones((13, n_embd), np.float32)
    both = aligner.classify(embeddings, ["one", "two"])
    alone = aligner.classify(embeddings, ["one"])
    np.testing.assert_allclose(alone, both[:2], atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize("step", [0, 9, 1001, -80, 0.08, 80.0, True, "80", None, [80] * 999])
def test_a_step_without_a_number_of_milliseconds_is_refused(tmp_path: Path, step: object) -> None:
    bundle = Bundle(tmp_path, QWEN3_FORCED_ALIGNER, "x", {"timestamp_step_ms": step})
    with raises(ModelError, "timestamp_step_out_of_range") as caught:
        _step_ms(bundle)
    assert len(str(caught.value)) < 300


def test_a_step_may_be_any_of_milliseconds(tmp_path: Path) -> None:
    steps = [
        _step_ms(Bundle(tmp_path, QWEN3_FORCED_ALIGNER, "x", {"timestamp_step_ms": n}))
        for n in (10, 1000)
    ]
    assert steps == [10, 1000]


def test_audio_beyond_the_last_class_is_refused(aligner: ForcedAligner) -> None:
    too_long = np.zeros(round((aligner.max_seconds + 1) * SAMPLE_RATE), np.float32)
    with raises(AudioError, "too_long_to_align"):
        aligner.align(too_long, ["one"])


def test_more_words_than_the_context_holds_are_refused_and_the_next_are_timed(
    aligner: ForcedAligner,
) -> None:
    with raises(DecodeError, "context_full"):
        aligner.align(SAMPLES, ["one"] * 2000)
    assert len(aligner.align(SAMPLES, ["one"]).milliseconds) == 2


def test_words_of_a_final_are_in_its_time_and_have_its_punctuation(
    aligner: ForcedAligner,
) -> None:
    start = Samples(5 * SAMPLE_RATE)
    answer = align(aligner, Align(3, start, SAMPLES, "One, two: 零!", "English"))
    assert answer.segment == 3
    assert "".join(word.text for word in answer.words) == "One,two:零!"
    for word in answer.words:
        assert start <= word.start < word.end <= start + len(SAMPLES)


def test_text_without_words_has_no_times(aligner: ForcedAligner) -> None:
    assert align(aligner, Align(1, Samples(0), SAMPLES, " ... ", None)).words == ()


def test_softmax_stands_large_logits() -> None:
    p = _softmax(np.array([[1e4, 1e4, -1e4]], np.float32))
    np.testing.assert_allclose(p, [[0.5, 0.5, 0]])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((10, 4), np.float32),
        np.zeros(8, np.float32),
        np.zeros((2, 8), np.int64),
        np.zeros((2, 2, 8), np.float32),
    ],
    ids=["width", "axes", "type", "rank"],
)
def test_a_classifier_of_another_kind_is_refused(
    tmp_path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> None:
    np.save(tmp_path / "classifier.npy", array)
    with raises(ModelError, "classifier_shape"):
        _read_classifier(tmp_path / "classifier.npy", 8)


def test_a_classifier_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "classifier.npy"
    with raises(ModelError, "classifier_unreadable"):
        _read_classifier(path, 8)
    np.save(path, np.zeros((10, 8), np.float16))
    whole = path.read_bytes()
    assert _read_classifier(path, 8).dtype == np.float32
    np.savez(tmp_path / "zipped.npz", a=np.zeros(3))
    evil = (tmp_path / "zipped.npz").read_bytes()
    np.save(path, np.array([{"an": "object"}]), allow_pickle=True)
    contents = [b"", b"\x93NUMPY", whole[:100], whole[:-1], evil, evil[:20], path.read_bytes()]
    for content in contents:
        path.write_bytes(content)
        with raises(ModelError, "classifier_unreadable"):
            _read_classifier(path, 8)
