"""`streamasr devices`: list the microphones."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from streamasr.cli.arguments import add_json, add_verbose

if TYPE_CHECKING:
    from streamasr.audio.portaudio import AudioSystem, InputDevice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = "List the microphones for --device, the system's default marked with *."
    add_verbose(parser)
    add_json(parser)


def run(options: argparse.Namespace, system: "AudioSystem | None" = None) -> int:
    """List the audio inputs, as a table or as JSON; return 0, also where there are none.

    Args:
        options: `json` asks for JSON.
        system: where devices are found; PortAudio if None.

    Raises:
        AudioError: PortAudio is missing or does not answer.
    """
    if system is None:
        from streamasr.audio.portaudio import PortAudio

        system = PortAudio()
    inputs = system.find_inputs()
    if options.json:
        print(json.dumps([_described(device) for device in inputs], ensure_ascii=False))
    elif inputs:
        print(_table(inputs))
    else:
        print("No audio input was found; connect a microphone.")
    return 0


def _described(device: "InputDevice") -> dict[str, Any]:
    return {
        "index": device.index,
        "name": device.name,
        "host_api": device.host_api,
        "channels": device.n_channels,
        "sample_rate": device.rate,
        "default": device.is_default,
    }


def _table(inputs: "list[InputDevice]") -> str:
    """Return an aligned table as plain text; the default has a star."""
    rows = [("", "INDEX", "NAME", "HOST API", "CHANNELS", "RATE")]
    rows += [
        (
            "*" if device.is_default else "",
            str(device.index),
            device.name,
            device.host_api,
            str(device.n_channels),
            f"{device.rate} Hz",
        )
        for device in inputs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
