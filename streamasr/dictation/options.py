"""The arguments of `streamasr dictate`. Read whenever the program starts, so it imports nothing."""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

_ACTIONS: Final = ("toggle", "start", "stop", "cancel", "status")
_MODES: Final = ("stable", "final", "live")
_OUTPUTS: Final = ("wtype", "dotool", "ydotool", "xdotool", "paste", "stdout")
_DEFAULT_URL: Final = "ws://127.0.0.1:8765"
_MICROPHONE: Final = "microphone"
_LONGEST_PRE_ROLL_S: Final = 10.0


def add_dictate(commands: _Commands, common: argparse.ArgumentParser) -> None:
    """Add `dictate`.

    Args:
        commands: those of the program.
        common: options that each of them has.
    """
    parser = commands.add_parser(
        "dictate",
        parents=[common],
        help="type what is recognised into the window that has the focus",
        description="Type what the daemon recognises into the window that has the focus: what its "
        "microphone hears, or with --push-to-talk what is said between two presses of a key. Bind "
        "the actions to keys in the settings of the desktop.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=_ACTIONS,
        metavar="ACTION",
        help="what a running dictation shall do: " + ", ".join(_ACTIONS),
    )
    parser.add_argument(
        "--mode",
        choices=_MODES,
        default="stable",
        help="type text as soon as it will not change (stable, the default), with each final "
        "(final), or at once, corrected where it changes (live)",
    )
    _add_talking(parser.add_argument_group("push to talk"))
    _add_typing(parser.add_argument_group("typing"))
    _add_writing(parser.add_argument_group("writing"))
    _add_hearing(parser.add_argument_group("hearing"))


def _add_talking(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--push-to-talk", action="store_true", help="listen only between `start` and `stop`"
    )
    group.add_argument(
        "--hold",
        action="store_true",
        help="the same for a key that is held down while you speak: nothing is typed before it is "
        "released",
    )
    group.add_argument(
        "--pre-roll",
        type=_pre_roll,
        default=0.0,
        metavar="S",
        help="keep the microphone open, and begin S seconds before `start`; default 0: it is "
        "opened at `start`",
    )
    group.add_argument(
        "--longest",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="end by itself after S seconds; default 600",
    )
    group.add_argument(
        "--sound", action="store_true", help="play a sound when it begins and ends to listen"
    )
    group.add_argument("--control", type=Path, metavar="PATH", help="the socket of ACTION")


def _add_typing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output", choices=_OUTPUTS, help="how to type; default: what works on this desktop"
    )
    group.add_argument(
        "--keyboard",
        metavar="LAYOUT",
        help="the layout of the keyboard (de, us), for dotool and ydotool; default: "
        "DOTOOL_XKB_LAYOUT",
    )
    group.add_argument(
        "--newline", default="Return", metavar="KEY", help="ends a line; default Return"
    )
    group.add_argument(
        "--paste-key", default="shift+Insert", metavar="KEY", help="pastes; default shift+Insert"
    )


def _add_writing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--commands",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether `comma`, `new line`, `scratch that` are obeyed; default: they are",
    )
    group.add_argument(
        "--itn",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether numbers are written in digits; default: they are",
    )
    group.add_argument(
        "--rules", type=Path, metavar="FILE", help="more of them, and replacements; TOML"
    )


def _add_hearing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--url", default=_DEFAULT_URL, help="of the daemon; default %(default)s")
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token that the daemon wants"
    )
    group.add_argument(
        "--session", default=_MICROPHONE, metavar="NAME", help="default: the daemon's microphone"
    )
    group.add_argument("--no-wait", action="store_true", help="fail if there is no daemon now")
    group.add_argument(
        "--device", metavar="NAME|N", help="a microphone of its own; see `streamasr devices`"
    )
    group.add_argument(
        "--input", type=Path, metavar="FILE", help="play a file in place of a microphone"
    )
    group.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="of that file; default 1"
    )
    group.add_argument("--language", metavar="L", help="of a microphone of its own")
    group.add_argument(
        "--context", default="", metavar="TEXT", help="names and terms that may come up; likewise"
    )


def check_dictate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what contradicts itself; ends the program with a sentence and code 2."""
    has_own = options.push_to_talk or options.hold or options.input or options.device
    if options.pre_roll and not (options.push_to_talk or options.hold):
        parser.error("--pre-roll is of --push-to-talk or --hold: otherwise all is heard anyway")
    if (options.language or options.context) and not has_own:
        parser.error("--language and --context are settings of the daemon, for its microphone")
    if options.rules and not options.commands:
        parser.error("--rules says more commands, and --no-commands obeys none")
    if options.mode == "live" and options.output == "paste":
        parser.error("--mode live corrects by single characters: not with --output paste")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _pre_roll(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _LONGEST_PRE_ROLL_S:
        raise ValueError(text)
    return value


# argparse names a converter when it refuses a value.
_seconds.__name__ = "number of seconds"
_pre_roll.__name__ = "number of seconds up to 10"
