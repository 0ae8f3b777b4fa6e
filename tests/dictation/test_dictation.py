"""Tests of a running dictation: effect of commands on the typed text, and its order."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from streamasr.audio.capture import Captured, CaptureEvent, Missed, TroubleCode
from streamasr.client import DEFAULT_TIMEOUTS, Event, Reconnecting, v1
from streamasr.core.errors import AudioError, ProtocolError, StreamASRError
from streamasr.core.notices import NoticeCode
from streamasr.core.units import Float32Array, Samples, to_samples
from streamasr.dictation import utterance
from streamasr.dictation.composer import Composer
from streamasr.dictation.dictation import Dictation, DictationOptions
from streamasr.dictation.push_to_talk import SoundName
from streamasr.dictation.tools import DesktopGoneError, ToolError
from streamasr.dictation.utterance import DaemonMicrophone, OwnMicrophone, Ring
from streamasr.writing import Writer, load_rules
from streamasr.writing.edits import Edit
from tests.support.errors import raises
from tests.support.fake_daemon import FakeDaemon, running_daemon
from tests.support.fakes import talk
from tests.support.waiting import eventually, let_others_run

READY = v1.Ready(session="s", model="tiny", seq=0, next_sample=0)
END = v1.End(seq=9, duration=1, segments=1, words=0)


def final(text: str, segment: int = 1, language: str | None = None) -> v1.Final:
    return v1.Final(
        seq=segment, segment=segment, text=text, language=language, start=0, end=1, reason="stop"
    )


class ScriptedUtterance:
    """Utterance with events given by a test."""

    def __init__(self, on_audio: Callable[[], None]) -> None:
        self.on_audio = on_audio
        self.queue: asyncio.Queue[Event | StreamASRError | None] = asyncio.Queue()
        self.has_ended = False
        self.is_closed = False

    def emit(self, *events: Event | StreamASRError | None) -> None:
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


class ScriptedSource:
    """Source of scripted utterances."""

    def __init__(self) -> None:
        self.utterances: list[ScriptedUtterance] = []
        self.begins_with: Event = READY

    def begin(self, on_audio: Callable[[], None]) -> ScriptedUtterance:
        self.utterances.append(ScriptedUtterance(on_audio))
        self.utterances[-1].emit(self.begins_with)
        return self.utterances[-1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield


class Window:
    """Window that records the typed text."""

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
            raise ToolError("the window is broken")
        self.text += edit.text
        self.n_deleted += edit.delete

    def place(self) -> object:
        if self.is_gone:
            raise DesktopGoneError("the display is gone", code="display_gone")
        return self.number


class Desk:
    """Dictation with a scripted source and a recording window."""

    def __init__(self, writer: Writer | None = None, **options: Any) -> None:
        self.source = ScriptedSource()
        self.window = Window()
        self.reports: list[str] = []
        self.sounds: list[SoundName] = []
        composer = Composer("stable", writer or Writer())
        options = {"tail_s": 0.0, "play": self._play, **options}
        self.dictation = Dictation(
            self.source, composer, self.window, self.reports.append, DictationOptions(**options)
        )

    async def _play(self, sound: SoundName) -> None:
        self.sounds.append(sound)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Desk"]:
        task = asyncio.create_task(self.dictation.run())
        await let_others_run()
        yield self
        task.cancel()
        await asyncio.wait([task])

    def utterance(self, number: int = 1) -> ScriptedUtterance:
        return self.source.utterances[number - 1]

    async def wait_until_idle(self) -> None:
        await eventually(lambda: self.dictation.execute("status") == "idle")


async def test_an_utterance_is_typed_and_sounds_mark_its_begin_and_end() -> None:
    async with Desk().running() as desk:
        assert desk.dictation.execute("toggle") == "listening"
        desk.utterance().on_audio()
        desk.utterance().emit(final("one"))
        await eventually(lambda: desk.window.text == "one")
        assert desk.dictation.execute("toggle") == "finishing"
        await eventually(lambda: desk.utterance().has_ended)
        desk.utterance().emit(final("two", 2), END, None)
        await desk.wait_until_idle()
        assert (desk.window.text, desk.sounds, desk.reports) == ("one two", ["start", "stop"], [])


async def test_with_a_held_key_nothing_is_typed_before_its_release() -> None:
    async with Desk(is_held=True).running() as desk:
        desk.dictation.execute("start")
        desk.dictation.execute("start")
        desk.utterance().emit(final("one"))
        await let_others_run()
        assert desk.window.text == ""
        desk.dictation.execute("stop")
        await eventually(lambda: desk.window.text == "one")
        assert len(desk.source.utterances) == 1


async def test_cancel_stops_typing_and_does_not_delay_the_next_utterance() -> None:
    async with Desk().running() as desk:
        desk.dictation.execute("start")
        desk.utterance().emit(final("one"))
        await eventually(lambda: desk.window.text == "one")
        desk.window.room.clear()
        desk.utterance().emit(final("never", 2))
        await eventually(desk.utterance().queue.empty)
        assert desk.dictation.execute("cancel") == "idle"
        desk.window.room.set()
        await eventually(lambda: desk.utterance().is_closed)
        desk.dictation.execute("start")
        desk.utterance(2).emit(final("three"))
        await eventually(lambda: desk.window.text == "one three")
        assert desk.utterance().has_ended


async def test_utterances_are_typed_in_order() -> None:
    async with Desk().running() as desk:
        desk.dictation.execute("start")
        desk.dictation.execute("stop")
        await eventually(lambda: desk.utterance().has_ended)
        desk.dictation.execute("start")
        desk.utterance(2).emit(final("second"))
        await let_others_run()
        desk.utterance(1).emit(final("first"), END, None)
        await eventually(lambda: desk.window.text == "first second")


async def test_utterances_are_typed_in_order_although_the_server_was_late() -> None:
    desk = Desk()
    desk.source.begins_with = Reconnecting("there is no server", 1, 0.2)
    async with desk.running():
        desk.dictation.execute("start")
        desk.dictation.execute("stop")
        await eventually(lambda: desk.utterance().has_ended)
        desk.dictation.execute("start")
        desk.dictation.execute("stop")
        await eventually(lambda: desk.utterance(2).has_ended)
        desk.utterance(2).emit(READY, final("two"), END, None)
        await let_others_run()
        desk.utterance(1).emit(READY, final("one"), END, None)
        await desk.wait_until_idle()
        assert desk.window.text == "one two"


async def test_text_is_not_deleted_after_its_typing_was_cancelled() -> None:
    """The number of characters typed is unknown; the text before them belongs to the user."""
    async with Desk(Writer(load_rules())).running() as desk:
        desk.window.room.clear()
        desk.dictation.execute("start")
        desk.utterance().emit(final("one two three"))
        await let_others_run()
        desk.dictation.execute("cancel")
        desk.window.room.set()
        desk.dictation.execute("start")
        desk.utterance(2).emit(final("scratch that", 1, "English"), final("four", 2))
        await eventually(lambda: desk.window.text.strip() == "four")
        assert desk.window.n_deleted == 0


async def test_in_another_window_text_begins_without_a_space() -> None:
    async with Desk().running() as desk:
        desk.dictation.execute("start")
        desk.utterance().emit(final("one"))
        await eventually(lambda: desk.window.text == "one")
        desk.window.number = 2
        desk.utterance().emit(final("two", 2))
        await eventually(lambda: desk.window.text == "onetwo")


async def test_text_that_cannot_be_typed_is_reported_once_and_later_text_is_typed() -> None:
    async with Desk().running() as desk:
        desk.dictation.execute("start")
        desk.window.is_broken = True
        desk.utterance().emit(final("one"))
        await eventually(lambda: bool(desk.reports))
        desk.window.is_broken = False
        desk.utterance().emit(final("two", 2))
        await eventually(lambda: desk.window.text == "two")
        assert desk.reports == ["the window is broken; the text is in `streamasr history`"]


@pytest.mark.parametrize("code", [NoticeCode.LAGGING, *get_args(TroubleCode)])
async def test_troubles_of_the_daemon_are_reported_but_not_their_end(code: str) -> None:
    async with Desk().running() as desk:
        desk.dictation.execute("start")
        trouble = v1.Warning(code=code, message="there is trouble", lag=6.0)
        desk.utterance().emit(trouble, final("one"), END, None)
        await desk.wait_until_idle()
        is_good_news = code == "device_back"
        assert desk.reports == ["there is trouble"] * (not is_good_news)


async def test_dictation_ends_with_one_error_when_the_desktop_is_gone() -> None:
    desk = Desk()
    task = asyncio.create_task(desk.dictation.run())
    await let_others_run()
    desk.dictation.execute("start")
    desk.window.is_gone = True
    desk.utterance().emit(final("one"), final("two", 2))
    with raises(DesktopGoneError, "display_gone"):
        await task
    assert desk.reports == []
    assert desk.utterance().is_closed


async def test_a_failed_utterance_is_reported_and_the_next_one_works() -> None:
    async with Desk().running() as desk:
        desk.dictation.execute("start")
        desk.utterance().emit(
            Reconnecting("there is no server", 1, 0.2),
            Reconnecting("there is no server", 2, 0.4),
            ProtocolError("the server is gone"),
        )
        await desk.wait_until_idle()
        assert desk.reports == ["there is no server", "the server is gone"]
        assert desk.sounds == ["cancel"]
        desk.dictation.execute("start")
        desk.utterance(2).emit(final("two"))
        await eventually(lambda: desk.window.text == "two")


@pytest.mark.parametrize("options", [{}, {"is_held": True}])
async def test_a_missing_server_is_reported_at_once(options: dict[str, Any]) -> None:
    desk = Desk(**options)
    desk.source.begins_with = Reconnecting("there is no server", 1, 0.2)
    async with desk.running():
        desk.dictation.execute("start")
        await eventually(lambda: desk.reports == ["there is no server"])
        desk.utterance().emit(Reconnecting("there is no server", 2, 0.4), READY, final("one"))
        desk.dictation.execute("stop")
        await eventually(lambda: desk.window.text == "one")
        assert desk.reports == ["there is no server"]


async def test_a_dictation_that_begins_at_once_ends_with_its_audio() -> None:
    desk = Desk(begins_at_once=True)
    task = asyncio.create_task(desk.dictation.run())
    await eventually(lambda: bool(desk.source.utterances))
    desk.utterance().emit(final("one"), END, None)
    await task
    assert desk.window.text == "one"


async def test_a_dictation_that_begins_at_once_raises_its_error() -> None:
    desk = Desk(begins_at_once=True)
    task = asyncio.create_task(desk.dictation.run())
    await eventually(lambda: bool(desk.source.utterances))
    desk.utterance().emit(ProtocolError("the server refuses", code="refused_by_test"))
    with raises(ProtocolError, "refused_by_test"):
        await task


async def test_a_dictation_that_begins_at_once_can_be_paused() -> None:
    async with Desk(begins_at_once=True).running() as desk:
        await eventually(lambda: bool(desk.source.utterances))
        desk.dictation.execute("toggle")
        await eventually(lambda: desk.utterance().has_ended)
        desk.utterance().emit(END, None)
        await desk.wait_until_idle()
        assert desk.dictation.execute("toggle") == "listening"
        desk.utterance(2).emit(final("again"))
        await eventually(lambda: desk.window.text == "again")


class Device:
    """Microphone with events given by a test."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[CaptureEvent | AudioError | None] = asyncio.Queue()
        self.n_open = 0
        self.can_close = asyncio.Event()
        self.can_close.set()

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        assert self.n_open == 0
        self.n_open += 1
        try:
            while (event := await self.queue.get()) is not None:
                if isinstance(event, AudioError):
                    raise event
                yield event
        finally:
            await self.can_close.wait()
            self.n_open -= 1

    def deliver(self, samples: Float32Array) -> None:
        self.queue.put_nowait(Captured(samples))


def microphone(device: Device, daemon: FakeDaemon, pre_roll: float = 0.0) -> OwnMicrophone:
    url = daemon.address
    return OwnMicrophone(device, print, pre_roll=to_samples(pre_roll), url=url)


async def begin_with_speech(own: OwnMicrophone, device: Device) -> Any:
    """Begin an utterance, speak, and return it when it has audio."""
    has_audio = asyncio.Event()
    utterance = own.begin(has_audio.set)
    device.deliver(talk(1.0))
    await has_audio.wait()
    return utterance


async def finals_of(utterance: Any) -> list[v1.Final]:
    async with contextlib.aclosing(utterance.events()) as events:
        return [event async for event in events if isinstance(event, v1.Final)]


async def test_without_pre_roll_the_device_is_open_only_during_utterances(
    tmp_path: Path,
) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            for _ in range(2):
                utterance = await begin_with_speech(own, device)
                assert device.n_open == 1
                utterance.end()
                finals = await finals_of(utterance)
                assert [final.reason for final in finals][-1:] != []
                await eventually(lambda: device.n_open == 0)


async def test_an_utterance_begun_while_the_device_closes_is_recorded_afterwards(
    tmp_path: Path,
) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            first = await begin_with_speech(own, device)
            device.can_close.clear()
            first.end()
            await asyncio.sleep(0)
            has_audio = asyncio.Event()
            second = own.begin(has_audio.set)
            await asyncio.sleep(0)
            assert device.n_open == 1
            device.can_close.set()
            device.deliver(talk(1.0))
            await has_audio.wait()
            second.end()
            assert await finals_of(first)
            assert await finals_of(second)


async def test_short_utterances_do_not_open_the_device_before_it_is_closed(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            first = await begin_with_speech(own, device)
            device.can_close.clear()
            first.end()
            await asyncio.sleep(0)
            for _ in range(2):  # the first ends before it could open the device
                short = own.begin(lambda: None)
                await asyncio.sleep(0)
                short.end()
                await asyncio.sleep(0)
            has_audio = asyncio.Event()
            last = own.begin(has_audio.set)
            await let_others_run()
            device.can_close.set()
            device.deliver(talk(1.0))
            await has_audio.wait()
            last.end()
            assert await finals_of(last)


async def test_a_server_that_does_not_answer_is_reported_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(utterance, "_SLOW_S", 0.01)
    reports: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        own = OwnMicrophone(Device(), reports.append, pre_roll=to_samples(0.0), url=url)
        async with own.running():
            reading = asyncio.create_task(finals_of(own.begin(lambda: None)))
            await eventually(lambda: bool(reports))
            reading.cancel()
            await asyncio.wait([reading])
    assert reports == ["the daemon does not answer yet; waiting for it for up to 30 s"]


async def test_the_pre_roll_is_the_audio_just_before_the_start(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon, pre_roll=0.5)
        async with own.running():
            device.deliver(np.zeros(to_samples(3.0), np.float32))
            await eventually(device.queue.empty)
            utterance = own.begin(lambda: None)
            utterance.end()
            async with contextlib.aclosing(utterance.events()) as events:
                ends = [event async for event in events if isinstance(event, v1.End)]
            assert ends[0].duration == 0.5
            assert device.n_open == 1
        assert device.n_open == 0


async def test_audio_from_before_a_suspend_is_not_used_as_pre_roll(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon, pre_roll=1.0)
        async with own.running():
            device.deliver(np.zeros(to_samples(1.0), np.float32))
            device.queue.put_nowait(Missed(to_samples(100.0), "suspend"))
            device.deliver(np.zeros(to_samples(0.25), np.float32))
            await eventually(device.queue.empty)
            utterance = own.begin(lambda: None)
            utterance.end()
            async with contextlib.aclosing(utterance.events()) as events:
                ends = [event async for event in events if isinstance(event, v1.End)]
            assert ends[0].duration == 0.25


async def test_a_missing_device_ends_the_utterance(tmp_path: Path) -> None:
    reports: list[str] = []
    device = Device()
    device.queue.put_nowait(AudioError("There is no audio input."))
    async with running_daemon(tmp_path) as daemon:
        own = OwnMicrophone(device, reports.append, pre_roll=Samples(0), url=daemon.address)
        async with own.running():
            assert await finals_of(own.begin(lambda: None)) == []
    assert reports == ["There is no audio input."]


def n_running(daemon: FakeDaemon) -> int:
    return sum(not live.is_over.is_set() for live in daemon.sessions)


async def test_an_abandoned_session_does_not_stay_open(tmp_path: Path) -> None:
    device = Device()
    async with running_daemon(tmp_path) as daemon:
        own = microphone(device, daemon)
        async with own.running():
            task = asyncio.create_task(finals_of(own.begin(lambda: None)))
            device.deliver(talk(1.0))
            await eventually(lambda: any(live.intake.position for live in daemon.sessions))
            task.cancel()
            await asyncio.wait([task])
            await eventually(lambda: n_running(daemon) == 0)


async def test_the_daemons_session_is_followed_until_the_final_of_the_open_segment(
    tmp_path: Path,
) -> None:
    async with running_daemon(tmp_path) as daemon:
        live = daemon.host.begin_own()
        source = DaemonMicrophone(
            daemon.address, session="microphone", token=None, timeouts=DEFAULT_TIMEOUTS
        )
        has_audio = asyncio.Event()
        utterance = source.begin(has_audio.set)
        task = asyncio.create_task(finals_of(utterance))
        await has_audio.wait()
        speech = talk(1.0)
        live.intake.feed(speech[: to_samples(1.8)])
        await eventually(lambda: bool(getattr(utterance, "_open", None)))
        utterance.end()
        assert not task.done()
        live.intake.feed(speech[to_samples(1.8) :])
        live.intake.feed(talk(1.0, 1.0))
        assert len(await task) == 1


def test_the_ring_keeps_the_latest_samples() -> None:
    ring = Ring(Samples(5))
    for begin in range(0, 12, 3):
        ring.put(np.arange(begin, begin + 3, dtype=np.float32))
    assert ring.take().tolist() == [7, 8, 9, 10, 11]
    assert ring.take().tolist() == []
