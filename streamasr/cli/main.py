"""Entry point of the command line: parse the arguments, run the command, return its exit code.

Each command is a module of this package with `add_arguments(parser)` and `run(options)`, and
perhaps `check(parser, options)`. Only the module of the command that is asked for is loaded, and
it imports what is heavy inside `run`.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn, Protocol, cast

from streamasr import __version__
from streamasr.cli.exit_codes import (
    EXIT_BROKEN_PIPE,
    EXIT_CONFIG,
    EXIT_INPUT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
)
from streamasr.cli.stderr import complain
from streamasr.core.errors import ConfigError, ModelError, StreamASRError
from streamasr.core.log import log_to_stderr

COMMANDS: Final = {
    "demo": "watch the embedded model transcribe the bundled clip",
    "transcribe": "turn audio and video files into text",
    "run": "listen without end, for any number of clients",
    "pause": "close the daemon's microphone",
    "resume": "open the daemon's microphone again",
    "service": "let systemd run the daemon for you",
    "dictate": "type what is recognised into the window that has the focus",
    "config": "show all settings and their values",
    "devices": "list microphones",
    "doctor": "check this installation and this machine",
    "history": "show what was recognised, also while the daemon runs",
    "models": "get, import, check and remove models",
    "bench": "measure the speed on this machine",
}
"""Each command, and its line in the overview."""

_SHARED: Final = {"pause": "control", "resume": "control"}
"""Module of a command that has another's name."""


class Command(Protocol):
    """Module of a command."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments and a description to the command's parser."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command; return the exit code."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    options = parse(sys.argv[1:] if argv is None else argv)
    _set_up_logging(options.verbose)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        code = run(options)
        sys.stdout.flush()
    except StreamASRError as error:
        complain(error)
        if getattr(options, "json", False):
            _print_error(error)
        code = EXIT_CONFIG if isinstance(error, ConfigError | ModelError) else EXIT_INPUT_FAILED
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it; nothing may be flushed into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_BROKEN_PIPE
    sys.exit(code)


def run(options: argparse.Namespace) -> int:
    """Run the command that `parse` read; return the exit code.

    Raises:
        StreamASRError: the command failed; the class decides the exit code.
    """
    return _load(options.command).run(options)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the arguments; wrong ones end the program with a sentence and code 2."""
    parser = argparse.ArgumentParser(
        prog="streamasr", description="Speech to text, with word times."
    )
    parser.add_argument("--version", action=_ShowVersions, nargs=0, help="show versions and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = next((word for word in argv if not word.startswith("-")), None)
    for name, line in COMMANDS.items():
        of_command = commands.add_parser(name, help=line)
        if name == wanted:
            _load(name).add_arguments(of_command)
    options = parser.parse_args(argv)
    check = getattr(_load(options.command), "check", None)
    if check:
        check(commands.choices[options.command], options)
    return options


def _load(name: str) -> Command:
    return cast("Command", import_module(f"streamasr.cli.{_SHARED.get(name, name)}"))


class _ShowVersions(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from streamasr.core.versions import library_versions

        print(f"streamasr {__version__}")
        for name, version in library_versions().items():
            print(f"{name} {version or 'is not installed'}")
        parser.exit()


def _print_error(error: StreamASRError) -> None:
    """Print an error for a program that reads JSON."""
    import json

    print(json.dumps({"error": {"code": error.code, "message": str(error)}}, ensure_ascii=False))


def _set_up_logging(verbosity: int) -> None:
    level = {0: logging.ERROR, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    log_to_stderr(level)
