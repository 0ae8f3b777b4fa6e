"""`streamasr devices`: which inputs there are."""

import argparse
import json
from typing import Any

from streamasr.audio.portaudio import AudioSystem, InputDevice, PortAudio


def run_devices(options: argparse.Namespace, system: AudioSystem | None = None) -> int:
    """List the audio inputs, as a table or as JSON; the exit code.

    A machine without inputs is no failure: the answer is that there are none.

    Args:
        options: `json` asks for JSON.
        system: where devices are found; PortAudio if None.

    Raises:
        AudioError: PortAudio is missing or does not answer.
    """
    inputs = (system or PortAudio()).find_inputs()
    if options.json:
        print(json.dumps([_described(device) for device in inputs], ensure_ascii=False))
    elif inputs:
        print(_table(inputs))
    else:
        print("There is no audio input; plug a microphone in.")
    return 0


def _described(device: InputDevice) -> dict[str, Any]:
    return {
        "index": device.index,
        "name": device.name,
        "host_api": device.host_api,
        "channels": device.n_channels,
        "sample_rate": device.rate,
        "default": device.is_default,
    }


def _table(inputs: list[InputDevice]) -> str:
    """Lines that stay apart in a pipe too; the default has a star."""
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
