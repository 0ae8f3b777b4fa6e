"""`streamasr bench`: measure the speed on this machine."""

import argparse
from pathlib import Path

from streamasr.cli.arguments import (
    ENCODER_WINDOWS,
    Commands,
    add_json,
    add_no_reuse,
    add_punctuation,
    add_threads,
    add_verbose,
    count,
    counts,
    lengths,
    not_negative,
    positive,
)


def run(options: argparse.Namespace) -> int:
    """Measure; return the exit code: 1 if stable text changed or memory grew.

    Raises:
        ConfigError: the options or the settings cannot be used.
        ModelError: the model cannot be used.
        AudioError: a file cannot be read.
        StreamASRError: the measured daemon or engine failed.
    """
    from streamasr.cli.benchmarks import run_benchmark

    return run_benchmark(options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurements and their arguments."""
    parser.description = (
        "Measure the speed of recognition on this machine. Without FILE the built-in clip is "
        "played again and again."
    )
    benches = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    _add_latency(benches)
    _add_update(benches)
    _add_throughput(benches)
    _add_file(benches)
    _add_soak(benches)


def _add_bench(
    benches: Commands, name: str, purpose: str, description: str
) -> argparse.ArgumentParser:
    """Add a measurement, with the arguments of the engine that is measured."""
    parser = benches.add_parser(name, help=purpose, description=description)
    add_verbose(parser)
    parser.add_argument("--model", metavar="NAME|PATH", help="default: the embedded tiny")
    add_punctuation(parser)
    add_threads(parser)
    parser.add_argument(
        "--encoder-window",
        type=int,
        choices=ENCODER_WINDOWS,
        metavar="S",
        help="seconds of the encoder's attention window: 1, 2, 4 or 8",
    )
    add_no_reuse(parser)
    add_json(parser)
    return parser


def _add_latency(benches: Commands) -> None:
    parser = _add_bench(
        benches,
        "latency",
        "delay between speech and text",
        "Play files to a daemon through its socket, at the pace of speech, and "
        "measure when each text comes. A daemon is started for it, unless --server names one.",
    )
    _add_daemon(parser)
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help="seconds of audio in each session; default: the files once, or the built-in clip for "
        "60",
    )


def _add_update(benches: Commands) -> None:
    parser = _add_bench(
        benches,
        "update",
        "cost of a live update, with caches and from scratch",
        "Let an utterance grow and measure the cost of an update of half a second "
        "at each length, with caches and from scratch.",
    )
    _add_files(parser, "speech to play, without added pauses")
    parser.add_argument(
        "--seconds",
        type=lengths,
        default=(5.0, 10.0, 20.0, 40.0),
        metavar="S,S,...",
        help="lengths of the utterance; default 5,10,20,40",
    )
    parser.add_argument(
        "--final",
        type=positive,
        default=10.0,
        metavar="S",
        help="length of a segment whose final pass is measured; default 10",
    )
    _add_repeat(parser)
    _add_plot(parser, "cost over the length of the utterance")


def _add_throughput(benches: Commands) -> None:
    parser = _add_bench(
        benches,
        "throughput",
        "throughput of several sessions on one machine",
        "Decode several sessions one after the other and all at once; then play "
        "to as many live sessions of a daemon and measure the delay of their text.",
    )
    _add_files(parser, "speech to play")
    parser.add_argument(
        "--sessions",
        type=counts,
        default=(1, 2, 4, 8),
        metavar="N,N,...",
        help="numbers of sessions; default 1,2,4,8",
    )
    parser.add_argument(
        "--seconds",
        type=not_negative,
        default=30.0,
        metavar="S",
        help="seconds of live audio in each session; default 30; 0 for none",
    )
    _add_repeat(parser)


def _add_file(benches: Commands) -> None:
    parser = _add_bench(
        benches,
        "file",
        "time that transcribing files takes, by stage",
        "Transcribe files as fast as possible and measure the time of each stage "
        "for each second of audio.",
    )
    _add_files(parser, "files to transcribe, one after the other")


def _add_soak(benches: Commands) -> None:
    parser = _add_bench(
        benches,
        "soak",
        "memory and delay in a long run",
        "Play to a daemon for long, and watch whether its memory grows or its text "
        "falls behind; exits with 1 if memory grew by more than 3 % or stable text changed.",
    )
    _add_daemon(parser)
    parser.add_argument(
        "--minutes",
        type=positive,
        default=30.0,
        metavar="M",
        help="minutes of audio in each session; default 30",
    )


def _add_files(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help=text)


def _add_daemon(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the measurements that play to a daemon."""
    _add_files(parser, "speech to play, with a pause after each file")
    parser.add_argument(
        "--pace",
        type=not_negative,
        default=1.0,
        metavar="X",
        help="seconds of audio played in each second; default 1; 0: as fast as the daemon reads",
    )
    parser.add_argument(
        "--sessions",
        type=count,
        default=1,
        metavar="N",
        help="sessions at the same time; default 1",
    )
    parser.add_argument(
        "--pause",
        type=not_negative,
        default=1.0,
        metavar="S",
        help="seconds of silence after each file; default 1",
    )
    parser.add_argument(
        "--server", metavar="URL", help="a daemon that is already running, as ws://127.0.0.1:8765"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token that it requires"
    )
    _add_plot(parser, "lag and work over time")


def _add_repeat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeat",
        type=count,
        default=3,
        metavar="N",
        help="number of measurements, whose median counts; default 3",
    )


def _add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {what}, as .png or .svg")
