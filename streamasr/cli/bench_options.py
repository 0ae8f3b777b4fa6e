"""The arguments of `streamasr bench`. Read whenever the program starts, so it imports nothing."""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

ENCODER_WINDOWS: Final = (1, 2, 4, 8)


def add_bench(commands: _Commands, common: argparse.ArgumentParser) -> None:
    """Add `bench` and what it can measure.

    Args:
        commands: those of the program.
        common: options that each of them has.
    """
    parser = commands.add_parser(
        "bench",
        help="measure how fast it is on this machine",
        description="Measure how fast recognition is on this machine. Without FILE the clip that "
        "is built in is heard again and again.",
    )
    benches = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    shared = [common, _engine_options()]
    _add_latency(benches, shared)
    _add_update(benches, shared)
    _add_throughput(benches, shared)
    _add_file(benches, shared)
    _add_soak(benches, shared)


def _engine_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", metavar="NAME|PATH", help="default: the embedded tiny")
    parser.add_argument("--threads", type=_count, metavar="N", help="of each stage")
    parser.add_argument(
        "--encoder-window",
        type=int,
        choices=ENCODER_WINDOWS,
        metavar="S",
        help="seconds of the encoder's attention window: 1, 2, 4 or 8",
    )
    parser.add_argument("--no-reuse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="for programs, in place of a table")
    return parser


def _add_latency(benches: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser(
        "latency",
        parents=shared,
        help="how long listeners wait for text",
        description="Play files to a daemon through its socket, at the pace of speech, and note "
        "when each text comes. The daemon is started for it, unless --server names one.",
    )
    _add_playing(parser)
    parser.add_argument(
        "--seconds",
        type=_positive,
        metavar="S",
        help="of audio in each session; default: the files once, or the built-in clip for 60",
    )
    _add_server(parser)
    _add_plot(parser, "lag and work over time")


def _add_update(benches: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser(
        "update",
        parents=shared,
        help="what one live update costs, with caches and from scratch",
        description="Let an utterance grow and note what an update of half a second costs at "
        "each length, with what is kept from the last one and from scratch.",
    )
    _add_files(parser, "what is said, without pauses added")
    parser.add_argument(
        "--seconds",
        type=_lengths,
        default=(5.0, 10.0, 20.0, 40.0),
        metavar="S,S,...",
        help="lengths of the utterance; default 5,10,20,40",
    )
    parser.add_argument(
        "--final",
        type=_positive,
        default=10.0,
        metavar="S",
        help="length of a segment whose final pass is measured; default 10",
    )
    _add_repeat(parser)
    _add_plot(parser, "cost over the length of the utterance")


def _add_throughput(benches: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser(
        "throughput",
        parents=shared,
        help="how much several sessions get out of one machine",
        description="Decode several sessions one after the other and all at once; then play to "
        "so many live sessions of a daemon and see whether their text comes in time.",
    )
    _add_files(parser, "what is said")
    parser.add_argument(
        "--sessions",
        type=_counts,
        default=(1, 2, 4, 8),
        metavar="N,N,...",
        help="how many at once; default 1,2,4,8",
    )
    parser.add_argument(
        "--seconds",
        type=_not_negative,
        default=30.0,
        metavar="S",
        help="of live audio in each session; default 30; 0 for none",
    )
    _add_repeat(parser)


def _add_file(benches: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser(
        "file",
        parents=shared,
        help="what transcribing files takes, by stage",
        description="Transcribe files as fast as possible and note what each stage takes for "
        "each second of audio.",
    )
    _add_files(parser, "each of them by itself")


def _add_soak(benches: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = benches.add_parser(
        "soak",
        parents=shared,
        help="whether a long run stays as it began",
        description="Play to a daemon for long, and watch whether its memory grows or its text "
        "falls behind; exits with 1 if memory grew by more than 3 % or a promise was broken.",
    )
    _add_playing(parser)
    parser.add_argument(
        "--minutes",
        type=_positive,
        default=30.0,
        metavar="M",
        help="of audio in each session; default 30",
    )
    _add_server(parser)
    _add_plot(parser, "lag and work over time")


def _add_files(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help=text)


def _add_playing(parser: argparse.ArgumentParser) -> None:
    _add_files(parser, "what is said, with a pause behind each")
    parser.add_argument(
        "--pace",
        type=_not_negative,
        default=1.0,
        metavar="X",
        help="seconds of audio for each second; default 1; 0 is as fast as the daemon reads",
    )
    parser.add_argument(
        "--sessions", type=_count, default=1, metavar="N", help="at the same time; default 1"
    )
    parser.add_argument(
        "--pause",
        type=_not_negative,
        default=1.0,
        metavar="S",
        help="seconds of silence behind each file; default 1",
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", metavar="URL", help="a daemon that runs already, as ws://127.0.0.1:8765"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the token that it wants")


def _add_repeat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeat",
        type=_count,
        default=3,
        metavar="N",
        help="how often each is measured, of which the median counts; default 3",
    )


def _add_plot(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw {what}, as .png or .svg")


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def _positive(text: str) -> float:
    value = _not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _count(text: str) -> int:
    value = _not_negative(text)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(value)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _lengths(text: str) -> tuple[float, ...]:
    return tuple(_positive(part) for part in text.split(","))
