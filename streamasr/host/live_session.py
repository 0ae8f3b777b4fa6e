"""A live session: its stream, its readers, and what of it is on disk.

    samples -> intake -> spool, stream -> messages -> publisher -> journal -> readers

Everything here happens on the event loop's thread; only the engine's answers come from others.
"""

import asyncio
import logging
from typing import Final

from streamasr.core.events import Answer
from streamasr.core.messages import Final as FinalText
from streamasr.core.notices import Notice
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Publish
from streamasr.core.units import Float32Array, Samples, to_samples, to_seconds
from streamasr.engine.ports import ChannelSource
from streamasr.host.archive import Archive
from streamasr.host.intake import Intake
from streamasr.host.latency import LatencyMeter, Observer
from streamasr.host.publisher import Publisher
from streamasr.pipeline.stream import Beginning, Stream, StreamSettings

logger = logging.getLogger(__name__)

_KEPT_BEFORE: Final = to_samples(10.0)
"""Audio that stays in the spool although it is settled: after a restart the voice detector learns
the noise from it."""

_SETTLE_EVERY: Final = to_samples(5.0)


class LiveSession:
    """A session of the daemon, from its first sample until its end was published."""

    def __init__(
        self,
        name: str,
        options: SessionOptions,
        *,
        recogniser: ChannelSource,
        settings: StreamSettings,
        archive: Archive,
        observer: Observer,
        beginning: Beginning,
        journal_timeout_s: float = 2.0,
    ) -> None:
        """Begin a session, or continue one.

        Args:
            name: of the session.
            options: until `configure` changes them.
            recogniser: started.
            settings: for all of the session.
            archive: started.
            observer: receives the measurements.
            beginning: position to begin at, and what was published before it.
            journal_timeout_s: the longest wait for the journal before a message goes out.
        """
        self.name = name
        self.options = options
        self.notice: str | None = None
        """Sentence about options that have no effect, for each new reader."""
        self._loop = asyncio.get_running_loop()
        self._archive = archive
        self._settled = beginning.position
        self._latency = LatencyMeter(observer)
        self._stream = Stream(recogniser, settings, options, self._deliver, beginning)
        self.publisher = Publisher(
            name,
            archive,
            seq=beginning.published.seq,
            stable_text=beginning.published.stable,
            stable_text_of=self._stream.session.stable_text,
            journal_timeout_s=journal_timeout_s,
        )
        self.intake = Intake(name, self._stream, archive, self._latency, self._publish)

    @property
    def is_over(self) -> asyncio.Event:
        """Set when `End` was published."""
        return self.publisher.is_over

    @property
    def lag(self) -> Samples:
        """Finished speech whose text is still owed."""
        return Samples(self._stream.session.n_waiting_samples)

    @property
    def lag_s(self) -> float:
        """Seconds of finished speech whose text is still owed."""
        return to_seconds(self.lag)

    @property
    def is_settled(self) -> bool:
        """All text and words of the audio so far were published."""
        return self._stream.session.is_settled and self.publisher.is_idle

    def configure(self, options: SessionOptions) -> None:
        """Change the options, from the next segment on."""
        self.options = options
        self._publish(self._stream.configure(options))

    def warm_up(self, samples: Float32Array) -> None:
        """Show the voice detector audio that was settled before the first samples."""
        self._stream.warm_up(samples)

    def restore(self, final: FinalText, samples: Float32Array) -> None:
        """Find the words that a final still lacked before a restart."""
        self._publish(self._stream.restore(final, samples))

    def mark_over(self) -> None:
        """Note that the end was published before a restart."""
        self.intake.is_finishing = True
        self.publisher.end()

    def notify(self, code: str, message: str) -> None:
        """Give a notice to the present readers.

        Args:
            code: one of `NoticeCode`.
            message: one sentence for people.
        """
        self.publisher.notify(Notice(code, message, self.lag))

    def close(self) -> None:
        """Drop the orders that have not been executed yet."""
        self._stream.close()

    def _deliver(self, answer: Answer) -> None:
        """Bring an answer of the engine from its thread to the event loop's."""
        try:
            self._loop.call_soon_threadsafe(self._receive, answer)
        except RuntimeError:  # the loop is closed, and with it every reader
            logger.debug("session %s: an answer came after the end", self.name)

    def _receive(self, answer: Answer) -> None:
        self._latency.answered(answer)
        self._publish(self._stream.receive(answer))
        self.intake.progressed()

    def _publish(self, published: list[Publish]) -> None:
        for action in published:
            self._latency.published(action.message, self._loop.time())
            self.publisher.publish(action)
        self.publisher.send_pending()
        self._settle()

    def _settle(self) -> None:
        settled = self._stream.settled_until
        self._latency.arrivals.forget_before(settled)
        if settled - self._settled >= _SETTLE_EVERY:
            self._settled = settled
            self._archive.settle(self.name, Samples(max(0, settled - _KEPT_BEFORE)))
