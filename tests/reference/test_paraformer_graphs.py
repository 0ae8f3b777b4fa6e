"""Graphs of Paraformer against FunASR, for random weights of many sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

pytest.importorskip("torch")
pytest.importorskip("funasr")

from streamasr.core.units import Float32Array
from streamasr.importing.options import EncoderWidth
from streamasr.importing.paraformer.checkpoint import Checkpoint, Settings, TimeHead, check_tensors
from streamasr.importing.paraformer.graphs import write_decoder, write_encoder
from tests.reference.paraformer import build, stages
from tests.sources.paraformer.weights import N_FEATURES, Sizes
from tests.support.paraformer_forms import features_of

pytestmark = pytest.mark.reference

SIZES: Final = {
    "small": Sizes(),
    "as tiny-paraformer": Sizes(192, 4, 512, 6, decoder_ffn=512, layers=2, vocab=115),
    "one head, one block, even kernels": Sizes(
        heads=1, blocks=1, kernel=8, decoder_kernel=6, layers=1
    ),
    "shifted": Sizes(shift=3, decoder_shift=2, kernel=9, decoder_kernel=21),
    "layers without attention": Sizes(layers=1, layers_without_attention=2),
    "as wide as the features": Sizes(d_model=N_FEATURES, heads=10, blocks=2, layers=1),
    "wide predictor": Sizes(left=3, right=0, smooth=1.3, noise=0.05),
    "time head": Sizes(d_model=64, head="cnn_blstm"),
    "time head of convolutions": Sizes(head="cnn", upsampling=5, is_after_convolution=True),
}
ROWS: Final = (1, 2, 3, 7, 60, 334)
LEAST_COSINE: Final[dict[EncoderWidth, float]] = {"fp32": 0.9999999, "fp16": 0.99999, "int8": 0.99}
"""Least cosine of each output by width; kernels for 8 bits differ between processors."""


@dataclass(frozen=True, slots=True)
class Given:
    """Tensor in memory."""

    path: Path
    name: str
    values: npt.NDArray[Any]
    stored_type: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def stored(self) -> npt.NDArray[Any]:
        return self.values

    def float32(self) -> Float32Array:
        return self.values


def checkpoint_of(model: Any, sizes: Sizes) -> Checkpoint:
    path = Path("model.pt")
    tensors = {
        name: Given(path, name, tensor.numpy()) for name, tensor in model.state_dict().items()
    }
    settings = Settings(
        encoder_heads=sizes.heads,
        decoder_heads=sizes.heads,
        encoder_shift=sizes.shift,
        decoder_shift=sizes.decoder_shift,
        left_context=sizes.left,
        smooth=sizes.smooth,
        noise=sizes.noise,
        time_head=TimeHead(is_after_convolution=sizes.is_after_convolution),
    )
    dimensions, ordered, notes = check_tensors(tensors, settings, path)
    assert notes == ()
    assert (dimensions.upsampling > 0) == (sizes.head is not None)
    return Checkpoint(
        path, dimensions, settings, ordered, (), lambda: np.zeros((2, N_FEATURES), np.float32)
    )


def cosine(ours: Float32Array, theirs: Float32Array) -> float:
    assert ours.shape == theirs.shape
    one, other = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("width", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", SIZES)
def test_all_outputs_are_equal(tmp_path: Path, name: str, width: EncoderWidth) -> None:
    sizes = SIZES[name]
    model = build(sizes)
    checkpoint = checkpoint_of(model, sizes)
    write_encoder(checkpoint, tmp_path / "encoder.onnx", width)
    write_decoder(checkpoint, tmp_path / "decoder.onnx", width)
    encoder, decoder = (
        ort.InferenceSession(tmp_path / f"{part}.onnx", providers=["CPUExecutionProvider"])
        for part in ("encoder", "decoder")
    )
    for n_rows in ROWS:
        features = features_of(n_rows, seed=n_rows)
        acoustic = features_of(max(1, n_rows // 4), 1)[:, : sizes.d_model]
        exact = stages(model, features, acoustic)
        outputs = encoder.run(None, {"features": features[None]})
        logits = decoder.run(None, {"encoded": outputs[0], "acoustic": acoustic[None]})[0]
        expected = [exact.encoded, exact.alphas]
        if exact.time_alphas is not None:
            expected.append(exact.time_alphas)
        for ours, theirs in zip([*outputs, logits], [*expected, exact.logits], strict=True):
            assert cosine(ours[0], theirs) >= LEAST_COSINE[width]
            if width == "fp32":
                scale = max(1.0, float(np.abs(theirs).max()))
                assert np.abs(ours[0] - theirs).max() <= 2e-5 * scale
