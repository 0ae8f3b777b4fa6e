"""Paraformer from the original folder to text and times, against FunASR on the same clips."""

import json
from itertools import compress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")

import torch
import yaml
from funasr.frontends.wav_frontend import WavFrontend
from funasr.models.bicif_paraformer import model as bicif_module
from funasr.models.paraformer import model as paraformer_module
from funasr.tokenizer.char_tokenizer import CharTokenizer
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import Paraformer, load
from tests.reference.paraformer import Sizes, build
from tests.support.goldens import read_clip
from tests.support.paraformer import times_by_fires
from tests.support.signals import signal, speechlike

pytestmark = pytest.mark.reference

TOKENS: Final = (
    *(
        "<blank>",
        "<s>",
        "</s>",
        *"今天气好一二三四五六七八九十上下左右东西南北人口日月",
        "a",
        "s",
        "r",
        "i",
    ),
    *("hello", "world", "yes", "no", "<unk>"),
)
SIZES: Final = {
    "plain": Sizes(vocab=len(TOKENS)),
    "as tiny-paraformer": Sizes(192, 4, 512, 6, decoder_ffn=512, layers=2, vocab=len(TOKENS)),
    "time head": Sizes(d_model=64, head="cnn_blstm", vocab=len(TOKENS)),
}
CLIPS: Final = ("espeak_1", "mandarin", "noise", "speechlike", "short", "silence")


def clip(name: str) -> Float32Array:
    if name == "speechlike":
        return speechlike(40_123)
    if name == "short":
        return signal("noise", 2320)
    if name == "silence":
        return signal("silence", 16_000)
    return read_clip(name)


def write_original(folder: Path, model: Any, sizes: Sizes) -> None:
    """Write a folder as FunASR does."""
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pt")
    frontend = {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
        "dither": 0.0,
    }
    config = sizes.config() | {"frontend": "WavFrontend", "frontend_conf": frontend}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "tokens.json").write_text(json.dumps(TOKENS))
    generator = np.random.RandomState(0)
    shift, scale = generator.uniform(-14, -8, 560), generator.uniform(0.2, 0.4, 560)
    lines = ["<Nnet>", "<Splice> 560 560", "[ 0 ]"]
    for name, values in (("AddShift", shift), ("Rescale", scale)):
        numbers = " ".join(f"{value:.6f}" for value in values)
        lines += [f"<{name}> 560 560", f"<LearnRateCoef> 0 [ {numbers} ]"]
    (folder / "am.mvn").write_text("\n".join([*lines, "</Nnet>", ""]))


def infer(model: Any, folder: Path, samples: Float32Array, **options: Any) -> dict[str, Any] | None:
    """Have FunASR recognise a clip; None where it finds nothing."""
    frontend = WavFrontend(
        cmvn_file=str(folder / "am.mvn"), window="hamming", lfr_m=7, lfr_n=6, dither=0.0
    )
    with torch.no_grad():
        found = model.inference(
            [torch.from_numpy(samples)],
            key=["clip"],
            tokenizer=CharTokenizer(token_list=list(TOKENS), unk_symbol="<unk>"),
            frontend=frontend,
            device="cpu",
            **options,
        )
    if not found:
        return None
    result: dict[str, Any] = found[0][0]
    return result


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


def recognise(ours: Paraformer, samples: Float32Array) -> Hypothesis:
    utterance = ours.begin(SessionOptions())
    utterance.append(samples)
    found = utterance.update(len(samples)).result
    assert isinstance(found, Hypothesis)
    return found


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
