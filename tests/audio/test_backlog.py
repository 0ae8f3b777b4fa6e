"""The queue of a microphone: nothing is lost silently, and it never grows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamasr.audio.backlog import Backlog
from streamasr.audio.capture import Captured, CaptureEvent, Missed, Troubled
from streamasr.core.units import Samples

LIMIT = 50

arrivals = st.one_of(
    st.integers(1, 60).map(lambda n: Captured(np.zeros(n, np.float32))),
    st.integers(1, 60).map(lambda n: Missed(Samples(n), "overflow")),
    st.just(Troubled("device_back", "It is back.")),
    st.none(),  # the reader takes one
)


def duration(events: list[CaptureEvent]) -> int:
    return sum(
        len(event.samples)
        if isinstance(event, Captured)
        else event.duration
        if isinstance(event, Missed)
        else 0
        for event in events
    )


@given(st.lists(arrivals, max_size=60))
def test_what_was_put_is_taken_in_order_or_reported(steps: list[CaptureEvent | None]) -> None:
    backlog = Backlog(Samples(LIMIT))
    put: list[CaptureEvent] = []
    taken: list[CaptureEvent] = []
    for step in [*steps, *[None] * (4 * len(steps) + 4)]:
        if step is not None:
            backlog.put(step)
            put.append(step)
        elif (event := backlog.take()) is not None:
            taken.append(event)
        waiting = duration(put) - duration(taken)
        assert waiting >= 0
    assert duration(taken) == duration(put)
    known = {id(event) for event in put}
    kept = [id(event) for event in taken if id(event) in known]
    assert kept == [id(event) for event in put if id(event) in set(kept)]
    ours = [event for event in taken if id(event) not in known]
    assert all(
        isinstance(event, Missed | Troubled)
        and (event.reason if isinstance(event, Missed) else event.code) == "backlog"
        for event in ours
    )
    # Only samples are dropped; what else was said is never lost.
    assert all(isinstance(event, Captured) for event in put if id(event) not in set(kept))


def test_the_oldest_is_dropped_and_named_once() -> None:
    backlog = Backlog(Samples(LIMIT))
    blocks = [np.full(20, i, np.float32) for i in range(6)]
    for block in blocks:
        backlog.put(Captured(block))
    trouble, missed, *rest = iter(backlog.take, None)
    assert isinstance(trouble, Troubled)
    assert trouble.code == "backlog"
    assert missed == Missed(Samples(80), "backlog")
    assert [event.samples[0] for event in rest if isinstance(event, Captured)] == [4, 5]


def test_it_is_told_again_after_the_reader_had_caught_up() -> None:
    backlog = Backlog(Samples(LIMIT))
    for _ in range(2):
        for _ in range(4):
            backlog.put(Captured(np.zeros(20, np.float32)))
        codes = [event.code for event in iter(backlog.take, None) if isinstance(event, Troubled)]
        assert codes == ["backlog"]
