"""Fair queue: order, fairness, and nothing lost."""

from collections import Counter, defaultdict, deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.orders import Rank
from streamasr.engine.fair_queue import QUANTUM_S, FairQueue

FINAL, SPECULATIVE, PARTIAL = Rank


def serve(queue: FairQueue[str, int], cost: float = 1.0) -> tuple[str, int]:
    """Pop and charge."""
    owner, item = queue.pop()
    queue.charge(owner, cost)
    return owner, item


def filled(*pushes: tuple[str, int, Rank]) -> FairQueue[str, int]:
    queue: FairQueue[str, int] = FairQueue()
    for push in pushes:
        queue.push(*push)
    return queue


def test_an_empty_queue_has_nothing_to_pop() -> None:
    queue = filled()
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


def test_finals_go_before_partials_of_the_same_owner() -> None:
    queue = filled(("a", 1, PARTIAL), ("a", 2, FINAL), ("a", 3, PARTIAL), ("a", 4, FINAL))
    assert [serve(queue)[1] for _ in range(4)] == [2, 4, 1, 3]


def test_finals_go_before_partials_of_owners_that_had_as_much() -> None:
    queue = filled(("a", 1, PARTIAL), ("b", 2, FINAL), ("c", 3, PARTIAL), ("d", 4, FINAL))
    assert [serve(queue)[0] for _ in range(4)] == ["b", "d", "a", "c"]


def test_owners_take_turns() -> None:
    queue = filled(*((owner, n, FINAL) for owner in "abc" for n in range(3)))
    assert [serve(queue)[0] for _ in range(9)] == list("abcabcabc")


def test_a_file_does_not_hold_up_who_speaks() -> None:
    queue = filled(*(("file", n, FINAL) for n in range(50)))
    for _ in range(20):
        serve(queue)
    running, _ = queue.pop()
    queue.push("live", 0, FINAL)
    queue.charge(running, 1.0)
    assert serve(queue) == ("live", 0)


def test_a_partial_passes_finals_of_who_had_much_more() -> None:
    queue = filled(*(("file", n, FINAL) for n in range(50)))
    queue.push("live", 0, PARTIAL)
    cost = QUANTUM_S / 3
    assert [serve(queue, cost)[0] for _ in range(5)] == [*["file"] * 4, "live"]


def test_cheap_work_is_done_more_often() -> None:
    queue = filled(*((owner, n, FINAL) for owner in ("dear", "cheap") for n in range(100)))
    served: Counter[str] = Counter()
    for _ in range(60):
        owner, _ = queue.pop()
        queue.charge(owner, 2.0 if owner == "dear" else 0.5)
        served[owner] += 1
    assert served["cheap"] / served["dear"] == pytest.approx(4, abs=0.5)


def test_who_was_away_has_saved_up_nothing() -> None:
    queue = filled(("sleeper", 0, FINAL))
    serve(queue)
    for n in range(50):
        queue.push("busy", n, FINAL)
    for _ in range(20):
        serve(queue)
    for n in range(20):
        queue.push("sleeper", n, FINAL)
    served = [serve(queue)[0] for _ in range(10)]
    assert served.count("sleeper") in (5, 6)


def test_a_newcomer_owes_nothing_for_the_time_before_it_came() -> None:
    queue = filled(*(("old", n, FINAL) for n in range(100)))
    for _ in range(50):
        serve(queue)
    for n in range(50):
        queue.push("new", n, FINAL)
    served = [serve(queue)[0] for _ in range(10)]
    assert served.count("new") in (5, 6)


def test_who_did_nothing_but_work_alone_is_not_held_back_by_a_newcomer() -> None:
    queue = filled(*(("old", n, FINAL) for n in range(100)))
    while queue:
        serve(queue)
    for owner in ("new", "old"):
        for n in range(10):
            queue.push(owner, n, FINAL)
    assert {serve(queue)[0] for _ in range(3)} == {"new", "old"}


def test_removed_items_are_gone_and_given_back() -> None:
    queue = filled(("a", 1, FINAL), ("a", 2, PARTIAL), ("b", 2, FINAL), ("a", 3, FINAL))
    assert queue.remove("a", lambda item: item != 1) == [3, 2]
    assert queue.remove("nobody", lambda _: True) == []
    assert len(queue) == 2
    assert {serve(queue) for _ in range(2)} == {("a", 1), ("b", 2)}


def test_a_dropped_owner_is_forgotten() -> None:
    queue = filled(("a", 1, FINAL), ("a", 2, PARTIAL), ("b", 3, FINAL))
    owner, _ = queue.pop()
    queue.drop_owner(owner)
    queue.charge(owner, 100.0)
    assert serve(queue) == ("b", 3)
    assert len(queue) == 0
    queue.push("a", 4, FINAL)
    queue.push("b", 5, FINAL)
    assert serve(queue) == ("a", 4)


def test_a_final_is_urgent_unless_its_owner_had_much_more() -> None:
    queue = filled(("live", 1, PARTIAL))
    assert not queue.has_urgent(PARTIAL)
    running, _ = queue.pop()
    queue.push("file", 2, FINAL)
    assert queue.has_urgent(PARTIAL)
    queue.charge(running, 0.1)
    assert serve(queue, 10 * QUANTUM_S) == ("file", 2)
    queue.push("live", 3, PARTIAL)
    queue.push("file", 4, FINAL)
    running, _ = queue.pop()
    assert running == "live"
    assert not queue.has_urgent(PARTIAL)


@pytest.mark.parametrize("waiting", Rank)
@pytest.mark.parametrize("running", Rank)
def test_what_is_owed_more_is_urgent(waiting: Rank, running: Rank) -> None:
    queue = filled(("a", 1, waiting))
    assert queue.has_urgent(running) == (waiting < running)
    assert not filled().has_urgent(running)


# Steps


def test_nothing_is_in_front_of_an_empty_queue() -> None:
    with pytest.raises(IndexError):
        filled().front()


def test_in_front_is_one_item_of_each_whose_turn_it_is() -> None:
    queue = filled(
        *(("a", 1, SPECULATIVE), ("b", 2, PARTIAL), ("c", 3, SPECULATIVE), ("a", 4, SPECULATIVE))
    )
    assert queue.front() == (SPECULATIVE, [("a", 1), ("c", 3)])
    assert queue.front() == queue.front()
    queue.spend("a", 2 * QUANTUM_S)
    assert queue.front() == (SPECULATIVE, [("c", 3)])
    queue.finish("c", 3)
    assert queue.front() == (PARTIAL, [("b", 2)])


def test_who_has_had_its_quantum_lets_the_others_catch_up() -> None:
    queue = filled(("a", 1, FINAL), ("b", 2, FINAL))
    for _ in range(3):
        queue.spend("a", QUANTUM_S * 0.4)
    assert queue.front()[1] == [("b", 2)]
    queue.spend("b", QUANTUM_S * 0.4)
    assert queue.front()[1] == [("a", 1), ("b", 2)]


def test_who_was_served_goes_behind_its_equals() -> None:
    queue = filled(("a", 1, FINAL), ("a", 2, FINAL), ("b", 3, FINAL))
    assert queue.finish("a", 1)
    assert queue.front()[1] == [("b", 3), ("a", 2)]


def test_what_is_done_or_taken_back_is_not_there_any_more() -> None:
    first, second = [1], [1]  # equal, but not the same
    queue: FairQueue[str, list[int]] = FairQueue()
    queue.push("a", first, FINAL)
    queue.push("a", second, FINAL)
    assert queue.has("a", first)
    assert queue.finish("a", first)
    assert not queue.has("a", first)
    assert queue.has("a", second)
    assert not queue.finish("a", first)
    assert queue.remove("a", lambda _: True) == [second]
    assert not queue.finish("a", second)
    assert not queue.has("nobody", first)
    assert not queue.finish("nobody", first)
    queue.spend("nobody", 1.0)


def test_what_has_another_rank_goes_with_that() -> None:
    queue = filled(("a", 1, PARTIAL), ("a", 2, SPECULATIVE), ("b", 3, FINAL), ("a", 4, FINAL))
    queue.change_rank("a", lambda item: item == 2, FINAL)
    queue.change_rank("nobody", lambda _: True, FINAL)
    queue.change_rank("b", lambda _: False, PARTIAL)
    assert [serve(queue) for _ in range(4)] == [("a", 4), ("b", 3), ("a", 2), ("a", 1)]


def test_another_rank_costs_no_turn_and_earns_nothing() -> None:
    queue = filled(("a", 1, SPECULATIVE), ("b", 2, FINAL), ("c", 3, FINAL))
    queue.spend("b", 0.1)
    queue.change_rank("a", lambda _: True, FINAL)
    assert queue.front()[1] == [("a", 1), ("b", 2), ("c", 3)]
    queue.spend("a", 2 * QUANTUM_S)
    queue.change_rank("a", lambda _: True, PARTIAL)
    queue.change_rank("a", lambda _: True, FINAL)
    assert queue.front()[1] == [("b", 2), ("c", 3)]


# Any history


class Played:
    """A random history of a queue: who pushed what, who was served when, at which cost."""

    def __init__(self, steps: list[tuple[str, Rank, int, float]]) -> None:
        """Let each step push one item, and after some of them serve.

        Args:
            steps: owner, rank, how many are served afterwards, at which cost each.
        """
        self.queue: FairQueue[str, int] = FairQueue()
        self.pushed: list[tuple[str, Rank]] = []
        self.served: list[tuple[str, int, float]] = []
        self.pushed_before: list[int] = []  # items, for each that was served
        self.served_before: list[int] = []  # items, for each that was pushed
        for owner, rank, n_served, cost in steps:
            self.served_before.append(len(self.served))
            self.queue.push(owner, len(self.pushed), rank)
            self.pushed.append((owner, rank))
            for _ in range(min(n_served, len(self.queue))):
                self.serve(cost)
        while self.queue:
            self.serve(0.3)

    def serve(self, cost: float) -> None:
        owner, item = self.queue.pop()
        self.queue.charge(owner, cost)
        self.served.append((owner, item, cost))
        self.pushed_before.append(len(self.pushed))


MAX_COST = 2.0
owners = st.sampled_from("abcd")
histories = st.lists(
    st.tuples(owners, st.sampled_from(Rank), st.integers(0, 2), st.floats(0.01, MAX_COST)),
    max_size=60,
).map(Played)


@given(histories)
def test_nothing_is_lost_or_served_twice(played: Played) -> None:
    assert sorted(item for _, item, _ in played.served) == list(range(len(played.pushed)))
    assert all(played.pushed[item][0] == owner for owner, item, _ in played.served)


@given(histories)
def test_items_of_one_owner_and_rank_keep_their_order(played: Played) -> None:
    order = defaultdict(list)
    for _, item, _ in played.served:
        order[played.pushed[item]].append(item)
    assert all(items == sorted(items) for items in order.values())


@given(histories)
def test_no_partial_is_served_while_a_final_of_its_owner_waits(played: Played) -> None:
    position = {item: n for n, (_, item, _) in enumerate(played.served)}
    for n, (owner, item, _) in enumerate(played.served):
        if played.pushed[item][1] is PARTIAL:
            waiting = range(played.pushed_before[n])
            assert not [
                other
                for other in waiting
                if played.pushed[other] == (owner, FINAL) and position[other] > n
            ]


@given(histories)
def test_no_owner_waits_while_others_get_much_more_than_it_got_before(played: Played) -> None:
    """An item at the head of its owner's line waits for a bounded service of each other owner.

    That is what its owner may have had ahead of them (a quantum and an operation), what they may
    get ahead of it, and the operation that reaches the limit.
    """
    bound = 2 * (QUANTUM_S + MAX_COST) + MAX_COST
    for owner in "abcd":
        got: defaultdict[str, float] = defaultdict(float)
        waiting = 0
        pushes = deque(zip(played.served_before, played.pushed, strict=True))
        for n, (served_owner, _, cost) in enumerate(played.served):
            while pushes and pushes[0][0] <= n:
                _, (pusher, _) = pushes.popleft()
                waiting += pusher == owner
            if served_owner == owner:
                waiting -= 1
                got.clear()
            elif waiting:
                got[served_owner] += cost
                assert got[served_owner] <= bound + 1e-6


@given(
    st.lists(st.floats(0.01, MAX_COST), min_size=3, max_size=30),
    st.integers(1, 5),
    st.integers(0, 20),
)
def test_a_first_final_waits_for_one_operation_of_each_other_owner(
    costs: list[float], n_others: int, n_served_before: int
) -> None:
    queue = filled(*((f"file {k}", n, FINAL) for k in range(n_others) for n in range(100)))
    for n in range(n_served_before):
        serve(queue, costs[n % len(costs)])
    queue.push("live", 0, FINAL)
    before = []
    for n in range(1000):
        owner, _ = serve(queue, costs[n % len(costs)])
        if owner == "live":
            break
        before.append(owner)
    assert max(Counter(before).values(), default=0) <= 1


def test_who_comes_while_another_is_served_is_next() -> None:
    queue = filled(*(("file", n, FINAL) for n in range(10)))
    running, _ = queue.pop()
    queue.push("live", 0, FINAL)
    queue.charge(running, 0.1)
    assert serve(queue) == ("live", 0)


@given(st.lists(st.tuples(owners, st.floats(0.01, MAX_COST)), min_size=10, max_size=40))
def test_owners_that_always_want_something_get_the_same(costs: list[tuple[str, float]]) -> None:
    queue = filled(*((owner, n, FINAL) for owner in "abcd" for n in range(200)))
    of = dict(costs)
    got = dict.fromkeys("abcd", 0.0)
    for _ in range(150):
        owner, _ = queue.pop()
        cost = of.get(owner, 0.2)
        queue.charge(owner, cost)
        got[owner] += cost
    spread = sorted(got.values())
    assert all(b - a <= QUANTUM_S + MAX_COST for a, b in pairwise(spread))
    assert spread[-1] - spread[0] <= QUANTUM_S + MAX_COST


class Stepped:
    """A random history of a queue whose items take several steps, shared by owners."""

    def __init__(self, steps: list[tuple[str, Rank, int, float]]) -> None:
        """Let each step push one item, and some steps be made after some of them.

        Args:
            steps: owner, rank, how many steps follow and each item takes, at which cost each.
        """
        self.queue: FairQueue[str, int] = FairQueue()
        self.pushed: list[tuple[str, Rank]] = []
        self.n_left: list[int] = []  # steps, of each item
        self.finished: list[int] = []
        for owner, rank, n_steps, cost in steps:
            self.queue.push(owner, len(self.pushed), rank)
            self.pushed.append((owner, rank))
            self.n_left.append(n_steps + 1)
            for _ in range(n_steps):
                self.step(cost)
        while self.queue:
            self.step(0.3)

    def step(self, cost: float) -> None:
        """Work on what is in front; the first has all of the cost, as who leads a batch."""
        if not self.queue:
            return
        rank, front = self.queue.front()
        self.check_front(rank, front)
        for n, (owner, item) in enumerate(front):
            self.queue.spend(owner, cost if n == 0 else 0.0)
            self.n_left[item] -= 1
            if self.n_left[item] == 0:
                assert self.queue.finish(owner, item)
                self.finished.append(item)

    def check_front(self, rank: Rank, front: list[tuple[str, int]]) -> None:
        assert len({owner for owner, _ in front}) == len(front)
        for owner, item in front:
            assert self.pushed[item] == (owner, rank)
            earlier = [n for n in range(item) if self.pushed[n] == (owner, rank)]
            assert all(self.n_left[n] == 0 for n in earlier)
            better = [n for n, (other, r) in enumerate(self.pushed) if other == owner and r < rank]
            assert all(self.n_left[n] == 0 for n in better)


stepped_histories = st.lists(
    st.tuples(owners, st.sampled_from(Rank), st.integers(0, 3), st.floats(0.01, MAX_COST)),
    max_size=40,
).map(Stepped)


@given(stepped_histories)
def test_everything_that_is_worked_on_in_steps_is_finished_once(stepped: Stepped) -> None:
    assert sorted(stepped.finished) == list(range(len(stepped.pushed)))
    assert len(stepped.queue) == 0


@given(st.lists(st.floats(0.01, MAX_COST), min_size=4, max_size=4))
def test_steps_are_shared_out_evenly_too(costs: list[float]) -> None:
    queue = filled(*((owner, n, FINAL) for n, owner in enumerate("abcd")))
    got = dict.fromkeys("abcd", 0.0)
    for _ in range(200):
        owner, _ = queue.front()[1][0]
        cost = costs["abcd".index(owner)]
        queue.spend(owner, cost)
        got[owner] += cost
        assert max(got.values()) - min(got.values()) <= QUANTUM_S + MAX_COST


@given(histories)
def test_another_rank_loses_nothing(played: Played) -> None:
    queue = played.queue
    for n, (owner, rank) in enumerate(played.pushed):
        queue.push(owner, n, rank)
    for owner in "abcd":
        queue.change_rank(owner, lambda item: item % 3 == 0, FINAL)
    served = [serve(queue) for _ in range(len(queue))]
    assert sorted(item for _, item in served) == list(range(len(played.pushed)))
    for owner in "abcd":
        own = [item for other, item in served if other == owner]
        was_final = [n % 3 == 0 or played.pushed[n][1] is FINAL for n in own]
        assert was_final == sorted(was_final, reverse=True)
