"""From the messages of a session to segments and transcripts."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from streamasr.core.messages import Final, Gap, Message, Words
from streamasr.core.transcript import Segment, Transcript, Word
from streamasr.core.units import Samples
from streamasr.pipeline.transcribe import Progress


@dataclass(slots=True)
class Collector:
    """Collects the messages of one file into a transcript."""

    begin: Samples
    """Position in the file of the first sample; times of messages count from the file's start."""
    finals: list[Final] = field(default_factory=list)
    words: dict[int, tuple[Word, ...]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)
    n_read: Samples = field(default_factory=lambda: Samples(0))

    def take(self, message: Message | Progress) -> None:
        """Keep finals, words and gaps; other messages are of the moment."""
        match message:
            case Progress(read=read):
                self.n_read = read
            case Final():
                if message.text:
                    self.finals.append(message)
            case Words(segment=number, words=words):
                self.words[number] = words
            case Gap():
                self.gaps.append(message)
            case _:
                pass

    def transcript(self, file: str, model: str) -> Transcript:
        """Return the transcript so far; its duration ends where reading has got to in the file."""
        segments = tuple(
            segment_of(final, self.words.get(final.segment, ())) for final in self.finals
        )
        return Transcript(file, model, Samples(self.begin + self.n_read), segments)


def segment_of(final: Final, words: tuple[Word, ...]) -> Segment:
    """Return a final with its words."""
    return Segment(final.segment, final.start, final.end, final.language, final.text, words)


def complete_segments(
    messages: Iterable[Message | Progress], *, wants_words: bool
) -> Iterator[Segment | Gap]:
    """Yield segments in order, each as soon as it is complete.

    Args:
        messages: of a session.
        wants_words: whether a segment with text is complete only with its words.

    Yields:
        Segments that have text, and gaps where audio was not recognised.
    """
    waiting: deque[Final] = deque()
    words: dict[int, tuple[Word, ...]] = {}
    for message in messages:
        match message:
            case Final() if message.text:
                waiting.append(message)
            case Words():
                words[message.segment] = message.words
            case Gap():
                yield message
        while waiting and (not wants_words or waiting[0].segment in words):
            final = waiting.popleft()
            yield segment_of(final, words.pop(final.segment, ()))
    for final in waiting:
        yield segment_of(final, words.get(final.segment, ()))
