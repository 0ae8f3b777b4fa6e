"""The embedded model's checkpoints, run stage by stage with fp32 graphs and an f32 decoder.

Shared by the comparisons with golden arrays and with the reference itself. Tolerances are in
rounding.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from streamasr.core.units import Float32Array
from streamasr.features.log_mel import log_mel
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.importing.qwen3.graphs import write_backend
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from streamasr.models.onnx import OnnxOptions, open_session
from streamasr.models.qwen3.aligner import ForcedAligner
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.support.greedy import GreedyDecoder

OPTIONS: Final = OnnxOptions(threads=1)


@dataclass(frozen=True, slots=True)
class Stages:
    """Outputs of a recogniser's stages for one clip."""

    log_mel: Float32Array
    conv_output: Float32Array
    encoder_output: Float32Array
    embeddings: Float32Array
    first_logits: Float32Array
    """(n_tokens,), logits after the prompt."""
    prompt: tuple[int, ...]
    """Token ids, with placeholders for the audio."""
    answer: tuple[int, ...]
    """Greedy answer without the end token, at most MAX_NEW_TOKENS."""


class Recogniser(GreedyDecoder):
    """Recogniser exported from a checkpoint."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        """Export a checkpoint to `directory`, which must not exist, and open it."""
        import_model(checkpoint, directory, ImportOptions(encoder="fp32", decoder="f32"))
        self.encoder = Qwen3Encoder.from_bundle(directory, OPTIONS)
        self._inside = open_inside(checkpoint, directory / "inside.onnx")
        super().__init__(directory, n_ctx=2048)

    def run(self, samples: Float32Array, context: str = "", language: str | None = None) -> Stages:
        """Run all stages from samples to the answer."""
        mel = log_mel(samples, self.encoder.n_mels)
        hidden = self.encoder.convolve(mel)
        embeddings = self.encoder.encode(samples)
        answer = self.decode(embeddings, context, language)
        return Stages(
            log_mel=mel,
            conv_output=hidden,
            encoder_output=self._encoder_output(hidden),
            embeddings=embeddings,
            first_logits=answer.first_logits,
            prompt=answer.prompt,
            answer=answer.tokens,
        )

    def _encoder_output(self, hidden: Float32Array) -> Float32Array:
        outputs = []
        for start in range(0, len(hidden), self.encoder.window_tokens):
            window = hidden[None, start : start + self.encoder.window_tokens]
            mask = np.zeros((1, 1, window.shape[1], window.shape[1]), np.float32)
            outputs.append(
                self._inside.run("encoder_output", hidden_states=window, attention_mask=mask)[0]
            )
        return np.concatenate(outputs)


def open_inside(checkpoint: Path, path: Path) -> Any:
    """Open the transformer again, with the input of the projector as an additional output."""
    write_backend(read_checkpoint(checkpoint), path)
    backend = onnx.load(path, load_external_data=False)
    d_model = backend.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    backend.graph.output.append(
        onnx.helper.make_tensor_value_info(
            "encoder_output", onnx.TensorProto.FLOAT, ("n_windows", "time", d_model)
        )
    )
    onnx.save(backend, path)
    return open_session(
        path,
        OPTIONS,
        inputs={"hidden_states": 3, "attention_mask": 4},
        outputs={"encoder_output": 3},
    )


def open_aligner(checkpoint: Path, directory: Path) -> ForcedAligner:
    """Export an aligner's checkpoint to `directory`, which must not exist, and open it."""
    import_model(checkpoint, directory, ImportOptions(encoder="fp32", decoder="f32"))
    return ForcedAligner(directory, OPTIONS, n_threads=1)
