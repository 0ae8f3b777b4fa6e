"""Missing audio is found with its length; late audio is not taken for missing."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.audio.capture_clock import CaptureClock
from streamasr.core.units import SAMPLE_RATE, Samples

TOLERANCE = 0.3  # seconds: a loss too small to be reported yet, jitter, and the blocks' length


@dataclass(frozen=True)
class Loss:
    """Audio that the device drops."""

    time: float
    length: float
    is_told: bool


@dataclass(frozen=True)
class Device:
    """Delivers blocks as devices do: at a rate not quite its own, late, and sometimes in heaps."""

    rate: int = 16_000
    block: int = 400
    drift: float = 0.0
    latency: float = 0.05
    jitter: float = 0.0
    stalls: list[tuple[float, float]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    seed: int = 0

    def blocks(self, begin: float, end: float) -> Iterator[tuple[int, float, bool]]:
        """Size, arrival, and whether the device says that something is missing before it."""
        rng = np.random.default_rng(self.seed)
        n_most = int((end - begin) * self.rate / (self.block // 2)) + 1
        sizes = rng.integers(self.block // 2, self.block + 1, n_most).tolist()
        delays = rng.uniform(0, self.jitter, n_most).tolist()
        losses = sorted(self.losses, key=lambda loss: loss.time, reverse=True)
        recorded, last, is_broken = begin, begin, False
        for n, delay in zip(sizes, delays, strict=True):
            if recorded >= end:
                return
            recorded += n / self.rate * (1 + self.drift)
            if losses and recorded >= losses[-1].time:
                loss = losses.pop()
                recorded += loss.length
                is_broken = loss.is_told
                continue  # this block is part of what is lost, too
            last = max(last, self._free(recorded + self.latency + delay))
            yield n, last, is_broken
            is_broken = False

    def _free(self, time: float) -> float:
        """The first moment from then on in which the machine is not stalled."""
        return max([time, *(a + length for a, length in self.stalls if a <= time < a + length)])


devices = st.builds(
    Device,
    rate=st.sampled_from([8_000, 16_000, 44_100, 48_000]),
    block=st.integers(600, 3_000),
    drift=st.floats(-3e-4, 3e-4),
    latency=st.floats(0, 0.5),
    jitter=st.floats(0, 0.03),
    seed=st.integers(0, 1000),
)


@given(
    devices, st.lists(st.tuples(st.floats(0, 20), st.floats(0, 1.8)), max_size=15), st.booleans()
)
def test_what_is_late_is_not_missing(
    device: Device, stalls: list[tuple[float, float]], is_expected: bool
) -> None:
    clock = CaptureClock()
    if is_expected:
        clock.begin(100.0 + device.latency)
    clock.open(device.rate)
    n_received = 0
    stalls = [(100 + time, length) for time, length in stalls]
    for i, (n, time, _) in enumerate(replace(device, stalls=stalls).blocks(100, 120)):
        missing = clock.receive(n, time)
        if i > 0 or not is_expected:  # who expects audio misses what is late at the beginning
            assert missing == 0
            n_received += n
    expected = round(n_received * SAMPLE_RATE / device.rate)
    if not is_expected:
        assert clock.position == expected


@st.composite
def losses(draw: st.DrawFn) -> list[Loss]:
    found, end = [], 100.0
    for heard in draw(st.lists(st.floats(3, 8), min_size=1, max_size=4)):
        found.append(Loss(end + heard, draw(st.floats(0.2, 20)), draw(st.booleans())))
        end = found[-1].time + found[-1].length
    return found


@given(devices, losses())
def test_what_is_missing_is_reported_once_and_in_full(device: Device, losses: list[Loss]) -> None:
    clock = CaptureClock()
    clock.open(device.rate)
    end = max(loss.time + loss.length for loss in losses) + 10
    missed: list[int] = []
    origin = n_received = 0.0
    for n, time, is_broken in replace(device, losses=losses).blocks(100, end):
        origin = origin or time - n / device.rate
        missing = clock.receive(n, time, is_broken=is_broken)
        if missing:
            missed.append(missing)
        n_received += n / device.rate
        last = time
    # The clock of the session follows that of the wall, but for the device's own drift ...
    behind = last - origin - clock.position / SAMPLE_RATE
    assert abs(behind) < TOLERANCE + abs(device.drift) * (end - 100)
    # ... and what it counts is exactly what was received and reported.
    assert clock.position / SAMPLE_RATE == pytest.approx(
        n_received + sum(missed) / SAMPLE_RATE, abs=len(missed) / SAMPLE_RATE + 1e-3
    )


@given(devices, st.floats(0.05, 20), st.floats(3, 10))
def test_a_loss_that_the_device_tells_is_placed_where_it_is(
    device: Device, length: float, time: float
) -> None:
    clock = CaptureClock()
    clock.open(device.rate)
    device = replace(device, losses=[Loss(100 + time, length, is_told=True)])
    found = [
        (is_broken, clock.receive(n, time, is_broken=is_broken))
        for n, time, is_broken in device.blocks(100, 115 + length)
    ]
    # Just as much as was lost, but for a block and the jitter.
    slack = 2 * device.block / device.rate + device.jitter + 0.02
    told = [missing for is_broken, missing in found if is_broken]
    assert told[0] / SAMPLE_RATE == pytest.approx(length, abs=slack)


def test_a_loss_without_a_report_is_found_within_a_second() -> None:
    clock = CaptureClock()
    clock.open(16_000)
    device = Device(losses=[Loss(110, 0.7, is_told=False)])
    found = [
        (time, missing)
        for n, time, _ in device.blocks(100, 120)
        if (missing := clock.receive(n, time))
    ]
    assert len(found) == 1
    assert 110.7 < found[0][0] < 111.8
    assert found[0][1] / SAMPLE_RATE == pytest.approx(0.7, abs=0.06)


@given(
    devices,
    st.lists(st.tuples(st.floats(0.5, 5), st.floats(0.01, 300)), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_time_without_a_device_is_missing(
    device: Device, stays: list[tuple[float, float]], was_expected: bool
) -> None:
    """Each stay of the device is so many seconds, and so many pass until it comes again."""
    clock = CaptureClock()
    now = 100.0
    if was_expected:
        clock.begin(now)
        now += 5.0
    origin, missed, n_received = 100.0, 0, 0.0
    for i, (stay, away) in enumerate(stays):
        clock.open(device.rate)
        for j, (n, time, _) in enumerate(device.blocks(now, now + stay)):
            if i == j == 0 and not was_expected:
                origin = time - n / device.rate
            missed += clock.receive(n, time)
            n_received += n / device.rate
        now += stay + device.latency + away
        missing = clock.close(now)
        assert missing >= 1
        missed += missing
        now += away
    behind = clock.close(now)
    assert behind >= 1
    missed += behind
    assert clock.position / SAMPLE_RATE == pytest.approx(now - origin, abs=TOLERANCE + 0.6)
    assert clock.position / SAMPLE_RATE == pytest.approx(
        n_received + missed / SAMPLE_RATE, abs=1e-2
    )


def test_without_a_first_block_time_counts_from_when_audio_was_expected() -> None:
    clock = CaptureClock()
    clock.begin(50.0)
    assert clock.close(53.0) == 3 * SAMPLE_RATE
    clock.open(16_000)
    assert clock.receive(1_600, 60.1) == 7 * SAMPLE_RATE
    assert clock.position == 10 * SAMPLE_RATE + 1_600


def test_a_device_that_makes_audio_up_is_found_out() -> None:
    clock = CaptureClock()
    clock.open(16_000)
    for i in range(1_000):
        clock.receive(400, 100.0 + i * 1e-4)
        if clock.is_too_fast(100.0 + i * 1e-4):
            break
    assert 5 * 40 < i < 6 * 40


@given(devices, st.lists(st.tuples(st.floats(0, 15), st.floats(0, 4)), max_size=5))
def test_a_real_device_does_not(device: Device, stalls: list[tuple[float, float]]) -> None:
    clock = CaptureClock()
    clock.open(device.rate)
    stalls = [(100 + time, length) for time, length in stalls]
    for n, time, _ in replace(device, stalls=stalls).blocks(100, 115):
        clock.receive(n, time)
        assert not clock.is_too_fast(time)


def test_positions_are_whole_samples() -> None:
    clock = CaptureClock()
    clock.open(44_100)
    clock.receive(441, 1.01)
    assert clock.position == Samples(160)
