"""How much several sessions get out of one engine that decodes their steps in one batch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr.bench.figures import median, ratio
from streamasr.bench.speech import Speech
from streamasr.bench.update import Rig
from streamasr.core.errors import WorkerError
from streamasr.core.events import Decoded
from streamasr.core.orders import Decode, Rank
from streamasr.core.units import Float32Array, to_samples
from streamasr.pipeline.stream import Recogniser

SEGMENT_S: Final = 10.0
"""Speech of each session."""

_APART_S: Final = 3.1  # between the beginnings of what two sessions say


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """So many answers, one after the other and all at once."""

    sessions: int
    n_tokens: int
    """Of all answers together."""
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


def measure_decoding(
    recogniser: Recogniser,
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
        recogniser: an engine with caches, started.
        speech: what is said; each session begins somewhere else in it.
        sessions: how many at once, one row for each.
        repetitions: of which the median is taken.
        report: told what is being done.

    Raises:
        WorkerError: the engine fails.
    """
    rigs = [Rig(recogniser) for _ in range(max(sessions))]
    try:
        orders = [_prepare(rig, speech, number) for number, rig in enumerate(rigs)]
        rows = []
        for n_sessions in sessions:
            report(f"{n_sessions} at once")
            rows.append(_compare(rigs[:n_sessions], orders[:n_sessions], repetitions))
        return rows
    finally:
        for rig in rigs:
            rig.close()


_SEGMENT: Final = 1


def _prepare(rig: Rig, speech: Speech, number: int) -> Float32Array:
    """Encode what a session says and have it decoded once, so that the audio is read already."""
    samples = speech.samples(to_samples(number * _APART_S), to_samples(SEGMENT_S))
    of = rig.next_pass(_SEGMENT, Rank.PARTIAL)
    embeddings = rig.encode(of, samples).embeddings
    rig.decode(Decode(of, embeddings))
    return embeddings


def _compare(rigs: Sequence[Rig], heard: Sequence[Float32Array], repetitions: int) -> DecodeRow:
    apart: list[float] = []
    together: list[float] = []
    n_tokens = 0
    for repetition in range(repetitions):
        for is_together in (False, True) if repetition % 2 == 0 else (True, False):
            began = time.perf_counter()
            n_tokens = _decode(rigs, heard, is_together=is_together)
            (together if is_together else apart).append(time.perf_counter() - began)
    return DecodeRow(len(rigs), n_tokens, median(apart), median(together))


def _decode(rigs: Sequence[Rig], heard: Sequence[Float32Array], *, is_together: bool) -> int:
    """Decode everybody's audio; how many tokens came of it."""
    orders = [
        Decode(rig.next_pass(_SEGMENT, Rank.PARTIAL), embeddings)
        for rig, embeddings in zip(rigs, heard, strict=True)
    ]
    if is_together:
        for rig, order in zip(rigs, orders, strict=True):
            rig.begin(order)
        answers = [rig.wait() for rig in rigs]
    else:
        answers = [rig.decode(order) for rig, order in zip(rigs, orders, strict=True)]
    n_tokens = sum(
        len(answer.hypothesis.tokens) for answer in answers if isinstance(answer, Decoded)
    )
    if not n_tokens:
        raise WorkerError("the model finds no text in this audio, so there is nothing to measure.")
    return n_tokens
