"""`streamasr transcribe`: files in, text, JSON or subtitles out."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamasr.audio.file import open_audio
from streamasr.audio.raw import RawAudio
from streamasr.audio.source import AudioSource
from streamasr.cli.console import ProgressBar, WatchView
from streamasr.cli.engine_options import file_model, finder_of
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.cli.stderr import complain, warn
from streamasr.config.file import find_config, load_config
from streamasr.core.errors import AudioError, ConfigError, OutputError
from streamasr.core.messages import Final, Gap
from streamasr.core.transcript import Transcript
from streamasr.core.units import to_samples, to_seconds
from streamasr.engine.build import engine_config
from streamasr.engine.config import EngineConfig
from streamasr.engine.engine import LocalEngine
from streamasr.engine.ports import Trouble
from streamasr.models import tiny
from streamasr.pipeline.collect import Collector
from streamasr.pipeline.formats import format_transcript, write_whole
from streamasr.pipeline.transcribe import FileSettings, Progress, transcribe
from streamasr.segmentation.settings import ChunkerConfig, VadConfig
from streamasr.writing.numbers import normalise_segments, normalise_text

STDIN = "-"
_WATCH_INTERVAL_S = 0.5


def run_transcribe(options: argparse.Namespace) -> int:
    """Transcribe every file; 0, or 1 when some input failed.

    Raises:
        ConfigError, ModelError: nothing can be transcribed this way.
    """
    config = engine_of(options)
    settings = file_settings(options, config)
    if options.model is None and config.model == tiny.BUNDLE:
        print(f"streamasr: {tiny.WARNING}", file=sys.stderr)
    outputs = output_paths(options.files, options.formats, options.output_dir)
    failed = False
    with LocalEngine(config, on_trouble=tell_degraded) as engine:
        for name in options.files:
            try:
                _transcribe_one(engine, settings, options, name, outputs[name])
            except (AudioError, OutputError) as error:
                complain(error)
                failed = True
    return EXIT_INPUT_FAILED if failed else 0


def engine_of(options: argparse.Namespace) -> EngineConfig:
    """Return the configuration of the engine.

    The command line goes before the file of settings.
    """
    settings = load_config(find_config())
    model = file_model(options, settings.model)
    return engine_config(
        model, finder_of(settings), words=not options.no_words, partials=options.watch
    )


def file_settings(options: argparse.Namespace, engine: EngineConfig) -> FileSettings:
    """Return how files are cut and recognised."""
    vad, chunker = (
        VadConfig(**_given(options, VadConfig)),
        ChunkerConfig(**_given(options, ChunkerConfig)),
    )
    return FileSettings(engine.options, vad, chunker, _WATCH_INTERVAL_S)


def tell_degraded(trouble: Trouble, sentence: str) -> None:
    """Say on stderr what is not as it was asked to be; the rest is in the log."""
    if trouble == "degraded":
        warn(sentence)


def output_paths(
    files: list[str], formats: list[str], directory: Path | None
) -> dict[str, list[tuple[str, Path]]]:
    """Where each input's formats are written; nothing without a directory.

    Inputs of one name but for their ending keep the ending, so that none overwrites another.

    Raises:
        ConfigError: the directory cannot be made, or two inputs have the same name.
    """
    if directory is None:
        return {name: [] for name in files}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}.") from error
    stems = ["stdin" if name == STDIN else Path(name).stem for name in files]
    names = [
        stem if stems.count(stem) == 1 else Path(name).name
        for name, stem in zip(files, stems, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two inputs are called {name}; transcribe them into different directories."
            )
    return {
        file: [(kind, directory / f"{name}.{kind}") for kind in formats]
        for file, name in zip(files, names, strict=True)
    }


def _given(
    options: argparse.Namespace, settings: type[VadConfig | ChunkerConfig]
) -> dict[str, Any]:
    """The settings of this kind that were named on the command line."""
    values = ((name, getattr(options, name, None)) for name in settings.__struct_fields__)
    return {name: value for name, value in values if value is not None}


def _transcribe_one(
    engine: LocalEngine,
    settings: FileSettings,
    options: argparse.Namespace,
    name: str,
    outputs: list[tuple[str, Path]],
) -> None:
    collector = Collector(to_samples(options.start))
    broken: AudioError | None = None
    watch = WatchView() if options.watch else None
    prints_text = not watch and not outputs and options.formats == ["txt"]
    with _open(name, options) as source, ProgressBar(name, source.duration, watch is None) as bar:
        try:
            for message in transcribe(engine, source, settings, begin=options.start):
                collector.take(message)
                if isinstance(message, Progress):
                    bar.show(to_seconds(message.done))
                elif watch:
                    watch.show(message)
                elif prints_text and isinstance(message, Final) and message.text:
                    print(_written(message, options), flush=True)
        except AudioError as error:
            broken = error  # what came before it was recognised, and is kept
    transcript = _in_digits(collector.transcript(_as_text(name), engine.bundle.name), options)
    for kind, path in outputs:
        _write(path, format_transcript(transcript, kind))
    if not (outputs or watch or prints_text):
        sys.stdout.write(format_transcript(transcript, options.formats[0]))
        sys.stdout.flush()
    if broken:
        raise broken
    if collector.gaps:
        raise AudioError(_describe_gaps(name, collector.gaps))


def _in_digits(transcript: Transcript, options: argparse.Namespace) -> Transcript:
    """A transcript with its numbers as they were asked for."""
    if not options.itn:
        return transcript
    return replace(transcript, segments=normalise_segments(transcript.segments))


def _written(final: Final, options: argparse.Namespace) -> str:
    """The text of a final as it was asked for."""
    return normalise_text(final.text, final.language) if options.itn else final.text


def _as_text(name: str) -> str:
    """A file name as text: names on Linux may be bytes that are no UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def _open(name: str, options: argparse.Namespace) -> Iterator[AudioSource]:
    if name == STDIN:
        yield RawAudio(sys.stdin.buffer, start=options.start, duration=options.duration)
        return
    with open_audio(Path(name), start=options.start, duration=options.duration) as file:
        yield file


def _describe_gaps(name: str, gaps: list[Gap]) -> str:
    where = ", ".join(f"{to_seconds(gap.start):.1f}-{to_seconds(gap.end):.1f} s" for gap in gaps)
    return f"{name}: not recognised: {where}: {gaps[0].reason}"
