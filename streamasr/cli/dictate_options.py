"""The arguments of `streamasr dictate`. Read whenever the program starts, so it imports nothing."""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

_ACTIONS: Final = ("toggle", "start", "stop", "cancel", "status")
MODES: Final = ("stable", "final", "live")
OUTPUTS: Final = ("wtype", "dotool", "ydotool", "xdotool", "paste", "stdout")
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
        "the actions to keys in the settings of the desktop. Options override [dictation] of the "
        "configuration; `streamasr config` shows all that can be set.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=_ACTIONS,
        metavar="ACTION",
        help="what a running dictation shall do: " + ", ".join(_ACTIONS),
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="see `streamasr config --path`")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="type text as soon as it will not change (stable, the default), with each final "
        "(final), or at once, corrected where it changes (live)",
    )
    _add_talking(parser.add_argument_group("push to talk"))
    _add_typing(parser.add_argument_group("typing"))
    _add_writing(parser.add_argument_group("writing"))
    _add_hearing(parser.add_argument_group("hearing"))


def _add_talking(group: argparse._ArgumentGroup) -> None:
    _add_switch(group, "push-to-talk", "listen only between `start` and `stop`")
    _add_switch(
        group,
        "hold",
        "the same for a key that is held down while you speak: nothing is typed before it is "
        "released",
    )
    group.add_argument(
        "--service",
        action="store_true",
        help="push to talk unless the settings say otherwise, as `streamasr service` runs it",
    )
    group.add_argument(
        "--pre-roll",
        type=_pre_roll,
        metavar="S",
        help="keep the microphone open, and begin S seconds before `start`; default 0: it is "
        "opened at `start`",
    )
    group.add_argument(
        "--longest", type=_seconds, metavar="S", help="end by itself after S seconds; default 600"
    )
    _add_switch(group, "sound", "play a sound when it begins and ends to listen")
    group.add_argument("--control", type=Path, metavar="PATH", help="the socket of ACTION")


def _add_typing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output", choices=OUTPUTS, help="how to type; default: what works on this desktop"
    )
    group.add_argument(
        "--keyboard",
        metavar="LAYOUT",
        help="the layout of the keyboard (de, us), for dotool and ydotool; default: "
        "DOTOOL_XKB_LAYOUT",
    )
    group.add_argument("--newline", metavar="KEY", help="ends a line; default Return")
    group.add_argument("--paste-key", metavar="KEY", help="pastes; default shift+Insert")


def _add_writing(group: argparse._ArgumentGroup) -> None:
    _add_switch(
        group, "commands", "whether `comma`, `new line`, `scratch that` are obeyed; they are"
    )
    _add_switch(group, "itn", "whether numbers are written in digits; they are")
    group.add_argument(
        "--rules", type=Path, metavar="FILE", help="more commands, and replacements; TOML"
    )


def _add_hearing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--url", help="of the daemon; default: what [server] of the settings says")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="the token that the daemon wants; default, without --url: that of [server]",
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
        "--context", metavar="TEXT", help="names and terms that may come up; likewise"
    )


def _add_switch(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    """An option and its contrary; None where neither is given."""
    group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)


def check_dictate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what contradicts itself; ends the program with a sentence and code 2."""
    if options.hold and options.push_to_talk is False:
        parser.error("--hold is a kind of push to talk: not with --no-push-to-talk")
    if options.rules and options.commands is False:
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
