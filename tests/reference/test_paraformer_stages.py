"""Comparison of the stages between Paraformer's graphs with the functions of FunASR."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")

import torch
from funasr.models.bicif_paraformer.cif_predictor import CifPredictorV3
from funasr.models.paraformer.cif_predictor import CifPredictorV2
from funasr.models.seaco_paraformer.model import SeacoParaformer
from funasr.utils.postprocess_utils import sentence_postprocess
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard
from onnx import TensorProto, helper, numpy_helper

from streamasr.core.hypothesis import TokenTimes
from streamasr.core.units import Float32Array
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.cif import fire, with_tail
from streamasr.models.paraformer.hotwords import HotwordEncoder
from streamasr.models.paraformer.text import text_of
from streamasr.models.paraformer.times import token_times

pytestmark = pytest.mark.reference

TAIL: Final = 0.45
WIDTH: Final = 24
SEEDS: Final = range(60)
STEP_MS: Final = {1: 60.0, 3: 20.0}


def encoded_rows(seed: int) -> Float32Array:
    generator = np.random.default_rng(seed)
    n_rows = int(generator.integers(1, 120))
    return generator.normal(size=(n_rows, WIDTH)).astype(np.float32)


def predictor(kind: type, seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    found = kind(idim=WIDTH, l_order=1, r_order=1, threshold=1.0, tail_threshold=TAIL, **options)
    with torch.no_grad():  # from hardly a token to one in each row
        found.cif_output.bias.fill_(seed % 7 - 3)
    return found.eval()


def head(seed: int) -> Any:
    options = {"smooth_factor2": 0.25, "noise_threshold2": 0.01, "upsample_times": 3}
    return predictor(CifPredictorV3, seed, upsample_type="cnn_blstm", use_cif1_cnn=False, **options)


# Integrate and fire


@pytest.mark.parametrize("kind", ["V2", "V3"])
def test_tokens_fire_where_they_do_in_funasr(kind: str) -> None:
    n_fired = 0
    for seed in SEEDS:
        encoded = encoded_rows(seed)
        rows = torch.from_numpy(encoded)[None]
        model = predictor(CifPredictorV2, seed) if kind == "V2" else head(seed)
        with torch.no_grad():
            acoustic, n_tokens, alphas, peaks = model(rows, mask=torch.ones(1, 1, len(encoded)))[:4]
        weights = alphas[0].numpy()
        assert np.array_equal(with_tail(weights[:-1], TAIL), weights)
        fired = fire(encoded, weights[:-1], TAIL)
        assert len(fired.rows) == int(n_tokens)
        assert np.array_equal(fired.rows, np.flatnonzero(peaks[0].numpy() >= 1))
        np.testing.assert_allclose(
            fired.acoustic, acoustic[0].numpy()[: len(fired.rows)], atol=5e-5
        )
        n_fired += len(fired.rows)
    assert n_fired > 1000


# Times


def times_of_funasr(
    weights: Float32Array, peaks: Float32Array, n_tokens: int, upsampling: int
) -> list[list[int]]:
    alphas, fires = torch.tensor(weights), torch.tensor(peaks)
    tokens = ["今"] * n_tokens
    _, found = ts_prediction_lfr6_standard(alphas, fires, tokens, upsample_rate=upsampling)
    return list(found)


def assert_same_times(ours: TokenTimes, theirs: list[list[int]], upsampling: int) -> None:
    """Compare times; FunASR cuts milliseconds off, and has its own end of the last token."""
    longest = 12 * STEP_MS[upsampling]
    expected = np.array(theirs, np.float64)
    expected[-1, 1] = min(expected[-1, 1], expected[-1, 0] + longest)
    found = np.array(ours) / 16
    assert found.shape == expected.shape
    assert np.all(found >= np.maximum(expected, 0) - 0.1)
    assert np.all(found <= np.maximum(expected, 0) + 1.1)


def test_times_of_a_model_with_a_head_are_those_of_funasr() -> None:
    n_compared = 0
    for seed in SEEDS:
        encoded = encoded_rows(seed)
        rows, mask = torch.from_numpy(encoded)[None], torch.ones(1, 1, len(encoded))
        model = head(seed)
        with torch.no_grad():
            n_fired = int(model(rows, mask=mask)[1])
            raw = model.get_upsample_timestamp(rows, mask)[2][0].numpy()
            found = model.get_upsample_timestamp(rows, mask, torch.tensor([float(n_fired)]))
        weights, peaks = found[2][0].numpy(), found[3][0].numpy()
        # Usually one token less than fires, `</s>`; else FunASR scales the weights.
        for n_tokens in {n_fired - 1, n_fired, n_fired // 2} - {-1, 0}:
            theirs = times_of_funasr(weights, peaks, n_tokens, 3)
            if len(theirs) < n_tokens:
                continue  # it lost the last token, where weights are too great to fire in time
            n_samples = 960 * len(encoded)
            for given in (raw, weights):  # before scaling, and after it, as in released graphs
                ours = token_times(given, n_tokens, 320, n_samples)
                assert_same_times(ours, theirs, 3)
                n_compared += n_tokens
    assert n_compared > 3000


def test_times_of_a_model_without_a_head_are_those_of_its_own_fires() -> None:
    n_compared = 0
    for seed in SEEDS:
        encoded = encoded_rows(seed)
        mask = torch.ones(1, 1, len(encoded))
        model = predictor(CifPredictorV2, seed)
        with torch.no_grad():
            _, n_fired, alphas, peaks = model(torch.from_numpy(encoded)[None], mask=mask)
        weights = alphas[0].numpy()
        fired = fire(encoded, weights[:-1], TAIL)
        for n_tokens in {int(n_fired) - 1, int(n_fired), int(n_fired) // 2} - {-1, 0}:
            theirs = times_of_funasr(weights, peaks[0].numpy(), n_tokens, 1)
            if len(theirs) < n_tokens:
                continue
            ours = token_times(weights, n_tokens, 960, 960 * len(weights), fired.rows)
            assert_same_times(ours, theirs, 1)
            n_compared += n_tokens
    assert n_compared > 1000


# Text


VOCABULARY: Final = (
    *("今", "天", "气", "好", "一", "a", "s", "r", "i", "hello", "don't", "world", "4", "7"),
    *("<unk>", "</s>", "<s>"),
)
WORDS: Final = (("tomo@@", "rrow"), ("para@@", "gra@@", "phs"))


@pytest.mark.parametrize("seed", range(20))
def test_texts_are_those_of_funasr(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens: list[str] = []
    while len(tokens) < 40:
        chosen = int(generator.integers(len(VOCABULARY) + len(WORDS)))
        tokens += (
            [VOCABULARY[chosen]] if chosen < len(VOCABULARY) else WORDS[chosen - len(VOCABULARY)]
        )
    kept = [token for token in tokens if not token.startswith("<")]
    for n_tokens in range(len(kept)):
        if kept[n_tokens - 1].endswith("@@"):
            continue  # FunASR loses it
        assert text_of(kept[:n_tokens]).text == sentence_postprocess(kept[:n_tokens])[0]
    assert text_of(kept).text == sentence_postprocess(tokens)[0]


# Hotwords


class Frontend:
    cmvn_file = None


class Tokenizer:
    def tokens2ids(self, tokens: list[str]) -> list[int]:
        return [SEACO.index(token) for token in tokens]


SEACO: Final = ("<blank>", "<s>", "</s>", "今", "天", "气", "hello", "<unk>")


def write_lstm(path: Path, embedding: Any, lstm: Any) -> None:
    """Write the graph of FunASR's `ContextualEmbedderExport`, the gates in the order of ONNX."""
    width = lstm.hidden_size

    def gates(weights: Any) -> Float32Array:
        i, f, g, o = weights.detach().numpy().reshape(4, width, -1)
        found: Float32Array = np.concatenate([i, o, f, g])[None]
        return found

    biases = [gates(each)[..., 0] for each in (lstm.bias_ih_l0, lstm.bias_hh_l0)]
    constants = {
        "table": embedding.weight.detach().numpy(),
        "w": gates(lstm.weight_ih_l0),
        "r": gates(lstm.weight_hh_l0),
        "b": np.concatenate(biases, axis=1),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "hotword"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["by_place"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["by_place", "w", "r", "b"], ["states"], hidden_size=width),
        helper.make_node("Squeeze", ["states", "axis"], ["hw_embed"]),
    ]
    graph = helper.make_graph(
        nodes,
        "embedder",
        [helper.make_tensor_value_info("hotword", TensorProto.INT32, ["h", 10])],
        [helper.make_tensor_value_info("hw_embed", TensorProto.FLOAT, [10, "h", width])],
        [
            numpy_helper.from_array(np.ascontiguousarray(each), name)
            for name, each in constants.items()
        ],
    )
    opset = helper.make_opsetid("", 14)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def test_hotwords_are_embedded_as_by_funasr(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(len(SEACO), WIDTH)
    lstm = torch.nn.LSTM(WIDTH, WIDTH, batch_first=True)
    write_lstm(tmp_path / "hotwords.onnx", embedding, lstm)
    ours = HotwordEncoder(tmp_path / "hotwords.onnx", SEACO, WIDTH, OnnxOptions(threads=1))

    model = SeacoParaformer.__new__(SeacoParaformer)
    torch.nn.Module.__init__(model)
    model.sos, model.bias_encoder_type, model.lstm_proj = 1, "lstm", None
    model.bias_encoder = lstm
    model.decoder = torch.nn.Module()
    model.decoder.embed = embedding
    # FunASR takes a hotword without its dictionary of pieces as one token.
    lists = model.generate_hotwords_list("今 hello 天", Tokenizer(), Frontend())
    assert lists == [[3], [6], [4], [1]]
    assert [ours.ids(hotword) for hotword in ("今", "hello", "天")] == lists[:-1]
    lists = [ours.ids(hotword) for hotword in ("今天天气", "hello 今", "天")] + [[1]]
    padded = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, lists)), batch_first=True)
    with torch.no_grad():
        theirs = model._hotword_representation(padded, torch.tensor(list(map(len, lists))))
    found = ours.embed(("今天天气", "hello 今", "天"))
    np.testing.assert_allclose(found[0], theirs.numpy(), atol=1e-6)
