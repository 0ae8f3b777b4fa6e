"""Throughput of one engine that decodes the steps of several sessions in one batch."""

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streamasr.bench.figures import median, ratio
from streamasr.bench.speech import Speech
from streamasr.core.errors import WorkerError
from streamasr.core.events import PassFailed, Recognised
from streamasr.core.orders import Pass, Rank
from streamasr.core.units import Float32Array, to_samples
from streamasr.engine.stages import Decode, Encode, Owner, PassEncoded, StageAnswer
from streamasr.models.family import Encoded

SEGMENT_S: Final = 10.0
"""Speech of each session."""

_APART_S: Final = 3.1  # between the beginnings of two sessions in the speech


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """Costs of a number of answers, one after the other and all at once."""

    sessions: int
    n_tokens: int
    """Tokens of all answers together."""
    apart_s: float
    """Seconds for all of them, one after the other; a median."""
    together_s: float
    """The same, in shared batches."""

    @property
    def apart(self) -> float:
        """Tokens a second."""
        return self.n_tokens / self.apart_s

    @property
    def together(self) -> float:
        """Tokens a second."""
        return self.n_tokens / self.together_s

    @property
    def gain(self) -> float | None:
        """Throughput together over that apart."""
        return ratio(self.apart_s, self.together_s)


class Encoding(Protocol):
    """Part of `streamasr.engine.stages.EncoderStage`."""

    def put(self, owner: Owner, order: Encode) -> None:
        """Queue an order."""

    def forget(self, owner: Owner) -> None:
        """Free what was kept for an owner."""


class Decoding(Protocol):
    """Part of `streamasr.engine.stages.DecoderStage`."""

    def put(self, owner: Owner, order: Decode) -> None:
        """Queue an order."""

    def forget(self, owner: Owner) -> None:
        """Free what was kept for an owner."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Stages of an engine, to be used one by one."""

    encoding: Encoding
    decoding: Decoding


class _Speaker:
    """One session: owner of orders to single stages."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._answers: queue.SimpleQueue[StageAnswer] = queue.SimpleQueue()
        self._n_passes = 0

    def hand_over(self, answer: StageAnswer) -> None:
        """See `Owner.hand_over`."""
        self._answers.put(answer)

    def encode(self, samples: Float32Array) -> Encoded:
        """Return the encoding of some samples.

        Raises:
            WorkerError: the encoder could not encode it.
        """
        self._stages.encoding.put(self, Encode(self._next_pass(), samples))
        answer = self._wait()
        assert isinstance(answer, PassEncoded)
        return answer.encoded

    def begin(self, encoded: Encoded) -> None:
        """Begin to decode an encoding; `finish` waits for the text."""
        self._stages.decoding.put(self, Decode(self._next_pass(), encoded))

    def finish(self) -> int:
        """Wait for the text, and return its number of tokens.

        Raises:
            WorkerError: the decoder could not decode it.
        """
        answer = self._wait()
        assert isinstance(answer, Recognised)
        return len(answer.hypothesis.tokens)

    def close(self) -> None:
        """Free what the stages keep."""
        self._stages.encoding.forget(self)
        self._stages.decoding.forget(self)

    def _next_pass(self) -> Pass:
        self._n_passes += 1
        return Pass(_SEGMENT, self._n_passes, Rank.PARTIAL)

    def _wait(self) -> StageAnswer:
        answer = self._answers.get()
        if isinstance(answer, PassFailed):
            raise WorkerError(f"a pass failed: {answer.message}", code="pass_failed")
        return answer


def measure_decoding(
    stages: Stages,
    speech: Speech,
    sessions: Sequence[int],
    *,
    repetitions: int = 3,
    report: Callable[[str], None] = lambda _: None,
) -> list[DecodeRow]:
    """Decode the same answers one after the other and all at once, in turn.

    Prompt and audio have been read before the clock runs: what is measured is finding the text,
    token by token.

    Args:
        stages: those of an engine with caches, started.
        speech: audio; each session begins at another place in it.
        sessions: numbers of sessions, one row for each.
        repetitions: number of measurements, whose median counts.
        report: receives a description of each step.

    Raises:
        WorkerError: the engine failed, or found no text.
    """
    speakers = [_Speaker(stages) for _ in range(max(sessions))]
    try:
        heard = [_prepare(speaker, speech, number) for number, speaker in enumerate(speakers)]
        rows = []
        for n_sessions in sessions:
            report(f"{n_sessions} at once")
            rows.append(_compare(speakers[:n_sessions], heard[:n_sessions], repetitions))
        return rows
    finally:
        for speaker in speakers:
            speaker.close()


_SEGMENT: Final = 1


def _prepare(speaker: _Speaker, speech: Speech, number: int) -> Encoded:
    """Encode the speech of one session and decode it once, so that its audio has been read."""
    samples = speech.samples(to_samples(number * _APART_S), to_samples(SEGMENT_S))
    encoded = speaker.encode(samples)
    speaker.begin(encoded)
    speaker.finish()
    return encoded


def _compare(speakers: Sequence[_Speaker], heard: Sequence[Encoded], repetitions: int) -> DecodeRow:
    apart: list[float] = []
    together: list[float] = []
    n_tokens = 0
    for repetition in range(repetitions):
        for is_together in (False, True) if repetition % 2 == 0 else (True, False):
            began = time.perf_counter()
            n_tokens = _decode(speakers, heard, is_together=is_together)
            (together if is_together else apart).append(time.perf_counter() - began)
    return DecodeRow(len(speakers), n_tokens, median(apart), median(together))


def _decode(speakers: Sequence[_Speaker], heard: Sequence[Encoded], *, is_together: bool) -> int:
    """Decode the audio of all sessions; return the number of tokens."""
    n_tokens = 0
    if is_together:
        for speaker, embeddings in zip(speakers, heard, strict=True):
            speaker.begin(embeddings)
        n_tokens = sum(speaker.finish() for speaker in speakers)
    else:
        for speaker, embeddings in zip(speakers, heard, strict=True):
            speaker.begin(embeddings)
            n_tokens += speaker.finish()
    if not n_tokens:
        raise WorkerError(
            "the model finds no text in this audio: nothing to measure", code="no_text"
        )
    return n_tokens
