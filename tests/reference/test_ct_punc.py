"""Punctuation compared with the CTTransformer of funasr, class by class."""

import random
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")


import jieba
import torch
from funasr.models.ct_transformer.utils import split_words

from streamasr.core.punctuation import Mark, marked_text
from streamasr.importing.ct_punc.segmentation import USER_DICTIONARY, read_segmentation
from streamasr.importing.pack import import_model
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.ct_punc.segmentation import Segmentation
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


USER_WORDS = """今天天气 5
很好
我们去 3 v
去公园
觉得怎么样 100000 l
asr
a b 7
公 0
蛇
"""


@pytest.fixture(scope="module")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words that are added to those of jieba, as the large model has them."""
    path = tmp_path_factory.mktemp("words") / USER_DICTIONARY
    path.write_text(USER_WORDS, "utf-8")
    return path


@pytest.fixture(scope="module")
def segmentation(dictionary: Path) -> Segmentation:
    return read_segmentation(dictionary)


leaves_files_open = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@leaves_files_open
def test_chinese_is_divided_as_by_jieba(dictionary: Path, segmentation: Segmentation) -> None:
    tokenizer = jieba.Tokenizer()
    tokenizer.load_userdict(str(dictionary))
    assert segmentation.total == tokenizer.total
    assert segmentation.frequencies == {word: n for word, n in tokenizer.FREQ.items() if n}
    known = [word for word in tokenizer.FREQ if len(word) < 4][:: len(tokenizer.FREQ) // 3000]
    generator = random.Random(4)
    for _ in range(300):
        parts = generator.choices([*known, *"。，é蛇x3", "c++", "k.k", "今天天气很好"], k=30)
        text = "".join("".join(parts).split())
        assert list(segmentation.divide(text)) == list(tokenizer.cut(text, HMM=False))


@leaves_files_open
@pytest.mark.parametrize("n_words", [1, 20, 57, 333])
def test_classes_of_a_vocabulary_of_words_are_those_of_funasr(
    tmp_path: Path, dictionary: Path, segmentation: Segmentation, n_words: int
) -> None:
    words = [*WORDS[:-1], "今天天气", "很好", "公园", "觉得怎么样", "我们", WORDS[-1]]
    weights = random_weights(Shape(), len(words), len(MARKS), seed=n_words)
    model = reference(weights, Shape(), dictionary=dictionary)
    folder = write_bundle(tmp_path / "m", weights, Shape(), words, segmentation=segmentation)
    punctuator = CTPunctuator.from_bundle(open_bundle(folder), OnnxOptions(threads=1))
    phrases = [
        "今天天气",
        "很好",
        "我们去公园吧",
        "你觉得怎么样",
        " hello ",
        " it's ",
        "asr",
        "一二三",
    ]
    for seed in range(3):
        text = "".join(random.Random(seed).choices(phrases, k=n_words)).strip()
        found = list(words_of(text, segmentation.divide))
        assert [word for word, _ in found] == split_words(text, jieba_usr_dict=jieba)
        marked, _ = infer(model, text, words)
        each = punctuator.punctuate(text)
        closed = [*each.each[:-1], Mark(each.each[-1].end, each.closing)]
        written = "".join(marked_text(text, closed).split())
        assert written == re.sub("(?<=[a-z])、", ",", "".join(marked.split()).replace("<unk>", ""))
