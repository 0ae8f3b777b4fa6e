"""From an audio source to messages: the path of a file, on the same session core as live audio."""

import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from streamasr.audio.source import AudioSource
from streamasr.core.errors import AudioError, WorkerError
from streamasr.core.events import Answer
from streamasr.core.messages import End, Gap, Message, Partial, Speech, Words
from streamasr.core.messages import Final as FinalText
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Publish
from streamasr.core.units import Samples, to_samples
from streamasr.engine.ports import ChannelSource
from streamasr.pipeline.stream import Stream, StreamSettings
from streamasr.segmentation.settings import ChunkerConfig, VadConfig
from streamasr.session.session import SessionSettings

_CHECK_S: Final = 0.5
"""Seconds without an answer after which a run checks whether its engine was stopped."""

MAX_UNFINISHED: Final = 4
"""Segments read ahead of the recogniser; what bounds the memory of a long file."""


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Settings for the recognition of a file."""

    options: SessionOptions = SessionOptions(partials=False)  # noqa: RUF009 - frozen
    vad: VadConfig = field(default_factory=VadConfig)
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)
    partial_interval_s: float = 0.5
    """Seconds of new audio between two partials, if the options want any."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Positions in the audio: up to `read` it has been read, up to `done` it is recognised."""

    read: Samples
    done: Samples


def transcribe(
    engine: ChannelSource,
    source: AudioSource,
    settings: FileSettings,
    *,
    begin: float = 0.0,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Message | Progress]:
    """Recognise a source from beginning to end.

    Reading waits while `MAX_UNFINISHED` segments are being worked on. With partials on it also
    waits for each partial and final, so that the same file shows the same partials on any machine.

    Args:
        engine: a started engine.
        source: of the audio.
        settings: options of the session, and how speech is cut.
        begin: where in the file the source begins, in seconds; the times of messages count from
            the beginning of the file.
        is_stopped: says whether the engine was stopped meanwhile, if another thread may do that.

    Yields:
        Messages in the order of the protocol; `Progress` whenever there is some.

    Raises:
        AudioError: the source broke off; raised after the audio before was recognised.
        WorkerError: the engine was stopped before the end.
    """
    run = _Run(engine, settings, to_samples(begin), is_stopped)
    try:
        yield from _recognise(run, source)
    finally:
        run.stream.close()


def _recognise(run: "_Run", source: AudioSource) -> Iterator[Message | Progress]:
    broken: AudioError | None = None
    try:
        for block in source.blocks():
            yield from run.take(run.stream.feed(block))
            yield run.progress
            while run.must_wait:
                yield from run.answer()
                yield run.progress
    except AudioError as error:
        broken = error
    yield from run.take(run.stream.finish())
    while not run.stream.session.is_settled:
        yield from run.answer()
        yield run.progress
    if broken:
        raise broken


class _Run:
    """Stream of a file, whose reader waits for the engine."""

    def __init__(
        self,
        engine: ChannelSource,
        settings: FileSettings,
        begin: Samples,
        is_stopped: Callable[[], bool],
    ) -> None:
        session = SessionSettings(
            partial_interval=to_samples(settings.partial_interval_s),
            partial_load=None,
            commit=None,
            speculates=False,  # a file has no listener who waits
        )
        stream = StreamSettings(settings.vad, settings.chunker, session)
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.stream = Stream(engine, stream, settings.options, self._answers.put)
        self._begin = begin
        self._is_stopped = is_stopped
        self._shows_partials = settings.options.partials
        self._done = Samples(0)

    @property
    def must_wait(self) -> bool:
        session = self.stream.session
        if self._shows_partials and session.n_waiting_samples:
            return True  # the next partial is due after this final
        return session.n_unfinished >= MAX_UNFINISHED or session.has_partial_in_flight

    @property
    def progress(self) -> Progress:
        read = self.stream.position
        owed_from = self.stream.session.owed_from
        # The pre-roll of a segment begins in audio that was done already; progress never falls.
        self._done = max(self._done, read if owed_from is None else owed_from)
        return Progress(read, self._done)

    def take(self, published: Iterable[Publish]) -> Iterator[Message]:
        """Yield messages with times of the file, and those that have become ready."""
        for action in published:
            if not isinstance(action.message, End):
                yield shifted(action.message, self._begin)
        while not self._answers.empty():
            yield from self.answer()

    def answer(self) -> Iterator[Message]:
        """Wait for one answer of the engine; yield its messages."""
        while True:
            try:
                answer = self._answers.get(timeout=_CHECK_S)
                break
            except queue.Empty:
                if self._is_stopped():
                    message = "the engine was stopped before the end of the audio."
                    raise WorkerError(message, code="engine_stopped") from None
        yield from self.take(self.stream.receive(answer))


def shifted(message: Message, by: Samples) -> Message:
    """Return the message with all its times later by `by`."""
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
        case End(duration=duration):
            return replace(message, duration=Samples(duration + by))
