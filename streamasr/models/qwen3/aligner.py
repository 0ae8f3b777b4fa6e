"""Qwen3-ForcedAligner: the time of each word of a known text.

One forward pass over `<|audio_start|>` audio `<|audio_end|>` and, for every word, its tokens and
two `<timestamp>` slots. The hidden state at a slot, times the classifier, gives the time as a class
of 80 ms: the first slot is the word's start, the second its end. Chat turns around it are omitted:
they would shift every time.

Source: `Qwen3ASRForTokenClassification` and its processor in `transformers`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np

from streamasr.core.errors import AudioError, ModelError
from streamasr.core.units import Float32Array, to_seconds
from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows, check_finite, self_test
from streamasr.decoder.placement import ON_CPU, Placement
from streamasr.models.bundle import Bundle, read_bundle
from streamasr.models.family import Role, Timestamps
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.encoder import Qwen3Encoder
from streamasr.models.qwen3.names import CLASSIFIER_FILE

DEFAULT_STEP_MS: Final = 80
_STEPS_MS: Final = range(10, 1001)

_N_CTX: Final = 4096  # 24 s of audio are 312 positions, its words and slots a few hundred
_TIMESTAMP: Final = "<timestamp>"


class ForcedAligner:
    """An aligner's encoder, language model and classifier, in the aligner process."""

    def __init__(
        self,
        directory: Path,
        options: OnnxOptions,
        n_threads: int,
        placement: Placement = ON_CPU,
    ) -> None:
        """Load a bundle, and test whether it works.

        Args:
            directory: the bundle.
            options: threads, execution providers and log level of its graphs.
            n_threads: for llama.cpp.
            placement: device that computes its language model.

        Raises:
            ModelError: a file is missing or broken, the files do not belong together, or they
                compute nonsense.
        """
        bundle = read_bundle(directory, Role.ALIGNER)
        self._step_ms = _step_ms(bundle)
        self._encoder = Qwen3Encoder.from_bundle(directory, options)
        self._model = LlamaModel(bundle.decoder, placement)
        self._context = LlamaContext(
            self._model, n_ctx=_N_CTX, n_threads=n_threads, hidden_states=True
        )
        self_test(self._context)
        self._classifier = _read_classifier(directory / CLASSIFIER_FILE, self._model.n_embd)
        self._slot = self._model.special_token(_TIMESTAMP)
        self._before = self._model.tokenize("<|audio_start|>", special=True)
        self._after = self._model.tokenize("<|audio_end|>", special=True)

    @property
    def max_seconds(self) -> float:
        """Latest time that has a class."""
        return len(self._classifier) * self._step_ms / 1000

    def align(self, samples: Float32Array, words: Sequence[str]) -> Timestamps:
        """Find the times of words.

        Args:
            samples: (n,), mono at SAMPLE_RATE: the speech.
            words: their spoken forms, in order.

        Raises:
            AudioError: the audio is longer than the classes reach.
            DecodeError: llama.cpp refused a batch.
        """
        seconds = to_seconds(len(samples))
        if seconds > self.max_seconds:
            raise AudioError(
                f"{seconds:.0f} s are too long to align, this model reaches "
                f"{self.max_seconds:.0f} s.",
                code="too_long_to_align",
            )
        logits = self.classify(self._encoder.encode(samples), words)
        classes = logits.argmax(axis=-1)
        return Timestamps(
            tuple(int(index) * self._step_ms for index in classes),
            tuple(float(p) for p in _softmax(logits)[np.arange(len(classes)), classes]),
        )

    def classify(self, embeddings: Float32Array, words: Sequence[str]) -> Float32Array:
        """Return the logits of all time classes at the slots of all words: (2 n, n_classes)."""
        tokens = list(self._after)
        for word in words:
            tokens += [*self._model.tokenize(word, special=False), self._slot, self._slot]
        self._context.truncate(0, 0)
        self._context.read([Rows(0, np.asarray(self._before, dtype=np.int32))])
        self._context.read([Rows(0, embeddings)])
        outputs = self._context.read([Rows(0, np.asarray(tokens, dtype=np.int32), len(tokens))])
        hidden = np.stack(outputs)
        check_finite(hidden)
        slots = np.flatnonzero(np.asarray(tokens) == self._slot)
        return hidden[slots] @ self._classifier.T

    def close(self) -> None:
        """Free the memory."""
        self._context.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _step_ms(bundle: Bundle) -> int:
    step = bundle.facts.get("timestamp_step_ms", DEFAULT_STEP_MS)
    if not isinstance(step, int) or isinstance(step, bool) or step not in _STEPS_MS:
        raise ModelError(
            f"{bundle.directory}: timestamp_step_ms must be {_STEPS_MS.start} to "
            f"{_STEPS_MS.stop - 1} milliseconds, not {step!r:.60}",
            code="timestamp_step_out_of_range",
        )
    return step


def _read_classifier(path: Path, n_embd: int) -> Float32Array:
    try:
        with path.open("rb") as file:
            weights = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}", code="classifier_unreadable") from error
    if weights.ndim != 2 or weights.shape[1] != n_embd or weights.dtype.kind != "f":
        raise ModelError(
            f"{path} holds {weights.dtype} of shape {weights.shape}, "
            f"a classifier over hidden states of {n_embd} is needed.",
            code="classifier_shape",
        )
    if not np.isfinite(weights).all():
        message = f"{path} holds numbers that are not finite, so it is damaged."
        raise ModelError(message, code="classifier_not_finite")
    classifier: Float32Array = weights.astype(np.float32)
    return classifier


def _softmax(logits: Float32Array) -> Float32Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Float32Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
