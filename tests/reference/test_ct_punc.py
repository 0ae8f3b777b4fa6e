"""Punctuation compared with the CTTransformer of funasr, class by class."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")


import torch

from streamasr.core.punctuation import Mark, marked_text
from streamasr.importing.pack import import_model
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.ct_punc.text import words_of
from streamasr.models.onnx import OnnxOptions
from tests.reference.ct_punc import NO_END, SHAPES, infer, random_text, reference
from tests.sources.ct_punc import (
    MARKS,
    WORDS,
    Shape,
    Weights,
    random_weights,
    write_bundle,
    write_funasr_folder,
)

pytestmark = pytest.mark.reference


@pytest.fixture(params=range(len(SHAPES)))
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


def ours(folder: Path, weights: Weights, shape: Shape, *, realtime: bool = False) -> CTPunctuator:
    write_bundle(folder, weights, shape, realtime=realtime)
    return CTPunctuator.from_bundle(open_bundle(folder), OnnxOptions(threads=1))


@pytest.mark.parametrize("n_words", [1, 2, 19, 20, 21, 40, 57, 333])
def test_classes_are_those_of_funasr(tmp_path: Path, shape: Shape, n_words: int) -> None:
    weights = random_weights(shape, len(WORDS), len(MARKS), seed=n_words)
    model, punctuator = reference(weights, shape), ours(tmp_path / "m", weights, shape)
    for seed in range(3):
        text = random_text(n_words, seed)
        words = [word for word, _ in words_of(text)]
        found = punctuator.classes(words)
        _, expected = infer(model, text)
        assert found[:-1] == expected[:-1]  # the last one is that of the closing mark
        assert len({*found}) > 1 or n_words < 10


@pytest.mark.parametrize("n_words", [200, 220, 260, 700])
@pytest.mark.parametrize("rare", [NO_END, (*NO_END, 2)], ids=["commas", "nothing"])
def test_long_sentences_are_cut_where_funasr_cuts_them(
    tmp_path: Path, n_words: int, rare: tuple[int, ...]
) -> None:
    if n_words == 700 and 2 in rare:
        pytest.skip("such a window grows in funasr, beyond the masks of its own export")
    shape = SHAPES[0]
    weights = random_weights(shape, len(WORDS), len(MARKS), seed=1, rare=rare)
    model, punctuator = reference(weights, shape), ours(tmp_path / "m", weights, shape)
    text = random_text(n_words, 1)
    found = punctuator.classes([word for word, _ in words_of(text)])
    assert found[:-1] == infer(model, text)[1][:-1]
    assert (3 in found) == (2 not in rare and n_words > 220)


@pytest.mark.parametrize("n_words", [2, 20, 45, 90])
def test_realtime_models_have_the_classes_of_funasr(tmp_path: Path, n_words: int) -> None:
    shape = Shape(blocks=4)
    weights = random_weights(shape, len(WORDS), len(MARKS), seed=n_words, rare=(0,))
    model = reference(weights, shape, realtime=True)
    punctuator = ours(tmp_path / "m", weights, shape, realtime=True)
    text = random_text(n_words, 2)
    found = punctuator.classes([word for word, _ in words_of(text)])
    expected, _ = infer(model, text, cache={})
    written = before = ""
    for (word, _), kind in zip(words_of(text), found, strict=True):
        space = " " if written and word.isascii() and before.isascii() else ""
        written += space + word + (MARKS[kind] if kind != 1 else "")
        before = word[-1]
    assert written.rstrip("".join(MARKS)) == expected.strip()  # it leaves out the newest mark


def test_english_has_the_marks_and_spaces_of_funasr(tmp_path: Path) -> None:
    shape = Shape()
    weights = random_weights(shape, len(WORDS), len(MARKS), seed=5, rare=(0, 5))
    text = "hello world how are you it's hello you are how world hello are"
    punctuator = ours(tmp_path / "m", weights, shape)
    marks = punctuator.punctuate(text)
    expected, _ = infer(reference(weights, shape), text)
    each = [*marks.each[:-1], Mark(marks.each[-1].end, marks.closing)]
    assert marked_text(text, each) == expected.strip()
    assert expected.isascii()


def test_a_checkpoint_of_torch_becomes_the_same_model(tmp_path: Path, shape: Shape) -> None:
    weights = random_weights(shape, len(WORDS), len(MARKS), seed=8)
    model = reference(weights, shape)
    source = write_funasr_folder(tmp_path / "source", weights, shape)
    (source / "model.onnx").unlink()
    torch.save(model.state_dict(), source / "model.pt")
    bundle = import_model(source, tmp_path / "made")
    punctuator = CTPunctuator.from_bundle(bundle, OnnxOptions(threads=1))
    for seed in range(3):
        text = random_text(70, seed)
        found = punctuator.classes([word for word, _ in words_of(text)])
        assert found[:-1] == infer(model, text)[1][:-1]
