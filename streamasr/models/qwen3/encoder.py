"""Audio encoder of Qwen3-ASR and Qwen3-ForcedAligner: samples to embeddings for the LLM.

    samples --log_mel--> (frames, mels) --front end--> (tokens, d_model)
            --back end--> (tokens, output_dim)

The front end turns chunks of 100 frames (1 s) into 13 tokens each, independent of one another;
positions restart in every chunk. The back end is a transformer whose attention stays within windows
of 8 chunks (104 tokens, 8 s), plus the projection into the LLM. So a complete chunk and a complete
window do not change when more audio follows, unless the floor of the features rises;
`growing_encoder` relies on that.
Source: `Qwen3ASREncoder` and `Qwen3ASRMultiModalProjector` of transformers.

The window is the reference's when it is run with flash attention and in transformers'
native port; the original package on CPU attends to the whole clip instead.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

import numpy as np

from streamasr.core.errors import ConfigError, ModelError
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.features.log_mel import HOP, log_mel
from streamasr.models.bundle import FACTS_FILE
from streamasr.models.onnx import CPU, OnnxOptions, OnnxSession, open_session
from streamasr.models.qwen3.names import BACKEND_FILE, FRONTEND_FILE

MASKED: Final = np.float32(-10_000)
"""Added to the attention score of a masked key: the softmax makes it zero, and unlike minus
infinity it fits into float16 and never gives NaN."""

_NOISE_LEVEL: Final = 1e-3  # of full scale: -60 dB

_FRAMES_PER_SECOND: Final = SAMPLE_RATE // HOP

_LONGEST_WINDOW: Final = 3600 * _FRAMES_PER_SECOND
"""Frames; no segment is longer."""


class Qwen3Encoder:
    """Both graphs of one encoder, with the geometry read from them."""

    def __init__(self, frontend: Path, backend: Path, n_window_infer: int, options: OnnxOptions):
        """Open the graphs.

        Args:
            frontend: graph of the convolutions, `chunk_mel` to `chunk_out`.
            backend: graph of the transformer, `hidden_states` and additive
                `attention_mask` to `last_hidden_state`.
            n_window_infer: frames in one attention window.
            options: threads, execution providers and log level.

        Raises:
            ModelError: a file is missing or broken, or the two do not fit together.
        """
        self._frontend = open_session(
            frontend, options, inputs={"chunk_mel": 3}, outputs={"chunk_out": 3}
        )
        self._backend = open_session(
            backend,
            options,
            inputs={"hidden_states": 3, "attention_mask": 4},
            outputs={"last_hidden_state": 3},
        )
        self.n_mels, self.chunk_frames = _chunk_shape(self._frontend)
        self.chunk_tokens = n_tokens = convolved_length(self.chunk_frames)
        chunk = (1, self.n_mels, self.chunk_frames)
        self.d_model = self._frontend.width("chunk_out", chunk_mel=chunk)
        stated = self._backend.inputs["hidden_states"].shape[-1]
        if stated not in {self.d_model, None}:
            raise ModelError(
                f"{backend}: this graph belongs to another encoder than {frontend}",
                code="graphs_do_not_fit",
            )
        self.output_dim = self._backend.width(
            "last_hidden_state",
            hidden_states=(1, n_tokens, self.d_model),
            attention_mask=(1, 1, n_tokens, n_tokens),
        )
        if stated is None:
            self._attend_window(np.zeros((1, n_tokens, self.d_model), np.float32))
        if n_window_infer < self.chunk_frames or n_window_infer % self.chunk_frames:
            raise ModelError(
                f"{frontend.parent}: n_window_infer is {n_window_infer}, "
                f"not a multiple of {self.chunk_frames} frames",
                code="window_not_in_chunks",
            )
        self.window_chunks = n_window_infer // self.chunk_frames
        self.window_tokens = self.window_chunks * self.chunk_tokens

    @classmethod
    def from_bundle(
        cls, directory: Path, options: OnnxOptions | None = None, *, window_s: int | None = None
    ) -> Self:
        """Open the encoder of a bundle, and test whether it works.

        If it fails on a provider other than the CPU, the CPU replaces it.

        Args:
            directory: the bundle.
            options: threads, execution providers and log level of its graphs.
            window_s: seconds of one attention window; None for the bundle's own.

        Raises:
            ModelError: a file is missing or broken, or the encoder computes nonsense.
            ConfigError: the bundle's window cannot be divided into such windows.
        """
        n_window_infer = _read_n_window_infer(directory / FACTS_FILE)
        if window_s is not None:
            n_window_infer = _shorten(n_window_infer, window_s)
        options = options or OnnxOptions()
        graphs = directory / FRONTEND_FILE, directory / BACKEND_FILE
        encoder = cls(*graphs, n_window_infer, options)
        try:
            encoder.self_test()
        except ModelError as error:
            if set(encoder.providers) == {CPU}:
                raise
            options.warn(f"{encoder.providers[0]} cannot be used, so the CPU is: {error}")
            encoder = cls(*graphs, n_window_infer, replace(options, providers=(CPU,)))
            encoder.self_test()
        return encoder

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers of onnxruntime that are in use."""
        return tuple(dict.fromkeys((*self._frontend.providers, *self._backend.providers)))

    def self_test(self) -> None:
        """Encode a second of faint noise, to which every working encoder responds.

        Raises:
            ModelError: the embeddings are not finite, or the same everywhere.
        """
        noise = np.random.default_rng(0).normal(0, _NOISE_LEVEL, SAMPLE_RATE)
        embeddings = self.encode(noise.astype(np.float32))
        if not np.isfinite(embeddings).all():
            raise ModelError(
                f"{self._frontend.path.parent}: the encoder computes numbers that are not finite: "
                "its files are damaged, or this execution provider cannot run them; get the model "
                "again, or use CPUExecutionProvider.",
                code="encoder_not_finite",
            )
        if not (np.ptp(embeddings, axis=0).any() and np.ptp(embeddings, axis=1).any()):
            raise ModelError(
                f"{self._frontend.path.parent}: the encoder computes the same for every sound: its "
                "files are damaged or quantised too far; get the model again, with an encoder of 8 "
                "bits or more.",
                code="encoder_constant",
            )

    def encode(self, samples: Float32Array) -> Float32Array:
        """Turn a clip into embeddings for the LLM.

        Args:
            samples: (n,), mono at SAMPLE_RATE, -1..1.

        Returns:
            (token_count(frame_count(n)), output_dim).

        Raises:
            AudioError: the samples are empty, not float32 or not finite.
        """
        return self.attend(self.convolve(log_mel(samples, self.n_mels)))

    def token_count(self, n_frames: int) -> int:
        """Return the number of tokens that the encoder makes of so many frames."""
        full_chunks, rest = divmod(n_frames, self.chunk_frames)
        return full_chunks * self.chunk_tokens + convolved_length(rest)

    def convolve(self, mel: Float32Array) -> Float32Array:
        """Run the front end over all chunks of a clip.

        Chunks go one at a time: on a CPU each takes as long in a batch (33 to 36 ms at full size,
        for one or eight), and 60 MB of memory.

        Args:
            mel: (n_frames, n_mels), normalised.

        Returns:
            (token_count(n_frames), d_model).
        """
        starts = range(0, len(mel), self.chunk_frames)
        chunks = [self._convolve_chunk(mel[start : start + self.chunk_frames]) for start in starts]
        return np.concatenate(chunks)

    def attend(self, hidden: Float32Array) -> Float32Array:
        """Run the back end over all windows of a clip.

        Windows go one at a time: on a CPU a batch is hardly faster (7 % of 104-token
        windows at full size), and in an int8 graph, which has one scale per input tensor, the
        result of a window would depend on the others in its batch.

        Args:
            hidden: (n, d_model) from `convolve`.

        Returns:
            (n, output_dim).
        """
        starts = range(0, len(hidden), self.window_tokens)
        windows = [hidden[None, start : start + self.window_tokens] for start in starts]
        return np.concatenate([self._attend_window(window)[0] for window in windows])

    def _attend_window(self, window: Float32Array) -> Float32Array:
        n_tokens = window.shape[1]
        mask = np.zeros((1, 1, n_tokens, n_tokens), np.float32)
        return self._backend.run("last_hidden_state", hidden_states=window, attention_mask=mask)

    def _convolve_chunk(self, mel: Float32Array) -> Float32Array:
        """Make the tokens of one chunk, which may be incomplete."""
        padded = np.pad(mel, ((0, self.chunk_frames - len(mel)), (0, 0)))
        tokens: Float32Array = self._frontend.run("chunk_out", chunk_mel=padded.T[None])[0]
        return tokens[: convolved_length(len(mel))]  # the others come from padding alone


def convolved_length(n_frames: int) -> int:
    """Return the number of tokens that three convolutions of stride 2 make of one chunk."""
    return -(-n_frames // 8)


def _chunk_shape(frontend: OnnxSession) -> tuple[int, int]:
    """Read mel bins and frames per chunk; published graphs take one chunk, ours any number."""
    n_chunks, n_mels, n_frames = frontend.inputs["chunk_mel"].shape
    if n_mels is None or n_frames is None:
        message = f"{frontend.path}: chunk_mel must state its mel bins and frames"
        raise ModelError(message, code="chunk_shape_unknown")
    if n_mels < 1 or n_frames < 1:
        message = f"{frontend.path}: chunk_mel is empty, {n_mels} mels by {n_frames}"
        raise ModelError(message, code="chunk_shape_empty")
    if n_chunks not in {None, 1}:
        message = f"{frontend.path}: the graph takes {n_chunks} chunks at a time, not any number"
        raise ModelError(message, code="chunk_batch")
    return n_mels, n_frames


def _read_n_window_infer(path: Path) -> int:
    try:
        n_window_infer = json.loads(path.read_text("utf-8"))["n_window_infer"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path}: cannot read n_window_infer ({error!r:.200})"
        raise ModelError(message, code="window_unreadable") from error
    is_whole = isinstance(n_window_infer, int) and not isinstance(n_window_infer, bool)
    if not is_whole or n_window_infer > _LONGEST_WINDOW:
        raise ModelError(
            f"{path}: n_window_infer must be a whole number up to {_LONGEST_WINDOW}, "
            f"not {n_window_infer!r:.60}",
            code="window_out_of_range",
        )
    frames: int = n_window_infer
    return frames


def _shorten(n_window_infer: int, window_s: int) -> int:
    """Cut windows into equal parts, so that every border of the long ones stays one."""
    n_frames = window_s * _FRAMES_PER_SECOND
    if n_frames < 1 or n_window_infer % n_frames:
        own_s = n_window_infer / _FRAMES_PER_SECOND
        raise ConfigError(
            f"the encoder's window of {own_s:g} s cannot be cut into windows of {window_s} s; "
            f"choose a divisor of {own_s:g}.",
            code="encoder_window",
        )
    return n_frames
