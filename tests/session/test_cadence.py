"""The rhythm of partials, on machines that are made up."""

import math
from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.events import Costs
from streamasr.core.units import Samples, to_samples, to_seconds
from streamasr.session.cadence import Cadence, Work

SHORTEST = to_samples(0.5)
LOAD = 0.5
STEP = to_samples(0.5)


@dataclass(frozen=True)
class Machine:
    """Seconds that a pass costs on it."""

    encode: float = 0.0
    prefill: float = 0.0
    verify: float = 0.0  # for each token
    decode: float = 0.0  # for each second of new audio

    def work(self, audio_s: float, n_draft: int = 0, waiting: float = 0.0) -> Work:
        costs = Costs(self.encode, self.prefill, self.verify * n_draft, self.decode * audio_s)
        return Work.of(costs, waiting, n_draft, to_samples(audio_s))


def intervals(cadence: Cadence, machine: Machine, n_passes: int, n_draft: int = 0) -> list[float]:
    """Intervals of passes that each come when they are due, seconds."""
    found = []
    for _ in range(n_passes):
        found.append(to_seconds(cadence.interval(n_draft)))
        cadence.note(machine.work(found[-1], n_draft))
    return found


def repeated(machine: Machine, n_draft: int) -> float:
    """Seconds of each pass that go into what the final does not need."""
    return machine.encode + machine.prefill + machine.verify * n_draft


def test_before_anything_is_known_partials_come_as_often_as_is_wished_for() -> None:
    assert Cadence(SHORTEST, LOAD).interval(0) == SHORTEST


def test_a_fast_machine_shows_partials_as_often_as_is_wished_for() -> None:
    machine = Machine(encode=0.05, prefill=0.05, verify=0.001, decode=0.1)
    assert set(intervals(Cadence(SHORTEST, LOAD), machine, 10, n_draft=50)) == {0.5}


def test_marks_count_like_encoding() -> None:
    cadences = [Cadence(SHORTEST, LOAD) for _ in range(2)]
    marked = Work.of(Costs(encode=0.2), 0.1, 0, STEP).with_marks(Costs(punctuate=0.3), 0.2)
    cadences[0].note(marked)
    cadences[1].note(Work.of(Costs(encode=0.5), 0.3, 0, STEP))
    assert cadences[0].interval(0) == pytest.approx(cadences[1].interval(0), abs=1)
    assert cadences[0].interval(0) > SHORTEST
    cadences[0].note_final(replace(marked, punctuate=0.0, waiting=0.0))
    assert cadences[0].interval(0) == SHORTEST


def test_a_session_without_a_limit_never_waits_longer() -> None:
    cadence = Cadence(SHORTEST, None)
    assert set(intervals(cadence, Machine(prefill=100.0), 10)) == {0.5}


def test_a_pass_that_costs_a_second_comes_every_two() -> None:
    assert intervals(Cadence(SHORTEST, LOAD), Machine(0.4, 0.6), 3) == [0.5, 2.0, 2.0]


def test_what_is_decoded_is_not_held_against_partials_while_there_is_time_for_it() -> None:
    *_, at_ease = intervals(Cadence(SHORTEST, LOAD), Machine(prefill=0.5, decode=0.25), 30)
    *_, in_need = intervals(Cadence(SHORTEST, LOAD), Machine(prefill=0.5, decode=0.6), 30)
    *_, too_slow = intervals(Cadence(SHORTEST, LOAD), Machine(prefill=0.5, decode=0.9), 30)
    assert at_ease == pytest.approx(0.5 / LOAD)
    assert in_need == pytest.approx(0.5 / (0.8 - 0.6))
    assert too_slow == pytest.approx(0.5 / (LOAD / 10))


def test_a_long_text_makes_the_next_partial_later_and_the_next_segment_forgets_it() -> None:
    cadence = Cadence(SHORTEST, LOAD)
    machine = Machine(prefill=0.2, verify=0.02)
    for n_draft in (20, 40, 60, 80, 100):
        cadence.note(machine.work(0.5, n_draft))
    assert to_seconds(cadence.interval(100)) == pytest.approx(2 * (0.2 + 2.0), rel=0.1)
    assert to_seconds(cadence.interval(0)) < 0.8


def test_waiting_for_others_counts_twice() -> None:
    alone, among_others = Cadence(SHORTEST, LOAD), Cadence(SHORTEST, LOAD)
    for _ in range(10):
        alone.note(Machine(prefill=0.5).work(1.0))
        among_others.note(Machine(prefill=0.5).work(1.0, waiting=0.5))
    assert to_seconds(alone.interval(0)) == pytest.approx(0.5 / LOAD)
    assert to_seconds(among_others.interval(0)) == pytest.approx((0.5 + 2 * 0.5) / LOAD)


def test_finals_only_lower_what_a_partial_is_thought_to_cost() -> None:
    cadence = Cadence(SHORTEST, LOAD)
    cadence.note(Machine(encode=0.5, prefill=0.5).work(1.0))
    before = cadence.interval(0)
    cadence.note_final(Machine(encode=2.0, prefill=9.0).work(20.0))
    assert cadence.interval(0) == before
    cadence.note_final(Machine(encode=0.1, prefill=0.1).work(20.0))
    assert cadence.interval(0) == SHORTEST


def test_a_final_alone_tells_nothing() -> None:
    cadence = Cadence(SHORTEST, LOAD)
    cadence.note_final(Machine(prefill=9.0).work(20.0))
    assert cadence.interval(0) == SHORTEST
    assert cadence.average == Work()


# Properties

SECONDS = st.floats(0, 3)
MACHINES = st.builds(Machine, SECONDS, SECONDS, st.floats(0, 0.05), st.floats(0, 1))
LOADS = st.floats(0.05, 1)


@given(MACHINES, LOADS, st.integers(0, 120))
def test_partials_take_no_more_than_their_share(
    machine: Machine, load: float, n_draft: int
) -> None:
    *_, interval = intervals(Cadence(SHORTEST, load), machine, 60, n_draft)
    share = repeated(machine, n_draft) / interval
    assert share <= load * 1.01
    assert share + machine.decode <= max(0.8, machine.decode + load / 10) * 1.01


@given(MACHINES, LOADS, st.integers(0, 120))
def test_partials_are_as_frequent_as_their_share_allows(
    machine: Machine, load: float, n_draft: int
) -> None:
    *_, interval = intervals(Cadence(SHORTEST, load), machine, 60, n_draft)
    share = repeated(machine, n_draft) / interval
    is_full = share + machine.decode >= 0.8 * 0.99
    assert interval == 0.5 or share >= load * 0.99 or is_full
    assert interval == 0.5 or share >= load / 10 * 0.99


@given(MACHINES, st.integers(0, 120), st.floats(1, 10))
def test_a_slower_machine_shows_no_more_partials(
    machine: Machine, n_draft: int, factor: float
) -> None:
    slower = Machine(
        machine.encode * factor,
        machine.prefill * factor,
        machine.verify * factor,
        machine.decode * factor,
    )
    *_, interval = intervals(Cadence(SHORTEST, LOAD), machine, 60, n_draft)
    *_, longer = intervals(Cadence(SHORTEST, LOAD), slower, 60, n_draft)
    assert longer >= interval * 0.999


@given(MACHINES, st.integers(1, 20))
def test_a_machine_that_has_become_fast_again_shows_partials_again(
    machine: Machine, n_slow: int
) -> None:
    cadence = Cadence(SHORTEST, LOAD)
    intervals(cadence, machine, n_slow)
    fast = Machine(encode=0.01, prefill=0.02, decode=0.05)
    # All segments are too short for a partial by now: only their finals are measured.
    for _ in range(12):
        cadence.note_final(fast.work(0.6))
    assert cadence.interval(0) == SHORTEST


@given(st.lists(st.builds(Work, *[SECONDS] * 6, st.floats(0, 200), st.floats(0, 30))))
def test_the_interval_is_never_too_short_and_never_absurd(works: list[Work]) -> None:
    cadence = Cadence(SHORTEST, LOAD)
    for work in works:
        cadence.note(work)
    assert SHORTEST <= cadence.interval(100) <= to_samples(10 / LOAD * (15 + 3 * 108 / 8))


@given(st.lists(st.integers(0, 3000)))
def test_new_audio_that_was_heard_before_counts_as_none(n_new: list[int]) -> None:
    for n in n_new:
        assert Work.of(Costs(), 0.0, 0, -n).audio == 0.0


@dataclass
class Sharing:
    """Sessions that keep asking one machine, which serves them in the order they came."""

    n_sessions: int
    counts_waiting: bool
    cost_s: float = 0.4
    waited_s: float = 0.0
    n_passes: int = 0

    def run(self, seconds: float) -> None:
        """Costs vary, and so do the moments: audio comes in chunks and speakers pause."""
        random = Random(1)
        cadences = [Cadence(SHORTEST, LOAD) for _ in range(self.n_sessions)]
        due, free_at = [0.5 + random.random() for _ in cadences], 0.0
        while (now := min(due)) < seconds:
            i, cost = due.index(now), self.cost_s * random.uniform(0.5, 1.5)
            waiting = max(0.0, free_at - now)
            free_at = now + waiting + cost
            counted = waiting if self.counts_waiting else 0.0
            cadences[i].note(Work(prefill=cost, waiting=counted, audio=1.0))
            # The interval counts from the order; before the answer nothing new is asked for.
            next_due = max(now + to_seconds(cadences[i].interval(0)), free_at)
            due[i] = math.ceil(next_due * 10) / 10 + random.choice([0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
            self.waited_s += waiting
            self.n_passes += 1


@pytest.mark.parametrize("n_sessions", [4, 8, 16])
def test_sessions_that_share_a_machine_make_room_for_each_other(n_sessions: int) -> None:
    careless, careful = Sharing(n_sessions, counts_waiting=False), Sharing(n_sessions, True)
    for sharing in (careless, careful):
        sharing.run(600.0)
    assert careful.waited_s / careful.n_passes < 0.4 * careless.waited_s / careless.n_passes
    assert careful.n_passes > 0.75 * careless.n_passes


def test_work_is_what_the_stages_reported() -> None:
    work = Work.of(Costs(1.0, 2.0, 3.0, 4.0, 7.0), 5.0, 6, Samples(16_000))
    assert work == Work(1.0, 2.0, 3.0, 4.0, 7.0, 5.0, 6, 1.0)
    assert replace(work, audio=0.0) != work
