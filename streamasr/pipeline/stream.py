"""One audio stream on its way to text: chunker, session, and a channel of the engine.

This is the path that files and live audio share. It decides nothing: the chunker says where
segments are, the session what is to be done, the engine does it. Whoever owns a stream calls it
from one thread, and hands over with `receive` what the engine has answered.
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
    """How streams are cut and recognised."""

    vad: VadConfig = field(default_factory=VadConfig)
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)
    session: SessionSettings = field(default_factory=SessionSettings)


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a stream begins: at its first sample, or where it was before a restart."""

    position: Samples = Samples(0)  # noqa: RUF009 - an int
    """Of the first sample that will be fed."""
    border: Samples = Samples(0)  # noqa: RUF009 - an int
    """End of the newest segment, which no other one may reach into."""
    n_segments: int = 0
    published: Published = field(default_factory=Published)


class Stream:
    """A stream that is being recognised."""

    def __init__(
        self,
        recogniser: ChannelSource,
        settings: StreamSettings,
        options: SessionOptions,
        deliver: Deliver,
        beginning: Beginning = Beginning(),
    ) -> None:
        """Begin.

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
        """Where the next sample belongs."""
        return self._chunker.position

    @property
    def settled_until(self) -> Samples:
        """All audio before is published, or judged silent, and needed no more."""
        owed_from, needed_from = self._session.owed_from, self._chunker.needed_from
        return needed_from if owed_from is None else min(owed_from, needed_from)

    def has_room(self, max_lag: Samples) -> bool:
        """Whether more audio may be fed: less than `max_lag` waits to be recognised.

        A segment waits from its end on; while it is open it is the one that is waited for, and it
        ends by itself when it becomes too long. So there is room again when the finals that are
        owed are out, whatever `max_lag` is, and no more is kept than it and the longest segment.
        """
        awaited_since = self._session.awaited_since
        return awaited_since is None or self.position - awaited_since < max_lag

    @property
    def session(self) -> Session:
        """What is owed."""
        return self._session

    def warm_up(self, samples: Float32Array) -> None:
        """Let the voice detector hear what came before the beginning, whole frames of it."""
        for start in range(0, len(samples) - FRAME + 1, FRAME):
            self._detector(samples[start : start + FRAME])

    def feed(self, block: Float32Array) -> list[Publish]:
        """Take the next samples, (n,) float32; what is to be published."""
        return self._take(self._chunker.feed(block))

    def skip(self, n_samples: Samples, reason: str) -> list[Publish]:
        """Leave out samples that will never come."""
        return self._take(self._chunker.skip(n_samples, reason))

    def flush(self) -> list[Publish]:
        """End the open segment."""
        return self._take(self._chunker.flush())

    def finish(self) -> list[Publish]:
        """End the stream: no more audio comes; answers still do."""
        events: list[SessionEvent] = list(self._chunker.finish())
        return self._take([*events, StreamEnded(self._chunker.position)])

    def configure(self, options: SessionOptions) -> list[Publish]:
        """Change the options from the next segment on; return what is to be published."""
        self._chunker.configure(Endpoint.of(self._settings.chunker, options))
        return self._take([Configured(options)])

    def restore(self, final: Final, samples: Float32Array) -> list[Publish]:
        """Have the words found that a final lacked when the program ended."""
        return self._take([FinalRestored(final, samples)])

    def spread_words(self) -> None:
        """Wait no longer for words that the aligner has not begun with."""
        self._channel.perform(SpreadWords())

    def receive(self, answer: Answer) -> list[Publish]:
        """Take what the engine delivered."""
        return self._take([answer])

    def close(self) -> None:
        """Forget what has not been done yet."""
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
