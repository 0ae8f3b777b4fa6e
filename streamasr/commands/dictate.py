"""`streamasr dictate`: what is recognised is typed into the window that has the focus."""

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from streamasr import client
from streamasr.audio.capture import Capture
from streamasr.dictation import sounds
from streamasr.dictation.composer import Composer
from streamasr.dictation.control import control_path
from streamasr.dictation.desktop import TypingWishes, open_chain
from streamasr.dictation.dictation import Dictation, Manner, silence
from streamasr.dictation.utterance import DaemonsMicrophone, OwnMicrophone, Source
from streamasr.errors import ConfigError
from streamasr.units import to_samples
from streamasr.writing import Writer, load_rules


def run_dictate(options: argparse.Namespace) -> int:
    """Dictate until there is nothing more to hear; the exit code.

    Raises:
        ConfigError: it cannot be done this way.
        StreamASRError: there is no daemon.
    """
    path = options.control or control_path()
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_dictate(options, path))
    return 0


async def _dictate(options: argparse.Namespace, control: Path) -> None:
    waits_for_keys = options.push_to_talk or options.hold
    wishes = TypingWishes(
        output=options.output,
        layout=options.keyboard,
        newline=options.newline,
        paste_key=options.paste_key,
    )
    manner = Manner(
        is_held=options.hold,
        begins_at_once=not waits_for_keys,
        longest_s=options.longest if waits_for_keys else float("inf"),
        control=control,
        play=sounds.play if options.sound else silence,
    )
    if options.mode == "live" and options.output == "stdout" and not sys.stdout.isatty():
        raise ConfigError("--mode live takes back what it wrote, which a pipe cannot")
    async with open_chain(os.environ, wishes, complain_to_person) as chain:
        composer = Composer(options.mode, _writer(options))
        await Dictation(_source(options), composer, chain, complain_to_person, manner).run()


def complain_to_person(sentence: str) -> None:
    """One sentence on stderr."""
    print(f"streamasr: {sentence}", file=sys.stderr, flush=True)


def _writer(options: argparse.Namespace) -> Writer:
    book = load_rules(options.rules) if options.commands else None
    # Only `live` takes back what was typed without being told to.
    return Writer(book, corrects=options.mode == "live", numbers=options.itn)


def _source(options: argparse.Namespace) -> Source:
    has_own = options.push_to_talk or options.hold
    if not (has_own or options.device is not None or options.input is not None):
        patience = client.PATIENT if options.no_wait else client.FOREVER
        return DaemonsMicrophone(
            options.url, session=options.session, token=_token(options), patience=patience
        )
    connection: dict[str, Any] = {
        "url": options.url,
        "token": _token(options),
        "language": options.language,
        "context": options.context,
        "partials": options.mode != "final",
    }
    pre_roll = to_samples(options.pre_roll)
    return OwnMicrophone(_capture(options), complain_to_person, pre_roll=pre_roll, **connection)


def _capture(options: argparse.Namespace) -> Capture:
    if options.input is not None:
        from streamasr.audio.paced import PacedFile

        return PacedFile(options.input, options.speed)
    from streamasr.audio.microphone import Microphone

    return Microphone(options.device)


def _token(options: argparse.Namespace) -> str | None:
    if options.token_file is None:
        return None
    path: Path = options.token_file
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"the token cannot be read from {path}: {why}") from error
