"""`streamasr pause` and `streamasr resume`: close and open the daemon's microphone."""

import argparse
import sys
from typing import Final

from streamasr.cli.arguments import add_config, add_verbose
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.core.errors import ConfigError

_DESCRIPTIONS: Final = {
    "pause": "Close the daemon's microphone. It stays closed until `streamasr resume`.",
    "resume": "Open the daemon's microphone again. Speech in the meantime was not recorded.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both commands."""
    parser.description = _DESCRIPTIONS[parser.prog.split()[-1]]
    add_verbose(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Signal the running daemon; return 0, or 1 where none is running.

    Raises:
        ConfigError: the daemon belongs to another user, or the settings cannot be used.
    """
    import os
    import signal

    from streamasr.config.file import find_config, load_config
    from streamasr.storage.lock import find_daemon

    config = load_config(find_config(options.config))
    process = find_daemon(config.storage.directory)
    if process is None:
        print(
            f"streamasr: no daemon uses {config.storage.directory}; `streamasr run` starts one.",
            file=sys.stderr,
        )
        return EXIT_INPUT_FAILED
    try:
        os.kill(process, signal.SIGUSR1 if options.command == "pause" else signal.SIGUSR2)
    except PermissionError as error:
        sentence = f"process {process}, the daemon, belongs to another user."
        raise ConfigError(sentence, code="daemon_of_another_user") from error
    return 0
