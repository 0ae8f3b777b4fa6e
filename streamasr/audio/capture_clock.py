"""Detection of missing audio from the arrival times of blocks.

A device delivers `rate` samples per second by its own specification; a clock gives the seconds that
have passed. The *lateness* of a block is the difference between its start by the clock and its
start by the count of samples before it. The lateness varies all the time: a block waits in buffers,
and when the machine is busy many blocks arrive late and all at once. But a block never arrives
early, so the minimum of the lateness over a while, its floor, is steady while no audio is lost, and
rises permanently by the amount that is lost.

PortAudio also reports the recording time of a block, and whether blocks before it were dropped. The
recording time is not usable: under PulseAudio it was seen to jump by half a second while blocks
arrived evenly. The report of dropped blocks is used, but a sound server also drops audio without
one (for example when it moves a recording to another source), so the floor is observed in any case.
"""

from typing import Final

from streamasr.core.units import SAMPLE_RATE, Samples, to_samples

WINDOW: Final = 0.5
"""Seconds over which a floor is taken, which is about the delay until a loss is noticed ..."""
WINDOW_BLOCKS: Final = 10
"""... but at least this number of blocks, because a single block may be late by chance ..."""
STALL: Final = 0.25
"""... and no two of them further apart than this (or three times their length), because otherwise
the last ones may still be waiting in the device."""
SMALLEST_LOSS: Final = to_samples(0.25)
"""Samples; the floor may rise by less because a sound server lengthened the path from the device,
which happens when other programs start and stop recording. Smaller losses are reported once they
add up to this."""
SMALLEST_KNOWN_LOSS: Final = to_samples(0.01)
"""Samples; the same limit after the device itself reported a loss."""
DRIFT: Final = 1e-3
"""Fraction by which a device's rate may differ from the clock's; real devices stay far below."""
HEAD_START: Final = 5.0
"""Seconds of audio by which a device may be ahead of the clock after it was delayed before."""


class CaptureClock:
    """Counter of the samples of a microphone, both delivered and missing.

    Their sum keeps pace with the clock of the given times. With a clock that also counts while the
    machine sleeps, sleep is a loss like any other.
    """

    def __init__(self) -> None:
        self._origin: float | None = None  # when the first sample was, or should have been
        self._base = 0  # samples at SAMPLE_RATE before what the device now delivers in one piece
        self._rate = SAMPLE_RATE
        self._n_run = 0  # samples at the device's rate since then
        self._usual = 0.0  # lateness in samples at SAMPLE_RATE when nothing is lost
        self._is_settled = False
        self._floor = _Floor()
        self._is_new = True  # a device was opened and has delivered nothing yet
        self._opened_at = 0.0
        self._n_opened = 0

    @property
    def position(self) -> Samples:
        """Samples at SAMPLE_RATE from the beginning, missing ones included."""
        return Samples(self._base + round(self._n_run * SAMPLE_RATE / self._rate))

    def begin(self, time: float) -> None:
        """Expect audio from now on; without this call it begins with the first block."""
        if self._origin is None:
            self._origin = time

    def open(self, rate: int) -> None:
        """Note that a device was opened; its samples do not continue the ones before."""
        self._base, self._n_run, self._rate = self.position, 0, rate
        self._is_new = True
        self._floor = _Floor()

    def receive(self, n: int, time: float, *, is_broken: bool = False) -> Samples:
        """Count a block.

        Args:
            n: number of samples, at the device's rate.
            time: arrival time, in seconds.
            is_broken: whether audio is known to be missing before the block.

        Returns:
            Length of the audio missing right before the block; 0 if it continues the last one.
        """
        begin = time - n / self._rate
        if self._origin is None:
            self._origin = begin
        lateness = self._lateness(begin)
        missing = self._judge(lateness, n / self._rate, time, is_broken=is_broken)
        if self._is_new:
            self._is_new, self._opened_at, self._n_opened = False, begin, 0
        self._n_run += n
        self._n_opened += n
        return missing

    def close(self, time: float) -> Samples:
        """Note that the device is gone.

        Returns:
            Length of the audio missing up to now; at least one sample, because the sound is cut.
        """
        self.begin(time)
        return self._miss(max(1, self._lateness(time) - self._usual))

    def is_too_fast(self, time: float) -> bool:
        """Return whether the device delivers more audio than time has passed: not a microphone."""
        passed = time - self._opened_at
        return not self._is_new and self._n_opened / self._rate > 1.1 * passed + HEAD_START

    def _lateness(self, time: float) -> float:
        assert self._origin is not None
        return (time - self._origin) * SAMPLE_RATE - self.position

    def _judge(self, lateness: float, length: float, time: float, *, is_broken: bool) -> Samples:
        if self._is_new or is_broken:
            loss = lateness - self._usual
            return self._miss(loss) if loss >= SMALLEST_KNOWN_LOSS else Samples(0)
        missing = self._look_back() if self._floor.is_known() else Samples(0)
        self._floor.take(lateness - missing, time, max(STALL, 3 * length))
        if not self._is_settled:  # the first blocks may have been held up
            self._usual = min(self._usual, lateness)
        return missing

    def _look_back(self) -> Samples:
        """Return the loss found at the end of a window; without a loss, follow the drift."""
        rise, tolerated = self._floor.least - self._usual, DRIFT * self._floor.age
        self._is_settled = True
        self._floor = _Floor()
        if rise >= SMALLEST_LOSS:
            return self._miss(rise)
        tolerated *= SAMPLE_RATE
        self._usual += max(-tolerated, min(tolerated, rise))
        return Samples(0)

    def _miss(self, loss: float) -> Samples:
        missing = Samples(round(loss))
        self._base, self._n_run = self.position + missing, 0
        self._floor = _Floor()
        return missing


class _Floor:
    """Minimum of the lateness over a while."""

    def __init__(self) -> None:
        self.least = float("inf")
        self._begin = 0.0
        self._last = 0.0
        self._n_blocks = 0

    def take(self, lateness: float, time: float, longest_pause: float) -> None:
        if self._n_blocks == 0 or time - self._last > longest_pause:
            self._begin, self._n_blocks, self.least = time, 0, float("inf")
        self._last = time
        self._n_blocks += 1
        self.least = min(self.least, lateness)

    @property
    def age(self) -> float:
        return self._last - self._begin

    def is_known(self) -> bool:
        return self._n_blocks >= WINDOW_BLOCKS and self.age >= WINDOW
