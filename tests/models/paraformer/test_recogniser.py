"""Paraformer in the encoder process: both kinds of graphs, growing segments, and broken files."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import AudioError, ModelError
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.models.bundle import open_bundle, read_bundle
from streamasr.models.family import Role
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import Paraformer, Utterance, load
from tests.support.clips import cuts
from tests.support.errors import raises
from tests.support.paraformer import (
    PLAIN,
    TOKENS,
    opened,
    script,
    write_bundle,
    write_decoder,
    write_encoder,
    write_whole,
)
from tests.support.signals import speechlike

NOTHING = Hypothesis("", None, ())
SPOKEN = (
    *((0.5, "今"), (0.6, "天"), (0.9, "天"), (1.0, "a"), (1.0, "s"), (1.0, "r")),
    *((0.2, "hello"), (0.8, "hello"), (1.0, "</s>")),
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Paraformer:
    return opened(write_bundle(tmp_path_factory.mktemp("parts") / "model"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Paraformer:
    return opened(write_bundle(tmp_path_factory.mktemp("whole") / "model", "whole", head=True))


def recognise(model: Paraformer, frames: Any, options: SessionOptions = PLAIN) -> Hypothesis:
    return model.recognise(frames, 160 * len(frames), options.language, options.hotwords)


# Recognition


def test_parts_fire_and_decode(parts: Paraformer) -> None:
    hypothesis = recognise(parts, script(*SPOKEN))
    assert hypothesis.text == "今天ASR hello"
    assert hypothesis.language == "Chinese"
    assert [TOKENS[token] for token in hypothesis.tokens] == ["今", "天", "a", "s", "r", "hello"]
    assert hypothesis.ends == (1, 2, 2, 4, 5, 11)
    assert not hypothesis.is_suspicious


def test_what_is_nearly_a_token_fires_at_the_end(parts: Paraformer) -> None:
    rows = ((1.0, "今"), (1.0, "天"))
    assert recognise(parts, script(*rows, (0.54, "气"))).text == "今天"
    assert recognise(parts, script(*rows, (0.56, "气"))).text == "今天气"


def test_what_stands_for_no_text_is_dropped(parts: Paraformer) -> None:
    rows = [(1.0, token) for token in ("<s>", "今", "<unk>", "<blank>", "天", "</s>", "</s>")]
    hypothesis = recognise(parts, script(*rows))
    assert hypothesis.text == "今天"
    assert len(hypothesis.tokens) == len(hypothesis.ends) == len(hypothesis.times) == 2


def test_a_last_token_stays_if_the_sentence_has_no_end(parts: Paraformer) -> None:
    """FunASR's package for ONNX would drop it, and with it a word."""
    assert recognise(parts, script((1, "今"), (1, "天"), (1, "气"))).text == "今天气"


def test_the_language_asked_for_is_given_back(parts: Paraformer) -> None:
    frames = script(*SPOKEN)
    assert recognise(parts, frames, SessionOptions(language="English")).language == "English"
    assert recognise(parts, frames[:2], SessionOptions(language="English")) == NOTHING


def test_a_time_head_times_in_steps_of_20_ms(tmp_path: Path) -> None:
    model = opened(write_bundle(tmp_path / "model", head=True))
    times = [[0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    rows = [*[(0.0, "今")] * 4, (1.0, "今"), (1.0, "天"), (1.0, "</s>")]
    frames = script(*rows, times=times)
    hypothesis = recognise(model, frames)  # rows of one frame: steps of a third of 10 ms
    step = 160 / 3
    expected = [(3.5, 8.5), (8.5, 18.25)]
    assert hypothesis.text == "今天"
    assert hypothesis.times == tuple((round(a * step), round(b * step)) for a, b in expected)


def test_a_whole_graph_gives_the_tokens_that_it_counts(whole: Paraformer) -> None:
    rows = ((0.5, "今"), (1.5, "天"), (1.4, "</s>"), (0.1, "气"))
    hypothesis = recognise(whole, script(*rows, times=[[0, 1, 0]] * 4))
    assert hypothesis.text == "今天"
    assert len(hypothesis.times) == 2


@pytest.mark.parametrize("head", [False, True])
def test_a_whole_graph_that_fails_because_nothing_fires_says_nothing(
    tmp_path: Path, head: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    model = opened(write_bundle(tmp_path / "model", "whole", head=head))
    assert recognise(model, script(*[(0.1, "今")] * 5)) == NOTHING
    assert "onnxruntime" not in capfd.readouterr().err


def test_without_times_in_the_graph_they_follow_the_loudness(tmp_path: Path) -> None:
    warnings: list[str] = []
    bundle = write_bundle(tmp_path / "model", "whole")
    model = load(bundle, OnnxOptions(threads=1, warn=warnings.append))
    assert len(warnings) == 1
    loud = [[99] * 3 if 3 < number < 8 else [0] * 3 for number in range(10)]
    hypothesis = recognise(model, script(*[(0.21, "今")] * 10, times=loud))
    assert len(hypothesis.tokens) == 2
    [(start, _), (_, end)] = hypothesis.times
    assert 2 * 160 <= start < end <= 10 * 160


@pytest.mark.parametrize("n_frames", [0, 1, 2])
def test_what_is_too_short_for_a_word_says_nothing(
    parts: Paraformer, whole: Paraformer, n_frames: int
) -> None:
    for model in (parts, whole):
        assert recognise(model, script(*SPOKEN)[:n_frames]) == NOTHING


def test_features_that_are_not_finite_say_nothing(parts: Paraformer) -> None:
    frames = script(*SPOKEN)
    frames[3] = np.inf
    assert recognise(parts, frames) == NOTHING


@given(
    weights=st.lists(st.sampled_from((0.0, 0.2, 0.5, 1.0)), min_size=3, max_size=30),
    data=st.data(),
)
def test_hypotheses_are_well_formed(
    parts: Paraformer, weights: list[float], data: st.DataObject
) -> None:
    rows = [(weight, data.draw(st.sampled_from(TOKENS))) for weight in weights]
    n_samples = data.draw(st.integers(1, 160 * len(rows) + 999))
    found = parts.recognise(script(*rows), n_samples)
    assert len(found.tokens) == len(found.ends) == len(found.times)
    assert list(found.ends) == sorted(found.ends)
    assert all(end <= len(found.text) for end in found.ends)
    borders = [border for span in found.times for border in span]
    assert borders == sorted(borders)
    assert all(0 <= border <= n_samples for border in borders)
    assert (found.language is None) == (not found.text)


# Growing segments


def real_frames(tmp_path: Path) -> Paraformer:
    """A model that takes 80 mels in rows of 7, with random weights."""
    bundle = write_bundle(tmp_path / "model")
    facts = json.loads((bundle / "model.json").read_text())
    n_mels = 80
    facts |= {"n_mels": n_mels, "lfr": {"window": 7, "shift": 6}}
    (bundle / "model.json").write_text(json.dumps(facts))
    scale = np.full(560, 0.08, np.float32)
    np.save(bundle / "cmvn.npy", np.stack([np.full(560, -9, np.float32), scale]))
    return opened(bundle)


def result(utterance: Utterance, n_samples: int) -> Hypothesis:
    found = utterance.update(n_samples).result
    assert isinstance(found, Hypothesis)
    return found


def test_a_growing_segment_gives_what_one_from_scratch_does(tmp_path: Path) -> None:
    model = real_frames(tmp_path)
    clip = speechlike(30_000)

    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        growing = model.begin(PLAIN)
        for start, end in pairwise([0, *data.draw(cuts(len(clip), 3))]):
            growing.append(clip[start:end])
            alone = model.begin(PLAIN)
            alone.append(clip[:end])
            assert result(growing, end) == result(alone, end)
        assert growing.n_samples == len(clip)
        fewer = model.begin(PLAIN)
        fewer.append(clip[:20_000])
        assert result(growing, 20_000) == result(fewer, 20_000)

    check()
    whole = model.begin(PLAIN)
    whole.append(clip)
    assert result(whole, len(clip)).text


@pytest.mark.parametrize("n_samples", [1, 399, 400, 1000, 2159])
def test_short_clips_say_nothing(tmp_path: Path, n_samples: int) -> None:
    utterance = real_frames(tmp_path).begin(PLAIN)
    utterance.append(speechlike(n_samples))
    assert result(utterance, n_samples) == NOTHING


def test_samples_that_are_not_there_are_refused(parts: Paraformer) -> None:
    utterance = parts.begin(PLAIN)
    with raises(AudioError, "no_audio"):
        utterance.append(np.empty(0, np.float32))
    utterance.append(np.zeros(10, np.float32))
    with raises(AudioError, "samples_out_of_range"):
        utterance.update(11)


# Files


def test_a_bundle_needs_the_files_of_its_kind(tmp_path: Path) -> None:
    parts = open_bundle(write_bundle(tmp_path / "parts"))
    assert set(parts.family.files(parts)) == {
        *("encoder.onnx", "decoder.onnx", "tokens.json", "cmvn.npy")
    }
    whole = read_bundle(write_bundle(tmp_path / "whole", "whole"), Role.RECOGNISER)
    assert set(whole.family.files(whole)) == {"model.onnx", "tokens.json", "cmvn.npy"}
    parts.check_files()
    whole.check_files()


@pytest.mark.parametrize(
    "facts",
    [
        {"graphs": "pieces"},
        {"graphs": None},
        {"vocab": True},
        {"vocab": 0},
        {"vocab": 1 << 40},
        {"n_mels": "80"},
        {"lfr": [7, 6]},
        {"lfr": {"window": 7}},
        {"predictor": None},
        {"predictor": {"tail": 1.5}},
        {"predictor": {"tail": 0.45, "threshold": 0.9}},
        {"time_upsampling": 2.5},
    ],
    ids=str,
)
def test_facts_that_cannot_be_are_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    bundle = write_bundle(tmp_path / "model", **facts)
    with raises(ModelError, "paraformer_facts") as caught:
        opened(bundle)
    assert str(bundle) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', '["a"]', "[" * 100_000])
def test_tokens_that_are_broken_or_too_few_are_refused(tmp_path: Path, content: str) -> None:
    bundle = write_bundle(tmp_path / "model")
    (bundle / "tokens.json").write_text(content)
    with raises(ModelError, "tokens_broken"):
        opened(bundle)


def test_a_normalisation_of_another_form_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model")
    path = bundle / "cmvn.npy"
    good = np.load(path)
    for array in (good[:1], good[:, 1:], good.astype(np.float64), good * np.float32("nan")):
        np.save(path, array)
        with raises(ModelError, "cmvn_broken"):
            opened(bundle)
    path.write_bytes(b"nonsense")
    with raises(ModelError, "cmvn_unreadable"):
        opened(bundle)
    np.save(path, np.array([{}]), allow_pickle=True)
    with raises(ModelError, "cmvn_unreadable"):
        opened(bundle)


@pytest.mark.parametrize("name", ["model.json", "tokens.json", "encoder.onnx", "decoder.onnx"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    bundle = write_bundle(tmp_path / "model")
    (bundle / name).unlink()
    with pytest.raises(ModelError, match=name):
        opened(bundle)


# Graphs


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model", vocab=len(TOKENS) + 1)
    (bundle / "tokens.json").write_text(json.dumps([*TOKENS, "more"]))
    with raises(ModelError, "graph_vocabulary"):
        opened(bundle)


def test_a_decoder_of_another_model_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model")
    write_decoder(bundle / "decoder.onnx", n_tokens=len(TOKENS) + 2)
    with raises(ModelError, "graph_does_not_run"):
        opened(bundle)


def test_a_time_head_that_the_graph_lacks_is_missed(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model", time_upsampling=3)
    with raises(ModelError, "graph_outputs"):
        opened(bundle)


def test_a_time_head_of_another_rate_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model", time_upsampling=2)
    write_encoder(bundle / "encoder.onnx", head=True)
    with raises(ModelError, "graph_result_shape"):
        opened(bundle)


def test_graphs_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "whole", "whole")
    write_decoder(bundle / "model.onnx")
    with raises(ModelError, "graph_inputs"):
        opened(bundle)
    write_whole(bundle / "model.onnx")
    graph = onnx.load(bundle / "model.onnx")
    del graph.graph.output[1]
    onnx.save(graph, bundle / "model.onnx")
    with raises(ModelError, "graph_outputs"):
        opened(bundle)


def damaged(path: Path, value: float) -> None:
    """Have the first output of a graph multiplied by a number."""
    model = onnx.load(path)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if each == name else each for each in node.output]
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array(value, np.float32), "factor")
    )
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [name]))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("kind", "name"), [("parts", "encoder"), ("parts", "decoder"), ("whole", "model")]
)
def test_numbers_that_are_not_finite_are_an_error(tmp_path: Path, kind: str, name: str) -> None:
    bundle = write_bundle(tmp_path / "model", kind)
    damaged(bundle / f"{name}.onnx", np.nan)
    with raises(ModelError, "encoder_not_finite"):
        opened(bundle)


def test_an_encoder_that_computes_the_same_for_every_sound_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model")
    damaged(bundle / "encoder.onnx", 0)
    with raises(ModelError, "encoder_constant"):
        opened(bundle)


def test_a_whole_graph_that_never_runs_is_warned_of(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model", "whole", head=True)
    model = onnx.load(bundle / "model.onnx")
    [place] = [each for each in model.graph.initializer if each.name == "row_axis"]
    place.CopyFrom(onnx.numpy_helper.from_array(np.array([7]), "row_axis"))
    onnx.save(model, bundle / "model.onnx")
    warnings: list[str] = []
    load(bundle, OnnxOptions(threads=1, warn=warnings.append))
    [warning] = warnings
    assert "does not run on noise" in warning


def test_a_whole_graph_that_fails_for_another_reason_is_an_error(tmp_path: Path) -> None:
    """A graph that runs out of memory on a long segment, say, must not swallow its text."""
    bundle = write_bundle(tmp_path / "model", "whole", head=True)
    graph = onnx.load(bundle / "model.onnx")
    [last] = [node for node in graph.graph.node if "logits" in node.output]
    last.output[:] = ["without_limit"]
    room = onnx.numpy_helper.from_array(np.zeros(601, np.float32), "room")
    graph.graph.initializer.append(room)  # an index behind its end fails
    graph.graph.node.append(onnx.helper.make_node("Gather", ["room", "speech_lengths"], ["zero_"]))
    graph.graph.node.append(onnx.helper.make_node("Add", ["without_limit", "zero_"], ["logits"]))
    onnx.save(graph, bundle / "model.onnx")
    model = opened(bundle)
    rows = script(*[(1.0, "今")] * 3, *[(0.0, "今")] * 597, times=[[0, 1, 0]] * 600)
    assert recognise(model, rows).text == "今今今"
    assert recognise(model, script(*[(0.0, "今")] * 9, times=[[0, 1, 0]] * 9)) == NOTHING
    with raises(ModelError, "graph_does_not_run"):
        recognise(model, np.concatenate([rows, rows[:1]]))


def test_a_whole_graph_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "model", "whole", head=True, vocab=len(TOKENS) + 1)
    (bundle / "tokens.json").write_text(json.dumps([*TOKENS, "more"]))
    with raises(ModelError, "graph_vocabulary"):
        opened(bundle)
