"""`streamasr transcribe`: files in; text, JSON or subtitles out."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamasr.cli.arguments import (
    ENCODER_WINDOWS,
    add_aligner,
    add_gpu,
    add_languages,
    add_model,
    add_no_reuse,
    add_punctuation,
    add_threads,
    add_verbose,
    length,
    number,
    seconds,
)
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.cli.stderr import complain, note, warn
from streamasr.core.errors import AudioError, ConfigError, OutputError

if TYPE_CHECKING:
    from streamasr.audio.source import AudioSource
    from streamasr.core.messages import Final as FinalText
    from streamasr.core.messages import Gap
    from streamasr.core.transcript import Transcript
    from streamasr.engine.config import EngineConfig
    from streamasr.engine.engine import LocalEngine
    from streamasr.engine.ports import Trouble
    from streamasr.pipeline.transcribe import FileSettings
    from streamasr.segmentation.settings import ChunkerConfig, VadConfig

STDIN: Final = "-"
FORMATS: Final = ("txt", "json", "srt", "vtt")

SEGMENTATION_HELP: Final = {
    "pre_roll": "seconds of audio kept before speech; default 0.3",
    "hangover": "seconds of silence that end a segment; default 0.6",
    "trailing_silence": "seconds of that silence that stay in the segment; default 0.2",
    "min_speech": "seconds of speech below which a noise is ignored; default 0.2",
    "max_segment": "seconds after which a segment is cut at a quiet place; default 24",
    "cut_search": "seconds before that in which the quiet place is searched; default 5",
    "minimum_db": "level below which nothing is speech, dB of full scale; default -80",
    "noise_db": "level that steady noise is brought to before it is judged; default -42",
    "floor_window": "seconds after which a steady sound counts as noise; default 3",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "Turn audio and video files into text, while they are being read."
    add_verbose(parser)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="any audio or video file; - reads raw 16-bit little-endian mono at 16 kHz from stdin",
    )
    add_model(parser)
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        dest="formats",
        help="default: txt; may be given several times with --output-dir",
    )
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="write a file per input and format into DIR"
    )
    add_languages(parser)
    parser.add_argument(
        "--context",
        default="",
        metavar="TEXT",
        help="names and terms that may come up, for models that take them",
    )
    add_aligner(parser)
    add_punctuation(parser)
    parser.add_argument("--no-words", action="store_true", help="leave out the times of words")
    parser.add_argument(
        "--itn",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="write Chinese and English numbers in digits",
    )
    parser.add_argument(
        "--start", type=seconds, default=0.0, metavar="S", help="begin S seconds into the audio"
    )
    parser.add_argument(
        "--duration", type=length, default=None, metavar="S", help="stop after S seconds of audio"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show partials, finals and words as they come, instead of a format",
    )
    _add_tuning(parser)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    tuning = parser.add_argument_group("tuning")
    add_threads(tuning)
    add_gpu(tuning)
    tuning.add_argument(
        "--provider",
        action="append",
        dest="providers",
        metavar="NAME",
        help="onnxruntime execution provider, in order of preference; default CPUExecutionProvider",
    )
    tuning.add_argument(
        "--aggressiveness",
        type=int,
        choices=range(4),
        metavar="N",
        help="how much noise the voice detector rejects, from 0 (least) to 3; default 1",
    )
    tuning.add_argument(
        "--encoder-window",
        type=int,
        choices=ENCODER_WINDOWS,
        metavar="S",
        help="seconds of audio that the encoder attends to at once: 1, 2, 4 or 8; default 8",
    )
    for name, text in SEGMENTATION_HELP.items():
        tuning.add_argument(
            f"--{name.replace('_', '-')}", type=number, dest=name, metavar="X", help=text
        )
    add_no_reuse(parser)


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse arguments that contradict each other; ends the program with a sentence and code 2."""
    if options.watch and (options.formats or options.output_dir):
        parser.error("--watch shows text instead of writing it: no --format, no --output-dir")
    if len({*(options.formats or [])}) > 1 and options.output_dir is None:
        parser.error("stdout holds one format: choose one, or name an --output-dir for all of them")
    if options.files.count(STDIN) > 1:
        parser.error("stdin (-) can be read only once")


def run(options: argparse.Namespace) -> int:
    """Transcribe every file; return 0, or 1 when some input failed.

    Raises:
        ConfigError: a setting or an option cannot be used.
        ModelError: the model cannot be used.
    """
    from streamasr.engine.engine import LocalEngine
    from streamasr.models import tiny

    config = engine_of(options)
    settings = file_settings(options, config)
    if options.model is None and config.model == tiny.BUNDLE:
        note(tiny.WARNING)
    outputs = output_paths(options.files, formats_of(options), options.output_dir)
    failed = False
    with LocalEngine(config, on_trouble=warn_of) as engine:
        for name in options.files:
            try:
                _transcribe_one(engine, settings, options, name, outputs[name])
            except (AudioError, OutputError) as error:
                complain(error)
                failed = True
    return EXIT_INPUT_FAILED if failed else 0


def formats_of(options: argparse.Namespace) -> list[str]:
    """Return the formats that were asked for, each once."""
    return list(dict.fromkeys(options.formats or FORMATS[:1]))


def engine_of(options: argparse.Namespace) -> "EngineConfig":
    """Return the configuration of the engine; the command line overrides the file of settings.

    Raises:
        ConfigError: a setting or an option cannot be used.
        ModelError: the model or the aligner is missing or cannot be used.
    """
    from streamasr.cli.engine_options import finder_of, model_overrides
    from streamasr.config.file import find_config, load_config
    from streamasr.engine.build import engine_config

    settings = load_config(find_config())
    model = settings.model.for_files(model_overrides(options))
    return engine_config(
        model, finder_of(settings), words=not options.no_words, partials=options.watch
    )


def file_settings(options: argparse.Namespace, engine: "EngineConfig") -> "FileSettings":
    """Return the settings for the recognition of each file.

    Raises:
        ConfigError: an option is out of range.
    """
    from streamasr.pipeline.transcribe import FileSettings
    from streamasr.segmentation.settings import ChunkerConfig, VadConfig

    vad = VadConfig(**_given(options, VadConfig))
    return FileSettings(engine.options, vad, ChunkerConfig(**_given(options, ChunkerConfig)))


def _given(
    options: argparse.Namespace, settings: "type[VadConfig | ChunkerConfig]"
) -> dict[str, Any]:
    """Return the settings of a kind that were named on the command line."""
    values = ((name, getattr(options, name, None)) for name in settings.__struct_fields__)
    return {name: value for name, value in values if value is not None}


def warn_of(trouble: "Trouble", sentence: str) -> None:
    """Print a deviation from what was asked for on stderr; other trouble is in the log."""
    if trouble == "degraded":
        warn(sentence)


def output_paths(
    files: list[str], formats: list[str], directory: Path | None
) -> dict[str, list[tuple[str, Path]]]:
    """Return the formats of each input with their paths; empty lists without a directory.

    Inputs of one name but for their suffix keep the suffix, so that none overwrites another.

    Raises:
        ConfigError: the directory cannot be made, or two inputs have the same name.
    """
    if directory is None:
        return {name: [] for name in files}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sentence = f"{directory} cannot be made: {error.strerror}."
        raise ConfigError(sentence, code="directory_not_made") from error
    stems = ["stdin" if name == STDIN else Path(name).stem for name in files]
    names = [
        stem if stems.count(stem) == 1 else Path(name).name
        for name, stem in zip(files, stems, strict=True)
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two inputs are called {name}; transcribe them into different directories.",
                code="inputs_with_one_name",
            )
    return {
        file: [(kind, directory / f"{name}.{kind}") for kind in formats]
        for file, name in zip(files, names, strict=True)
    }


def _transcribe_one(
    engine: "LocalEngine",
    settings: "FileSettings",
    options: argparse.Namespace,
    name: str,
    outputs: list[tuple[str, Path]],
) -> None:
    from streamasr.cli.console import ProgressBar, WatchView
    from streamasr.core.messages import Final as FinalText
    from streamasr.core.units import to_samples, to_seconds
    from streamasr.pipeline.collect import Collector
    from streamasr.pipeline.formats import format_transcript, write_transcript
    from streamasr.pipeline.transcribe import Progress, transcribe

    collector = Collector(to_samples(options.start))
    broken: AudioError | None = None
    watch = WatchView() if options.watch else None
    formats = formats_of(options)
    prints_text = not watch and not outputs and formats == ["txt"]
    with _open(name, options) as source, ProgressBar(name, source.duration, watch is None) as bar:
        try:
            for message in transcribe(engine, source, settings, begin=options.start):
                collector.take(message)
                if isinstance(message, Progress):
                    bar.show(to_seconds(message.done))
                elif watch:
                    watch.show(message)
                elif prints_text and isinstance(message, FinalText) and message.text:
                    print(_text_of(message, options), flush=True)
        except AudioError as error:
            broken = error  # what came before it was recognised, and is kept
    transcript = _in_digits(collector.transcript(_as_text(name), engine.bundle.name), options)
    for kind, path in outputs:
        write_transcript(path, transcript, kind)
    if not (outputs or watch or prints_text):
        sys.stdout.write(format_transcript(transcript, formats[0]))
        sys.stdout.flush()
    if broken:
        raise broken
    if collector.gaps:
        raise AudioError(_describe_gaps(name, collector.gaps), code="audio_not_recognised")


def _in_digits(transcript: "Transcript", options: argparse.Namespace) -> "Transcript":
    """Return a transcript with its numbers as they were asked for."""
    if not options.itn:
        return transcript
    from dataclasses import replace

    from streamasr.writing.numbers import normalise_segments

    return replace(transcript, segments=normalise_segments(transcript.segments))


def _text_of(final: "FinalText", options: argparse.Namespace) -> str:
    """Return the text of a final with its numbers as they were asked for."""
    if not options.itn:
        return final.text
    from streamasr.writing.numbers import normalise_text

    return normalise_text(final.text, final.language)


def _as_text(name: str) -> str:
    """Return a file name as text: on Linux it may hold bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="replace")


@contextlib.contextmanager
def _open(name: str, options: argparse.Namespace) -> Iterator["AudioSource"]:
    from streamasr.audio.file import open_audio
    from streamasr.audio.raw import RawAudio

    if name == STDIN:
        yield RawAudio(sys.stdin.buffer, start=options.start, duration=options.duration)
        return
    with open_audio(Path(name), start=options.start, duration=options.duration) as file:
        yield file


def _describe_gaps(name: str, gaps: "list[Gap]") -> str:
    from streamasr.core.units import to_seconds

    where = ", ".join(f"{to_seconds(gap.start):.1f}-{to_seconds(gap.end):.1f} s" for gap in gaps)
    return f"{name}: not recognised: {where}: {gaps[0].reason}"
