"""From an audio source to messages: the path of a file, on the same session core as live audio."""

import queue
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from streamasr.audio.source import AudioSource
from streamasr.config import RecognitionConfig
from streamasr.engine import Engine
from streamasr.errors import AudioError
from streamasr.events import Final as FinalText
from streamasr.events import Gap, Message, Partial, Publish, SessionEvent, Speech, Words
from streamasr.segmentation.chunker import Chunker
from streamasr.segmentation.vad import VoiceDetector
from streamasr.session.session import Session, SessionSettings
from streamasr.units import Samples, to_samples

MAX_UNFINISHED: Final = 4
"""Segments read ahead of the recogniser; what bounds the memory of a long file."""


@dataclass(frozen=True, slots=True)
class Progress:
    """So much audio has been read, and so much of it needs nothing more."""

    read: Samples
    done: Samples


def transcribe(
    engine: Engine, source: AudioSource, config: RecognitionConfig, *, begin: float = 0.0
) -> Iterator[Message | Progress]:
    """Recognise a source from beginning to end.

    Reading waits while `MAX_UNFINISHED` segments are being worked on. With partials on it also
    waits for each partial, so that the same file shows the same partials on any machine.

    Args:
        engine: started.
        source: where the audio comes from.
        config: as the engine's.
        begin: where in the file the source begins, in seconds; the times of messages count from
            the beginning of the file.

    Yields:
        Messages in the order of the protocol; `Progress` whenever there is some.

    Raises:
        AudioError: the source broke; raised after everything before it was recognised.
    """
    stream = _Stream(engine, config, to_samples(begin))
    broken: AudioError | None = None
    try:
        for block in source.blocks():
            yield from stream.take(stream.chunker.feed(block))
            yield stream.progress
            while stream.must_wait:
                yield from stream.answer()
                yield stream.progress
    except AudioError as error:
        broken = error
    yield from stream.take(stream.chunker.finish())
    while not stream.session.is_settled:
        yield from stream.answer()
        yield stream.progress
    if broken:
        raise broken


class _Stream:
    """A session wired to the engine: events go in, actions are performed, messages come out."""

    def __init__(self, engine: Engine, config: RecognitionConfig, begin: Samples) -> None:
        interval = config.partial_interval_s
        self.chunker = Chunker(config.chunker, VoiceDetector(config.vad))
        self.session = Session(
            SessionSettings(
                partial_interval=None if interval is None else to_samples(interval),
                wants_words=config.words,
            )
        )
        self._engine = engine
        self._begin = begin
        self._done = Samples(0)
        self._answers: queue.SimpleQueue[SessionEvent] = queue.SimpleQueue()

    @property
    def must_wait(self) -> bool:
        session = self.session
        return session.n_unfinished >= MAX_UNFINISHED or session.has_partial_in_flight

    @property
    def progress(self) -> Progress:
        read = self.chunker.position
        owed_from = self.session.owed_from
        # A segment's pre-roll begins where reading has already been, but nothing is undone by it.
        self._done = max(self._done, read if owed_from is None else owed_from)
        return Progress(read, self._done)

    def take(self, events: Iterable[SessionEvent]) -> Iterator[Message]:
        for event in events:
            for action in self.session.receive(event):
                if isinstance(action, Publish):
                    yield shifted(action.message, self._begin)
                else:
                    self._engine.perform(action, self._answers.put)
        while not self._answers.empty():
            yield from self.take([self._answers.get()])

    def answer(self) -> Iterator[Message]:
        """Wait for one answer of the engine."""
        yield from self.take([self._answers.get()])


def shifted(message: Message, by: Samples) -> Message:
    """The same message with all its times later by `by`."""
    match message:
        case Speech(start=start):
            return replace(message, start=Samples(start + by))
        case Partial(start=start, end=end) | FinalText(start=start, end=end):
            return replace(message, start=Samples(start + by), end=Samples(end + by))
        case Gap(start=start, end=end):
            return replace(message, start=Samples(start + by), end=Samples(end + by))
        case Words(words=words):
            moved = (
                replace(word, start=Samples(word.start + by), end=Samples(word.end + by))
                for word in words
            )
            return replace(message, words=tuple(moved))
