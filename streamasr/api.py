"""Interface for Python programs: from audio to segments of text with times.

    for segment in transcribe("talk.mp3", model="tiny"):
        print(segment.start, segment.end, segment.text)

Everything is synchronous, times are seconds, and errors are subclasses of `StreamASRError`. Models
run in child processes, which end with the loop, or with the `Transcriber`.
"""

import logging
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from streamasr.core.errors import AudioError, StreamASRError
from streamasr.core.messages import Gap

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from streamasr.audio.source import AudioSource
    from streamasr.core.transcript import Segment as SampledSegment
    from streamasr.engine.engine import LocalEngine
    from streamasr.pipeline.transcribe import FileSettings

logger = logging.getLogger(__name__)

Source: TypeAlias = "str | os.PathLike[str] | npt.NDArray[np.float32]"
"""Path of an audio or video file, or (n,) mono samples at 16 kHz, -1..1."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, in Chinese and Japanese a character, with its times."""

    text: str
    """The word as written, with its punctuation."""
    start: float
    """Seconds from the beginning of the file."""
    end: float
    confidence: float | None
    """Confidence in the times, 0..1; None where they are spread evenly over the segment."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Speech between two pauses."""

    text: str
    start: float
    """Seconds from the beginning of the file."""
    end: float
    language: str | None
    """English name of the language."""
    words: tuple[Word, ...]
    """Words with their times; empty if they were not asked for."""


def transcribe(
    source: Source,
    *,
    model: str | os.PathLike[str] | None = None,
    aligner: str | os.PathLike[str] | None = None,
    punctuation: str | os.PathLike[str] | None = None,
    language: str | None = None,
    languages: Iterable[str] = (),
    context: str = "",
    hotwords: Iterable[str] = (),
    words: bool = True,
    threads: int | None = None,
    gpu: str | int | None = None,
    gpu_layers: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
) -> Iterator[Segment]:
    """Recognise a file or an array of samples, segment by segment.

    Models are loaded at the first step of the loop and their processes end with the loop, also when
    it is left early. For several files, a `Transcriber` loads them once.

    Args:
        source: path of an audio or video file, or (n,) float32 mono samples at 16 kHz, -1..1.
        model: name or path of a model; default: that of the settings.
        aligner: name or path of a forced aligner, or "none"; default: one that suits the model.
        punctuation: name or path of a model that punctuates the texts of models that do not, or
            "none"; default: an installed one.
        language: language to force, by name or code; default: detected.
        languages: languages that the detection chooses among; default: all of the model's.
        context: text with names and terms that may come up.
        hotwords: names and terms that are likely.
        words: whether segments get word times.
        threads: threads of each stage; default: one per core.
        gpu: GPU to use, by number or name; default: that of the settings.
        gpu_layers: layers of the decoder on a GPU; -1 for all, 0 for none.
        start: seconds into the audio where recognition begins.
        duration: seconds of audio to recognise; default: all.

    Yields:
        Segments that have text, in order.

    Raises:
        ConfigError: an argument or a setting cannot be used.
        ModelError: the model is missing or cannot be used.
        AudioError: the audio cannot be read, or part of it was not recognised; raised after the
            recognised segments.
        WorkerError: a process of the engine keeps dying.
    """
    with Transcriber(
        model,
        aligner=aligner,
        punctuation=punctuation,
        language=language,
        languages=languages,
        context=context,
        hotwords=hotwords,
        words=words,
        threads=threads,
        gpu=gpu,
        gpu_layers=gpu_layers,
    ) as transcriber:
        yield from transcriber.transcribe(source, start=start, duration=duration)


class Transcriber:
    """A loaded model, for any number of files; may be used from several threads.

    It is a context manager: leaving it, or `close`, ends its processes.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        aligner: str | os.PathLike[str] | None = None,
        punctuation: str | os.PathLike[str] | None = None,
        language: str | None = None,
        languages: Iterable[str] = (),
        context: str = "",
        hotwords: Iterable[str] = (),
        words: bool = True,
        threads: int | None = None,
        gpu: str | int | None = None,
        gpu_layers: int | None = None,
    ) -> None:
        """Prepare; entering the context or the first `transcribe` loads the model.

        The arguments are those of `streamasr.transcribe`.
        """
        self._overrides = {
            "name": None if model is None else os.fspath(model),
            "aligner": None if aligner is None else os.fspath(aligner),
            "punctuation": None if punctuation is None else os.fspath(punctuation),
            "language": language,
            "languages": tuple(languages),
            "context": context,
            "hotwords": tuple(hotwords),
            "threads": threads,
            "gpu": gpu,
            "gpu_layers": gpu_layers,
        }
        self._wants_words = words
        self._lock = threading.Lock()
        self._loaded: tuple[LocalEngine, FileSettings] | None = None
        self._is_closed = False
        self._stop: weakref.finalize[Any, Any] | None = None

    def __enter__(self) -> Self:
        self._load()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes of the model. Loops in other threads then raise `WorkerError`."""
        with self._lock:
            self._is_closed = True
            if self._stop:
                self._stop()
            self._loaded = None

    def transcribe(
        self, source: Source, *, start: float = 0.0, duration: float | None = None
    ) -> Iterator[Segment]:
        """Recognise a file or an array of samples; see `streamasr.transcribe`."""
        from streamasr.pipeline.collect import complete_segments
        from streamasr.pipeline.transcribe import transcribe

        engine, settings = self._load()
        gaps: list[Gap] = []
        with _opened(source, start, duration) as audio:
            messages = transcribe(
                engine, audio, settings, begin=start, is_stopped=lambda: self._is_closed
            )
            for part in complete_segments(messages, wants_words=self._wants_words):
                if isinstance(part, Gap):
                    gaps.append(part)
                else:
                    yield _in_seconds(part)
        if gaps:
            raise AudioError(_describe(source, gaps), code="audio_not_recognised")

    def _load(self) -> "tuple[LocalEngine, FileSettings]":
        """Return the engine, started, and the settings of files."""
        with self._lock:
            if self._is_closed:
                raise StreamASRError("this Transcriber is closed.", code="closed")
            if self._loaded is None:
                self._loaded = self._start()
            return self._loaded

    def _start(self) -> "tuple[LocalEngine, FileSettings]":
        from streamasr.catalogue.find import Finder
        from streamasr.config.file import find_config, load_config
        from streamasr.engine.build import engine_config
        from streamasr.engine.engine import LocalEngine
        from streamasr.pipeline.transcribe import FileSettings

        settings = load_config(find_config())
        finder = Finder(settings.storage.models, settings.models, logger.info)
        overrides = {name: value for name, value in self._overrides.items() if value is not None}
        config = engine_config(
            settings.model.for_files(overrides), finder, words=self._wants_words, partials=False
        )
        engine = LocalEngine(config)
        self._stop = weakref.finalize(self, engine.stop)
        try:
            engine.start()
        except BaseException:
            self._stop()
            raise
        return engine, FileSettings(config.options)


@contextmanager
def _opened(source: Source, start: float, duration: float | None) -> "Iterator[AudioSource]":
    from streamasr.audio.array import SampleArray
    from streamasr.audio.file import open_audio

    if isinstance(source, str | os.PathLike):
        with open_audio(Path(source), start=start, duration=duration) as file:
            yield file
    else:
        yield SampleArray(source, start=start, duration=duration)


def _in_seconds(segment: "SampledSegment") -> Segment:
    from streamasr.core.transcript import seconds

    words = tuple(
        Word(word.text, seconds(word.start), seconds(word.end), word.confidence)
        for word in segment.words
    )
    start, end = seconds(segment.start), seconds(segment.end)
    return Segment(segment.text, start, end, segment.language, words)


def _describe(source: Source, gaps: list[Gap]) -> str:
    from streamasr.core.transcript import seconds

    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the samples"
    where = ", ".join(f"{seconds(gap.start):.1f}-{seconds(gap.end):.1f} s" for gap in gaps)
    return f"{name}: not recognised: {where}: {gaps[0].reason}"
