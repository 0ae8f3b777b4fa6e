"""From the messages of a session to its transcript."""

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
            Segment(
                final.segment,
                final.start,
                final.end,
                final.language,
                final.text,
                self.words.get(final.segment, ()),
            )
            for final in self.finals
        )
        return Transcript(file, model, Samples(self.begin + self.n_read), segments)
