"""Paraformer from the original folder to text and times, against FunASR on the same clips."""

from itertools import compress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")

import torch
from funasr.models.bicif_paraformer import model as bicif_module
from funasr.models.paraformer import model as paraformer_module
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard

from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import Paraformer, load
from tests.reference.paraformer import Sizes, build
from tests.reference.paraformer_clips import (
    CLIPS,
    TOKENS,
    clip,
    infer,
    recognise,
    write_original,
)
from tests.support.paraformer import times_by_fires

pytestmark = pytest.mark.reference

SIZES: Final = {
    "plain": Sizes(vocab=len(TOKENS)),
    "as tiny-paraformer": Sizes(192, 4, 512, 6, decoder_ffn=512, layers=2, vocab=len(TOKENS)),
    "time head": Sizes(d_model=64, head="cnn_blstm", vocab=len(TOKENS)),
}


@pytest.fixture(scope="module", params=SIZES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, Paraformer]:
    """Return FunASR's model, its folder, and ours."""
    sizes = SIZES[request.param]
    folder = tmp_path_factory.mktemp("paraformer")
    model = build(sizes)
    with torch.no_grad():  # several tokens a second
        model.predictor.cif_output.bias.fill_(0.3)
    write_original(folder / "original", model, sizes)
    import_model(folder / "original", folder / "bundle", ImportOptions("fp32"))
    return model, folder / "original", load(folder / "bundle", OnnxOptions(threads=1))


@pytest.mark.parametrize("name", CLIPS)
def test_texts_are_those_of_funasr(pair: tuple[Any, Path, Paraformer], name: str) -> None:
    model, folder, ours = pair
    theirs = infer(model, folder, clip(name))
    found = recognise(ours, clip(name))
    if theirs is None:
        assert not found.text
    elif "timestamp" in theirs:  # words, with spaces between all of them
        assert found.text.replace(" ", "") == theirs["text"].replace(" ", "")
    else:
        assert found.text == theirs["text"]
    assert len(found.tokens) > 3 or name in {"short", "silence"}


@pytest.mark.parametrize("name", CLIPS)
def test_times_are_those_of_funasr(
    pair: tuple[Any, Path, Paraformer], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder, ours = pair
    given: list[tuple[Any, Any, list[str]]] = []

    def spy(first: Any, second: Any, tokens: list[str], **options: Any) -> Any:
        given.append((first.clone(), second.clone(), list(tokens)))
        return ts_prediction_lfr6_standard(first, second, tokens, **options)

    for module in (paraformer_module, bicif_module):
        monkeypatch.setattr(module, "ts_prediction_lfr6_standard", spy)
    samples = clip(name)
    if infer(model, folder, samples, pred_timestamp=True) is None:
        return
    [(weights, peaks, tokens)] = given
    if not tokens:
        assert recognise(ours, samples).text == ""
        return
    has_head = hasattr(model.predictor, "upsample_cnn")
    if not has_head:  # 1.4.16 takes one for the other; later versions do not
        assert weights.max() >= 1 > peaks.max()
        weights, peaks = peaks, weights
    per_row = 3 if has_head else 1
    _, times = ts_prediction_lfr6_standard(weights, peaks, tokens, upsample_rate=per_row)
    found = recognise(ours, samples)
    expected = np.maximum(np.array(times), 0)
    # Ours is no longer than any other.
    expected[-1, 1] = min(expected[-1, 1], times[-1][0] + 12 * 60 // per_row)
    expected = np.minimum(expected, len(samples) // 16)
    by_fires = times_by_fires(ours, samples, len(tokens))
    assert np.abs(np.array(by_fires) / 16 - expected).max() <= 1.1
    if has_head:
        kept = [token != "<unk>" for token in tokens]
        assert found.times == tuple(compress(by_fires, kept))
