"""A microphone goes on whatever happens to its device, and counts what was not heard."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.audio.capture import Captured, CaptureEvent, Missed, Troubled
from streamasr.audio.microphone import (
    AmbiguousInputError,
    Microphone,
    Timeouts,
    find_again,
    find_input,
    to_mono,
)
from streamasr.audio.portaudio import DeviceError, InputDevice
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples
from tests.support.audio_files import tone
from tests.support.errors import raises
from tests.support.portaudio import DEADLINE, FakeAudio, FakeInput, device, renumbered

T = TypeVar("T")
QUICK = Timeouts(wait=0.01, n_waits=10**6, n_first_waits=10**6, first_retry=0.01, last_retry=0.02)


class Listener:
    """Receiver of the events of a microphone on simulated devices."""

    def __init__(self, audio: FakeAudio, events: AsyncGenerator[CaptureEvent, None]) -> None:
        self.audio = audio
        self.heard: list[CaptureEvent] = []
        self._events = events
        self._news: asyncio.Queue[CaptureEvent | Exception] = asyncio.Queue()

    async def listen(self) -> None:
        """Take events until cancelled."""
        try:
            async with aclosing(self._events):
                async for event in self._events:
                    self._news.put_nowait(event)
        except (AudioError, ArithmeticError) as error:
            self._news.put_nowait(error)

    async def opened(self) -> FakeInput:
        """The device, as soon as it is open (once more)."""
        return await asyncio.to_thread(self.audio.opened.get, timeout=DEADLINE)

    async def next(self) -> CaptureEvent:
        async with asyncio.timeout(DEADLINE):
            event = await self._news.get()
        if isinstance(event, Exception):
            raise event
        self.heard.append(event)
        return event

    async def until(self, kind: type[T]) -> T:
        """The next event of a kind; others are passed over."""
        while not isinstance(event := await self.next(), kind):
            pass
        return event

    async def until_heard(self, n: int) -> None:
        """Wait until `n` samples have arrived in all."""
        while len(self.samples) < n:
            await self.next()

    @property
    def samples(self) -> Float32Array:
        blocks = [event.samples for event in self.heard if isinstance(event, Captured)]
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    @property
    def missed(self) -> list[Missed]:
        return [event for event in self.heard if isinstance(event, Missed)]

    @property
    def codes(self) -> list[str]:
        return [event.code for event in self.heard if isinstance(event, Troubled)]

    @property
    def clock(self) -> int:
        """Position of the session's clock, in samples."""
        return len(self.samples) + sum(missed.duration for missed in self.missed)


@asynccontextmanager
async def listening(
    audio: FakeAudio, wanted: int | str | None = None, **options: Any
) -> AsyncIterator[Listener]:
    """Open a microphone on made-up devices; close it at the end of the block."""
    options.setdefault("timeouts", QUICK)
    microphone = Microphone(wanted, system=audio, clock=audio.clock, **options)
    listener = Listener(audio, microphone.events())
    task = asyncio.create_task(listener.listen())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.wait([task])


def noise(n: int, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).uniform(-0.9, 0.9, n).astype(np.float32)


# What is heard


async def test_samples_come_as_the_device_gives_them_and_closing_closes_it() -> None:
    sound = noise(16_000)
    audio = FakeAudio(device())
    async with listening(audio) as listener:
        opened = await listener.opened()
        for block in np.split(sound, 40):
            opened.play(block)
        await listener.until_heard(len(sound))
        assert not opened.closed.is_set()
        listener.audio.opened.put(opened)
    assert listener.samples.tobytes() == sound.tobytes()
    assert listener.codes == []
    assert listener.missed == []
    assert audio.opened.get().closed.is_set()


async def test_any_rate_and_channels_become_ours() -> None:
    left, right = tone(1.0, 44_100, hz=300), tone(1.0, 44_100, hz=700)
    frames = np.stack([left, right], axis=1)
    async with listening(FakeAudio(device(n_channels=2, rate=44_100))) as listener:
        opened = await listener.opened()
        for block in np.split(frames, 50):
            opened.play(block)
        await listener.until_heard(15_000)
    samples = listener.samples
    expected = (tone(1.0, hz=300) + tone(1.0, hz=700)) / 2
    np.testing.assert_allclose(samples[500:14_500], expected[500:14_500], atol=1e-3)


def test_nan_and_infinity_become_numbers() -> None:
    frames = np.array([[np.nan, 0.0], [np.inf, np.inf], [0.5, -0.5]], np.float32)
    assert to_mono(frames.tobytes(), 2).tolist() == [0.0, 1.0, 0.0]


# What is missing


async def test_a_device_that_comes_back_is_heard_again() -> None:
    before, after = noise(8_000, 1), noise(8_000, 2)
    async with listening(FakeAudio(device())) as listener:
        audio = listener.audio
        opened = await listener.opened()
        opened.play(before)
        await listener.until_heard(len(before))
        audio.pass_time(0.5)
        opened.unplug()
        lost = await listener.next()
        assert lost == Missed(to_samples(0.5), "device_lost")
        assert opened.closed.is_set()
        trouble = await listener.next()
        assert isinstance(trouble, Troubled)
        assert (trouble.code, trouble.message) == (
            "device_lost",
            "Desk has stopped; it may have been unplugged.",
        )
        audio.pass_time(59.5)
        audio.plug(device())
        opened = await listener.opened()
        opened.play(after)
        await listener.until_heard(len(before) + len(after))
    assert listener.missed[1:] == [Missed(to_samples(59.5), "device_lost")]
    assert listener.codes == ["device_lost", "device_back"]
    assert listener.samples.tobytes() == np.concatenate([before, after]).tobytes()
    assert listener.clock == to_samples(61.0)


async def test_what_the_resampler_holds_is_not_lost_with_the_device() -> None:
    async with listening(FakeAudio(device(rate=48_000))) as listener:
        opened = await listener.opened()
        opened.play(tone(1.0, 48_000))
        opened.unplug()
        await listener.until(Missed)
    assert len(listener.samples) == SAMPLE_RATE
    np.testing.assert_allclose(listener.samples, tone(1.0), atol=0.02)


async def test_a_device_that_gives_nothing_is_taken_for_dead() -> None:
    async with listening(FakeAudio(device()), timeouts=replace(QUICK, n_waits=2)) as listener:
        opened = await listener.opened()
        opened.play(noise(800))
        trouble = await listener.until(Troubled)
        assert trouble.message == "Desk has delivered nothing for 0.02 s."
        assert opened.closed.is_set()
        (await listener.opened()).play(noise(800))
        await listener.until_heard(1_600)
    assert listener.codes[:2] == ["device_lost", "device_back"]


async def test_time_counts_from_the_beginning_for_a_device_that_comes_later() -> None:
    audio = FakeAudio(device("Desk"), device("Webcam", 1))
    async with listening(audio, "headset") as listener:
        audio = listener.audio
        trouble = await listener.until(Troubled)
        assert trouble.message == (
            "No audio input matches 'headset'; the inputs are 0 (Desk, ALSA), 1 (Webcam, ALSA)."
        )
        audio.pass_time(600.0)
        audio.plug(device("USB Headset", 2))
        opened = await listener.opened()
        assert opened.device.name == "USB Headset"
        opened.play(noise(800))
        await listener.until(Captured)
    assert listener.missed == [Missed(to_samples(600.0), "device_lost")]
    assert listener.codes == ["device_lost", "device_back"]


async def test_a_device_that_refuses_is_tried_again_and_told_once() -> None:
    audio = FakeAudio(device())
    audio.refuses = "Desk cannot be opened: Device or resource busy."
    async with listening(audio) as listener:
        audio = listener.audio
        trouble = await listener.until(Troubled)
        assert trouble.message == "Desk cannot be opened: Device or resource busy."
        audio.refuses = None
        (await listener.opened()).play(noise(800))
        await listener.until(Captured)
    assert listener.codes == ["device_lost", "device_back"]


async def test_an_overflow_is_missed_with_its_length_and_told_once() -> None:
    async with listening(FakeAudio(device())) as listener:
        opened = await listener.opened()
        for i in range(4):
            opened.play(noise(400))
            opened.play(noise(400), is_broken=i > 0, late=0.25 if i else 0.0)
        await listener.until_heard(8 * 400)
    assert listener.missed == 3 * [Missed(to_samples(0.25), "overflow")]
    assert listener.codes == ["overflow"]


async def test_sleep_is_missed_whether_the_device_survives_it_or_not() -> None:
    async with listening(FakeAudio(device())) as listener:
        opened = await listener.opened()
        opened.play(noise(400))
        opened.play(noise(400), slept=3_600.0)
        await listener.until_heard(800)
        listener.audio.pass_time(0.5, asleep=7_200.0)
        opened.unplug()
        await listener.until(Troubled)
        listener.audio.plug(device())
        (await listener.opened()).play(noise(400))
        await listener.until_heard(1_200)
    assert listener.missed == [
        Missed(to_samples(3_600.0), "suspend"),
        Missed(to_samples(7_200.5), "suspend"),
    ]
    assert listener.codes == ["device_lost", "device_back"]


async def test_a_device_that_makes_audio_up_is_given_up() -> None:
    async with listening(FakeAudio(device())) as listener:
        opened = await listener.opened()
        for _ in range(100):
            opened.play(noise(3_200), late=-0.2)
        trouble = await listener.until(Troubled)
        assert trouble.message == (
            "Desk delivers audio faster than real time and cannot be used as a microphone; choose "
            "another input (`streamasr devices`)."
        )
        assert opened.closed.is_set()
    assert len(listener.samples) < 6 * SAMPLE_RATE


async def test_a_busy_listener_hears_the_present_and_what_it_missed() -> None:
    async def run() -> list[CaptureEvent]:
        audio = FakeAudio(device())
        microphone = Microphone(
            system=audio, clock=audio.clock, timeouts=QUICK, backlog=Samples(8_000)
        )
        async with aclosing(microphone.events()) as events:
            first = asyncio.ensure_future(anext(events))
            opened = await asyncio.to_thread(audio.opened.get, timeout=DEADLINE)
            for i in range(100):
                opened.play(np.full(400, i / 100, np.float32))
            opened.unplug()
            assert opened.closed.wait(DEADLINE)  # all blocks are in, and none could be taken
            heard = [await first]
            while not isinstance(event := await anext(events), Troubled) or (
                event.code != "device_lost"
            ):
                heard.append(event)
        return heard

    heard = await run()
    trouble, *others = [event for event in heard if isinstance(event, Troubled)]
    assert (trouble.code, others) == ("backlog", [])
    kept = [event.samples[0] for event in heard if isinstance(event, Captured)]
    assert kept == pytest.approx([i / 100 for i in range(80, 100)])
    missed = [event for event in heard if isinstance(event, Missed)]
    assert missed == [Missed(Samples(32_000), "backlog"), Missed(Samples(1), "device_lost")]


# Which device is meant

DESK, WEBCAM = device("Desk: USB Audio (hw:0,0)"), device("Webcam: USB Audio (hw:1,0)", 1)
DEFAULT = device("default", 2)
INPUTS = [WEBCAM, replace(DESK, is_default=False), replace(DEFAULT, is_default=True)]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (None, "default"),
        (1, "Webcam: USB Audio (hw:1,0)"),
        ("1", "Webcam: USB Audio (hw:1,0)"),
        ("webcam", "Webcam: USB Audio (hw:1,0)"),
        ("DESK: USB", "Desk: USB Audio (hw:0,0)"),
        ("Default", "default"),
        ("default, alsa", "default"),
    ],
)
def test_a_device_is_found_by_number_or_by_part_of_its_name(
    wanted: int | str | None, name: str
) -> None:
    assert find_input(INPUTS, wanted).name == name


def test_a_whole_name_goes_before_a_part_of_others() -> None:
    inputs = [device("USB Headset 2"), device("USB Headset", 1)]
    assert find_input(inputs, "usb headset").index == 1


def test_a_name_that_several_have_is_refused_with_their_list() -> None:
    with pytest.raises(AmbiguousInputError) as caught:
        find_input(INPUTS, "usb")
    assert str(caught.value) == (
        "'usb' matches 1 (Webcam: USB Audio (hw:1,0), ALSA), 0 (Desk: USB Audio (hw:0,0),"
        " ALSA); use more of the name, or an index."
    )


@pytest.mark.parametrize("wanted", [None, 0, "desk"])
def test_without_any_input_there_is_nothing_to_choose(wanted: int | str | None) -> None:
    with raises(DeviceError, "no_input_devices"):
        find_input([], wanted)


def test_a_device_is_known_again_under_another_number() -> None:
    moved = renumbered([device("Desk"), device("Webcam: USB Audio (hw:2,0)")])
    assert find_again(moved, WEBCAM) == moved[1]
    with raises(DeviceError, "device_gone"):
        find_again(moved[:1], WEBCAM)
    with raises(DeviceError, "device_gone"):
        find_again([], WEBCAM)


async def test_an_index_means_the_device_that_had_it() -> None:
    desk, webcam = device("Desk"), device("Webcam", 1)
    async with listening(FakeAudio(desk, webcam), 1) as listener:
        audio = listener.audio
        opened = await listener.opened()
        assert opened.device == webcam
        opened.play(noise(400))
        audio.devices.remove(desk)
        opened.unplug()
        await listener.until(Troubled)
        audio.plug(*renumbered([webcam, desk]))
        opened = await listener.opened()
        assert opened.device.name == "Webcam"


async def test_a_name_that_could_mean_several_ends_it_at_once() -> None:
    async with listening(FakeAudio(*INPUTS), "usb") as listener:
        with raises(AudioError, "ambiguous_device"):
            await listener.next()


async def test_one_more_device_of_that_name_does_not_end_it_later() -> None:
    async with listening(FakeAudio(device("USB A")), "usb") as listener:
        audio = listener.audio
        opened = await listener.opened()
        opened.play(noise(400))
        audio.plug(device("USB B", 1), device("USB C", 2))
        opened.unplug()
        await listener.until(Troubled)
        audio.devices.pop()
        (await listener.opened()).play(noise(400))
        await listener.until_heard(800)
    assert listener.codes == ["device_lost", "device_back"]


# What happens at random

deeds = st.one_of(
    st.tuples(st.just("play"), st.integers(1, 20)),
    st.tuples(st.just("overflow"), st.floats(0.02, 5)),
    st.tuples(st.just("sleep"), st.floats(1, 10_000)),
    st.tuples(st.just("unplug"), st.floats(0, 1000)),
)


@settings(max_examples=25)
@given(
    deeds=st.lists(deeds, max_size=8),
    rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]),
    is_late=st.booleans(),
)
async def test_the_clock_of_the_session_is_that_of_the_wall(
    deeds: list[tuple[str, float]], rate: int, is_late: bool
) -> None:
    """Captured and missed samples always add up to the time that passed."""
    microphone = device(rate=rate)
    audio = FakeAudio() if is_late else FakeAudio(microphone)
    begin = audio.now.wall
    block = noise(rate // 40)
    async with listening(audio) as listener:
        if is_late:
            await listener.until(Troubled)
            audio.pass_time(3.0)
            audio.plug(microphone)
        opened = await listener.opened()
        opened.play(block)
        for deed, value in deeds:
            if deed == "unplug":
                opened.unplug()
                while (await listener.until(Troubled)).code != "device_lost":
                    pass
                audio.pass_time(value)
                audio.plug(microphone)
                opened = await listener.opened()
            for _ in range(int(value) if deed == "play" else 1):
                opened.play(
                    block,
                    is_broken=deed == "overflow",
                    late=value if deed == "overflow" else 0.0,
                    slept=value if deed == "sleep" else 0.0,
                )
        # Now everything has been heard but what the resampler holds.
        opened.unplug()
        while (await listener.until(Troubled)).code != "device_lost":
            pass
    assert listener.clock == pytest.approx(to_samples(audio.now.wall - begin), abs=200)
    assert "overflow" not in [m.reason for m in listener.missed] or "overflow" in listener.codes
    lost, back = listener.codes.count("device_lost"), listener.codes.count("device_back")
    assert lost == back + 1


# What cannot be helped


def test_an_iterator_that_is_never_closed_closes_its_device() -> None:
    audio = FakeAudio(device())

    async def forget() -> FakeInput:
        events = Microphone(system=audio, clock=audio.clock, timeouts=QUICK).events()
        first = asyncio.ensure_future(anext(events))
        opened = await asyncio.to_thread(audio.opened.get, timeout=DEADLINE)
        opened.play(noise(400))
        await first
        return opened

    assert asyncio.run(forget()).closed.is_set()


async def test_a_device_that_cannot_be_closed_delays_no_other_task() -> None:
    audio = FakeAudio(device())
    async with listening(audio, timeouts=replace(QUICK, closing=0.01)) as listener:
        opened = await listener.opened()
        opened.can_close.clear()
        opened.play(noise(400))
        await listener.until(Captured)
        listener.audio.opened.put(opened)
    opened = audio.opened.get()
    assert not opened.closed.is_set()
    opened.can_close.set()
    assert opened.closed.wait(DEADLINE)


async def test_a_fault_of_ours_is_not_silent() -> None:
    class Broken(FakeAudio):
        def find_inputs(self) -> list[InputDevice]:
            raise ZeroDivisionError

    async with listening(Broken()) as listener:
        with pytest.raises(ZeroDivisionError):
            await listener.next()


WITHOUT_PORTAUDIO = """
import asyncio, ctypes.util
ctypes.util.find_library = lambda name: None
from streamasr.audio.microphone import Microphone
from streamasr.core.errors import AudioError
async def listen():
    async for event in Microphone().events():
        raise AssertionError(event)
try:
    asyncio.run(listen())
except AudioError as error:
    print(error)
"""


@pytest.mark.process
def test_without_portaudio_one_sentence_names_the_package() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PORTAUDIO], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    assert result.stdout == (
        "PortAudio is missing, and nothing can be recorded without it; install the package"
        " libportaudio2 (Debian, Ubuntu) or portaudio (Fedora, Arch).\n"
    )
