"""A running dictation: what the shortcuts do to what is typed, and in which order."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from streamasr.audio.capture import Captured, CaptureEvent, Missed, TroubleCode
from streamasr.client import PATIENT, Event, Reconnecting, v1
from streamasr.core.errors import AudioError, ProtocolError, StreamASRError
from streamasr.core.notices import NoticeCode
from streamasr.core.units import Float32Array, Samples, to_samples
from streamasr.dictation import utterance
from streamasr.dictation.composer import Composer
from streamasr.dictation.dictation import Dictation, Manner
from streamasr.dictation.push_to_talk import SoundName
from streamasr.dictation.tools import DesktopGoneError, ToolError
from streamasr.dictation.utterance import DaemonsMicrophone, OwnMicrophone, Ring
from streamasr.writing import Writer, load_rules
from streamasr.writing.edits import Edit
from tests.support.fake_daemon import FakeDaemon, running_daemon
from tests.support.fakes import talk
from tests.support.waiting import eventually

READY = v1.Ready(session="s", model="tiny", seq=0, next_sample=0)
END = v1.End(seq=9, duration=1, segments=1, words=0)


def final(text: str, segment: int = 1, language: str | None = None) -> v1.Final:
    return v1.Final(
        seq=segment, segment=segment, text=text, language=language, start=0, end=1, reason="stop"
    )


class Spoken:
    """An utterance whose events a test says."""

    def __init__(self, on_heard: Callable[[], None]) -> None:
        self.on_heard = on_heard
        self.queue: asyncio.Queue[Event | StreamASRError | None] = asyncio.Queue()
        self.has_ended = False
        self.is_closed = False

    def say(self, *events: Event | StreamASRError | None) -> None:
        for event in events:
            self.queue.put_nowait(event)

    def end(self) -> None:
        self.has_ended = True

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            while (event := await self.queue.get()) is not None:
                if isinstance(event, StreamASRError):
                    raise event
                yield event
        finally:
            self.is_closed = True


class Speakers:
    """A source of them."""

    def __init__(self) -> None:
        self.utterances: list[Spoken] = []
        self.begins_with: Event = READY

    def begin(self, on_heard: Callable[[], None]) -> Spoken:
        self.utterances.append(Spoken(on_heard))
        self.utterances[-1].say(self.begins_with)
        return self.utterances[-1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield


class Window:
    """What was typed."""

    def __init__(self) -> None:
        self.text = ""
        self.n_deleted = 0
        self.is_broken = False
        self.is_gone = False
        self.room = asyncio.Event()
        self.room.set()
        self.number = 1

    async def apply(self, edit: Edit) -> None:
        await self.room.wait()
        if self.is_broken:
            raise ToolError("it is broken")
        self.text += edit.text
        self.n_deleted += edit.delete

    def place(self) -> object:
        if self.is_gone:
            raise DesktopGoneError("the display is gone")
        return self.number


class Desk:
    """A dictation with all that it needs."""

    def __init__(self, writer: Writer | None = None, **manner: Any) -> None:
        self.source = Speakers()
        self.window = Window()
        self.said: list[str] = []
        self.sounds: list[SoundName] = []
        composer = Composer("stable", writer or Writer())
        manner = {"tail_s": 0.0, "play": self._play, **manner}
        self.dictation = Dictation(
            self.source, composer, self.window, self.said.append, Manner(**manner)
        )

    async def _play(self, sound: SoundName) -> None:
        self.sounds.append(sound)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Desk"]:
        task = asyncio.create_task(self.dictation.run())
        await asyncio.sleep(0)
        yield self
        task.cancel()
        await asyncio.wait([task])

    def utterance(self, number: int = 1) -> Spoken:
        return self.source.utterances[number - 1]

    async def is_idle(self) -> None:
        await eventually(lambda: self.dictation.obey("status") == "idle")


async def test_an_utterance_is_typed_and_the_speaker_hears_when_to_speak() -> None:
    async with Desk().running() as desk:
        assert desk.dictation.obey("toggle") == "listening"
        desk.utterance().on_heard()
        desk.utterance().say(final("one"))
        await eventually(lambda: desk.window.text == "one")
        assert desk.dictation.obey("toggle") == "finishing"
        await eventually(lambda: desk.utterance().has_ended)
        desk.utterance().say(final("two", 2), END, None)
        await desk.is_idle()
        assert (desk.window.text, desk.sounds, desk.said) == ("one two", ["start", "stop"], [])


async def test_with_a_held_key_nothing_is_typed_before_its_release() -> None:
    async with Desk(is_held=True).running() as desk:
        desk.dictation.obey("start")
        desk.dictation.obey("start")
        desk.utterance().say(final("one"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert desk.window.text == ""
        desk.dictation.obey("stop")
        await eventually(lambda: desk.window.text == "one")
        assert len(desk.source.utterances) == 1


async def test_cancel_types_nothing_more_and_the_next_utterance_is_not_held_up() -> None:
    async with Desk().running() as desk:
        desk.dictation.obey("start")
        desk.utterance().say(final("one"))
        await eventually(lambda: desk.window.text == "one")
        desk.window.room.clear()
        desk.utterance().say(final("never", 2))
        await eventually(desk.utterance().queue.empty)
        assert desk.dictation.obey("cancel") == "idle"
        desk.window.room.set()
        await eventually(lambda: desk.utterance().is_closed)
        desk.dictation.obey("start")
        desk.utterance(2).say(final("three"))
        await eventually(lambda: desk.window.text == "one three")
        assert desk.utterance().has_ended


async def test_what_was_said_first_is_typed_first() -> None:
    async with Desk().running() as desk:
        desk.dictation.obey("start")
        desk.dictation.obey("stop")
        await eventually(lambda: desk.utterance().has_ended)
        desk.dictation.obey("start")
        desk.utterance(2).say(final("second"))
        for _ in range(20):
            await asyncio.sleep(0)
        desk.utterance(1).say(final("first"), END, None)
        await eventually(lambda: desk.window.text == "first second")


async def test_what_was_said_first_is_typed_first_though_its_server_came_late() -> None:
    desk = Desk()
    desk.source.begins_with = Reconnecting("there is no server", 1, 0.2)
    async with desk.running():
        desk.dictation.obey("start")
        desk.dictation.obey("stop")
        await eventually(lambda: desk.utterance().has_ended)
        desk.dictation.obey("start")
        desk.dictation.obey("stop")
        await eventually(lambda: desk.utterance(2).has_ended)
        desk.utterance(2).say(READY, final("two"), END, None)
        for _ in range(20):
            await asyncio.sleep(0)
        desk.utterance(1).say(READY, final("one"), END, None)
        await desk.is_idle()
        assert desk.window.text == "one two"


async def test_text_whose_typing_was_cancelled_cannot_be_scratched() -> None:
    """Nobody knows how much of it stands there; what stands before it is the user's."""
    async with Desk(Writer(load_rules())).running() as desk:
        desk.window.room.clear()
        desk.dictation.obey("start")
        desk.utterance().say(final("one two three"))
        for _ in range(20):
            await asyncio.sleep(0)
        desk.dictation.obey("cancel")
        desk.window.room.set()
        desk.dictation.obey("start")
        desk.utterance(2).say(final("scratch that", 1, "English"), final("four", 2))
        await eventually(lambda: desk.window.text.strip() == "four")
        assert desk.window.n_deleted == 0


async def test_another_window_gets_text_without_a_space_before_it() -> None:
    async with Desk().running() as desk:
        desk.dictation.obey("start")
        desk.utterance().say(final("one"))
        await eventually(lambda: desk.window.text == "one")
        desk.window.number = 2
        desk.utterance().say(final("two", 2))
        await eventually(lambda: desk.window.text == "onetwo")


async def test_text_that_cannot_be_typed_is_told_of_once_and_the_rest_is_typed() -> None:
    async with Desk().running() as desk:
        desk.dictation.obey("start")
        desk.window.is_broken = True
        desk.utterance().say(final("one"))
        await eventually(lambda: bool(desk.said))
        desk.window.is_broken = False
        desk.utterance().say(final("two", 2))
        await eventually(lambda: desk.window.text == "two")
        assert desk.said == ["it is broken; the text is in `streamasr history`"]


@pytest.mark.parametrize("code", [NoticeCode.LAGGING, *get_args(TroubleCode)])
async def test_what_the_daemon_warns_of_is_told_while_nothing_is_well(code: str) -> None:
    async with Desk().running() as desk:
        desk.dictation.obey("start")
        trouble = v1.Warning(code=code, message="there is trouble", lag=6.0)
        desk.utterance().say(trouble, final("one"), END, None)
        await desk.is_idle()
        is_good_news = code == "device_back"
        assert desk.said == ["there is trouble"] * (not is_good_news)


async def test_without_a_desktop_it_ends_and_says_so_once() -> None:
    desk = Desk()
    task = asyncio.create_task(desk.dictation.run())
    await asyncio.sleep(0)
    desk.dictation.obey("start")
    desk.window.is_gone = True
    desk.utterance().say(final("one"), final("two", 2))
    with pytest.raises(DesktopGoneError, match="the display is gone"):
        await task
    assert desk.said == []
    assert desk.utterance().is_closed


async def test_an_utterance_that_fails_is_one_sentence_and_the_next_one_works() -> None:
    async with Desk().running() as desk:
        desk.dictation.obey("start")
        desk.utterance().say(
            Reconnecting("there is no server", 1, 0.2),
            Reconnecting("there is no server", 2, 0.4),
            ProtocolError("the server is gone"),
        )
        await desk.is_idle()
        assert desk.said == ["there is no server", "the server is gone"]
        assert desk.sounds == ["cancel"]
        desk.dictation.obey("start")
        desk.utterance(2).say(final("two"))
        await eventually(lambda: desk.window.text == "two")


@pytest.mark.parametrize("manner", [{}, {"is_held": True}])
async def test_that_there_is_no_server_yet_is_told_at_once(manner: dict[str, Any]) -> None:
    desk = Desk(**manner)
    desk.source.begins_with = Reconnecting("there is no server", 1, 0.2)
    async with desk.running():
        desk.dictation.obey("start")
        await eventually(lambda: desk.said == ["there is no server"])
        desk.utterance().say(Reconnecting("there is no server", 2, 0.4), READY, final("one"))
        desk.dictation.obey("stop")
        await eventually(lambda: desk.window.text == "one")
        assert desk.said == ["there is no server"]


async def test_what_begins_at_once_ends_with_what_it_hears() -> None:
    desk = Desk(begins_at_once=True)
    task = asyncio.create_task(desk.dictation.run())
    await eventually(lambda: bool(desk.source.utterances))
    desk.utterance().say(final("one"), END, None)
    await task
    assert desk.window.text == "one"


async def test_what_begins_at_once_and_fails_raises_why() -> None:
    desk = Desk(begins_at_once=True)
    task = asyncio.create_task(desk.dictation.run())
    await eventually(lambda: bool(desk.source.utterances))
    desk.utterance().say(ProtocolError("the server refuses"))
    with pytest.raises(ProtocolError, match="the server refuses"):
        await task


async def test_what_begins_at_once_can_be_paused() -> None:
    async with Desk(begins_at_once=True).running() as desk:
        await eventually(lambda: bool(desk.source.utterances))
        desk.dictation.obey("toggle")
        await eventually(lambda: desk.utterance().has_ended)
        desk.utterance().say(END, None)
        await desk.is_idle()
        assert desk.dictation.obey("toggle") == "listening"
        desk.utterance(2).say(final("again"))
        await eventually(lambda: desk.window.text == "again")


class Device:
    """A microphone that hears what a test says."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[CaptureEvent | AudioError | None] = asyncio.Queue()
        self.n_open = 0
        self.can_close = asyncio.Event()
        self.can_close.set()

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        assert self.n_open == 0
        self.n_open += 1
        try:
            while (event := await self.said.get()) is not None:
                if isinstance(event, AudioError):
                    raise event
                yield event
        finally:
            await self.can_close.wait()
            self.n_open -= 1

    def hear(self, samples: Float32Array) -> None:
        self.said.put_nowait(Captured(samples))


def microphone(device: Device, daemon: FakeDaemon, pre_roll: float = 0.0) -> OwnMicrophone:
    url = daemon.address
    return OwnMicrophone(device, print, pre_roll=to_samples(pre_roll), url=url)


async def finals_of(utterance: Any) -> list[v1.Final]:
    async with contextlib.aclosing(utterance.events()) as events:
        return [event async for event in events if isinstance(event, v1.Final)]


async def test_without_pre_roll_the_device_is_open_only_while_somebody_speaks(
    tmp_path: Path,
) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            for _ in range(2):
                heard = asyncio.Event()
                utterance = own.begin(heard.set)
                device.hear(talk(1.0))
                await heard.wait()
                assert device.n_open == 1
                utterance.end()
                finals = await finals_of(utterance)
                assert [final.reason for final in finals][-1:] != []
                await eventually(lambda: device.n_open == 0)


async def test_who_speaks_while_the_device_is_being_closed_is_heard_when_it_is(
    tmp_path: Path,
) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            heard = asyncio.Event()
            first = own.begin(heard.set)
            device.hear(talk(1.0))
            await heard.wait()
            device.can_close.clear()
            first.end()
            await asyncio.sleep(0)
            heard = asyncio.Event()
            second = own.begin(heard.set)
            await asyncio.sleep(0)
            assert device.n_open == 1
            device.can_close.set()
            device.hear(talk(1.0))
            await heard.wait()
            second.end()
            assert await finals_of(first)
            assert await finals_of(second)


async def test_no_haste_opens_the_device_before_it_is_closed(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            heard = asyncio.Event()
            first = own.begin(heard.set)
            device.hear(talk(1.0))
            await heard.wait()
            device.can_close.clear()
            first.end()
            await asyncio.sleep(0)
            for _ in range(2):  # the first of which is over before it could begin
                hasty = own.begin(heard.set)
                await asyncio.sleep(0)
                hasty.end()
                await asyncio.sleep(0)
            heard = asyncio.Event()
            last = own.begin(heard.set)
            for _ in range(10):
                await asyncio.sleep(0)
            device.can_close.set()
            device.hear(talk(1.0))
            await heard.wait()
            last.end()
            assert await finals_of(last)


async def test_who_speaks_to_no_server_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utterance, "_SLOW_S", 0.01)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        own = OwnMicrophone(Device(), said.append, pre_roll=to_samples(0.0), url=url)
        async with own.running():
            speaking = asyncio.create_task(finals_of(own.begin(lambda: None)))
            await eventually(lambda: bool(said))
            speaking.cancel()
            await asyncio.wait([speaking])
    assert said == ["the daemon does not answer yet; it is waited for, 30 s at most"]


async def test_the_pre_roll_is_what_was_heard_just_before_and_no_more(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon, pre_roll=0.5)
        async with own.running():
            device.hear(np.zeros(to_samples(3.0), np.float32))
            await eventually(device.said.empty)
            utterance = own.begin(lambda: None)
            utterance.end()
            async with contextlib.aclosing(utterance.events()) as events:
                ends = [event async for event in events if isinstance(event, v1.End)]
            assert ends[0].duration == 0.5
            assert device.n_open == 1
        assert device.n_open == 0


async def test_what_came_before_the_machine_slept_is_no_pre_roll(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon, pre_roll=1.0)
        async with own.running():
            device.hear(np.zeros(to_samples(1.0), np.float32))
            device.said.put_nowait(Missed(to_samples(100.0), "suspend"))
            device.hear(np.zeros(to_samples(0.25), np.float32))
            await eventually(device.said.empty)
            utterance = own.begin(lambda: None)
            utterance.end()
            async with contextlib.aclosing(utterance.events()) as events:
                ends = [event async for event in events if isinstance(event, v1.End)]
            assert ends[0].duration == 0.25


async def test_a_device_that_cannot_be_had_ends_the_utterance(tmp_path: Path) -> None:
    said: list[str] = []
    device = Device()
    device.said.put_nowait(AudioError("There is no audio input."))
    async with running_daemon(tmp_path) as daemon:
        own = OwnMicrophone(device, said.append, pre_roll=Samples(0), url=daemon.address)
        async with own.running():
            assert await finals_of(own.begin(lambda: None)) == []
    assert said == ["There is no audio input."]


def n_running(daemon: FakeDaemon) -> int:
    return sum(not live.is_over.is_set() for live in daemon.sessions)


async def test_a_session_that_is_left_does_not_stay_open(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            task = asyncio.create_task(finals_of(own.begin(lambda: None)))
            device.hear(talk(1.0))
            await eventually(lambda: any(live.intake.position for live in daemon.sessions))
            task.cancel()
            await asyncio.wait([task])
            await eventually(lambda: n_running(daemon) == 0)


async def test_the_daemons_microphone_is_left_after_the_final_of_its_open_segment(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        live = daemon.host.begin_own()
        source = DaemonsMicrophone(
            daemon.address, session="microphone", token=None, timeouts=PATIENT
        )
        heard = asyncio.Event()
        utterance = source.begin(heard.set)
        task = asyncio.create_task(finals_of(utterance))
        await heard.wait()
        said = talk(1.0)
        live.intake.feed(said[: to_samples(1.8)])
        await eventually(lambda: bool(getattr(utterance, "_open", None)))
        utterance.end()
        assert not task.done()
        live.intake.feed(said[to_samples(1.8) :])
        live.intake.feed(talk(1.0, 1.0))
        assert len(await task) == 1


def test_the_ring_keeps_the_last_samples() -> None:
    ring = Ring(Samples(5))
    for begin in range(0, 12, 3):
        ring.put(np.arange(begin, begin + 3, dtype=np.float32))
    assert ring.take().tolist() == [7, 8, 9, 10, 11]
    assert ring.take().tolist() == []
