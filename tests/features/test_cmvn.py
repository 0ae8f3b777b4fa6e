"""Mean and variance normalisation, and the text file that holds its numbers."""

from pathlib import Path

import numpy as np
import pytest

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.features.cmvn import Cmvn, checked_cmvn, parse_am_mvn, read_am_mvn
from tests.support.errors import raises


def am_mvn(shift: list[float], scale: list[float], width: int | None = None) -> str:
    """Write an `am.mvn` as FunASR's training does."""
    n = len(shift) if width is None else width
    return (
        f"<Nnet> \n<Splice> {n} {n} \n[ 0 ]\n"
        f"<AddShift> {n} {n} \n<LearnRateCoef> 0 [ {' '.join(map(str, shift))} ]\n"
        f"<Rescale> {n} {n} \n<LearnRateCoef> 0 [ {' '.join(map(str, scale))} ]\n</Nnet> \n"
    )


def test_the_shift_is_added_before_the_scale() -> None:
    rows = np.array([[1, 2], [3, 4]], np.float32)
    cmvn = Cmvn(np.array([-1, 1], np.float32), np.array([2, 10], np.float32))
    assert cmvn.apply(rows).tolist() == [[0, 30], [4, 50]]
    assert cmvn.apply(rows).dtype == np.float32


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    path.write_text(am_mvn([-8.311879, -1e1, 3], [0.2, 1.5e-1, 1]))
    cmvn = read_am_mvn(path)
    assert np.array_equal(cmvn.shift, np.array([-8.311879, -10, 3], np.float32))
    assert np.array_equal(cmvn.scale, np.array([0.2, 0.15, 1], np.float32))


def test_the_numbers_may_stand_on_lines_of_their_own_and_without_a_learning_rate() -> None:
    text = "<Nnet>\n<AddShift> 2 2 [\n -1\n -2 ]\n<Rescale> 2 2\n[ 3 4 ]\n</Nnet>"
    cmvn = parse_am_mvn(text)
    assert (cmvn.shift.tolist(), cmvn.scale.tolist()) == ([-1, -2], [3, 4])


BROKEN = {
    "empty": "",
    "no scale": "<Nnet> <AddShift> 1 1 [ 1 ]",
    "a word": am_mvn([1.0], [1.0]).replace("[ 1.0 ]", "[ one ]"),
    "too few": am_mvn([1.0], [1.0], width=2),
    "two widths": "<AddShift> 1 1 [ 1 ] <Rescale> 2 2 [ 1 2 ]",
    "not finite": am_mvn([float("nan")], [1.0]),
    "a scale of zero": am_mvn([1.0], [0.0]),
    "a negative scale": am_mvn([1.0], [-1.0]),
    "no numbers": "<AddShift> 0 0 [ ] <Rescale> 0 0 [ ]",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "am.mvn"
    path.write_text(text)
    with raises(ModelError, "cmvn_broken") as caught:
        read_am_mvn(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "am.mvn"
    with raises(ModelError, "cmvn_unreadable"):
        read_am_mvn(path)
    path.write_bytes(b" " * (1 << 21))
    with raises(ModelError, "cmvn_unreadable"):
        read_am_mvn(path)


@pytest.mark.parametrize("shape", [(2, 2), (0,)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    vector: Float32Array = np.ones(shape, np.float32)
    with raises(ModelError, "cmvn_broken"):
        checked_cmvn(vector, vector)
