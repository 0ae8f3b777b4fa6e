"""Small Paraformers with weights and results of FunASR: stage by stage, and from samples on."""

from pathlib import Path

import numpy as np
import pytest

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.models.onnx import open_session
from streamasr.models.paraformer.cif import fire
from streamasr.models.paraformer.recogniser import load
from tests.support.paraformer import OPTIONS, times_by_fires
from tests.support.paraformer_golden import (
    CLIPS,
    MODELS,
    ROWS,
    clip,
    golden,
    random_features,
    write_golden_bundle,
)
from tests.support.rounding import assert_same


@pytest.fixture(scope="module", params=MODELS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Return the name of a model, and its bundle."""
    name: str = request.param
    return name, write_golden_bundle(tmp_path_factory.mktemp("golden") / "bundle", name)


@pytest.mark.parametrize("n_rows", ROWS)
def test_all_stages_are_those_of_funasr(model: tuple[str, Path], n_rows: int) -> None:
    name, bundle = model
    outputs = {"encoded": 3, "alphas": 2} | ({"time_alphas": 2} if name == "time head" else {})
    encoder = open_session(
        bundle / "encoder.onnx", OPTIONS, inputs={"features": 3}, outputs=outputs
    )
    decoder = open_session(
        bundle / "decoder.onnx",
        OPTIONS,
        inputs={"encoded": 3, "acoustic": 3},
        outputs={"logits": 3},
    )
    features = random_features(n_rows)
    found = dict(
        zip(outputs, encoder.run_for(list(outputs), {"features": features[None]}), strict=True)
    )
    fired = fire(found["encoded"][0], found["alphas"][0], 0.45)
    found["logits"] = decoder.run("logits", encoded=found["encoded"], acoustic=fired.acoustic[None])
    with golden() as arrays:
        for stage, values in found.items():
            expected = arrays[f"{name}/{n_rows}/{stage}"]
            error = float(arrays[f"{name}/{n_rows}/{stage}_error"])
            assert_same(values[0], expected, error)


@pytest.mark.parametrize("name", CLIPS)
def test_text_and_times_are_those_of_funasr(model: tuple[str, Path], name: str) -> None:
    kind, bundle = model
    samples = clip(name)
    paraformer = load(bundle, OPTIONS)
    utterance = paraformer.begin(SessionOptions())
    utterance.append(samples)
    found = utterance.update(len(samples)).result
    assert isinstance(found, Hypothesis)
    with golden() as arrays:
        tokens, text, times = (
            arrays[f"{kind}/{name}/{stage}"] for stage in ("tokens", "text", "times")
        )
    assert found.text == str(text)
    assert found.tokens == tuple(tokens)
    expected = np.clip(times, 0, len(samples) / 16)
    longest = 240 if kind == "time head" else 720
    expected[-1, 1] = min(expected[-1, 1], times[-1, 0] + longest)  # no longer than any other
    ours = times_by_fires(paraformer, samples, len(tokens))
    assert np.abs(np.array(ours) / 16 - expected).max() <= 1.1
    if kind == "time head":
        assert found.times == ours
