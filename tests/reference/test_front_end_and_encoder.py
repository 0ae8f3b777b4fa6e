"""Features and encoder against transformers, for checkpoints of many shapes."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from streamasr.features.log_mel import log_mel
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.reference.reference import Reference, reference_log_mel
from tests.support.checkpoints import KeyStyle, Shape, write_checkpoint
from tests.support.exact_log_mel import ExactLogMel, assert_correct
from tests.support.parity import OPTIONS, open_inside
from tests.support.rounding import DOUBLE, SINGLE, assert_same
from tests.support.signals import KINDS, signal, speechlike

pytestmark = pytest.mark.reference

SHAPES = {
    "small": Shape(),
    "deep": Shape(encoder_layers=6, d_model=64, encoder_heads=8, channels=12),
    "one layer, one head": Shape(encoder_layers=1, encoder_heads=1, d_model=28, encoder_ffn=20),
    "1.7B-like": Shape(hidden=2048, d_model=64, encoder_heads=4, heads=4, kv_heads=1, layers=1),
    "short window": Shape(n_window_infer=100),
    "80 mels": Shape(n_mels=80),
    "90 mels": Shape(n_mels=90),
    "aligner": Shape(n_classes=77),
}
CLIPS = (1, 8_001, 16_000, 16_161, 128_000, 129_281, 250_123)  # samples


@pytest.mark.parametrize("kind", [*KINDS, "speechlike"])
def test_features_are_equal_for_any_length(kind: str) -> None:
    lengths = np.random.RandomState(1).randint(1, 60_000, 25)
    for n_samples in (*lengths, 399, 400, 401, 7_999, 8_000, 8_001, 15_999, 16_000, 16_160):
        clip = speechlike(n_samples) if kind == "speechlike" else signal(kind, n_samples)
        exact = ExactLogMel(clip)
        assert_correct(reference_log_mel(clip), exact, SINGLE)
        assert_correct(log_mel(clip), exact, DOUBLE)


@pytest.mark.parametrize("style", ["native", "original"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_encoder_is_equal_stage_by_stage(tmp_path: Path, name: str, style: KeyStyle) -> None:
    shape = SHAPES[name]
    # transformers reads only the native style; the weights are the same.
    native = write_checkpoint(tmp_path / "native", shape)
    ours = write_checkpoint(tmp_path / style, shape, style=style)
    import_model(ours, tmp_path / "bundle", ImportOptions("fp32", "f16"))
    compare(native, tmp_path / "bundle", is_aligner=shape.n_classes is not None)


def compare(checkpoint: Path, bundle: Path, *, is_aligner: bool) -> None:
    """Compare both for clips of many lengths; the bundle was exported from the checkpoint."""
    reference = Reference(checkpoint, is_aligner=is_aligner)
    single = Reference(checkpoint, is_aligner=is_aligner, arithmetic="single")
    encoder = Qwen3Encoder.from_bundle(bundle, OPTIONS)
    inside = open_inside(checkpoint, bundle / "inside.onnx")
    for n_samples in CLIPS:
        clip = speechlike(n_samples)
        expected = reference.encode(clip)
        errors = single.encode(clip).errors(expected)
        hidden = encoder.convolve(log_mel(clip, encoder.n_mels))
        assert_same(hidden, expected.conv_output, errors["conv_output"])
        window = hidden[None, : encoder.window_tokens]
        mask = np.zeros((1, 1, window.shape[1], window.shape[1]), np.float32)
        output = inside.run("encoder_output", hidden_states=window, attention_mask=mask)[0]
        exact_output = expected.encoder_output[: len(output)]
        assert_same(output, exact_output, errors["encoder_output"])
        assert_same(encoder.encode(clip), expected.embeddings, errors["embeddings"])
