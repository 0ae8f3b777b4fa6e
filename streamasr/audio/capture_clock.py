"""How much audio is missing, judged by when blocks arrive.

A device promises `rate` samples per second; a clock says how many seconds have passed. The
*lateness* of a block is how much later it begins by the clock than the samples before it say. It
never stands still: a block waits in buffers, and when the machine is busy many blocks come late and
all at once. But a block never comes early, so the least lateness of a while, its floor, is steady
while nothing is lost, and rises for good by what is lost.

PortAudio also says when a block was recorded, and whether blocks before it were dropped. The former
is of no use here: under PulseAudio it was seen to jump by half a second while blocks came evenly.
The latter is believed, but a sound server drops audio without it (when it moves a recording to
another source, say), so the floor is watched in any case.
"""

from typing import Final

from streamasr.core.units import SAMPLE_RATE, Samples, to_samples

WINDOW: Final = 0.5
"""Seconds of which a floor is taken, and so about how late a loss may be noticed ..."""
WINDOW_BLOCKS: Final = 10
"""... but it takes so many blocks too, since a single one may be late for no reason ..."""
STALL: Final = 0.25
"""... and no two of them further apart than this (or three times their length), or else the last
ones may still be waiting in the device."""
SMALLEST_LOSS: Final = to_samples(0.25)
"""Samples; a floor may rise by less because a sound server made the path from the device longer,
as it does when other programs come and go. A smaller loss is reported when others add to it."""
SMALLEST_KNOWN_LOSS: Final = to_samples(0.01)
"""Samples; the same where the device says that there was a loss."""
DRIFT: Final = 1e-3
"""Part by which a device's rate may differ from the clock's; ordinary ones stay far below it."""
HEAD_START: Final = 5.0
"""Seconds of audio by which a device may be ahead of the clock, having been held up before."""


class CaptureClock:
    """Counts the samples of a microphone that came and those that did not.

    All together they keep pace with the clock that the times are taken from. One that also counts
    while the machine sleeps makes sleep a loss like any other.
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
        """Samples at SAMPLE_RATE from the beginning, those included that are missing."""
        return Samples(self._base + round(self._n_run * SAMPLE_RATE / self._rate))

    def begin(self, time: float) -> None:
        """Audio is expected from now on. Otherwise it begins with the first block."""
        if self._origin is None:
            self._origin = time

    def open(self, rate: int) -> None:
        """A device was opened; what follows does not continue what came before."""
        self._base, self._n_run, self._rate = self.position, 0, rate
        self._is_new = True
        self._floor = _Floor()

    def receive(self, n: int, time: float, *, is_broken: bool = False) -> Samples:
        """Count a block.

        Args:
            n: its samples, at the device's rate.
            time: when it arrived, in seconds.
            is_broken: whether something is known to be missing before it.

        Returns:
            How much is missing right before it; 0 as long as it goes on from the last one.
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
        """The device is gone.

        Returns:
            How much is missing up to now; at least one sample, because the sound is cut off.
        """
        self.begin(time)
        return self._miss(max(1, self._lateness(time) - self._usual))

    def is_too_fast(self, time: float) -> bool:
        """Whether the open device makes audio up: it delivers more than time can have passed."""
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
        """At the end of a window: whether the floor rose; if not, follow its drift."""
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
    """The least lateness of a while."""

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
