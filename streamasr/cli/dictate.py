"""`streamasr dictate`: what is recognised is typed into the window that has the focus."""

import argparse
import asyncio
import contextlib
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from streamasr import client
from streamasr.audio.capture import Capture
from streamasr.cli.config import absolute, given, number_or_name
from streamasr.config.endpoint import daemon_url, read_token
from streamasr.config.file import Overrides, find_config, load_config
from streamasr.config.sections import DictationConfig, ServerConfig, Settings
from streamasr.core.errors import ConfigError
from streamasr.core.units import to_samples
from streamasr.dictation import sounds
from streamasr.dictation.composer import Composer
from streamasr.dictation.control import control_path
from streamasr.dictation.desktop import TypingWishes, open_chain
from streamasr.dictation.dictation import Dictation, Manner, silence
from streamasr.dictation.utterance import DaemonsMicrophone, OwnMicrophone, Source
from streamasr.service.notify import Notifier
from streamasr.writing import Writer, load_rules


def run_dictate(options: argparse.Namespace) -> int:
    """Dictate until there is nothing more to hear; the exit code.

    Raises:
        ConfigError: it cannot be done this way.
        StreamASRError: there is no daemon.
    """
    config = load_config(find_config(options.config), overrides_from(options))
    _check(options, config.dictation)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_dictate(options, config))
    return 0


def overrides_from(options: argparse.Namespace) -> Overrides:
    """What the command line says about settings, for `load_config`."""
    dictation = given(
        push_to_talk=options.push_to_talk,
        hold=options.hold,
        pre_roll_s=options.pre_roll,
        longest_s=options.longest,
        sound=options.sound,
        device=number_or_name(options.device),
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


def _check(options: argparse.Namespace, dictation: DictationConfig) -> None:
    """Refuse options that would do nothing.

    Raises:
        ConfigError: there is one.
    """
    if options.pre_roll and not waits_for_keys(options, dictation):
        raise ConfigError("--pre-roll is of push to talk: otherwise all is heard anyway.")
    if (options.language or options.context) and not _has_own(options, dictation):
        raise ConfigError("--language and --context are settings of the daemon's microphone.")
    if options.rules and not dictation.commands:
        raise ConfigError("dictation.commands is false: --rules needs --commands.")


def waits_for_keys(options: argparse.Namespace, dictation: DictationConfig) -> bool:
    """Whether it is push to talk."""
    if dictation.push_to_talk is None:
        return dictation.hold or options.service
    return dictation.push_to_talk


def _has_own(options: argparse.Namespace, dictation: DictationConfig) -> bool:
    """Whether it hears by itself, and not what the daemon hears."""
    has_source = dictation.device is not None or options.input is not None
    return has_source or waits_for_keys(options, dictation)


async def _dictate(options: argparse.Namespace, config: Settings) -> None:
    dictation = config.dictation
    is_push_to_talk = waits_for_keys(options, dictation)
    wishes = TypingWishes(
        output=dictation.output,
        layout=dictation.keyboard,
        newline=dictation.newline,
        paste_key=dictation.paste_key,
    )
    if dictation.mode == "live" and dictation.output == "stdout" and not sys.stdout.isatty():
        raise ConfigError("mode live takes back what it wrote, which a pipe cannot.")
    writer, source = _writer(dictation), _source(options, config)
    manager = Notifier.from_environ(os.environ)
    async with open_chain(os.environ, wishes, complain_to_person) as chain:
        manner = Manner(
            is_held=dictation.hold,
            begins_at_once=not is_push_to_talk,
            longest_s=dictation.longest_s if is_push_to_talk else float("inf"),
            control=options.control or control_path(),
            play=sounds.play if dictation.sound else silence,
            on_ready=partial(_tell_ready, manager, chain.names, waits_for_keys=is_push_to_talk),
        )
        composer = Composer(dictation.mode, writer)
        await Dictation(source, composer, chain, complain_to_person, manner).run()


def _tell_ready(manager: Notifier, outputs: str, *, waits_for_keys: bool) -> None:
    manager.send(READY="1", STATUS=f"typing with {outputs}")
    if sys.stderr.isatty():  # somebody who started it by hand sees nothing else of it here
        how = "between `streamasr dictate start` and `stop`" if waits_for_keys else "as it is heard"
        complain_to_person(f"typing with {outputs}, {how}; Ctrl-C ends it")


def complain_to_person(sentence: str) -> None:
    """One sentence on stderr."""
    print(f"streamasr: {sentence}", file=sys.stderr, flush=True)


def _writer(dictation: DictationConfig) -> Writer:
    book = load_rules(dictation.rules) if dictation.commands else None
    # Only `live` takes back what was typed without being told to.
    return Writer(book, corrects=dictation.mode == "live", numbers=dictation.itn)


def _source(options: argparse.Namespace, config: Settings) -> Source:
    url, token = daemon_of(options, config.server)
    dictation = config.dictation
    if not _has_own(options, dictation):
        timeouts = client.PATIENT if options.no_wait else client.FOREVER
        return DaemonsMicrophone(url, session=options.session, token=token, timeouts=timeouts)
    connection: dict[str, Any] = {
        "url": url,
        "token": token,
        "language": dictation.language,
        "context": dictation.context,
        "partials": dictation.mode != "final",
    }
    pre_roll = to_samples(dictation.pre_roll_s if waits_for_keys(options, dictation) else 0.0)
    capture = _capture(options, config)
    return OwnMicrophone(capture, complain_to_person, pre_roll=pre_roll, **connection)


def _capture(options: argparse.Namespace, config: Settings) -> Capture:
    if options.input is not None:
        from streamasr.audio.paced import PacedFile

        return PacedFile(options.input, options.speed)
    from streamasr.audio.microphone import Microphone

    own = config.dictation.device
    return Microphone(config.microphone.device if own is None else own)


def daemon_of(options: argparse.Namespace, server: ServerConfig) -> tuple[str, str | None]:
    """The daemon's address, and the token that it wants.

    The token of the settings is for the address that stands there, and nobody else.
    """
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
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the token cannot be read from {path}: {why}") from error
