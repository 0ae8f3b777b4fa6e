"""The machinery that does what a session asks for: two child processes and the decoder thread.

    Encode --> encoder process --> Encoded
    Decode --> decoder thread  --> Decoded
    Align  --> aligner process --> Aligned

The models are loaded once and serve any number of sessions. Answers come back through the function
that was handed over with the action, on a thread of the engine's own; it must only pass them on.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Self, assert_never

from streamasr.config import AlignerConfig, EncoderConfig, RecognitionConfig
from streamasr.decoder.llama import Aborted
from streamasr.errors import StreamASRError
from streamasr.events import (
    AbandonPass,
    Align,
    Aligned,
    Decode,
    Decoded,
    Encode,
    Encoded,
    Pass,
    PassAbandoned,
    PassFailed,
    SessionEvent,
)
from streamasr.models.bundle import RECOGNISER, read_bundle
from streamasr.models.qwen3_asr import Qwen3ASRDecoder
from streamasr.transcript import Segment, guess_words
from streamasr.units import Float32Array, Samples
from streamasr.workers.aligner import AlignerWorker, aligner_worker
from streamasr.workers.encoder import EncoderWorker, encoder_worker

logger = logging.getLogger(__name__)

Deliver = Callable[[SessionEvent], None]
Order = Encode | Decode | AbandonPass | Align


class Engine:
    """Loaded models and running children."""

    def __init__(self, config: RecognitionConfig) -> None:
        """Prepare; entering the context starts the children and loads the decoder.

        Raises:
            ModelError: the model directory cannot be used.
        """
        self._config = config
        self.bundle = read_bundle(config.model, RECOGNISER)
        self.encoder: EncoderWorker = encoder_worker(
            EncoderConfig(config.model, config.threads, config.providers)
        )
        self.aligner: AlignerWorker | None = None
        if config.words and self.bundle.aligner is not None:
            self.aligner = aligner_worker(
                AlignerConfig(self.bundle.aligner, config.threads, config.providers)
            )
        self._decoder: Qwen3ASRDecoder | None = None
        self._decoder_thread = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._decoding: Pass | None = None
        self._is_stopping = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything at once and wait until all of it is ready.

        Raises:
            ModelError: a file of the model is missing or broken.
            WorkerError: a child keeps dying.
        """
        self.encoder.start()
        if self.aligner:
            self.aligner.start()
        self._decoder = self._decoder_thread.submit(self._load_decoder).result()
        self.encoder.wait_ready()
        if self.aligner:
            self.aligner.wait_ready()

    def stop(self) -> None:
        """Stop everything, whatever it is doing."""
        with self._lock:
            self._is_stopping = True
            if self._decoder:
                self._decoder.abandon()
        self._decoder_thread.shutdown(cancel_futures=True)
        for worker in (self.encoder, self.aligner):
            if worker:
                worker.stop()
        if self._decoder:
            self._decoder.close()
            self._decoder = None

    def perform(self, order: Order, deliver: Deliver) -> None:
        """Begin what is asked for; its answer goes to `deliver`, later and on another thread."""
        match order:
            case Encode():
                answer = self.encoder.submit(order.samples)
                answer.add_done_callback(partial(_deliver_encoded, order.of, deliver))
            case Decode():
                self._decoder_thread.submit(self._decode, order, deliver)
            case AbandonPass(of=of):
                self._abandon(of)
            case Align():
                self._align(order, deliver)
            case _:
                assert_never(order)

    def _load_decoder(self) -> Qwen3ASRDecoder:
        decoder = Qwen3ASRDecoder(
            self.bundle.decoder,
            n_threads=self._config.threads,
            max_segment_s=self._config.chunker.max_segment,
        )
        decoder.check_context(self._config.context)
        return decoder

    def _decode(self, order: Decode, deliver: Deliver) -> None:
        assert self._decoder is not None, "the engine has been started"
        with self._lock:
            if self._is_stopping:
                return
            self._decoding = order.of
            self._decoder.rearm()
        try:
            hypothesis = self._decoder.decode(
                order.embeddings, context=self._config.context, language=self._config.language
            )
            deliver(Decoded(order.of, hypothesis))
        except Aborted:
            deliver(PassAbandoned(order.of))
        except StreamASRError as error:
            deliver(PassFailed(order.of, str(error)))
        except Exception as error:  # the thread's outermost frame: whoever waits must hear of it
            logger.exception("segment %d could not be decoded", order.of.segment)
            deliver(PassFailed(order.of, f"internal error: {error!r}"))
        finally:
            with self._lock:
                self._decoding = None

    def _abandon(self, of: Pass) -> None:
        with self._lock:
            if self._decoding == of and self._decoder:
                self._decoder.abandon()

    def _align(self, order: Align, deliver: Deliver) -> None:
        if self.aligner is None:
            deliver(spread(order))
            return
        answer = self.aligner.submit(order)
        answer.add_done_callback(partial(_deliver_aligned, order, deliver))


def spread(order: Align) -> Aligned:
    """Word times where no aligner can give them: even over the segment, with no score."""
    end = Samples(order.start + len(order.samples))
    segment = Segment(order.segment, order.start, end, order.language, order.text)
    return Aligned(order.segment, guess_words(segment), "spread")


def _deliver_encoded(of: Pass, deliver: Deliver, answer: "Future[Float32Array]") -> None:
    if answer.cancelled():
        return
    if error := answer.exception():
        deliver(PassFailed(of, str(error)))
    else:
        deliver(Encoded(of, answer.result()))


def _deliver_aligned(order: Align, deliver: Deliver, answer: "Future[Aligned]") -> None:
    if answer.cancelled():
        return
    if error := answer.exception():
        logger.warning("segment %d has no aligned words: %s", order.segment, error)
        deliver(spread(order))
    else:
        deliver(answer.result())
