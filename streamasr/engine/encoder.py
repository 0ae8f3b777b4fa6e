"""Encoder process: samples in, encodings out.

An utterance is encoded again and again while it grows. The child keeps everything that need not be
computed again (`Utterance`), so each request carries only new samples, and each answer only rows
that have changed; the parent puts them together. Callers of the parent's end need not know: the
samples of the whole utterance so far go in, and its whole encoding comes out.

The child may lose an utterance: it dies and is replaced, or evicts one for others. It says so, and
gets all samples again. Utterances are numbered by the parent, no number is used twice, and each has
at most one request in flight; so the child has either the samples of a number that the parent
expects, or none.

A model family gives the encoder; this module does not depend on any.
"""

import itertools
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np

from streamasr.core.audio_form import check_form
from streamasr.core.errors import AudioError, StreamASRError, WorkerError
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.engine.child import Built
from streamasr.engine.cpu_fallback import CpuFallback
from streamasr.engine.ports import OnTrouble
from streamasr.engine.worker import Timeouts, Worker
from streamasr.engine.worker_config import EncoderConfig
from streamasr.models.family import Encoded, Encoder, LoadEncoder, Utterance
from streamasr.models.onnx import CPU, OnnxOptions, accelerators

UTTERANCES_KEPT: Final = 16
"""On either side. One of 24 s takes about 5 MB of the child at full size."""

_DEFAULTS: Final = SessionOptions()


@dataclass(frozen=True, slots=True, eq=False)
class UtteranceAudio:
    """An utterance so far, to be encoded."""

    key: int
    """Names it: the encoding of a request with the same key is reused as far as it is the same."""
    samples: Float32Array
    """(n,), mono at SAMPLE_RATE, from the utterance's start; they must not change any more."""
    options: SessionOptions = _DEFAULTS
    """Of the session; the same for all requests with one key."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedUtterance:
    """Encoding of an utterance, and its cost."""

    encoded: Encoded
    cost: float
    """Seconds of work."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodeRequest:
    """Request to the child."""

    utterance: int
    start: int
    """Index of the first of these samples, so many are known; with 0 the utterance begins anew."""
    samples: Float32Array
    """(n,), those that are not known yet, if any."""
    n_samples: int
    """Number of samples to encode, from the utterance's start on; perhaps fewer than are known."""
    options: SessionOptions | None = _DEFAULTS
    """Of an utterance that begins anew; None otherwise."""
    dropped: tuple[int, ...] = ()
    """Other utterances, for which no more requests come."""


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """Answer of the child: rows that replace those of its last answer, from `first` on."""

    first: int
    embeddings: Float32Array
    """(n_rows - first, n_embd)."""
    cost: float
    """Seconds of work."""
    result: Any = None
    """See `Update.result`."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Answer of the child if it does not have the samples before those of the request."""


EncodeAnswer: TypeAlias = Changed | Unknown


def encoder_worker(
    load: LoadEncoder, config: EncoderConfig, timeouts: Timeouts, on_trouble: OnTrouble
) -> "EncoderWorker":
    """Make the parent's end of an encoder process; `start` it."""
    build = partial(build_encoder, load)
    fallback = encoder_fallback(config)
    process = Worker("encoder", build, config, timeouts, on_trouble, fallback=fallback)
    return EncoderWorker(process, _capacity(config))


def build_encoder(load: LoadEncoder, config: EncoderConfig) -> Built[EncodeRequest, EncodeAnswer]:
    """Load the encoder of a bundle, in the child."""
    warnings: list[str] = []
    options = OnnxOptions(config.providers, config.threads, warn=warnings.append)
    encoder = load(config.bundle, options, window_s=config.window_s)
    answer = UtteranceEncoder(encoder, _capacity(config)).answer
    return Built(answer, tuple(dict.fromkeys(warnings)))  # two graphs may give the same warning


def encoder_fallback(config: EncoderConfig) -> CpuFallback[EncoderConfig] | None:
    """Return the fallback to the CPU; None for an encoder that runs there already."""
    avoided = accelerators(config.providers)
    if not avoided:
        return None
    return CpuFallback(replace(config, providers=(CPU,)), " or ".join(avoided))


def _capacity(config: EncoderConfig) -> int:
    return UTTERANCES_KEPT if config.reuse else 0


class UtteranceEncoder:
    """In the child: an encoder, and the utterances of its last requests."""

    def __init__(self, encoder: Encoder, capacity: int = UTTERANCES_KEPT) -> None:
        """Begin without utterances."""
        self._encoder = encoder
        self._capacity = capacity
        self._utterances: OrderedDict[int, Utterance] = OrderedDict()  # the latest last

    def answer(self, request: EncodeRequest) -> EncodeAnswer:
        """Encode an utterance, as far as it differs from the last answer.

        Raises:
            AudioError: the samples are not audio, or fewer than the number to encode.
        """
        began = time.perf_counter()
        for number in request.dropped:
            self._utterances.pop(number, None)
        # It is put back after the answer: after a failure both sides begin anew.
        utterance = self._utterances.pop(request.utterance, None)
        if request.start == 0 and request.options is not None:
            utterance = self._encoder.begin(request.options)
        if utterance is None or utterance.n_samples != request.start:
            return Unknown()
        if len(request.samples):
            utterance.append(request.samples)
        update = utterance.update(request.n_samples)
        self._utterances[request.utterance] = utterance
        if len(self._utterances) > self._capacity:
            self._utterances.popitem(last=False)
        cost = time.perf_counter() - began
        return Changed(update.first, update.embeddings, cost, update.result)


class EncoderWorker:
    """Parent's end of the encoder process. All methods may be called from any thread."""

    def __init__(
        self,
        process: Worker[EncoderConfig, EncodeRequest, EncodeAnswer],
        capacity: int = UTTERANCES_KEPT,
    ) -> None:
        """Put an interface before a process.

        Args:
            process: the child that answers.
            capacity: largest number of utterances that are kept.
        """
        self._process = process
        self._capacity = capacity
        self._numbers = itertools.count(1)
        self._kept: OrderedDict[int, _Kept] = OrderedDict()  # by key, the latest last
        self._dropped: list[int] = []  # numbers that the next request carries
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

    def submit(self, audio: UtteranceAudio) -> "Future[EncodedUtterance]":
        """Have an utterance encoded.

        Returns:
            A future with its encoding, or with an `AudioError` or a `WorkerError`.
        """
        answer: Future[EncodedUtterance] = Future()
        answer.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        try:
            check_form(audio.samples)
        except AudioError as error:
            answer.set_exception(error)
        else:
            self._ask(audio, self._reserve(audio), answer)
        return answer

    def release(self, key: int) -> None:
        """Drop an utterance, in the child with the next request."""
        with self._lock:
            self._drop(key)

    def _reserve(self, audio: UtteranceAudio) -> "_Kept":
        """Reserve an utterance for one request; begin it anew if another request has it."""
        with self._lock:
            kept = self._kept.get(audio.key)
            if kept is None or kept.is_reserved or not kept.agrees_with(audio):
                self._drop(audio.key)
                kept = _Kept(next(self._numbers), audio.options)
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

    def _ask(
        self, audio: UtteranceAudio, kept: "_Kept", answer: "Future[EncodedUtterance]"
    ) -> None:
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
        answer: "Future[EncodedUtterance]",
        result: "Future[EncodeAnswer]",
    ) -> None:
        """Take the child's answer; on the worker's thread, or on that of `submit`."""
        try:
            changed = result.result()
            if isinstance(changed, Unknown):
                kept.forget()
                self._ask(audio, kept, answer)
                return
            encoded = kept.take(audio.samples, changed)
        except StreamASRError as error:
            self._give_back(audio.key, kept, is_sound=False)
            answer.set_exception(error)
        else:
            self._give_back(audio.key, kept, is_sound=True)
            answer.set_result(EncodedUtterance(encoded, changed.cost))

    def _give_back(self, key: int, kept: "_Kept", *, is_sound: bool) -> None:
        with self._lock:
            kept.is_reserved = False
            if self._kept.get(key) is not kept:
                self._dropped.append(kept.number)  # again, since the child may have begun it anew
            elif not is_sound:
                self._drop(key)


_NO_SAMPLES: Final = np.empty(0, np.float32)
_NO_EMBEDDINGS: Final = np.empty((0, 0), np.float32)


@dataclass(slots=True, eq=False)
class _Kept:
    """In the parent: samples of an utterance that the child has, and its encoding of them."""

    number: int
    options: SessionOptions = _DEFAULTS
    samples: Float32Array = field(default_factory=lambda: _NO_SAMPLES)
    """Those that the child has."""
    embeddings: Float32Array = field(default_factory=lambda: _NO_EMBEDDINGS)
    """After its last answer. Consumers have it, too, so it is replaced and never changed."""
    is_reserved: bool = False
    """A request is in flight."""

    def agrees_with(self, audio: UtteranceAudio) -> bool:
        """Tell whether an utterance is this one, or a longer or shorter part of it."""
        n_common = min(len(audio.samples), len(self.samples))
        is_same = np.array_equal(audio.samples[:n_common], self.samples[:n_common])
        return is_same and audio.options == self.options

    def request(self, samples: Float32Array, dropped: tuple[int, ...]) -> EncodeRequest:
        """Return the request that has these samples encoded."""
        start = len(self.samples)
        options = None if start else self.options
        return EncodeRequest(self.number, start, samples[start:], len(samples), options, dropped)

    def forget(self) -> None:
        """Begin anew."""
        self.samples, self.embeddings = _NO_SAMPLES, _NO_EMBEDDINGS

    def take(self, samples: Float32Array, changed: Changed) -> Encoded:
        """Put the encoding of these samples together.

        Raises:
            WorkerError: the answer does not fit to the last one.
        """
        first, new = changed.first, changed.embeddings
        if new.dtype != np.float32 or new.ndim != 2 or not self._reaches(first, new.shape[1]):
            raise WorkerError(
                "the encoder's answer does not fit to its last one.", code="encoding_does_not_fit"
            )
        embeddings = np.concatenate([self.embeddings[:first], new]) if first else new
        embeddings.flags.writeable = False
        self.embeddings = embeddings
        self.samples = max(samples, self.samples, key=len)
        return Encoded(embeddings, changed.result)

    def _reaches(self, first: int, width: int) -> bool:
        """Tell whether `first` rows of this width are there."""
        return first == 0 or (
            0 < first <= len(self.embeddings) and width == self.embeddings.shape[1]
        )
