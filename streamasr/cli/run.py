"""`streamasr run`: the daemon; `streamasr pause` and `resume`: whether it listens."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

from streamasr.cli.config import overrides_from
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.config.file import find_config, load_config
from streamasr.config.sections import Settings
from streamasr.core.errors import AudioError, ConfigError
from streamasr.models import tiny


def run_daemon(options: argparse.Namespace) -> int:
    """Run until a signal ends it; the exit code.

    Raises:
        ConfigError, ModelError: it cannot run this way.
    """
    from streamasr.cli.engine_options import live_engine
    from streamasr.core.model_facts import ModelFacts
    from streamasr.daemon.daemon import Daemon
    from streamasr.engine.engine import LocalEngine
    from streamasr.models.bundle import read_bundle
    from streamasr.models.family import Role
    from streamasr.service.supervision import Supervision

    supervision = Supervision.from_environ(os.environ, os.getpid())
    overrides = overrides_from(options)

    def load() -> Settings:
        return load_config(find_config(options.config), overrides)

    config = load()
    logging.getLogger().setLevel(config.log.level.upper())
    logging.getLogger("websockets").setLevel(logging.WARNING)
    _check_input(config.microphone.input)
    if config.model.name == tiny.NAME:
        print(f"streamasr: {tiny.WARNING}", file=sys.stderr)
    engine = live_engine(config)
    bundle = read_bundle(engine.model, Role.RECOGNISER)
    family = bundle.family
    daemon = Daemon(
        config,
        load,
        open_engine=lambda on_trouble: LocalEngine(engine, on_trouble=on_trouble),
        model=ModelFacts(bundle.name, family.name, bundle.languages or tuple(family.languages)),
        language_name=family.languages.resolve,
        supervision=supervision,
    )
    return asyncio.run(daemon.run(partial(_announce, config)))


def run_control(options: argparse.Namespace) -> int:
    """Have the running daemon close or open its microphone.

    Raises:
        ConfigError: none is running.
    """
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
        raise ConfigError(f"process {process}, the daemon, belongs to another user.") from error
    return 0


def _check_input(path: Path | None) -> None:
    """Find out at the start, and not when the daemon is running."""
    if path is not None and path.is_dir():
        raise AudioError(f"{path} is a directory, not an audio file.")
    if path is not None and not path.exists():
        raise AudioError(f"{path}: there is no such file.")


def _announce(config: Settings, address: str) -> None:
    """Say on stderr where clients find the daemon."""
    microphone = config.microphone
    if microphone.input is not None:
        listening = f"playing {microphone.input}"
    elif microphone.enabled:
        listening = "listening to the microphone"
    else:
        listening = "no microphone"
    print(f"streamasr: {address}, {listening}", file=sys.stderr, flush=True)
