"""The embedded Paraformer's own weights: FunASR and ours, stage by stage, for real clips."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")

import torch
import yaml
from funasr.frontends.wav_frontend import WavFrontend
from funasr.models.paraformer.model import Paraformer as FunasrParaformer

from streamasr.core.units import Float32Array
from streamasr.features.fbank import fbank
from streamasr.features.lfr import stack_frames
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions, open_session
from streamasr.models.paraformer.cif import fire, fire_rows, with_tail
from streamasr.models.paraformer.recogniser import Paraformer, load
from tests.reference.paraformer import stages
from tests.reference.paraformer_clips import infer, recognise
from tests.support.goldens import read_clip
from tests.support.paths import CLIPS as CLIP_FILES
from tests.support.paths import TINY
from tests.tiny.make_bundle import make_paraformer_bundle

pytestmark = pytest.mark.reference

CHECKPOINT: Final = TINY / "paraformer"
CLIPS: Final = sorted(path.stem for path in CLIP_FILES.glob("*.flac"))
OPTIONS: Final = OnnxOptions(threads=1)
LEAST_COSINE: Final = 0.9999


@pytest.fixture(scope="module")
def theirs() -> Any:
    config = yaml.safe_load((CHECKPOINT / "config.yaml").read_text("utf-8"))
    weights = torch.load(CHECKPOINT / "model.pt")
    parts = ("encoder", "decoder", "predictor")
    model = FunasrParaformer(
        **{name: config[name] for part in parts for name in (part, f"{part}_conf")},
        **config["model_conf"],
        input_size=560,
        vocab_size=len(weights["decoder.output_layer.bias"]),
    )
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny") / "bundle"
    import_model(CHECKPOINT, made, ImportOptions("fp32"))
    return made


@pytest.fixture(scope="module")
def ours(bundle: Path) -> Paraformer:
    return load(bundle, OPTIONS)


def rows_of(ours: Paraformer, samples: Float32Array) -> Float32Array:
    settings = ours.settings
    return ours.cmvn.apply(stack_frames(fbank(samples), settings.window, settings.shift))


def cosine(one: Float32Array, other: Float32Array) -> float:
    assert one.shape == other.shape
    a, b = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", CLIPS)
def test_all_stages_are_those_of_funasr(
    theirs: Any, ours: Paraformer, bundle: Path, name: str
) -> None:
    samples = read_clip(name)
    frontend = WavFrontend(
        cmvn_file=str(CHECKPOINT / "am.mvn"), window="hamming", lfr_m=7, lfr_n=6, dither=0.0
    )
    features = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].numpy()
    rows = rows_of(ours, samples)
    assert np.abs(rows - features).max() <= 2e-3 * np.abs(features).max()
    assert cosine(rows, features) >= LEAST_COSINE
    encoder = open_session(
        bundle / "encoder.onnx",
        OPTIONS,
        inputs={"features": 3},
        outputs={"encoded": 3, "alphas": 2},
    )
    decoder = open_session(
        bundle / "decoder.onnx",
        OPTIONS,
        inputs={"encoded": 3, "acoustic": 3},
        outputs={"logits": 3},
    )
    encoded, alphas = encoder.run_for(["encoded", "alphas"], {"features": rows[None]})
    # FunASR's decoder fails without tokens.
    exact = stages(theirs, features, np.zeros((1, encoded.shape[2]), np.float32))
    assert cosine(encoded[0], exact.encoded) >= LEAST_COSINE
    assert np.abs(alphas[0] - exact.alphas).max() <= 1e-3
    fired = fire(encoded[0], alphas[0], ours.settings.tail)
    weights = with_tail(exact.alphas, ours.settings.tail)
    assert fired.rows.tolist() == fire_rows(weights).tolist()
    n_fired = len(fired.rows)
    if not n_fired:
        return
    exact = stages(theirs, features)
    assert cosine(fired.acoustic, exact.acoustic[:n_fired]) >= LEAST_COSINE
    logits = decoder.run("logits", encoded=encoded, acoustic=fired.acoustic[None])
    assert cosine(logits[0], exact.logits[:n_fired]) >= LEAST_COSINE


@pytest.mark.parametrize("name", CLIPS)
def test_texts_are_those_of_funasr(theirs: Any, ours: Paraformer, name: str) -> None:
    samples = read_clip(name)
    expected = infer(theirs, CHECKPOINT, samples)
    assert recognise(ours, samples).text == ("" if expected is None else expected["text"])


def test_8_bits_change_almost_no_token(ours: Paraformer, tmp_path: Path) -> None:
    embedded = load(make_paraformer_bundle(tmp_path / "bundle"), OPTIONS)
    n_tokens = n_equal = 0
    for name in CLIPS:
        exact, found = (recognise(model, read_clip(name)).tokens for model in (ours, embedded))
        n_tokens += max(len(exact), len(found))
        n_equal += sum(a == b for a, b in zip(exact, found, strict=False))
    assert n_tokens > 60
    assert n_equal >= 0.95 * n_tokens
