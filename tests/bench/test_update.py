"""Orders to an engine when updates and batches are measured."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.bench.speech import Speech
from streamasr.bench.throughput import Stages, measure_decoding
from streamasr.bench.update import (
    Kind,
    Measured,
    OpenEngine,
    PassCost,
    Plan,
    Rig,
    measure,
    result_of,
)
from streamasr.core.errors import WorkerError
from streamasr.core.events import Costs, PassAbandoned, PassFailed, Punctuated, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.orders import Order, Punctuate, Rank, Recognise, Release
from streamasr.core.punctuation import Mark, Marks
from streamasr.core.units import SAMPLE_RATE
from streamasr.engine.ports import Deliver
from streamasr.engine.stages import Decode, Encode, Owner, PassEncoded
from streamasr.models.family import Encoded
from tests.support.errors import raises
from tests.support.fakes import FakeEngine

SPEECH = Speech(np.linspace(0, 1, 3 * SAMPLE_RATE, dtype=np.float32), 3 * SAMPLE_RATE)


def said(n_samples: int) -> Hypothesis:
    """Two tokens for each second of audio."""
    n_tokens = n_samples * 2 // SAMPLE_RATE
    tokens = tuple(range(n_tokens))
    return Hypothesis("x" * n_tokens, "English", tokens, tokens)


class Talker(FakeEngine):
    """Says two tokens for each second of audio, and that it took as long as it lists."""

    def perform(self, order: Order, deliver: Deliver) -> None:
        self.orders.append(order)
        if isinstance(order, Recognise):
            costs = Costs(len(order.samples) / SAMPLE_RATE, 1.0, 2.0, 3.0)
            deliver(Recognised(order.of, said(len(order.samples)), costs))
        if isinstance(order, Punctuate):
            marks = Marks(tuple(Mark(n, ".") for n in range(1, len(order.text) + 1)))
            deliver(Punctuated(order.of, marks, Costs(punctuate=0.5 * len(order.text))))

    @property
    def passes(self) -> list[Recognise]:
        return [order for order in self.orders if isinstance(order, Recognise)]


class TalkingEncoder:
    """A stage whose embeddings tell how many samples they are of."""

    def __init__(self) -> None:
        self.orders: list[Encode] = []
        self.forgotten: list[Owner] = []

    def put(self, owner: Owner, order: Encode) -> None:
        self.orders.append(order)
        encoded = Encoded(np.full((1, 4), len(order.samples), np.float32))
        owner.hand_over(PassEncoded(order.of, encoded))

    def forget(self, owner: Owner) -> None:
        self.forgotten.append(owner)


class TalkingDecoder:
    """A stage that says two tokens for each second of audio, or nothing."""

    def __init__(self, *, is_mute: bool = False) -> None:
        self.orders: list[Decode] = []
        self.forgotten: list[Owner] = []
        self._is_mute = is_mute

    def put(self, owner: Owner, order: Decode) -> None:
        self.orders.append(order)
        n_samples = 0 if self._is_mute else int(order.encoded.embeddings[0, 0])
        owner.hand_over(Recognised(order.of, said(n_samples)))

    def forget(self, owner: Owner) -> None:
        self.forgotten.append(owner)


class Refuser(FakeEngine):
    """Answers everything with one answer."""

    def __init__(self, answer: type[PassFailed] | type[PassAbandoned]) -> None:
        super().__init__()
        self._answer = answer

    def perform(self, order: Order, deliver: Deliver) -> None:
        if isinstance(order, Recognise):
            is_failure = self._answer is PassFailed
            deliver(PassFailed(order.of, "no") if is_failure else PassAbandoned(order.of))


def opened(engine: Talker) -> OpenEngine:
    """Starter of an engine that runs already."""
    return lambda: nullcontext(engine)


def heard(order: Recognise) -> float:
    return len(order.samples) / SAMPLE_RATE


# Updates


def test_an_utterance_grows_by_half_a_second_and_is_compared_where_it_was_asked_for() -> None:
    with_caches, without = Talker(), Talker()
    plan = Plan(seconds=(1.0, 2.0), final_s=1.5, repetitions=1)
    measured = measure(opened(with_caches), opened(without), SPEECH, plan)
    grown = [heard(order) for order in with_caches.passes if order.of.segment == 2]
    assert grown == [0.5, 1.0, 1.5, 2.0]
    ended = [heard(order) for order in with_caches.passes if order.of.segment == 3]
    assert ended == [0.25, 0.75, 1.25, 1.5]
    assert Counter((m.kind, m.seconds) for m in measured) == Counter(
        {
            ("incremental", 0.5): 1,
            ("incremental", 1.0): 1,
            ("incremental", 1.5): 1,
            ("incremental", 2.0): 1,
            ("scratch", 1.0): 1,
            ("scratch", 2.0): 1,
            ("final", 1.5): 1,
            ("final_scratch", 1.5): 1,
        }
    )


def test_both_engines_are_given_the_same_at_the_same_length() -> None:
    with_caches, without = Talker(), Talker()
    measure(
        opened(with_caches),
        opened(without),
        SPEECH,
        Plan(seconds=(6.0,), final_s=1.0, repetitions=1),
    )
    incremental = next(o for o in with_caches.passes if heard(o) == 6)
    [scratch] = (o for o in without.passes if heard(o) == 6)
    assert scratch.forced == incremental.forced == tuple(range(6))  # of 11 tokens
    assert (len(incremental.draft), scratch.draft) == (11, ())
    ranks = [order.of.rank for order in with_caches.passes]
    assert ranks[-1] is Rank.SPECULATIVE
    assert set(ranks[:-1]) == {Rank.PARTIAL}


def test_passes_have_numbers_of_their_own_and_segments_are_released() -> None:
    engine = Talker()
    measure(
        opened(engine), opened(engine), SPEECH, Plan(seconds=(1.0,), final_s=1.0, repetitions=2)
    )
    assert len({(o.of.number, id(o)) for o in engine.passes}) == len(engine.passes)
    released = {order.segment for order in engine.orders if isinstance(order, Release)}
    assert released == {order.of.segment for order in engine.passes}
    assert all(channel.is_closed for channel in engine.channels)


def test_stages_cost_what_the_engine_says() -> None:
    _, cost = Rig(Talker()).run(1, np.zeros(2 * SAMPLE_RATE, np.float32))
    assert (cost.encode, cost.prefill, cost.verify, cost.decode) == (2.0, 1.0, 2.0, 3.0)
    assert cost.wall > 0


def test_marks_belong_to_a_pass_behind_the_last_decided_sentence() -> None:
    with_caches, without = Talker(), Talker()
    for engine in (with_caches, without):
        engine.traits = replace(engine.traits, punctuates=False, has_punctuator=True)
    plan = Plan(seconds=(10.0,), final_s=1.0, repetitions=1)
    measured = measure(opened(with_caches), opened(without), SPEECH, plan)
    cost = {(m.kind, m.seconds): m.cost.punctuate for m in measured}
    assert cost["scratch", 10.0] == 10.0
    assert 0 < cost["incremental", 10.0] < 8.0
    [scratch] = (o for o in without.orders if isinstance(o, Punctuate) and len(o.text) == 20)
    assert scratch.text == said(10 * SAMPLE_RATE).text


@pytest.mark.parametrize(
    ("answer", "code"), [(PassFailed, "pass_failed"), (PassAbandoned, "pass_abandoned")]
)
def test_an_engine_that_fails_ends_the_measurement(
    answer: type[PassFailed] | type[PassAbandoned], code: str
) -> None:
    with raises(WorkerError, code):
        Rig(Refuser(answer)).run(1, np.zeros(100, np.float32))


@given(
    st.lists(st.integers(1, 60).map(lambda n: n / 2), min_size=1, max_size=4),
    st.integers(1, 60).map(lambda n: n / 2),
)
def test_every_length_that_was_asked_for_is_measured(seconds: list[float], final_s: float) -> None:
    plan = Plan(tuple(seconds), final_s, repetitions=1)
    measured = measure(opened(Talker()), opened(Talker()), SPEECH, plan)
    for kind in ("incremental", "scratch"):
        assert set(seconds) <= {m.seconds for m in measured if m.kind == kind}
    assert {m.seconds for m in measured if m.kind.startswith("final")} == {final_s}


def test_growth_is_measured_where_it_is_in_reach() -> None:
    assert Plan(seconds=(5.0, 40.0)).lengths == [5.0, 6.0, 24.0, 40.0]
    assert Plan(seconds=(5.0, 20.0)).lengths == [5.0, 20.0]


def test_rows_are_medians_and_ratios_are_of_them() -> None:
    plan = Plan(seconds=(6.0, 24.0), final_s=10.0, repetitions=3)
    costs: dict[Kind, float] = {"incremental": 1.0, "scratch": 4.0}
    measured = [
        Measured(kind, seconds, PassCost(wall=wall * growth * noise), n_tokens=4)
        for kind, wall in costs.items()
        for seconds, growth in ((6.0, 1.0), (24.0, 2.0))
        for noise in (1.0, 0.5, 9.0)
    ]
    measured += [
        Measured("final", 10.0, PassCost(wall=1.0), 4),
        Measured("final_scratch", 10.0, PassCost(wall=3.0), 4),
    ]
    result = result_of(measured, plan)
    assert result.ratios == {
        "scratch:incremental@6": 4.0,
        "scratch:incremental@24": 4.0,
        "final_scratch:final@10": 3.0,
        "incremental@24:incremental@6": 2.0,
        "scratch@24:scratch@6": 2.0,
    }
    assert list(result.curve) == [(6.0, 1.0), (24.0, 2.0)]
    first = result.rows[0]
    assert (first.kind, first.seconds, first.n, first.worst) == ("incremental", 6.0, 3, 9.0)


# Batches


def test_sessions_decode_their_own_audio_apart_and_together() -> None:
    encoding, decoding = TalkingEncoder(), TalkingDecoder()
    rows = measure_decoding(Stages(encoding, decoding), SPEECH, [1, 3], repetitions=2)
    assert [(row.sessions, row.n_tokens) for row in rows] == [(1, 20), (3, 60)]
    beginnings = {float(order.samples[0]) for order in encoding.orders}
    assert len(beginnings) == 3
    # Once each to read the audio; then each row twice, both ways.
    assert len(decoding.orders) == 3 + 2 * 2 * (1 + 3)
    assert all(order.forced == order.draft == () for order in decoding.orders)
    assert len(encoding.forgotten) == len(decoding.forgotten) == 3


def test_silence_gives_no_throughput() -> None:
    with raises(WorkerError, "no_text"):
        measure_decoding(Stages(TalkingEncoder(), TalkingDecoder(is_mute=True)), SPEECH, [1])


def test_updates_of_the_last_two_seconds_count_for_a_length() -> None:
    walls = {7.5: 100.0, 8.0: 9.0, 8.5: 3.0, 9.0: 1.0, 9.5: 2.0, 10.0: 40.0, 10.5: 1000.0}
    measured = [Measured("incremental", at, PassCost(wall=wall), 5) for at, wall in walls.items()]
    measured.append(Measured("scratch", 10.0, PassCost(wall=25.0), 5))
    result = result_of(measured, Plan(seconds=(10.0,)))
    rows = {row.kind: row for row in result.rows}
    assert (rows["incremental"].n, rows["incremental"].cost.wall) == (4, 2.5)
    assert result.ratios["scratch:incremental@10"] == 10.0
    assert dict(result.curve)[10.0] == 40.0
