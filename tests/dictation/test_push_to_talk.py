"""Tests of push to talk: in any order of events, each utterance begins once and ends once."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from streamasr.dictation.push_to_talk import (
    Abandon,
    Action,
    AudioArrived,
    Begin,
    Cancelled,
    Done,
    End,
    Event,
    Play,
    PushToTalk,
    SetTimer,
    Started,
    Stopped,
    TimerFired,
    Toggled,
)


def after(*events: Event) -> PushToTalk:
    talk = PushToTalk(tail_s=0.4, longest_s=60)
    for event in events:
        talk.receive(event)
    return talk


def test_start_and_stop_record_one_utterance_and_a_tail() -> None:
    talk = after()
    assert talk.receive(Started(1)) == [Begin(1), SetTimer(61)]
    assert talk.receive(Stopped(3)) == [SetTimer(3.4)]
    assert talk.receive(TimerFired(3.4)) == [End(1), Play("stop")]
    assert talk.receive(Done(1)) == []


def test_the_state_follows_the_utterance() -> None:
    events: list[Event] = [Started(1), Stopped(3), TimerFired(3.4), Done(1)]
    states = [after(*events[:n]).state for n in range(5)]
    assert states == ["idle", "listening", "finishing", "finishing", "idle"]


def test_one_key_starts_and_stops() -> None:
    talk = after(Toggled(1))
    assert talk.state == "listening"
    assert talk.receive(Toggled(2)) == [SetTimer(2.4)]


def test_repeated_presses_of_a_held_key_have_no_effect() -> None:
    talk = after(Started(1))
    assert [talk.receive(Started(1 + i / 30)) for i in range(30)] == [[]] * 30
    assert talk.state == "listening"


def test_releases_and_presses_of_a_repeating_key_are_one_utterance() -> None:
    talk = after(Started(1))
    for i in range(30):
        talk.receive(Stopped(1 + i / 30))
        assert talk.receive(TimerFired(1 + i / 30)) == []
        assert talk.receive(Started(1 + i / 30)) == []
    assert talk.receive(TimerFired(3)) == []  # the timers of all those releases
    assert talk.state == "listening"


def test_a_press_in_the_tail_continues_the_utterance() -> None:
    talk = after(Toggled(1), Toggled(2))
    assert talk.receive(Toggled(2.2)) == []
    assert talk.state == "listening"


def test_a_forgotten_utterance_ends() -> None:
    talk = after(Started(1))
    assert talk.receive(TimerFired(60.9)) == []
    assert talk.receive(TimerFired(61)) == [SetTimer(61.4)]
    assert talk.receive(TimerFired(61.4)) == [End(1), Play("stop")]


def test_cancel_abandons_the_recording_and_pending_texts() -> None:
    talk = after(Started(1), Stopped(2), TimerFired(2.4), Started(3))
    assert talk.receive(Cancelled()) == [Abandon(1), Abandon(2), Play("cancel")]
    assert talk.state == "idle"
    assert talk.receive(Cancelled()) == []
    assert talk.receive(Done(1)) == []


def test_a_sound_is_played_at_the_first_audio() -> None:
    talk = after(Started(1))
    assert talk.receive(AudioArrived(1)) == [Play("start")]
    assert after(Started(1), Cancelled()).receive(AudioArrived(1)) == []


def test_after_a_failed_utterance_the_next_can_begin() -> None:
    talk = after(Started(1))
    assert talk.receive(Done(1)) == [Play("cancel")]
    assert talk.receive(Started(2)) == [Begin(2), SetTimer(62)]


events = st.one_of(
    st.builds(Started, st.just(0)),
    st.builds(Stopped, st.just(0)),
    st.builds(Toggled, st.just(0)),
    st.builds(TimerFired, st.just(0)),
    st.builds(Cancelled),
    st.builds(Done, st.integers(1, 5)),
    st.builds(AudioArrived, st.integers(1, 5)),
)


def at(event: Event, now: float) -> Event:
    match event:
        case Started() | Stopped() | Toggled() | TimerFired():
            return type(event)(now)
        case _:
            return event


@given(st.lists(st.tuples(events, st.sampled_from([0.0, 0.01, 0.4, 5.0, 100.0])), max_size=40))
def test_every_utterance_begins_once_and_ends_once(
    pressed: list[tuple[Event, float]],
) -> None:
    talk, now = PushToTalk(tail_s=0.4, longest_s=60), 0.0
    done: list[Action] = []
    open_: list[int] = []  # begun, and neither ended nor abandoned
    pending: list[int] = []
    for event, wait in pressed:
        now += wait
        actions = talk.receive(at(event, now))
        if isinstance(event, Done):
            open_ = [n for n in open_ if n != event.utterance]
            pending = [n for n in pending if n != event.utterance]
        for action in actions:
            match action:
                case Begin(n):
                    assert n == 1 + sum(isinstance(each, Begin) for each in done)
                    assert not open_, "one at a time"
                    open_.append(n)
                case End(n):
                    assert open_ == [n]
                    open_.clear()
                    pending.append(n)
                case Abandon(n):
                    assert n in open_ + pending
                    open_ = [each for each in open_ if each != n]
                    pending = [each for each in pending if each != n]
                case SetTimer(when):
                    assert when >= now
                case Play():
                    pass
            done.append(action)
        assert (talk.state == "idle") == (not open_ and not pending)
        if isinstance(event, Cancelled):
            assert talk.state == "idle"


@given(st.lists(st.sampled_from(["start", "stop", "toggle"]), max_size=20))
def test_every_recording_ends(pressed: list[str]) -> None:
    talk, now = PushToTalk(tail_s=0.4, longest_s=60), 0.0
    timers: list[float] = []
    kinds: dict[str, Callable[[float], Event]]
    kinds = {"start": Started, "stop": Stopped, "toggle": Toggled}
    for name in pressed:
        now += 0.1
        timers += [a.at for a in talk.receive(kinds[name](now)) if isinstance(a, SetTimer)]
    while timers:
        when = min(timers)
        timers.remove(when)
        timers += [a.at for a in talk.receive(TimerFired(when)) if isinstance(a, SetTimer)]
    for n in range(1, len(pressed) + 1):
        talk.receive(Done(n))
    assert talk.state == "idle"
