"""The outbox of a reader: all durable messages in order, and only the newest partial."""

from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.messages import Final, Partial, Speech
from streamasr.core.notices import Notice
from streamasr.core.outgoing import Outgoing, Reply
from streamasr.core.units import Samples
from streamasr.host.outbox import Outbox, OutboxEntry

START, END = Samples(0), Samples(16_000)


def speech(segment: int) -> Speech:
    return Speech(segment, START)


def partial(segment: int, text: str = "") -> Partial:
    return Partial(segment, text, 0, None, START, END)


def final(segment: int) -> Final:
    return Final(segment, "", None, START, END, "silence")


def notice(number: int = 0) -> Notice:
    return Notice("lagging", str(number), Samples(16_000))


def fill(outbox: Outbox, *events: Outgoing) -> None:
    for event in events:
        outbox.put(OutboxEntry(event))


def empty(outbox: Outbox) -> list[Outgoing]:
    events = []
    while (entry := outbox.take()) is not None:
        events.append(entry.event)
    return events


def test_only_the_newest_partial_waits() -> None:
    outbox = Outbox()
    fill(outbox, speech(1), partial(1, "a"), partial(1, "ab"))
    assert empty(outbox) == [speech(1), partial(1, "ab")]


def test_no_partial_waits_behind_or_before_its_final() -> None:
    outbox = Outbox()
    fill(outbox, partial(1), final(1), partial(2))
    assert empty(outbox) == [final(1), partial(2)]


def test_a_final_leaves_the_partial_of_another_segment_alone() -> None:
    outbox = Outbox()
    fill(outbox, partial(2), final(1))
    assert empty(outbox) == [partial(2), final(1)]


def test_old_notices_make_room_for_new_ones() -> None:
    outbox = Outbox()
    fill(outbox, *map(notice, range(100)))
    assert empty(outbox) == [notice(number) for number in range(92, 100)]


def test_more_than_the_limit_is_too_much() -> None:
    outbox = Outbox(limit=3)
    fill(outbox, final(1), final(2), final(3))
    assert not outbox.is_overfull
    fill(outbox, final(4))
    assert outbox.is_overfull
    assert len(empty(outbox)) == 4


segments = st.integers(1, 3)
events: st.SearchStrategy[Outgoing] = st.one_of(
    segments.map(final),
    st.builds(partial, segments, st.text(max_size=3)),
    st.builds(notice, st.integers(0, 9)),
    segments.map(speech),
    segments.map(Reply),
)


@given(st.lists(st.none() | events))
def test_only_partials_and_notices_are_dropped(steps: list[Outgoing | None]) -> None:
    """Each step puts an event, or takes one where it is None."""
    outbox = Outbox()
    taken: list[Outgoing] = []
    for step in steps:
        if step is not None:
            fill(outbox, step)
        elif (entry := outbox.take()) is not None:
            taken.append(entry.event)
        waiting = [entry.event for entry in outbox._waiting]
        assert sum(isinstance(event, Partial) for event in waiting) <= 1
        for index, event in enumerate(waiting):
            if isinstance(event, Partial):
                assert final(event.segment) not in waiting[index:]
    taken += empty(outbox)
    lasting = (Final, Speech, Reply)
    assert [e for e in taken if isinstance(e, lasting)] == [
        e for e in steps if isinstance(e, lasting)
    ]
    rest = iter(steps)
    assert all(event in rest for event in taken)  # in the order in which they came
