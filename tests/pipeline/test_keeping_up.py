"""Minutes of speech on made-up machines, in made-up time: partials thin out, finals keep up."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from statistics import mean

import numpy as np
import pytest

from streamasr.core.events import (
    Answer,
    Costs,
    PassAbandoned,
    Recognised,
    SessionEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
)
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.messages import Final, Message, Partial
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Action,
    Promote,
    Publish,
    Rank,
    Recognise,
    Release,
)
from streamasr.core.units import Samples, to_samples, to_seconds
from streamasr.session.session import Session, SessionSettings

CHUNK = to_samples(0.1)
SILENCE = np.zeros(CHUNK, np.float32)
MINUTES = 8


def speech(seed: int) -> Iterator[tuple[Samples, SessionEvent]]:
    """Events of a speaker who never stops, with their positions, in chunks."""
    random, now = Random(seed), 0
    for segment in range(1, 10_000):
        start = now
        yield Samples(now), SpeechStarted(segment, Samples(start))
        n_phrases = random.choice([1, 1, 2, 3])
        for phrase in range(n_phrases):
            if phrase:
                yield Samples(now), SpeechResumed(segment)
            is_last = phrase == n_phrases - 1
            for _ in range(random.randint(8, 45)):
                yield Samples(now + CHUNK), SpeechContinued(segment, Samples(now), SILENCE)
                now += CHUNK
            pause_end = now
            for n in range(1, 7 if is_last else 4):
                yield Samples(now + CHUNK), SpeechContinued(segment, Samples(now), SILENCE)
                now += CHUNK
                if n == 2:
                    pause_end = now
                    yield Samples(now), SpeechPaused(segment, Samples(pause_end))
        yield Samples(now), SpeechEnded(segment, Samples(start), Samples(pause_end), "silence")
        now += CHUNK * random.randint(1, 10)


@dataclass
class Job:
    """A pass in one of the two stages of the machine."""

    order: Recognise
    encoding: float = 0.0
    """Seconds that it was encoded for; then it is to be decoded."""


@dataclass
class Machine:
    """Does one thing at a time, finals first; a final stops a partial that is being decoded."""

    slowness: float
    free_at: float = 0.0  # seconds
    running: Job | None = None
    waiting: list[Job] = field(default_factory=list)
    hurried: set[int] = field(default_factory=set)
    known: dict[int, int] = field(default_factory=dict)  # samples decoded of each segment

    def put(self, order: Action) -> list[Answer]:
        """Take an order; what is answered at once."""
        match order:
            case Recognise():
                return self.add(Job(order))
            case Promote(of=of):
                self.hurried.add(of.number)
            case AbandonPass(of=of):
                self.waiting = [job for job in self.waiting if job.order.of != of]
                if self.running and self.running.order.of == of:
                    return self.stop(self.running)
            case Release(segment=segment):
                self.known.pop(segment, None)
        return []

    def add(self, job: Job) -> list[Answer]:
        self.waiting.append(job)
        running = self.running
        if self.rank(job) is Rank.FINAL and running and running.encoding:
            return self.stop(running) if self.rank(running) is Rank.PARTIAL else []
        return []

    def stop(self, job: Job) -> list[Answer]:
        self.running, self.free_at = None, 0.0
        return [PassAbandoned(job.order.of)]

    def rank(self, job: Job) -> Rank:
        return Rank.FINAL if job.order.of.number in self.hurried else job.order.of.rank

    def answers_until(self, now: float) -> Iterator[tuple[float, Answer]]:
        """Work until then."""
        at = now - to_seconds(CHUNK)
        while True:
            if self.running is None:
                if not self.waiting:
                    return
                job = self.running = min(self.waiting, key=self.rank)
                self.waiting.remove(job)
                self.free_at = max(at, self.free_at) + self.cost(job)
            if self.free_at > now:
                return
            job, self.running, at = self.running, None, self.free_at
            if job.encoding:
                yield at, self.answer(job)
            else:
                self.add(Job(job.order, self.cost(job)))

    def cost(self, job: Job) -> float:
        """The open window again, and what is new; like 0.6 billion weights on two cores."""
        n_samples = len(job.order.samples)
        open_window = min(8.0, to_seconds(n_samples))
        new = to_seconds(max(0, n_samples - self.known.get(job.order.of.segment, 0)))
        if not job.encoding:
            return self.slowness * (0.02 * open_window + 0.03 * new)
        return self.slowness * (0.05 * open_window + 0.1 * new + 0.2 * new)

    def answer(self, job: Job) -> Answer:
        of, cost = job.order.of, self.cost(job)
        self.known[of.segment] = len(job.order.samples)
        n_tokens = self.known[of.segment] // 4000
        tokens = tuple(range(1, n_tokens + 1))
        return Recognised(
            of,
            Hypothesis("x" * n_tokens, "English", tokens),
            Costs(encode=job.encoding, prefill=cost / 2, decode=cost / 2),
        )


@dataclass
class Conversation:
    """A session whose speaker and machine are made up."""

    machine: Machine
    session: Session = field(
        default_factory=lambda: Session(SessionSettings(), SessionOptions(words=False))
    )
    n_partials: int = 0
    ends: dict[int, float] = field(default_factory=dict)
    delays: list[float] = field(default_factory=list)
    """From each endpoint to its final, seconds."""

    def hold(self, seed: int = 1) -> None:
        for position, event in speech(seed):
            now = to_seconds(position)
            for at, answer in self.machine.answers_until(now):
                self.tell(answer, at)
            self.tell(event, now)
            if now > 60 * MINUTES:
                return

    def tell(self, event: SessionEvent, now: float) -> None:
        if isinstance(event, SpeechEnded):
            self.ends[event.segment] = now
        for action in self.session.receive(event):
            if isinstance(action, Publish):
                self.hear(action.message, now)
                continue
            for answer in self.machine.put(action):
                self.tell(answer, now)

    def hear(self, message: Message, now: float) -> None:
        if isinstance(message, Partial):
            self.n_partials += 1
        elif isinstance(message, Final):
            self.delays.append(now - self.ends[message.segment])


def hold(slowness: float) -> Conversation:
    conversation = Conversation(Machine(slowness))
    conversation.hold()
    return conversation


@pytest.mark.parametrize("slowness", [0.1, 0.5, 1.0, 1.5, 2.0])
def test_finals_keep_up(slowness: float) -> None:
    delays = hold(slowness).delays
    third = len(delays) // 3
    assert third > 20
    assert mean(delays[-third:]) < 1.3 * mean(delays[:third]) + 0.1, "the lag grows"
    # The final of a segment of average length, from scratch.
    assert max(delays) < 6 * slowness


def test_a_fast_machine_has_the_final_at_the_endpoint_and_every_partial() -> None:
    conversation = hold(0.1)
    assert max(conversation.delays) < 0.001
    assert conversation.n_partials > 60 * MINUTES / 0.5 * 0.6


def test_slower_machines_show_fewer_partials() -> None:
    partials = [hold(slowness).n_partials for slowness in (0.1, 0.5, 1.0, 2.0)]
    assert partials == sorted(partials, reverse=True)
    assert partials[-1] > 20, "not even now and then"
