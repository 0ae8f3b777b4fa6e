"""The encoder process: samples in, embeddings out.

An utterance is encoded again and again while it grows. The child keeps what it need not compute
again (`Utterance`), so each request carries only samples that it has not had, and each answer only
embeddings that have changed; the parent puts them together. Those who submit see nothing of it:
the samples of the whole utterance so far go in, all of its embeddings come out.

The child may forget: it dies and is replaced, or other utterances push one out. It says so, and
gets all samples again. What it keeps is numbered by the parent, no number is used twice, and each
has at most one request under way; so what the child knows of a number is what the parent believes,
or nothing.
"""

import itertools
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import numpy as np

from streamasr.core.audio_form import check_form
from streamasr.core.errors import AudioError, StreamASRError, WorkerError
from streamasr.core.units import Float32Array
from streamasr.engine.cpu_fallback import CpuFallback
from streamasr.engine.worker import Built, OnTrouble, Timeouts, Worker
from streamasr.engine.worker_config import EncoderConfig
from streamasr.models.onnx import CPU, OnnxOptions, accelerators
from streamasr.models.qwen3.encoder import Qwen3Encoder
from streamasr.models.qwen3.growing_encoder import Utterance

UTTERANCES_KEPT: Final = 16
"""On either side, if any are. One of 24 s takes about 5 MB of the child at full size."""


@dataclass(frozen=True, slots=True, eq=False)
class UtteranceAudio:
    """An utterance so far, to be encoded."""

    key: int
    """Names it: what was encoded under this key before is made use of, as far as it is the same."""
    samples: Float32Array
    """(n,), mono at SAMPLE_RATE, from the utterance's start; they must not change any more."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """What the encoder makes of an utterance."""

    embeddings: Float32Array
    """(n_tokens, n_embd), read-only."""
    cost: float
    """Seconds that it took."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodeRequest:
    """What goes to the child."""

    utterance: int
    start: int
    """Index of the first of these samples, so many are known; with 0 the utterance begins anew."""
    samples: Float32Array
    """(n,), those that are not known yet, if any."""
    n_samples: int
    """How many are to be encoded, from the utterance's start on: perhaps fewer than are known."""
    dropped: tuple[int, ...] = ()
    """Other utterances, of which no more will be asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """The child's answer: embeddings to replace those of its last answer."""

    first: int
    """From this one on."""
    embeddings: Float32Array
    """(n_tokens - first, n_embd)."""
    cost: float
    """Seconds that it took."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The child's answer when it does not know the samples before those that it got."""


EncodeAnswer: TypeAlias = Changed | Unknown


def encoder_worker(
    config: EncoderConfig, timeouts: Timeouts, on_trouble: OnTrouble
) -> "EncoderWorker":
    """The parent's end of an encoder process; `start` it."""
    process = Worker(
        "encoder", build_encoder, config, timeouts, on_trouble, retreat=encoder_retreat(config)
    )
    return EncoderWorker(process, _capacity(config))


def build_encoder(config: EncoderConfig) -> Built[EncodeRequest, EncodeAnswer]:
    """In the child: load the encoder of a bundle."""
    warnings: list[str] = []
    options = OnnxOptions(config.providers, config.threads, warn=warnings.append)
    encoder = Qwen3Encoder.from_bundle(config.bundle, options, window_s=config.window_s)
    answer = UtteranceEncoder(encoder, _capacity(config)).answer
    return Built(answer, tuple(dict.fromkeys(warnings)))  # both graphs may say the same


def encoder_retreat(config: EncoderConfig) -> CpuFallback[EncoderConfig] | None:
    """To the CPU; None for an encoder that runs there already."""
    avoided = accelerators(config.providers)
    if not avoided:
        return None
    return CpuFallback(replace(config, providers=(CPU,)), " or ".join(avoided))


def _capacity(config: EncoderConfig) -> int:
    return UTTERANCES_KEPT if config.reuse else 0


class UtteranceEncoder:
    """In the child: an encoder, and the utterances that were asked of it last."""

    def __init__(self, encoder: Qwen3Encoder, capacity: int = UTTERANCES_KEPT) -> None:
        """Begin with no utterance."""
        self._encoder = encoder
        self._capacity = capacity
        self._utterances: OrderedDict[int, Utterance] = OrderedDict()  # the latest last

    def answer(self, request: EncodeRequest) -> EncodeAnswer:
        """Encode an utterance, as far as its embeddings differ from those of the last answer.

        Raises:
            AudioError: the samples are no audio, or fewer than what is to be encoded.
        """
        began = time.perf_counter()
        for number in request.dropped:
            self._utterances.pop(number, None)
        # It comes back once it has been answered: after a failure both sides begin anew.
        utterance = self._utterances.pop(request.utterance, None)
        if request.start == 0:
            utterance = Utterance(self._encoder)
        if utterance is None or utterance.n_samples != request.start:
            return Unknown()
        if len(request.samples):
            utterance.append(request.samples)
        update = utterance.update(request.n_samples)
        self._utterances[request.utterance] = utterance
        if len(self._utterances) > self._capacity:
            self._utterances.popitem(last=False)
        return Changed(update.first, update.embeddings, time.perf_counter() - began)


class EncoderWorker:
    """The parent's end of the encoder process. All of it may be called from any thread."""

    def __init__(
        self,
        process: Worker[EncoderConfig, EncodeRequest, EncodeAnswer],
        capacity: int = UTTERANCES_KEPT,
    ) -> None:
        """Stand before a process.

        Args:
            process: the child that answers.
            capacity: how many utterances are kept at most.
        """
        self._process = process
        self._capacity = capacity
        self._numbers = itertools.count(1)
        self._kept: OrderedDict[int, _Kept] = OrderedDict()  # by key, the latest last
        self._dropped: list[int] = []  # numbers; the child has not been told yet
        self._lock = threading.Lock()  # guards the three above

    @property
    def is_ready(self) -> bool:
        """See `Worker`."""
        return self._process.is_ready

    @property
    def is_alive(self) -> bool:
        """See `Worker`."""
        return self._process.is_alive

    @property
    def pid(self) -> int | None:
        """See `Worker`."""
        return self._process.pid

    @property
    def restarts(self) -> int:
        """See `Worker`."""
        return self._process.restarts

    def start(self) -> None:
        """See `Worker.start`."""
        self._process.start()

    def wait_ready(self) -> None:
        """See `Worker.wait_ready`."""
        self._process.wait_ready()

    def stop(self) -> None:
        """See `Worker.stop`."""
        self._process.stop()

    def submit(self, audio: UtteranceAudio) -> "Future[Embedded]":
        """Have an utterance encoded.

        Returns:
            A future with all of its embeddings, or an `AudioError` or a `WorkerError`.
        """
        answer: Future[Embedded] = Future()
        answer.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        try:
            check_form(audio.samples)
        except AudioError as error:
            answer.set_exception(error)
        else:
            self._ask(audio, self._reserve(audio), answer)
        return answer

    def release(self, key: int) -> None:
        """Forget an utterance. The child hears of it with the next request."""
        with self._lock:
            self._drop(key)

    def _reserve(self, audio: UtteranceAudio) -> "_Kept":
        """What is kept of an utterance, for one request; nothing if another one has it."""
        with self._lock:
            kept = self._kept.get(audio.key)
            if kept is None or kept.is_reserved or not kept.agrees_with(audio.samples):
                self._drop(audio.key)
                kept = _Kept(next(self._numbers))
            kept.is_reserved = True
            self._kept[audio.key] = kept
            self._kept.move_to_end(audio.key)
            if len(self._kept) > self._capacity:
                self._drop(next(iter(self._kept)))
            return kept

    def _drop(self, key: int) -> None:
        """Call with the lock."""
        if kept := self._kept.pop(key, None):
            self._dropped.append(kept.number)

    def _ask(self, audio: UtteranceAudio, kept: "_Kept", answer: "Future[Embedded]") -> None:
        with self._lock:
            dropped = tuple(number for number in self._dropped if number != kept.number)
            self._dropped.clear()
        request = kept.request(audio.samples, dropped)
        result = self._process.submit(request)
        result.add_done_callback(lambda result: self._receive(audio, kept, answer, result))

    def _receive(
        self,
        audio: UtteranceAudio,
        kept: "_Kept",
        answer: "Future[Embedded]",
        result: "Future[EncodeAnswer]",
    ) -> None:
        """Pass on what has come; on the worker's thread, or on that of `submit`."""
        try:
            changed = result.result()
            if isinstance(changed, Unknown):
                kept.forget()
                self._ask(audio, kept, answer)
                return
            embeddings = kept.take(audio.samples, changed)
        except StreamASRError as error:
            self._give_back(audio.key, kept, is_sound=False)
            answer.set_exception(error)
        else:
            self._give_back(audio.key, kept, is_sound=True)
            answer.set_result(Embedded(embeddings, changed.cost))

    def _give_back(self, key: int, kept: "_Kept", *, is_sound: bool) -> None:
        with self._lock:
            kept.is_reserved = False
            if self._kept.get(key) is not kept:
                self._dropped.append(kept.number)  # again: the child may have begun it anew
            elif not is_sound:
                self._drop(key)


_NO_SAMPLES: Final = np.empty(0, np.float32)
_NO_EMBEDDINGS: Final = np.empty((0, 0), np.float32)


@dataclass(slots=True, eq=False)
class _Kept:
    """In the parent: what the child knows of an utterance, and what its answers come to."""

    number: int
    samples: Float32Array = field(default_factory=lambda: _NO_SAMPLES)
    """Those that the child has."""
    embeddings: Float32Array = field(default_factory=lambda: _NO_EMBEDDINGS)
    """After its last answer. Consumers have it too, so it is replaced and never changed."""
    is_reserved: bool = False
    """A request is under way."""

    def agrees_with(self, samples: Float32Array) -> bool:
        """Whether these are the same samples, or more of them, or fewer."""
        n_common = min(len(samples), len(self.samples))
        return np.array_equal(samples[:n_common], self.samples[:n_common])

    def request(self, samples: Float32Array, dropped: tuple[int, ...]) -> EncodeRequest:
        """What to send, so that these samples are encoded."""
        start = len(self.samples)
        return EncodeRequest(self.number, start, samples[start:], len(samples), dropped)

    def forget(self) -> None:
        """Begin anew."""
        self.samples, self.embeddings = _NO_SAMPLES, _NO_EMBEDDINGS

    def take(self, samples: Float32Array, changed: Changed) -> Float32Array:
        """Put together all embeddings of these samples.

        Raises:
            WorkerError: the answer does not go with what is there.
        """
        first, new = changed.first, changed.embeddings
        if new.dtype != np.float32 or new.ndim != 2 or not self._reaches(first, new.shape[1]):
            raise WorkerError("the encoder's answer does not go with its last one.")
        embeddings = np.concatenate([self.embeddings[:first], new]) if first else new
        embeddings.flags.writeable = False
        self.embeddings = embeddings
        self.samples = max(samples, self.samples, key=len)
        return embeddings

    def _reaches(self, first: int, width: int) -> bool:
        """Whether so many embeddings of this width are there."""
        return first == 0 or (
            0 < first <= len(self.embeddings) and width == self.embeddings.shape[1]
        )
