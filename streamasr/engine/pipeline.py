"""Pipeline of an engine: the stages that orders go through, chained as the model family needs them.

    Recognise --> encoder --> decoder --> Recognised       families with a language model
    Recognise --> encoder --------------> Recognised       families without
    Punctuate --> punctuator -----------> Punctuated       families without punctuation
    Align ------> aligner --------------> Aligned          or from token times, or spread

The pipeline takes a pass from stage to stage by itself: a session sees one order and one answer.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar, assert_never

from streamasr.alignment.spread import guess_words
from streamasr.alignment.token_times import words_of_tokens
from streamasr.core.events import (
    Aligned,
    Answer,
    Costs,
    PassAbandoned,
    PassFailed,
    Punctuated,
    Recognised,
)
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.orders import (
    AbandonPass,
    Align,
    Order,
    Pass,
    Promote,
    Punctuate,
    Recognise,
    Release,
    SpreadWords,
)
from streamasr.core.punctuation import Marks
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import Segment
from streamasr.core.units import Samples
from streamasr.engine.aligner import AlignerWorker
from streamasr.engine.decoder_stage import DecoderStage
from streamasr.engine.ports import Deliver
from streamasr.engine.punctuator import FoundMarks, PunctuatorWorker
from streamasr.engine.stages import (
    Decode,
    Encode,
    EncoderStage,
    Owner,
    PassEncoded,
    StageAnswer,
    WorkerStage,
)

logger = logging.getLogger(__name__)

_OrderT = TypeVar("_OrderT", Align, Punctuate)


class Pipeline:
    """The stages of one engine. All methods may be called from any thread."""

    def __init__(
        self,
        traits: FamilyTraits,
        encoding: EncoderStage,
        decoding: DecoderStage | None,
        aligner: AlignerWorker | None,
        punctuator: PunctuatorWorker | None = None,
    ) -> None:
        """Chain stages, whose workers are started and stopped by their owner.

        Args:
            traits: of the model family.
            encoding: stage of the encoder process.
            decoding: stage of the decoder; None for families whose encoder gives hypotheses.
            aligner: process that times words. Without it they have the times that the family
                gives, or are spread.
            punctuator: process that punctuates texts; without it they stay as they are.
        """
        self.traits = traits
        self.encoding = encoding
        self.decoding = decoding
        self._aligner = aligner
        self._aligning: WorkerStage[Align, Align, Aligned] | None = None
        if aligner is not None:
            self._aligning = WorkerStage(aligner.submit, _unchanged, self._aligned)
        self._punctuating: WorkerStage[Punctuate, Punctuate, FoundMarks] | None = None
        if punctuator is not None:
            self._punctuating = WorkerStage(punctuator.submit, _unchanged, self._punctuated)
        self._has_missed_marks = False  # so that the log says so once
        self._channels: set[PassChannel] = set()
        self._is_stopping = False
        self._lock = threading.Lock()  # guards the two above

    def queue_lengths(self) -> dict[str, int]:
        """Return the number of waiting orders of each stage; running ones do not count."""
        stages = {
            "encoder": self.encoding,
            "decoder": self.decoding,
            "punctuator": self._punctuating,
            "aligner": self._aligning,
        }
        return {name: stage.n_waiting for name, stage in stages.items() if stage}

    def channel(self, deliver: Deliver) -> "PassChannel":
        """Open a channel; one that is closed already after `stop`."""
        channel = PassChannel(self, deliver)
        with self._lock:
            if not self._is_stopping:
                self._channels.add(channel)
                return channel
        channel.close()
        return channel

    def stop(self) -> None:
        """Close all channels and stop the stages. Nothing is delivered any more."""
        with self._lock:
            self._is_stopping = True
            channels = list(self._channels)
        for channel in channels:
            channel.close()
        self.encoding.stop()
        for stage in (self._aligning, self._punctuating):
            if stage:
                stage.stop()
        if self.decoding:
            self.decoding.stop()

    def perform(self, order: Order, channel: "PassChannel") -> None:
        """Put an order into its first stage, or apply it to those that wait."""
        match order:
            case Recognise(of=of, samples=samples, options=options):
                if self._aligner and options.words:
                    self._aligner.wake()  # so that it loads while the segment is being spoken
                self.encoding.put(channel, Encode(of, samples, options))
            case Punctuate(of=of):
                if self._punctuating:
                    self._punctuating.put(channel, order)
                else:
                    channel.hand_over(Punctuated(of, Marks()))
            case AbandonPass() | Promote() | Release():
                self._apply(order, channel)
            case Align():
                self._time_words(order, channel)
            case SpreadWords():
                self._spread_late_words(channel)
            case _:
                assert_never(order)

    def continue_pass(self, order: Recognise, of: Pass, found: PassEncoded) -> Decode | Answer:
        """Return the next order of a pass that is encoded, or its answer."""
        if self.decoding is not None:
            options, forced, draft = order.options, order.forced, order.draft
            return Decode(of, found.encoded, options, forced, draft, found.cost)
        hypothesis = found.encoded.result
        if not isinstance(hypothesis, Hypothesis):
            return PassFailed(of, f"the encoder gave {type(hypothesis).__name__}, not a hypothesis")
        return Recognised(of, hypothesis, Costs(encode=found.cost))

    def forget(self, channel: "PassChannel") -> None:
        """Remove a channel and all its orders."""
        with self._lock:
            self._channels.discard(channel)
        for stage in (self.encoding, self.decoding, self._punctuating, self._aligning):
            if stage:
                stage.forget(channel)

    def _apply(self, order: AbandonPass | Promote | Release, channel: "PassChannel") -> None:
        """Apply an order to what waits in any stage of a pass."""
        for stage in (self.encoding, self.decoding, self._punctuating):
            if stage is None:
                continue
            match order:
                case AbandonPass(of=of):
                    stage.take_back(channel, _is_of(of))
                case Promote(of=of):
                    stage.promote(channel, _is_of(of))
                case Release(segment=segment):
                    if isinstance(stage, EncoderStage | DecoderStage):
                        stage.release(channel, segment)

    def _time_words(self, order: Align, channel: "PassChannel") -> None:
        if aligning := self._living_aligner():
            aligning.put(channel, order)
        else:
            channel.hand_over(self._words_without_aligner(order))

    def _spread_late_words(self, channel: "PassChannel") -> None:
        if aligning := self._living_aligner():
            for late in aligning.take_back(channel, lambda _: True):
                channel.hand_over(self._words_without_aligner(late))

    def _words_without_aligner(self, order: Align) -> Aligned:
        if order.times and self.traits.word_method:
            return Aligned(order.segment, words_of_tokens(order), self.traits.word_method)
        return spread(order)

    def _aligned(self, order: Align, result: "Future[Aligned]") -> Answer:
        if error := result.exception():
            logger.warning("segment %d has no aligned words: %s", order.segment, error)
            return self._words_without_aligner(order)
        return result.result()

    def _punctuated(self, order: Punctuate, result: "Future[FoundMarks]") -> Answer:
        error = result.exception()
        if error is None:
            found = result.result()
            return Punctuated(order.of, found.marks, Costs(punctuate=found.cost))
        if not self._has_missed_marks:
            self._has_missed_marks = True
            logger.warning("texts are written without punctuation: %s", error)
        return Punctuated(order.of, Marks())

    def _living_aligner(self) -> WorkerStage[Align, Align, Aligned] | None:
        return self._aligning if self._aligner and self._aligner.is_alive else None


@dataclass(slots=True)
class _OpenPass:
    """An order about a pass that has no answer yet."""

    order: Recognise | Punctuate
    of: Pass
    """With its present rank."""
    since: float
    """Time of the order, on the performance counter."""


class PassChannel:
    """Channel of one session to the stages of this process; see `ports.Channel`.

    A pass is open until it has its answer; an order to punctuate its text opens it again. Results
    of a stage for a pass that is not open are dropped, so a pass can be abandoned wherever it is,
    also between two stages.
    """

    def __init__(self, pipeline: Pipeline, deliver: Deliver) -> None:
        """Connect to a pipeline; use `Pipeline.channel`."""
        self._pipeline = pipeline
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
            case Recognise(of=of) | Punctuate(of=of):
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
        self._pipeline.perform(order, self)

    def close(self) -> None:
        """Drop all orders. Nothing is delivered any more once this has returned."""
        with self._lock:
            self._is_closed = True
            self._open.clear()
        self._pipeline.forget(self)

    def hand_over(self, answer: StageAnswer) -> None:
        """Take the answer of a stage: put its pass into the next stage, or deliver it."""
        with self._lock:
            if self._is_closed:
                return
            match answer:
                case PassEncoded(of=of):
                    found = self._open.get(of)
                    if found and isinstance(found.order, Recognise):
                        self._continue(self._pipeline.continue_pass(found.order, found.of, answer))
                case Aligned():
                    self._hand_out(answer)
                case Recognised() | Punctuated() | PassFailed() | PassAbandoned():
                    if found := self._open.pop(answer.of, None):
                        self._hand_out(_with_waiting(answer, found.since))
                case _:
                    assert_never(answer)

    def _continue(self, following: Decode | Answer) -> None:
        if isinstance(following, Decode):
            assert self._pipeline.decoding is not None, "only a decoder gets such orders"
            self._pipeline.decoding.put(self, following)
        else:
            self.hand_over(following)

    def _hand_out(self, answer: Answer) -> None:
        try:
            self._deliver(answer)
        except Exception:  # the engine's threads serve other sessions, too
            logger.exception("an answer could not be delivered")


def _with_waiting(
    answer: Recognised | Punctuated | PassFailed | PassAbandoned, since: float
) -> Recognised | Punctuated | PassFailed | PassAbandoned:
    """Return an answer with the time during which no stage worked on its order."""
    if not isinstance(answer, Recognised | Punctuated):
        return answer
    seconds = time.perf_counter() - since
    return replace(answer, waited=max(0.0, seconds - answer.costs.total))


def _is_of(of: Pass) -> Callable[[Encode | Decode | Punctuate], bool]:
    return lambda order: order.of == of


def spread(order: Align) -> Aligned:
    """Return word times without an aligner: even over the segment, without confidence."""
    end = Samples(order.start + len(order.samples))
    segment = Segment(order.segment, order.start, end, order.language, order.text)
    return Aligned(order.segment, guess_words(segment), "spread")


def _unchanged(_owner: Owner, order: _OrderT) -> _OrderT:
    return order
