"""The command line: `parse` what is asked for, `run` it, and turn errors into exit codes.

Exit codes: 0 done, 1 some input failed, 2 usage, 78 configuration or model, 130 interrupted.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from streamasr import __version__
from streamasr.cli.bench_options import add_bench
from streamasr.cli.dictate_options import add_dictate, check_dictate
from streamasr.cli.exit_codes import (
    EXIT_BROKEN_PIPE,
    EXIT_CONFIG,
    EXIT_INPUT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
)
from streamasr.cli.models_options import add_models
from streamasr.cli.stderr import complain
from streamasr.core.errors import ConfigError, ModelError, StreamASRError
from streamasr.core.log import log_to_stderr

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

FORMATS: Final = ("txt", "json", "srt", "vtt")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    options = parse(sys.argv[1:] if argv is None else argv)
    _set_up_logging(options.verbose)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        code = run(options)
        sys.stdout.flush()
    except (ConfigError, ModelError) as error:
        complain(error)
        code = EXIT_CONFIG
    except StreamASRError as error:
        complain(error)
        code = EXIT_INPUT_FAILED
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; nothing may be flushed into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    sys.exit(code)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for; the exit code."""
    match options.command:
        case "demo":
            from streamasr.models import tiny

            print(f"streamasr transcribe --model {tiny.NAME} --watch {tiny.DEMO}\n", flush=True)
            return run(parse(["transcribe", "--model", tiny.NAME, "--watch", str(tiny.DEMO)]))
        case "transcribe":
            from streamasr.cli.transcribe import run_transcribe

            return run_transcribe(options)
        case "models":
            from streamasr.cli.models import run_models

            return run_models(options)
        case "run":
            from streamasr.cli.run import run_daemon

            return run_daemon(options)
        case "pause" | "resume":
            from streamasr.cli.run import run_control

            return run_control(options)
        case "service":
            from streamasr.cli.service import run_service

            return run_service(options)
        case "dictate" if options.action is not None:
            from streamasr.cli.shortcut import run_shortcut

            return run_shortcut(options)
        case "dictate":
            from streamasr.cli.dictate import run_dictate

            return run_dictate(options)
        case "bench":
            from streamasr.cli.bench import run_bench

            return run_bench(options)
        case _:
            return _show(options)


def _show(options: argparse.Namespace) -> int:
    """What only looks at settings, machine and history; the exit code."""
    match options.command:
        case "config":
            from streamasr.cli.config import run_config

            return run_config(options)
        case "devices":
            from streamasr.cli.devices import run_devices

            return run_devices(options)
        case "doctor":
            from streamasr.cli.doctor import run_doctor

            return run_doctor(options)
        case "history":
            from streamasr.cli.history import run_history
            from streamasr.config.file import find_config, load_config
            from streamasr.storage.places import journal_path

            config = load_config(find_config(options.config))
            options.journal = journal_path(config.storage.directory)
            return run_history(options)
        case other:
            raise AssertionError(other)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; wrong ones end the program with a sentence and code 2."""
    parser = argparse.ArgumentParser(
        prog="streamasr", description="Speech to text, with word times."
    )
    parser.add_argument("--version", action="version", version=f"streamasr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-v", "--verbose", action="count", default=0, help="log to stderr; twice for everything"
    )
    commands.add_parser(
        "demo",
        parents=[common],
        help="watch the embedded model transcribe the bundled clip",
        description="Watch the embedded model transcribe the bundled clip: partials, finals, and "
        "then the times of their words.",
    )
    _add_transcribe(commands, common)
    _add_run(commands, common)
    _add_control(commands, common)
    _add_service(commands, common)
    add_dictate(commands, common)
    _add_config(commands, common)
    _add_devices(commands, common)
    _add_doctor(commands, common)
    _add_history(commands, common)
    add_models(commands, common)
    add_bench(commands, common)
    options = parser.parse_args(argv)
    if options.command == "transcribe":
        _check_transcribe(commands.choices["transcribe"], options)
    if options.command == "dictate":
        check_dictate(commands.choices["dictate"], options)
    return options


def _add_transcribe(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "transcribe",
        parents=[common],
        help="turn audio and video files into text",
        description="Turn audio and video files into text, while they are being read.",
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="any audio or video file; - reads raw 16-bit little-endian mono at 16 kHz from stdin",
    )
    _add_model(parser)
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
    parser.add_argument("--language", metavar="L", help="name or code; default: detected")
    parser.add_argument(
        "--context", default="", metavar="TEXT", help="names and terms that may come up"
    )
    _add_aligner(parser)
    parser.add_argument("--no-words", action="store_true", help="leave out the times of words")
    parser.add_argument(
        "--itn",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="write Chinese and English numbers in digits",
    )
    parser.add_argument(
        "--start", type=_seconds, default=0.0, metavar="S", help="begin S seconds into the audio"
    )
    parser.add_argument(
        "--duration", type=_length, default=None, metavar="S", help="stop after S seconds of audio"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show partials, finals and words as they come, instead of a format",
    )
    _add_tuning(parser)


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    tuning = parser.add_argument_group("tuning")
    tuning.add_argument("--threads", type=_count, metavar="N", help="default: one per processor")
    _add_gpu(tuning)
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
        help="0 to 3: how sure the voice detector must be; default 1",
    )
    tuning.add_argument(
        "--encoder-window",
        type=int,
        choices=(1, 2, 4, 8),
        metavar="S",
        help="seconds of audio that are heard together: 1, 2, 4 or 8; default 8",
    )
    for name, text in SEGMENTATION_HELP.items():
        tuning.add_argument(
            f"--{name.replace('_', '-')}", type=_number, dest=name, metavar="X", help=text
        )
    _add_no_reuse(parser)


def _add_gpu(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--gpu-layers",
        type=_layers,
        metavar="N",
        help="layers of the decoder that run on a GPU, if there is one; -1, the default: all; 0: "
        "none",
    )
    parser.add_argument(
        "--gpu",
        type=_number_or_name,
        metavar="NAME|N",
        help="that GPU; see `streamasr doctor`; default: llama.cpp's choice",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="see `streamasr models list`; default: that of the settings, at first the embedded "
        "tiny",
    )


def _add_aligner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--aligner",
        metavar="NAME|PATH",
        help="the forced aligner that gives word times; none spreads words evenly; default: the "
        "model's own, or one that is installed",
    )


def _add_no_reuse(parser: argparse.ArgumentParser) -> None:
    """The baseline of measurements: each update is computed from scratch."""
    parser.add_argument("--no-reuse", action="store_true", help=argparse.SUPPRESS)


SEGMENTATION_HELP: Final = {
    "pre_roll": "seconds of audio kept before speech; default 0.3",
    "hangover": "seconds of silence that end a segment; default 0.6",
    "trailing_silence": "seconds of that silence that stay in the segment; default 0.2",
    "min_speech": "seconds of speech below which a noise is ignored; default 0.2",
    "max_segment": "seconds after which a segment is cut at a quiet place; default 24",
    "cut_search": "seconds before that in which the quiet place is searched; default 5",
    "minimum_db": "level below which nothing is speech, dB of full scale; default -80",
    "noise_db": "level that steady noise is brought to before it is judged; default -42",
    "floor_window": "seconds after which a steady sound is known as noise; default 3",
}


def _add_run(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "run",
        parents=[common],
        help="listen without end, for any number of clients",
        description="Listen to the microphone and to clients without end. Options override the "
        "configuration; `streamasr config` shows all that can be set.",
    )
    _add_config_option(parser)
    _add_model(parser)
    _add_aligner(parser)
    parser.add_argument(
        "--mic",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether to listen to a microphone",
    )
    parser.add_argument("--device", metavar="NAME|N", help="see `streamasr devices`")
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="play a file in place of a microphone"
    )
    parser.add_argument("--speed", type=_number, metavar="X", help="of that file; default 1")
    parser.add_argument("--host", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="default: 8765; 0 takes any that is free")
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="a Unix socket in place of host and port"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token that clients must show"
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="a web page that may connect; may be given several times",
    )
    parser.add_argument("--language", metavar="L", help="name or code; default: detected")
    parser.add_argument("--context", metavar="TEXT", help="names and terms that may come up")
    parser.add_argument("--threads", type=_count, metavar="N", help="default: one per processor")
    _add_gpu(parser)
    _add_no_reuse(parser)


def _add_control(commands: _Commands, common: argparse.ArgumentParser) -> None:
    for name, what, why in (
        ("pause", "close the daemon's microphone", "It hears nothing before `streamasr resume`."),
        ("resume", "open the daemon's microphone again", "What was said meanwhile is not heard."),
    ):
        told = f"{what[0].upper()}{what[1:]}. {why}"
        _add_config_option(commands.add_parser(name, parents=[common], help=what, description=told))


def _add_service(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "service",
        help="have systemd run the daemon for you",
        description="Have systemd run the daemon, and dictation, for this user.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser(
        "install",
        parents=[common],
        help="write the units, start them",
        description="Write units for the systemd of this user, and start them, now and at each "
        "login.",
    )
    _add_config_option(install)
    install.add_argument(
        "--socket", action="store_true", help="start the daemon when the first client connects"
    )
    install.add_argument("--dictate", action="store_true", help="dictation too, on the desktop")
    uninstall = actions.add_parser(
        "uninstall",
        parents=[common],
        help="stop and remove them",
        description="Stop what `install` has started, and remove its units.",
    )
    for each in (install, uninstall):
        each.add_argument("--force", action="store_true", help="also units that were edited")
    actions.add_parser(
        "status",
        parents=[common],
        help="say how they are",
        description="Say of each unit whether it is installed, and how it is.",
    )


def _add_config(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "config",
        parents=[common],
        help="show all that can be set, and what it is set to",
        description="Print the settings as a file with comments, which can be saved and changed.",
    )
    _add_config_option(parser)
    parser.add_argument("--default", action="store_true", help="as if nothing had been set")
    parser.add_argument("--path", action="store_true", help="show where the file is looked for")
    parser.add_argument("--markdown", action="store_true", help=argparse.SUPPRESS)


def _add_devices(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "devices",
        parents=[common],
        help="list microphones",
        description="List the microphones for --device, the system's default marked with *.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_doctor(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="find out what is right and wrong with this installation",
        description="Look at versions, processor, GPUs, microphones, models, memory, disk, "
        "settings and the daemon; exits with 1 if there is a problem.",
    )
    _add_config_option(parser)
    parser.add_argument("--deep", action="store_true", help="compare the hashes of the model too")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_history(commands: _Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "history",
        parents=[common],
        help="show what was recognised, also while the daemon runs",
        description="Show what the daemon has recognised, the oldest first.",
    )
    _add_config_option(parser)
    parser.add_argument("--search", metavar="TEXT", help="finals that hold all of these words")
    parser.add_argument(
        "--since", metavar="T", help="2026-11-20, 2026-11-20T10:00, or 2h, 3d before now"
    )
    parser.add_argument("--session", metavar="NAME", help="of one session")
    parser.add_argument("--limit", type=_count, metavar="N", help="the newest N")
    parser.add_argument("--format", choices=("txt", "json", "srt"), default="txt")


def _add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="see `streamasr config --path`")


def _check_transcribe(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.watch and (options.formats or options.output_dir):
        parser.error("--watch shows text instead of writing it: no --format, no --output-dir")
    options.formats = list(dict.fromkeys(options.formats or ["txt"]))
    if len(options.formats) > 1 and options.output_dir is None:
        parser.error("stdout holds one format: choose one, or name an --output-dir for all of them")
    if options.files.count("-") > 1:
        parser.error("stdin (-) can be read only once")


def _set_up_logging(verbosity: int) -> None:
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    log_to_stderr(level)


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value


def _length(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds above 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def _count(text: str) -> int:
    value = _number(text)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(value)


def _layers(text: str) -> int:
    value = _number(text)
    if not -1 <= value <= 10_000 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a number of layers, nor -1 for all")
    return int(value)


def _number_or_name(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text
