"""`streamasr dictate`: type what is recognised into the window that has the focus.

`streamasr dictate toggle` and the like are run by shortcuts of the desktop: they load little, since
nothing is recorded until they are done.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamasr.cli.arguments import (
    absolute,
    add_config,
    add_switch,
    add_verbose,
    given,
    length,
    number,
    number_or_name,
    seconds,
)
from streamasr.cli.stderr import note
from streamasr.core.errors import ConfigError

if TYPE_CHECKING:
    from streamasr.audio.capture import Capture
    from streamasr.config.file import Overrides
    from streamasr.config.sections import DictationConfig, ServerConfig, Settings
    from streamasr.dictation.utterance import Source
    from streamasr.service.notify import Notifier
    from streamasr.writing import Writer

_ACTIONS: Final = ("toggle", "start", "stop", "cancel", "status")
MODES: Final = ("stable", "final", "live")
OUTPUTS: Final = ("wtype", "dotool", "ydotool", "xdotool", "paste", "stdout")
_MICROPHONE: Final = "microphone"
_LONGEST_PRE_ROLL_S: Final = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Type what the daemon recognises into the window that has the focus: the speech at its "
        "microphone or, with --push-to-talk, what is said between two presses of a key. Bind the "
        "actions to keys in the settings of the desktop. Options override [dictation] of the "
        "configuration; `streamasr config` shows all settings."
    )
    add_verbose(parser)
    parser.add_argument(
        "action",
        nargs="?",
        choices=_ACTIONS,
        metavar="ACTION",
        help="command for a running dictation: " + ", ".join(_ACTIONS),
    )
    add_config(parser)
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="type text as soon as it will not change (stable, the default), with each final "
        "(final), or at once, corrected where it changes (live)",
    )
    _add_talking(parser.add_argument_group("push to talk"))
    _add_typing(parser.add_argument_group("typing"))
    _add_writing(parser.add_argument_group("writing"))
    _add_listening(parser.add_argument_group("listening"))


def _add_talking(group: argparse._ArgumentGroup) -> None:
    add_switch(group, "push-to-talk", "listen only between `start` and `stop`")
    add_switch(
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
        "--longest", type=length, metavar="S", help="stop after S seconds; default 600"
    )
    add_switch(group, "sound", "play a sound when listening begins and ends")
    group.add_argument("--control", type=Path, metavar="PATH", help="the socket for ACTION")


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
    group.add_argument("--newline", metavar="KEY", help="key that ends a line; default Return")
    group.add_argument("--paste-key", metavar="KEY", help="key that pastes; default shift+Insert")


def _add_writing(group: argparse._ArgumentGroup) -> None:
    add_switch(
        group, "commands", "execute `comma`, `new line`, `scratch that`; default: they are executed"
    )
    add_switch(group, "itn", "write numbers in digits; default: in digits")
    group.add_argument(
        "--rules", type=Path, metavar="FILE", help="more commands, and replacements; TOML"
    )


def _add_listening(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--url", help="address of the daemon; default: that of [server] in the settings"
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="the token that the daemon requires; default, without --url: that of [server]",
    )
    group.add_argument(
        "--session", default=_MICROPHONE, metavar="NAME", help="default: the daemon's microphone"
    )
    group.add_argument("--no-wait", action="store_true", help="fail if no daemon is running now")
    group.add_argument(
        "--device", metavar="NAME|N", help="a microphone of its own; see `streamasr devices`"
    )
    group.add_argument(
        "--input", type=Path, metavar="FILE", help="play a file in place of a microphone"
    )
    group.add_argument(
        "--speed", type=number, default=1.0, metavar="X", help="of that file; default 1"
    )
    group.add_argument(
        "--language", metavar="L", help="language spoken into a microphone of its own"
    )
    group.add_argument(
        "--context", metavar="TEXT", help="names and terms that may come up; likewise"
    )


def _pre_roll(text: str) -> float:
    value = seconds(text)
    if value > _LONGEST_PRE_ROLL_S:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds up to 10")
    return value


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse arguments that contradict each other; ends the program with a sentence and code 2."""
    if options.hold and options.push_to_talk is False:
        parser.error("--hold is a kind of push to talk: not with --no-push-to-talk")
    if options.rules and options.commands is False:
        parser.error("--rules adds commands, and --no-commands executes none")
    if options.mode == "live" and options.output == "paste":
        parser.error("--mode live corrects single characters: not with --output paste")


def run(options: argparse.Namespace) -> int:
    """Dictate until the session ends, or send an action to a running dictation; return 0.

    Raises:
        ConfigError: the options or the settings contradict each other.
        StreamASRError: the daemon, or the running dictation, cannot be reached.
    """
    if options.action is not None:
        from streamasr.dictation.control import ask, control_path

        print(ask(options.control or control_path(), options.action))
        return 0
    import asyncio
    import contextlib

    from streamasr.config.file import find_config, load_config

    config = load_config(find_config(options.config), overrides_from(options))
    _check_settings(options, config.dictation)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_dictate(options, config))
    return 0


def overrides_from(options: argparse.Namespace) -> "Overrides":
    """Return the settings that the command line sets, for `load_config`."""
    dictation = given(
        push_to_talk=options.push_to_talk,
        hold=options.hold,
        pre_roll_s=options.pre_roll,
        longest_s=options.longest,
        sound=options.sound,
        device=None if options.device is None else number_or_name(options.device),
        language=options.language,
        context=options.context,
        mode=options.mode,
        commands=options.commands,
        itn=options.itn,
        rules=absolute(options.rules),
        output=options.output,
        keyboard=options.keyboard,
        newline=options.newline,
        paste_key=options.paste_key,
    )
    if options.push_to_talk is False:
        dictation["hold"] = False  # which the file may want
    if options.hold:
        dictation["push_to_talk"] = True
    return {"dictation": dictation} if dictation else {}


def _check_settings(options: argparse.Namespace, dictation: "DictationConfig") -> None:
    """Refuse options that would have no effect.

    Raises:
        ConfigError: an option would have no effect.
    """
    if options.pre_roll and not waits_for_keys(options, dictation):
        raise ConfigError(
            "--pre-roll belongs to push to talk: otherwise the microphone is always open.",
            code="option_without_effect",
        )
    if (options.language or options.context) and not _has_own(options, dictation):
        raise ConfigError(
            "--language and --context belong to a microphone of its own; set model.language and "
            "model.context for the daemon's.",
            code="option_without_effect",
        )
    if options.rules and not dictation.commands:
        raise ConfigError(
            "dictation.commands is false: --rules needs --commands.", code="option_without_effect"
        )


def waits_for_keys(options: argparse.Namespace, dictation: "DictationConfig") -> bool:
    """Return whether dictation is push to talk."""
    if dictation.push_to_talk is None:
        return dictation.hold or options.service
    return dictation.push_to_talk


def _has_own(options: argparse.Namespace, dictation: "DictationConfig") -> bool:
    """Return whether dictation has a microphone of its own and not the daemon's."""
    has_source = dictation.device is not None or options.input is not None
    return has_source or waits_for_keys(options, dictation)


async def _dictate(options: argparse.Namespace, config: "Settings") -> None:
    import os
    from functools import partial

    from streamasr.dictation import sounds
    from streamasr.dictation.composer import Composer
    from streamasr.dictation.control import control_path
    from streamasr.dictation.desktop import TypingOptions, open_chain
    from streamasr.dictation.dictation import Dictation, DictationOptions, silence
    from streamasr.service.notify import Notifier

    dictation = config.dictation
    is_push_to_talk = waits_for_keys(options, dictation)
    typing = TypingOptions(
        output=dictation.output,
        layout=dictation.keyboard,
        newline=dictation.newline,
        paste_key=dictation.paste_key,
    )
    if dictation.mode == "live" and dictation.output == "stdout" and not sys.stdout.isatty():
        raise ConfigError(
            "mode live deletes what it wrote, which a pipe cannot; choose stable or final.",
            code="live_needs_terminal",
        )
    writer, source = _writer(dictation), _source(options, config)
    manager = Notifier.from_environ(os.environ)
    async with open_chain(os.environ, typing, note) as chain:
        behaviour = DictationOptions(
            is_held=dictation.hold,
            begins_at_once=not is_push_to_talk,
            longest_s=dictation.longest_s if is_push_to_talk else float("inf"),
            control=options.control or control_path(),
            play=sounds.play if dictation.sound else silence,
            on_ready=partial(_tell_ready, manager, chain.names, waits_for_keys=is_push_to_talk),
        )
        composer = Composer(dictation.mode, writer)
        await Dictation(source, composer, chain, note, behaviour).run()


def _tell_ready(manager: "Notifier", outputs: str, *, waits_for_keys: bool) -> None:
    manager.send(READY="1", STATUS=f"typing with {outputs}")
    if sys.stderr.isatty():  # started by hand, it prints nothing else here
        how = "between `streamasr dictate start` and `stop`" if waits_for_keys else "as it is heard"
        note(f"typing with {outputs}, {how}; Ctrl-C ends it")


def _writer(dictation: "DictationConfig") -> "Writer":
    from streamasr.writing import Writer, load_rules

    book = load_rules(dictation.rules) if dictation.commands else None
    # Only `live` deletes what was typed without being told to.
    return Writer(book, corrects=dictation.mode == "live", numbers=dictation.itn)


def _source(options: argparse.Namespace, config: "Settings") -> "Source":
    from streamasr import client
    from streamasr.core.units import to_samples
    from streamasr.dictation.utterance import DaemonMicrophone, OwnMicrophone

    url, token = daemon_of(options, config.server)
    dictation = config.dictation
    if not _has_own(options, dictation):
        timeouts = client.DEFAULT_TIMEOUTS if options.no_wait else client.ENDLESS_TIMEOUTS
        return DaemonMicrophone(url, session=options.session, token=token, timeouts=timeouts)
    connection: dict[str, Any] = {
        "url": url,
        "token": token,
        "language": dictation.language,
        "context": dictation.context,
        "partials": dictation.mode != "final",
    }
    pre_roll = to_samples(dictation.pre_roll_s if waits_for_keys(options, dictation) else 0.0)
    capture = _capture(options, config)
    return OwnMicrophone(capture, note, pre_roll=pre_roll, **connection)


def _capture(options: argparse.Namespace, config: "Settings") -> "Capture":
    if options.input is not None:
        from streamasr.audio.paced import PacedFile

        return PacedFile(options.input, options.speed)
    from streamasr.audio.microphone import Microphone

    own = config.dictation.device
    return Microphone(config.microphone.device if own is None else own)


def daemon_of(options: argparse.Namespace, server: "ServerConfig") -> tuple[str, str | None]:
    """Return the address of the daemon, and the token that it requires.

    The token of the settings is sent to the address in the settings only.

    Raises:
        ConfigError: the token cannot be read, or the address is not known.
    """
    from streamasr.config.endpoint import daemon_url, read_token

    if options.token_file is not None:
        token: str | None = _read_token(options.token_file)
    elif options.url is None and server.token_file is not None:
        token = read_token(server.token_file)
    else:
        token = None
    return options.url or daemon_url(server), token


def _read_token(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "the file is not UTF-8"
        sentence = f"the token cannot be read from {path}: {why}."
        raise ConfigError(sentence, code="token_unreadable") from error
