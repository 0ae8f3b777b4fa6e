"""Engine: the loaded models, in two child processes and the decoder's thread.

    Recognise --> encoder process --> decoder thread --> Recognised
    Align ------> aligner process ---------------------> Aligned

The models are loaded once and serve any number of sessions, in turn and fairly. Each session has a
channel: orders go in, answers come out on threads of the engine. The engine takes a pass from stage
to stage by itself; the session sees one order and one answer.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self, TypeAlias, assert_never

from streamasr.alignment.spread import guess_words
from streamasr.alignment.token_times import words_of_tokens
from streamasr.core.errors import ModelError
from streamasr.core.events import Aligned, Answer, PassAbandoned, PassFailed, Recognised
from streamasr.core.orders import (
    AbandonPass,
    Align,
    Order,
    Pass,
    Promote,
    Recognise,
    Release,
    SpreadWords,
)
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import Segment
from streamasr.core.units import Samples
from streamasr.decoder.library import find_gpus
from streamasr.decoder.placement import ON_CPU, Placement, open_where_it_works, place
from streamasr.decoder.script import Script
from streamasr.engine.aligner import AlignerWorker, aligner_worker
from streamasr.engine.config import EngineConfig
from streamasr.engine.encoder import EncoderWorker, encoder_worker
from streamasr.engine.gpu_probe import GpuProbe, try_apart
from streamasr.engine.stages import (
    Decode,
    DecoderStage,
    Encode,
    Encoded,
    EncoderStage,
    Owner,
    StageAnswer,
    WorkerStage,
)
from streamasr.engine.worker import OnTrouble, Timeouts, Trouble
from streamasr.engine.worker_config import AlignerConfig, EncoderConfig
from streamasr.models.bundle import Bundle, read_bundle
from streamasr.models.family import Role
from streamasr.models.qwen3.decoder import ROWS_PER_SECOND, Qwen3ASRDecoder, add_hotwords

logger = logging.getLogger(__name__)

Deliver: TypeAlias = Callable[[Answer], None]


class Engine:
    """Loaded models and running children."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        timeouts: Timeouts | None = None,
        on_trouble: OnTrouble | None = None,
    ) -> None:
        """Prepare; entering the context starts the children and loads the decoder.

        Args:
            config: models to load; the options of a session are those of each order.
            timeouts: a child that is silent for longer is treated as dead.
            on_trouble: hears of children that died, and once of each thing that is not as it was
                asked to be; on threads of the engine.

        Raises:
            ModelError: the model directory cannot be used.
        """
        self._config = config
        self._on_trouble = on_trouble or _ignore
        self._told: set[str] = set()
        timeouts = timeouts or Timeouts()
        threads = config.hardware.stage_threads
        self.bundle = read_bundle(config.model, Role.RECOGNISER)
        self.bundle.check_files()
        self.traits = FamilyTraits()
        self._script = _script(self.bundle)
        self.encoder: EncoderWorker = encoder_worker(
            EncoderConfig(
                config.model,
                threads.encoder,
                config.hardware.providers,
                window_s=config.encoder_window_s,
                reuse=config.reuse,
            ),
            timeouts,
            self._hear,
        )
        self.encoding = EncoderStage(self.encoder)
        self.decoding = DecoderStage(self._load_decoder)
        self.aligner: AlignerWorker | None = None
        self._aligning: WorkerStage[Align, Align, Aligned] | None = None
        if config.aligner is not None:
            self.aligner = aligner_worker(
                aligner_config(config, config.aligner),
                timeouts,
                self._hear,
                config.aligner_idle_s,
            )
            self._aligning = WorkerStage(self.aligner.submit, _unchanged, _aligned)
        self._channels: set[Channel] = set()
        self._is_stopping = False
        self._lock = threading.Lock()  # guards the two above

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_ready(self) -> bool:
        """Whether speech becomes text right now. Nobody waits for an aligner."""
        return self.encoder.is_ready and self.decoding.is_ready

    @property
    def is_alive(self) -> bool:
        """Whether speech still becomes text. Once false after the start, it stays so."""
        return self.encoder.is_alive and self.decoding.is_ready

    @property
    def pulse(self) -> int | None:
        """Rises while the decoder works; None while it has nothing to do."""
        return self.decoding.pulse

    @property
    def pids(self) -> dict[str, int | None]:
        """The process of each child, by the child's name."""
        return {name: worker.pid for name, worker in self._workers().items()}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each child was started again, by its name."""
        return {name: worker.restarts for name, worker in self._workers().items()}

    def queue_lengths(self) -> dict[str, int]:
        """How many orders wait for each stage; those being worked on do not count."""
        return {
            "encoder": self.encoding.n_waiting,
            "decoder": self.decoding.n_waiting,
            "aligner": self._aligning.n_waiting if self._aligning else 0,
        }

    def start(self) -> None:
        """Start everything at once and wait until all of it is ready, but for an idle aligner.

        Raises:
            ModelError: a file of the model is missing or broken.
            ConfigError: there is no room for the configured context.
            WorkerError: a child keeps dying.
        """
        if self.bundle.warning:
            self._warn(self.bundle.warning)
        self.encoder.start()
        if self.aligner:
            self.aligner.start()
        self.decoding.start()
        self.decoding.wait_ready()
        self.context_for(self._config.options.context, self._config.options.hotwords)
        self.encoder.wait_ready()
        if self.aligner:
            self.aligner.wait_ready()

    def stop(self) -> None:
        """Stop everything, whatever it is doing. Nothing is delivered from now on."""
        with self._lock:
            self._is_stopping = True
            channels = list(self._channels)
        for channel in channels:
            channel.close()
        self.encoding.stop()
        if self._aligning:
            self._aligning.stop()
        self.decoding.stop()
        for worker in self._workers().values():
            worker.stop()

    def channel(self, deliver: Deliver) -> "Channel":
        """Open a way to have orders performed.

        Args:
            deliver: gets each answer, on a thread of the engine or within `Channel.perform`. It
                must only pass it on: others wait meanwhile.
        """
        channel = Channel(self, deliver)
        with self._lock:
            if not self._is_stopping:
                self._channels.add(channel)
                return channel
        channel.close()
        return channel

    def check_context(self, context: str) -> None:
        """Refuse a context that there is no room for. May be called from any thread.

        Raises:
            ConfigError: it is too long.
            WorkerError: the engine is not running.
        """
        self.decoding.check_context(context)

    def context_for(self, context: str, hotwords: Iterable[str]) -> str:
        """The context of a decode order for what listeners have given; raises `check_context`'s."""
        joined = add_hotwords(context, hotwords)
        self.check_context(joined)
        return joined

    def _perform(self, order: Order, channel: "Channel") -> None:
        match order:
            case Recognise():
                if self.aligner and order.options.words:
                    self.aligner.wake()  # so that it is loaded while the segment is being spoken
                self.encoding.put(channel, Encode(order.of, order.samples))
            case AbandonPass(of=of):
                self.encoding.take_back(channel, _is_of(of))
                self.decoding.take_back(channel, _is_of(of))
            case Promote(of=of):
                self.encoding.promote(channel, _is_of(of))
                self.decoding.promote(channel, _is_of(of))
            case Release(segment=segment):
                self.encoding.release(channel, segment)
                self.decoding.release(channel, segment)
            case Align() | SpreadWords():
                self._perform_alignment(order, channel)
            case _:
                assert_never(order)

    def _perform_alignment(self, order: Align | SpreadWords, channel: "Channel") -> None:
        aligning = self._aligning if self.aligner and self.aligner.is_alive else None
        match order:
            case Align(times=times) if times and self.traits.word_method:
                words = words_of_tokens(order)
                channel.hand_over(Aligned(order.segment, words, self.traits.word_method))
            case Align() if aligning:
                aligning.put(channel, order)
            case Align():
                channel.hand_over(spread(order))
            case SpreadWords() if aligning:
                for late in aligning.take_back(channel, lambda _: True):
                    channel.hand_over(spread(late))

    def _forget(self, channel: "Channel") -> None:
        with self._lock:
            self._channels.discard(channel)
        for stage in (self.encoding, self.decoding, self._aligning):
            if stage:
                stage.forget(channel)

    def _workers(self) -> dict[str, EncoderWorker | AlignerWorker]:
        if self.aligner is None:
            return {"encoder": self.encoder}
        return {"encoder": self.encoder, "aligner": self.aligner}

    def _hear(self, trouble: Trouble, sentence: str) -> None:
        """A child that is started again warns again, of the same."""
        if trouble == "degraded":
            with self._lock:
                if sentence in self._told:
                    return
                self._told.add(sentence)
        self._on_trouble(trouble, sentence)

    def _warn(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self._hear("degraded", sentence)

    def _load_decoder(self) -> Qwen3ASRDecoder:
        """On a GPU if one is wanted and works, else on the CPU."""
        hardware = self._config.hardware
        wanted = ON_CPU
        if hardware.gpu_layers:
            wanted, why = place(hardware.gpu_layers, hardware.gpu, find_gpus())
            if why:
                self._warn(why)
        return open_where_it_works(wanted, self._decoder_at, self._warn)

    def _decoder_at(self, placement: Placement) -> Qwen3ASRDecoder:
        n_threads = self._config.hardware.stage_threads.decoder
        if placement.is_on_gpu:
            try_apart(GpuProbe(self.bundle.decoder, placement, n_threads))
        return Qwen3ASRDecoder(
            self.bundle.decoder,
            n_threads=n_threads,
            max_segment_s=self._config.max_segment_s,
            reuse=self._config.reuse,
            script=self._script,
            placement=placement,
        )


@dataclass(slots=True)
class _OpenPass:
    """A pass that has no answer yet."""

    order: Recognise
    of: Pass
    """With its present rank."""
    since: float
    """Time of the order, on the performance counter."""


class Channel:
    """One session's connection to the engine. `perform` and `close` belong to one thread.

    Every `Recognise` is answered by exactly one of `Recognised`, `PassFailed` and `PassAbandoned`,
    every `Align` by `Aligned`. A pass is open until it has its answer: what a stage finds for a
    pass that is not open is dropped, so a pass can be abandoned wherever it is, also between two
    stages.
    """

    def __init__(self, engine: Engine, deliver: Deliver) -> None:
        """Made by `Engine.channel`."""
        self._engine = engine
        self._deliver = deliver
        self._is_closed = False
        self._open: dict[Pass, _OpenPass] = {}
        # Held during `deliver`, so that nothing is delivered once `close` has returned, and while
        # an open pass is put into its next stage. Stages never hold their locks when they call
        # `hand_over`.
        self._lock = threading.RLock()

    def perform(self, order: Order) -> None:
        """Begin to execute an order; do nothing if the channel is closed."""
        if self._is_closed:
            return
        match order:
            case Recognise(of=of):
                with self._lock:
                    self._open[of] = _OpenPass(order, of, time.perf_counter())
            case Promote(of=of):
                with self._lock:
                    if found := self._open.get(of):
                        found.of = of
            case AbandonPass(of=of):
                self.hand_over(PassAbandoned(of))  # first, so that no stage takes it any further
            case _:
                pass
        self._engine._perform(order, self)  # noqa: SLF001 - the other half of it

    def close(self) -> None:
        """Drop all orders. Nothing is delivered from now on."""
        with self._lock:
            self._is_closed = True
            self._open.clear()
        self._engine._forget(self)  # noqa: SLF001

    def hand_over(self, answer: StageAnswer) -> None:
        """Take the answer of a stage: put its pass into the next stage, or deliver it."""
        with self._lock:
            if self._is_closed:
                return
            match answer:
                case Encoded():
                    self._decode(answer)
                case Aligned():
                    self._hand_out(answer)
                case Recognised() | PassFailed() | PassAbandoned():
                    if found := self._open.pop(answer.of, None):
                        self._hand_out(_with_waiting(answer, found.since))
                case _:
                    assert_never(answer)

    def _decode(self, encoded: Encoded) -> None:
        if found := self._open.get(encoded.of):
            order = found.order
            self._engine.decoding.put(
                self,
                Decode(
                    found.of,
                    encoded.embeddings,
                    order.options,
                    order.forced,
                    order.draft,
                    encoded.cost,
                ),
            )

    def _hand_out(self, answer: Answer) -> None:
        try:
            self._deliver(answer)
        except Exception:  # the engine's threads serve others too
            logger.exception("an answer could not be delivered")


def _with_waiting(
    answer: Recognised | PassFailed | PassAbandoned, since: float
) -> Recognised | PassFailed | PassAbandoned:
    """Return an answer with the time during which no stage worked on its order."""
    if not isinstance(answer, Recognised):
        return answer
    seconds = time.perf_counter() - since
    return replace(answer, waited=max(0.0, seconds - answer.costs.total))


def _is_of(of: Pass) -> Callable[[Encode | Decode], bool]:
    return lambda order: order.of == of


def aligner_config(config: EngineConfig, bundle: Path) -> AlignerConfig:
    """How an aligner is run: on the CPU, unless it is asked for otherwise."""
    hardware = config.hardware
    threads = hardware.stage_threads.aligner
    if not hardware.aligner_gpu:
        return AlignerConfig(bundle, threads)
    return AlignerConfig(bundle, threads, hardware.providers, hardware.gpu_layers, hardware.gpu)


_MOST_SCRIPTED: Final = 1000
"""Tokens for each second. Nobody speaks so fast, and answers are cut long before."""


def _script(bundle: Bundle) -> Script | None:
    """What a bundle of random weights says; None for one that has learned something.

    Raises:
        ModelError: its script is no number of tokens.
    """
    rate = bundle.facts.get("scripted_tokens_per_second")
    if rate is None:
        return None
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not (is_number and 0 <= rate <= _MOST_SCRIPTED):
        raise ModelError(
            f"{bundle.directory}/model.json: scripted_tokens_per_second must be a number from 0 to "
            f"{_MOST_SCRIPTED}, not {rate!r:.60}."
        )
    return Script(rate / ROWS_PER_SECOND)


def spread(order: Align) -> Aligned:
    """Word times where no aligner can give them: even over the segment, with no score."""
    end = Samples(order.start + len(order.samples))
    segment = Segment(order.segment, order.start, end, order.language, order.text)
    return Aligned(order.segment, guess_words(segment), "spread")


def _unchanged(_owner: Owner, order: Align) -> Align:
    return order


def _aligned(order: Align, result: "Future[Aligned]") -> Answer:
    if error := result.exception():
        logger.warning("segment %d has no aligned words: %s", order.segment, error)
        return spread(order)
    return result.result()


def _ignore(_trouble: Trouble, _sentence: str) -> None:
    """It has been logged."""
