"""`streamasr run`: the daemon."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamasr.cli.arguments import (
    absolute,
    add_aligner,
    add_config,
    add_gpu,
    add_languages,
    add_model,
    add_no_reuse,
    add_punctuation,
    add_switch,
    add_threads,
    add_verbose,
    given,
    number,
    number_or_name,
)
from streamasr.core.errors import AudioError, ConfigError

if TYPE_CHECKING:
    from streamasr.config.sections import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Listen to the microphone and to clients without end. Options override the configuration; "
        "`streamasr config` shows all settings."
    )
    add_verbose(parser)
    add_config(parser)
    add_model(parser)
    add_aligner(parser)
    add_punctuation(parser)
    add_switch(parser, "mic", "listen to a microphone")
    parser.add_argument("--device", metavar="NAME|N", help="see `streamasr devices`")
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="play a file in place of a microphone"
    )
    parser.add_argument("--speed", type=number, metavar="X", help="of that file; default 1")
    parser.add_argument("--host", help="default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="default: 8765; 0 takes any free port")
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="a Unix socket in place of host and port"
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token that clients must present"
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="a web page that may connect; may be given several times",
    )
    add_languages(parser)
    parser.add_argument("--context", metavar="TEXT", help="names and terms that may come up")
    add_threads(parser)
    add_gpu(parser)
    add_no_reuse(parser)


def run(options: argparse.Namespace) -> int:
    """Run until a signal ends the daemon; return the exit code.

    Raises:
        ConfigError: the settings cannot be used.
        ModelError: the model cannot be used.
    """
    import asyncio
    import logging
    import os
    from functools import partial

    from streamasr.cli.engine_options import live_engine
    from streamasr.config.file import find_config, load_config
    from streamasr.daemon.daemon import Daemon
    from streamasr.engine.engine import LocalEngine
    from streamasr.models import tiny
    from streamasr.service.supervision import Supervision

    supervision = Supervision.from_environ(os.environ, os.getpid())
    overrides = overrides_from(options)

    def load() -> "Settings":
        return load_config(find_config(options.config), overrides)

    config = load()
    logging.getLogger().setLevel(config.log.level.upper())
    logging.getLogger("websockets").setLevel(logging.WARNING)
    _check_input(config.microphone.input)
    if config.model.name == tiny.NAME:
        print(f"streamasr: {tiny.WARNING}", file=sys.stderr)
    engine = live_engine(config)
    daemon = Daemon(
        config,
        load,
        open_engine=lambda on_trouble: LocalEngine(engine, on_trouble=on_trouble),
        supervision=supervision,
    )
    return asyncio.run(daemon.run(partial(_announce, config)))


def overrides_from(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the settings that the command line sets, for `load_config`.

    Raises:
        ConfigError: two options contradict each other.
    """
    from streamasr.cli.engine_options import model_overrides

    if options.socket and (options.host or options.port is not None):
        raise ConfigError(
            "--socket takes the place of --host and --port: leave out one or the others.",
            code="options_contradict",
        )
    if options.input and (options.device is not None or options.mic is False):
        raise ConfigError(
            "--input takes the place of a microphone: no --device, no --no-mic.",
            code="options_contradict",
        )
    server = given(
        host=options.host,
        port=options.port,
        socket=absolute(options.socket),
        token_file=absolute(options.token_file),
        allow_origin=options.allow_origin,
    )
    if "host" in server or "port" in server:
        server["socket"] = None  # which the file may name
    microphone = given(
        enabled=True if options.input else options.mic,
        device=None if options.device is None else number_or_name(options.device),
        input=absolute(options.input),
        speed=options.speed,
    )
    if "device" in microphone:
        microphone["input"] = None
    sections = {
        "model": {name: _anchored(name, value) for name, value in model_overrides(options).items()},
        "server": server,
        "microphone": microphone,
        "log": given(level={0: None, 1: "info"}.get(options.verbose, "debug")),
    }
    return {name: some for name, some in sections.items() if some}


def _anchored(name: str, value: Any) -> Any:
    """Return the value of a setting of the model; paths count from here, not from the file."""
    is_path = name in ("name", "aligner", "punctuation") and "/" in value
    return absolute(Path(value)) if is_path else value


def _check_input(path: Path | None) -> None:
    """Refuse a missing file at the start, and not when the daemon is running."""
    if path is not None and path.is_dir():
        raise AudioError(f"{path} is a directory, not an audio file.", code="is_directory")
    if path is not None and not path.exists():
        raise AudioError(f"{path}: the file does not exist.", code="no_such_file")


def _announce(config: "Settings", address: str) -> None:
    """Print on stderr the address that clients connect to."""
    microphone = config.microphone
    if microphone.input is not None:
        listening = f"playing {microphone.input}"
    elif microphone.enabled:
        listening = "listening to the microphone"
    else:
        listening = "no microphone"
    print(f"streamasr: {address}, {listening}", file=sys.stderr, flush=True)
