"""What waits for a reader: everything that lasts, in order, and of partials only the newest."""

from hypothesis import given
from hypothesis import strategies as st

from streamasr.host.outbox import Outbox
from streamasr.protocols import v1


def partial(segment: int, text: str = "") -> v1.Partial:
    return v1.Partial(segment=segment, text=text, stable=0, start=0.0, end=1.0, language=None)


def final(segment: int) -> v1.Final:
    return v1.Final(
        seq=segment, segment=segment, text="", language=None, start=0.0, end=1.0, reason="silence"
    )


def warning(number: int = 0) -> v1.Warning:
    return v1.Warning(code="lagging", message=str(number), lag=1.0)


def fill(mailbox: Outbox, *messages: v1.ServerMessage) -> None:
    for message in messages:
        mailbox.put(message, v1.encode(message))


def empty(mailbox: Outbox) -> list[v1.ServerMessage | None]:
    texts = []
    while (text := mailbox.take()) is not None:
        texts.append(text)
    return [v1.decode_server(text) for text in texts]


def test_only_the_newest_partial_waits() -> None:
    mailbox = Outbox()
    fill(mailbox, v1.Speech(segment=1, start=0.0), partial(1, "a"), partial(1, "ab"))
    assert empty(mailbox) == [v1.Speech(segment=1, start=0.0), partial(1, "ab")]


def test_no_partial_waits_behind_or_before_its_final() -> None:
    mailbox = Outbox()
    fill(mailbox, partial(1), final(1), partial(2))
    assert empty(mailbox) == [final(1), partial(2)]


def test_a_final_leaves_the_partial_of_another_segment_alone() -> None:
    mailbox = Outbox()
    fill(mailbox, partial(2), final(1))
    assert empty(mailbox) == [partial(2), final(1)]


def test_old_warnings_make_room_for_new_ones() -> None:
    mailbox = Outbox()
    fill(mailbox, *map(warning, range(100)))
    assert empty(mailbox) == [warning(number) for number in range(92, 100)]


def test_more_than_the_limit_is_too_much() -> None:
    mailbox = Outbox(limit=3)
    fill(mailbox, final(1), final(2), final(3))
    assert not mailbox.is_overfull
    fill(mailbox, final(4))
    assert mailbox.is_overfull
    assert len(empty(mailbox)) == 4


segments = st.integers(1, 3)
messages = st.one_of(
    segments.map(final),
    st.builds(partial, segments, st.text(max_size=3)),
    st.builds(warning, st.integers(0, 9)),
    segments.map(lambda segment: v1.Speech(segment=segment, start=0.0)),
    segments.map(lambda number: v1.Pong(id=number)),
)


@given(st.lists(st.none() | messages))
def test_whatever_comes_and_goes_nothing_that_lasts_is_lost(
    steps: list[v1.ServerMessage | None],
) -> None:
    mailbox, taken = Outbox(), []
    for step in steps:
        if step is not None:
            fill(mailbox, step)
        elif (text := mailbox.take()) is not None:
            taken.append(v1.decode_server(text))
        waiting = [entry[0] for entry in mailbox._waiting]
        assert sum(isinstance(message, v1.Partial) for message in waiting) <= 1
        for index, message in enumerate(waiting):
            if isinstance(message, v1.Partial):
                assert final(message.segment) not in waiting[index:]
    taken += empty(mailbox)
    lasting = (v1.Final, v1.Speech, v1.Pong)
    assert [m for m in taken if isinstance(m, lasting)] == [
        m for m in steps if isinstance(m, lasting)
    ]
    rest = iter(steps)
    assert all(message in rest for message in taken)  # in the order they came
