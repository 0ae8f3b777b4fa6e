"""Cost of a live update while an utterance grows, with caches and without.

An utterance grows by half a second at a time, as in a session: each time all of it is recognised,
with the stable text forced and the last hypothesis as a draft. An engine with caches pays for the
new part. Then an engine without caches gets the same at the chosen lengths. The two take turns and
are never loaded together, since OpenMP lets threads sleep sooner if they outnumber the processors.

    incremental   caches and drafts; of the updates in the last two seconds up to a length, since
                  an update costs more the more of the encoder's window is open
    scratch       neither: all audio is encoded, the whole prompt read, all text found token by
                  token
    final         caches: the pass over the whole segment after the speaker has paused, when the
                  last update had covered all but a quarter of a second
    final_scratch the same from scratch

Where the texts are punctuated by a model of their own, that belongs to each pass: with caches from
the last decided sentence on, from scratch all of the text.
"""

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, astuple, dataclass, field
from typing import Final, Literal, TypeAlias

from streamasr.bench.figures import median, ratio
from streamasr.bench.speech import Speech
from streamasr.core.errors import WorkerError
from streamasr.core.events import Answer, PassAbandoned, PassFailed, Punctuated, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.orders import Pass, Punctuate, Rank, Recognise, Release
from streamasr.core.punctuation import Marks
from streamasr.core.units import Float32Array, Samples, to_samples
from streamasr.engine.ports import ChannelSource
from streamasr.session.punctuation import DecidedMarks
from streamasr.session.stable_prefix import CommitLag, StablePrefix

STEP_S: Final = 0.5
"""New audio of one update."""

FINAL_STEP_S: Final = 0.25
"""New audio of the pass for the final: a pause begins anywhere between two updates."""

SPAN_S: Final = 2.0
"""Updates within so many seconds up to a length count for it."""

GROWTH_S: Final = (6.0, 24.0)
"""Lengths whose costs are compared with each other."""

Kind: TypeAlias = Literal["incremental", "scratch", "final", "final_scratch"]

OpenEngine: TypeAlias = Callable[[], AbstractContextManager[ChannelSource]]
"""Starts an engine, which the end of its context stops."""

_FROM_SCRATCH: Final[dict[Kind, Kind]] = {"incremental": "scratch", "final": "final_scratch"}
"""Kind that each kind is compared with."""


@dataclass(frozen=True, slots=True)
class PassCost:
    """Seconds that one pass took."""

    wall: float = 0.0
    """From the order to the answer."""
    encode: float = 0.0
    prefill: float = 0.0
    verify: float = 0.0
    decode: float = 0.0
    punctuate: float = 0.0

    def __add__(self, other: "PassCost") -> "PassCost":
        """Return the cost of two steps of a pass."""
        return PassCost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Measured:
    """One pass."""

    kind: Kind
    seconds: float
    """Of audio, all of the utterance so far."""
    cost: PassCost
    n_tokens: int
    """Of the answer."""


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """The medians of one kind at one length."""

    kind: Kind
    seconds: float
    n: int
    cost: PassCost
    worst: float
    """Wall time of the slowest."""
    n_tokens: float


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Costs of updates."""

    rows: Sequence[UpdateRow]
    curve: Sequence[tuple[float, float]]
    """Length and median wall time of every incremental update."""
    ratios: dict[str, float]
    """Ratios by name: `scratch:incremental@20`, `growth:incremental`, ..."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Lengths and repetitions of a measurement."""

    seconds: Sequence[float] = (5.0, 10.0, 20.0, 40.0)
    final_s: float = 10.0
    """Length of the segment whose final pass is measured."""
    repetitions: int = 3
    lag: CommitLag = field(default_factory=CommitLag)
    """Lag after which tokens are stable."""

    @property
    def lengths(self) -> list[float]:
        """Lengths at which both engines are measured, with those of growth if in reach."""
        reached = GROWTH_S if max(self.seconds) >= max(GROWTH_S) else ()
        return sorted({*self.seconds, *reached})

    @property
    def longest(self) -> float:
        """Length of the longest segment."""
        return max(*self.lengths, self.final_s)


class Rig:
    """One session with an engine, which waits for each answer."""

    def __init__(self, recogniser: ChannelSource) -> None:
        """Open a channel of a started engine."""
        self.traits = recogniser.traits
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._channel = recogniser.channel(self._answers.put)
        self._n_passes = 0

    def run(
        self,
        segment: int,
        samples: Float32Array,
        *,
        rank: Rank = Rank.PARTIAL,
        forced: tuple[int, ...] = (),
        draft: tuple[int, ...] = (),
    ) -> tuple[Hypothesis, PassCost]:
        """Recognise all of a segment so far, and wait for it.

        Raises:
            WorkerError: the pass failed or was abandoned.
        """
        began = time.perf_counter()
        self._n_passes += 1
        of = Pass(segment, self._n_passes, rank)
        self._channel.perform(Recognise(of, samples, forced=forced, draft=draft))
        answer = self._wait()
        assert isinstance(answer, Recognised)
        return answer.hypothesis, _cost_of(answer, began)

    def punctuate(
        self, segment: int, text: str, language: str | None, *, rank: Rank = Rank.PARTIAL
    ) -> tuple[Marks, PassCost]:
        """Find the marks of a text, and wait for them.

        Raises:
            WorkerError: the pass was abandoned.
        """
        began = time.perf_counter()
        self._channel.perform(Punctuate(Pass(segment, self._n_passes, rank), text, language))
        answer = self._wait()
        assert isinstance(answer, Punctuated)
        return answer.marks, _cost_of(answer, began)

    def _wait(self) -> Recognised | Punctuated:
        match self._answers.get():
            case Recognised() | Punctuated() as answer:
                return answer
            case PassFailed(message=message):
                raise WorkerError(f"a pass failed: {message}", code="pass_failed")
            case PassAbandoned():
                raise WorkerError("the engine abandoned a pass unasked", code="pass_abandoned")
            case other:
                raise WorkerError(f"unexpected answer: {other!r}", code="unexpected_answer")

    def release(self, segment: int) -> None:
        """Free everything about a segment."""
        self._channel.perform(Release(segment))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _cost_of(answer: Recognised | Punctuated, began: float) -> PassCost:
    return PassCost(time.perf_counter() - began, **asdict(answer.costs))


class _Utterance:
    """A segment that grows."""

    def __init__(self, rig: Rig, number: int, samples: Float32Array, lag: CommitLag) -> None:
        self._rig = rig
        self.number = number
        self._samples = samples
        self._stable = StablePrefix(lag, rig.traits)
        self._marks = DecidedMarks()
        self._draft: tuple[int, ...] = ()

    @property
    def forced(self) -> tuple[int, ...]:
        return self._stable.forced

    def audio(self, seconds: float) -> Float32Array:
        return self._samples[: to_samples(seconds)]

    def update(self, seconds: float, kind: Kind) -> Measured:
        rank = Rank.PARTIAL if kind == "incremental" else Rank.SPECULATIVE
        audio = self.audio(seconds)
        hypothesis, cost = self._rig.run(
            self.number, audio, rank=rank, forced=self.forced, draft=self._draft
        )
        continuation = self._stable.continued_by(hypothesis)
        if continuation is not None:
            self._stable.receive(hypothesis.tokens, continuation, Samples(len(audio)))
            found = continuation.hypothesis
            if self._rig.traits.asks_for_marks and found.text:
                text = found.text[self._marks.begin :]
                marks, more = self._rig.punctuate(self.number, text, found.language, rank=rank)
                self._marks.decide(marks, len(self._stable.text))
                cost += more
        self._draft = hypothesis.tokens
        return Measured(kind, seconds, cost, len(hypothesis.tokens))


def measure(
    open_incremental: OpenEngine,
    open_scratch: OpenEngine,
    speech: Speech,
    plan: Plan,
    report: Callable[[str], None] = lambda _: None,
) -> list[Measured]:
    """Let utterances grow and measure the cost of each pass.

    Args:
        open_incremental: starts an engine with caches.
        open_scratch: starts an engine without caches, of the same model and settings.
        speech: audio, repeated as needed.
        plan: lengths and repetitions.
        report: receives a description of each step.

    Raises:
        WorkerError: an engine failed or abandoned a pass.
    """
    samples = speech.samples(0, to_samples(plan.longest))
    measured: list[Measured] = []
    for repetition in range(plan.repetitions):
        report(f"repetition {repetition + 1} of {plan.repetitions}")
        asked: list[_Asked] = []
        with _rig(open_incremental, samples) as rig:
            measured += _reported(_grow(rig, samples, plan, asked), report)
        with _rig(open_scratch, samples) as rig:
            measured += _reported(_do_anew(rig, samples, asked), report)
    return measured


def result_of(measured: Sequence[Measured], plan: Plan) -> UpdateResult:
    """Return medians and ratios."""
    keys = dict.fromkeys(
        (m.kind, m.seconds)
        for m in measured
        if m.kind != "incremental" or m.seconds in plan.lengths
    )
    rows = [
        _row(kind, seconds, measured, SPAN_S if kind == "incremental" else 0.0)
        for kind, seconds in sorted(keys, key=_in_order)
    ]
    every = sorted({m.seconds for m in measured if m.kind == "incremental"})
    curve = [(seconds, _row("incremental", seconds, measured).cost.wall) for seconds in every]
    return UpdateResult(rows, curve, _ratios(rows))


def _reported(passes: Iterable[Measured], report: Callable[[str], None]) -> Iterator[Measured]:
    for one in passes:
        report(f"{one.seconds:g} s, {one.kind}")
        yield one


@contextmanager
def _rig(open_engine: OpenEngine, samples: Float32Array) -> Iterator[Rig]:
    """Start an engine and warm it up: its first pass allocates memory."""
    with open_engine() as engine:
        rig = Rig(engine)
        try:
            rig.run(_WARM_UP, samples[: to_samples(2.0)])
            rig.release(_WARM_UP)
            yield rig
        finally:
            rig.close()


_WARM_UP, _GROWING_SEGMENT, _ENDING_SEGMENT, _FIRST_ANEW = range(1, 5)
"""Numbers of segments."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Order that the engine with caches got, for the engine without caches."""

    kind: Kind
    seconds: float
    forced: tuple[int, ...]


def _grow(rig: Rig, samples: Float32Array, plan: Plan, asked: list[_Asked]) -> Iterator[Measured]:
    """Yield the passes of a growing utterance, and of another one with its final pass."""
    growing = _Utterance(rig, _GROWING_SEGMENT, samples, plan.lag)
    for seconds in _steps(max(plan.lengths)):
        if seconds in plan.lengths:
            asked.append(_Asked("scratch", seconds, growing.forced))
        yield growing.update(seconds, "incremental")
    rig.release(_GROWING_SEGMENT)
    ending = _Utterance(rig, _ENDING_SEGMENT, samples, plan.lag)
    for seconds in _steps(plan.final_s - FINAL_STEP_S, first=STEP_S - FINAL_STEP_S):
        ending.update(seconds, "incremental")
    asked.append(_Asked("final_scratch", plan.final_s, ending.forced))
    yield ending.update(plan.final_s, "final")
    rig.release(_ENDING_SEGMENT)


def _do_anew(rig: Rig, samples: Float32Array, asked: Sequence[_Asked]) -> Iterator[Measured]:
    """Yield each pass as if it were the first."""
    for number, one in enumerate(asked, _FIRST_ANEW):
        audio = samples[: to_samples(one.seconds)]
        hypothesis, cost = rig.run(number, audio, forced=one.forced)
        if rig.traits.asks_for_marks and hypothesis.text:
            cost += rig.punctuate(number, hypothesis.text, hypothesis.language)[1]
        rig.release(number)
        yield Measured(one.kind, one.seconds, cost, len(hypothesis.tokens))


def _steps(last: float, first: float = STEP_S) -> Iterable[float]:
    """Return the lengths of a growing utterance, which ends with `last`."""
    n_steps = int((last - first) / STEP_S + 1e-9)
    lengths = [first + STEP_S * number for number in range(n_steps + 1)]
    return lengths if abs(lengths[-1] - last) < 1e-9 else [*lengths, last]


def _row(
    kind: Kind, seconds: float, measured: Sequence[Measured], span_s: float = 0.0
) -> UpdateRow:
    """Return medians over the passes at a length, or within so many seconds up to it."""
    first = seconds - span_s
    at = [m for m in measured if m.kind == kind and m.seconds <= seconds]
    same = [m for m in at if m.seconds == seconds or m.seconds > first]
    names = PassCost.__dataclass_fields__
    medians = {name: median(getattr(m.cost, name) for m in same) for name in names}
    worst = max(m.cost.wall for m in same)
    return UpdateRow(
        kind, seconds, len(same), PassCost(**medians), worst, median(m.n_tokens for m in same)
    )


def _in_order(key: tuple[Kind, float]) -> tuple[bool, float, str]:
    kind, seconds = key
    return kind.startswith("final"), seconds, kind


def _ratios(rows: Sequence[UpdateRow]) -> dict[str, float]:
    wall = {(row.kind, row.seconds): row.cost.wall for row in rows}
    found: dict[str, float | None] = {}
    for (kind, seconds), cost in wall.items():
        other = _FROM_SCRATCH.get(kind)
        if other and (other, seconds) in wall:
            found[f"{other}:{kind}@{seconds:g}"] = ratio(wall[other, seconds], cost)
    short, long = GROWTH_S
    for kind in _GROWING:
        if (kind, short) in wall and (kind, long) in wall:
            name = f"{kind}@{long:g}:{kind}@{short:g}"
            found[name] = ratio(wall[kind, long], wall[kind, short])
    return {name: value for name, value in found.items() if value is not None}


_GROWING: Final[tuple[Kind, ...]] = ("incremental", "scratch")
