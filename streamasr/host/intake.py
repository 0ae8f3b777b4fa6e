"""Intake of a session's audio: into the spool and the stream, with room, gaps and an end."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from streamasr.core.orders import Publish
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_seconds
from streamasr.host.archive import Archive
from streamasr.host.latency import LatencyMeter
from streamasr.pipeline.stream import Stream

logger = logging.getLogger(__name__)

SLICE: Final = SAMPLE_RATE // 2
"""Samples to feed at once; between two slices other sessions have their turn."""

MAX_UNFINISHED: Final = 64
"""Segments whose words may be owed; this bounds the memory where the aligner is slow."""

LIVE_PACE: Final = 1.5
"""Audio that arrives faster than this many seconds per second is a file, which may lag."""

_LATE_WORDS_S: Final = 60.0
_LATE_WORDS: Final = 8
"""When so many finals of live speech, the oldest of them so old, wait for their words, the aligner
cannot keep up. Exact times that come minutes later are of less use than rough ones at once."""


class Intake:
    """Takes the audio of one session."""

    def __init__(
        self,
        name: str,
        stream: Stream,
        archive: Archive,
        latency: LatencyMeter,
        publish: Callable[[list[Publish]], None],
    ) -> None:
        """Begin where the stream begins.

        Args:
            name: of the session.
            stream: takes the samples.
            archive: started.
            latency: measures the session.
            publish: receives the messages that result.
        """
        self.is_finishing = False
        """No more audio is taken."""
        self._name = name
        self._stream = stream
        self._archive = archive
        self._latency = latency
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._progressed = asyncio.Event()
        self._began = time.monotonic()
        self._began_at = stream.position
        self._n_dropped = 0  # samples, since there was room

    @property
    def position(self) -> Samples:
        """Position of the next sample."""
        return self._stream.position

    @property
    def pace(self) -> float:
        """Seconds of audio per second since the session began or was resumed."""
        elapsed = max(time.monotonic() - self._began, 1e-3)
        return to_seconds(self.position - self._began_at) / elapsed

    def has_room(self, max_lag: Samples) -> bool:
        """Tell whether more audio may be taken: less than `max_lag` waits for recognition."""
        n_unfinished = self._stream.session.n_unfinished
        return self._stream.has_room(max_lag) and n_unfinished < MAX_UNFINISHED

    async def wait_for_room(self, max_lag: Samples) -> None:
        """Wait until more audio may be taken."""
        while not self.has_room(max_lag):
            self._progressed.clear()
            await self._progressed.wait()

    def progressed(self) -> None:
        """Note that something was recognised, so that there may be room again."""
        self._progressed.set()

    def feed(self, samples: Float32Array) -> None:
        """Take the next samples, (n,) float32, at most `SLICE` or so."""
        self._archive.append_audio(self._name, self.position, samples)
        self._take(samples)
        self._spread_late_words()

    def feed_spooled(self, samples: Float32Array) -> None:
        """Take the next samples, which are in the spool since before a restart."""
        self._take(samples)

    def feed_or_drop(self, samples: Float32Array, max_lag: Samples) -> None:
        """Take samples that cannot wait; without room for them they become a gap."""
        if not self.has_room(max_lag):
            self._n_dropped += len(samples)
            return
        self._flush_dropped()
        self.feed(samples)

    def skip(self, n_samples: Samples, reason: str) -> None:
        """Leave out samples that never come."""
        self._flush_dropped()
        self._archive.skip_audio(self._name, Samples(self.position + n_samples))
        self._publish(self._stream.skip(n_samples, reason))

    def flush(self) -> None:
        """Finish the open segment."""
        self._flush_dropped()
        self._publish(self._stream.flush())

    def finish(self) -> None:
        """Take no more audio; the session ends when everything owed was published."""
        if not self.is_finishing:
            self._flush_dropped()
            self.is_finishing = True
            self._publish(self._stream.finish())

    def _take(self, samples: Float32Array) -> None:
        self._latency.audio_received(len(samples))
        self._publish(self._stream.feed(samples))
        self._latency.arrivals.add(self.position, self._loop.time())

    def _flush_dropped(self) -> None:
        """Put a gap where samples were dropped, before anything else takes that place."""
        if self._n_dropped:
            n_dropped, self._n_dropped = Samples(self._n_dropped), 0
            self.skip(n_dropped, "overload")

    def _spread_late_words(self) -> None:
        """Spread the words that wait, where the aligner cannot keep up with live speech."""
        session = self._stream.session
        if session.n_awaiting_words < _LATE_WORDS or self.pace > LIVE_PACE:
            return
        oldest = self.position if session.owed_from is None else session.owed_from
        if to_seconds(self.position - oldest) > _LATE_WORDS_S:
            logger.warning("session %s: the aligner cannot keep up; spreading words", self._name)
            self._stream.spread_words()
