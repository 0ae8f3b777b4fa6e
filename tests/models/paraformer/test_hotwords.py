"""Hotwords of models that take them: from words to tokens to embeddings."""

from pathlib import Path

import numpy as np
import pytest

from streamasr.core.errors import ModelError
from streamasr.core.options import SessionOptions
from streamasr.models.paraformer.hotwords import HotwordEncoder, phrases_of
from tests.support.errors import raises
from tests.support.paraformer import (
    OPTIONS,
    TOKENS,
    opened,
    script,
    write_bundle,
    write_decoder,
    write_hotwords,
    write_whole,
)


@pytest.fixture
def encoder(tmp_path: Path) -> HotwordEncoder:
    write_hotwords(tmp_path / "hotwords.onnx")
    return HotwordEncoder(tmp_path / "hotwords.onnx", TOKENS, len(TOKENS), OPTIONS)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A model that adds the embeddings of hotwords to its logits."""
    directory = write_bundle(tmp_path / "model", "whole", head=True)
    write_whole(directory / "model.onnx", head=True, bias=True)
    return directory


@pytest.mark.parametrize(
    ("context", "phrases"),
    [
        ("", []),
        ("张三，李四、王五", ["张三", "李四", "王五"]),
        ("张三 李四\n王五", ["张三", "李四", "王五"]),
        ("Ada Lovelace, Grace Hopper; C++", ["Ada Lovelace", "Grace Hopper", "C++"]),
        ("Names: O'Neil. 魔搭 ModelScope", ["Names", "O'Neil", "魔搭", "ModelScope"]),
        ("今天我们在这里讨论下一个季度的计划。张三", ["张三"]),
        ("The minutes of a meeting about the plans for the next year. Ada", ["Ada"]),
    ],
)
def test_names_and_terms_in_the_context_are_hotwords(context: str, phrases: list[str]) -> None:
    assert list(phrases_of(SessionOptions(context=context))) == phrases
    both = SessionOptions(context=context, hotwords=(" Eve ", "", *phrases))
    assert list(phrases_of(both)) == ["Eve", *phrases]


def test_a_hotword_without_a_known_token_is_left_out(encoder: HotwordEncoder) -> None:
    assert encoder.embed(("雨", "今雨", "asr")).shape[1] == 2
    assert encoder.embed(()).shape[1] == 1


@pytest.mark.parametrize(
    ("hotword", "tokens"),
    [
        ("今天", "今 天"),
        (" Hello 今 ", "hello 今"),
        ("天hello气", "天 hello 气"),
        ("tomorrow", "tomo@@ rrow"),
        ("ASR", "a s r"),
        ("asr", "<unk>"),
        ("A S R", "a s r"),
        ("今、天", "今 天"),
        ("hello-world_4", "hello world 4"),
        ("卡·今", "<unk> 今"),
        ("…'", ""),
        ("雨天", "<unk> 天"),
        ("今" * 12, "今 " * 10),
        ("4天", "4 天"),
        ("", ""),
    ],
)
def test_a_hotword_is_characters_words_and_pieces(
    encoder: HotwordEncoder, hotword: str, tokens: str
) -> None:
    assert [TOKENS[number] for number in encoder.ids(hotword)] == tokens.split()


def test_an_embedding_is_the_state_at_the_last_token_and_the_last_is_of_no_hotword(
    encoder: HotwordEncoder,
) -> None:
    embeddings = encoder.embed(("今天", "", "hello"))
    assert embeddings.shape == (1, 3, len(TOKENS))
    sums = [[TOKENS[place] for place in np.flatnonzero(each)] for each in embeddings[0]]
    assert sums == [["今", "天"], ["hello"], ["<s>"]]


def test_embeddings_are_computed_once(
    encoder: HotwordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoder.embed(("今天",))
    monkeypatch.setattr(encoder, "_graph", None)
    assert encoder.embed(("今天",)) is first


def test_only_so_many_lists_are_kept_and_hotwords_count(encoder: HotwordEncoder) -> None:
    for number in range(40):
        encoder.embed(("今",) * number)
    assert len(encoder._known) == 16
    assert encoder.embed(("今",) * 2000).shape[1] == 501


def test_hotwords_reach_the_model(bundle: Path) -> None:
    write_hotwords(bundle / "hotwords.onnx")
    model = opened(bundle)
    frames = script(*[(1.0, "今")] * 3, times=[[0, 1, 0]] * 3)
    # Their sum outweighs what was said, as no real embedding does.
    assert model.recognise(frames, 480, hotwords=("天", "天天")).text == "天天天"
    assert model.recognise(frames, 480).text in {"今今今", ""}


def test_without_their_graph_the_model_gets_zeros(bundle: Path) -> None:
    model = opened(bundle)
    frames = script(*[(1.0, "今")] * 3, times=[[0, 1, 0]] * 3)
    assert model.recognise(frames, 480, hotwords=("天", "天天")).text == "今今今"
    assert model.bias(("天", "天天")) is not None


def test_plain_models_ignore_hotwords(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "plain", "whole", head=True)
    write_hotwords(bundle / "hotwords.onnx")
    model = opened(bundle)
    assert model.bias(("今",)) is None


def test_a_graph_of_hotwords_for_another_model_is_refused(bundle: Path) -> None:
    write_hotwords(bundle / "hotwords.onnx", width=len(TOKENS) + 1)
    with raises(ModelError, "graphs_do_not_fit"):
        opened(bundle)
    write_decoder(bundle / "hotwords.onnx")
    with raises(ModelError, "graph_inputs"):
        opened(bundle)
