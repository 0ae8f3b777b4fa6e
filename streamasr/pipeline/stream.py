"""One audio stream on its way to text: chunker, session, and a channel of the engine.

Files and live audio share this path. It decides nothing: the chunker finds the segments, the
session gives the orders, the engine executes them. The owner of a stream calls it from one thread,
and hands the answers of the engine over with `receive`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from streamasr.core.events import Answer, Configured, FinalRestored, SessionEvent, StreamEnded
from streamasr.core.messages import Final
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Publish, SpreadWords
from streamasr.core.units import Float32Array, Samples
from streamasr.engine.ports import ChannelSource, Deliver
from streamasr.segmentation.chunker import FRAME, Chunker, Endpoint
from streamasr.segmentation.settings import ChunkerConfig, VadConfig
from streamasr.segmentation.vad import VoiceDetector
from streamasr.session.session import Published, Session, SessionSettings


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Settings for cutting and recognising streams."""

    vad: VadConfig = field(default_factory=VadConfig)
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)
    session: SessionSettings = field(default_factory=SessionSettings)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Position at which a stream begins: its first sample, or the one after a restart."""

    position: Samples = Samples(0)  # noqa: RUF009 - an int
    """Position of the first sample that will be fed."""
    border: Samples = Samples(0)  # noqa: RUF009 - an int
    """End of the newest segment; no other segment may reach into it."""
    n_segments: int = 0
    published: Published = field(default_factory=Published)


class Stream:
    """One stream that is being recognised."""

    def __init__(
        self,
        recogniser: ChannelSource,
        settings: StreamSettings,
        options: SessionOptions,
        deliver: Deliver,
        beginning: Beginning = Beginning(),
    ) -> None:
        """Begin a stream.

        Args:
            recogniser: started.
            settings: for all of the stream.
            options: until `configure` changes them.
            deliver: called on threads of the engine; must get its argument to `receive`.
            beginning: where.
        """
        self._detector = VoiceDetector(settings.vad)
        self._chunker = Chunker(
            settings.chunker,
            self._detector,
            position=beginning.position,
            border=beginning.border,
            n_segments=beginning.n_segments,
        )
        self._settings = settings
        self._chunker.configure(Endpoint.of(settings.chunker, options))
        self._session = Session(settings.session, options, beginning.published, recogniser.traits)
        self._channel = recogniser.channel(deliver)

    @property
    def position(self) -> Samples:
        """Return the position of the next sample."""
        return self._chunker.position

    @property
    def settled_until(self) -> Samples:
        """Return the position before which all audio is published or silent, and not needed."""
        owed_from, needed_from = self._session.owed_from, self._chunker.needed_from
        return needed_from if owed_from is None else min(owed_from, needed_from)

    def has_room(self, max_lag: Samples) -> bool:
        """Return True if more audio may be fed: less than `max_lag` waits to be recognised.

        A segment waits from its end on. An open segment does not wait, and ends when it becomes too
        long. So there is room again as soon as the owed finals are published, whatever `max_lag`
        is, and the stream keeps at most `max_lag` and the longest segment.
        """
        awaited_since = self._session.awaited_since
        return awaited_since is None or self.position - awaited_since < max_lag

    @property
    def session(self) -> Session:
        """Return the session."""
        return self._session

    def warm_up(self, samples: Float32Array) -> None:
        """Feed the voice detector whole frames from before the beginning."""
        for start in range(0, len(samples) - FRAME + 1, FRAME):
            self._detector(samples[start : start + FRAME])

    def feed(self, block: Float32Array) -> list[Publish]:
        """Take the next samples, (n,) float32; return what is to be published."""
        return self._take(self._chunker.feed(block))

    def skip(self, n_samples: Samples, reason: str) -> list[Publish]:
        """Skip samples that will never come."""
        return self._take(self._chunker.skip(n_samples, reason))

    def flush(self) -> list[Publish]:
        """End the open segment."""
        return self._take(self._chunker.flush())

    def finish(self) -> list[Publish]:
        """End the stream: no more audio comes, but answers still do."""
        events: list[SessionEvent] = list(self._chunker.finish())
        return self._take([*events, StreamEnded(self._chunker.position)])

    def configure(self, options: SessionOptions) -> list[Publish]:
        """Change the options from the next segment on; return what is to be published."""
        self._chunker.configure(Endpoint.of(self._settings.chunker, options))
        return self._take([Configured(options)])

    def restore(self, final: Final, samples: Float32Array) -> list[Publish]:
        """Order the words of a final that had none when the program ended."""
        return self._take([FinalRestored(final, samples)])

    def spread_words(self) -> None:
        """Spread the words of finals that the aligner has not begun with."""
        self._channel.perform(SpreadWords())

    def receive(self, answer: Answer) -> list[Publish]:
        """Take an answer of the engine."""
        return self._take([answer])

    def close(self) -> None:
        """Drop all orders; nothing is delivered any more."""
        self._channel.close()

    def _take(self, events: Iterable[SessionEvent]) -> list[Publish]:
        published: list[Publish] = []
        for event in events:
            for action in self._session.receive(event):
                if isinstance(action, Publish):
                    published.append(action)
                else:
                    self._channel.perform(action)
        return published
