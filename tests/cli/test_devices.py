"""`streamasr devices`: a table for people, JSON for programs, a sentence when there are none."""

import argparse
import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamasr.audio.portaudio import InputDevice
from streamasr.cli import devices
from tests.support.portaudio import FakeAudio

INPUTS = (
    InputDevice(0, "HDA Intel: ALC257 Analog (hw:0,0)", "ALSA", 2, 44_100, is_default=False),
    InputDevice(4, "default", "ALSA", 32, 48_000, is_default=True),
)


def run(*inputs: InputDevice, is_json: bool = False) -> int:
    return devices.run(argparse.Namespace(json=is_json), FakeAudio(*inputs))


def test_the_table_marks_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*INPUTS) == 0
    assert capsys.readouterr().out == (
        "   INDEX  NAME                               HOST API  CHANNELS  RATE\n"
        "   0      HDA Intel: ALC257 Analog (hw:0,0)  ALSA      2         44100 Hz\n"
        "*  4      default                            ALSA      32        48000 Hz\n"
    )


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*INPUTS, is_json=True) == 0
    assert json.loads(capsys.readouterr().out)[1] == {
        "index": 4,
        "name": "default",
        "host_api": "ALSA",
        "channels": 32,
        "sample_rate": 48_000,
        "default": True,
    }


def test_no_inputs_are_an_answer_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert capsys.readouterr().out == "No audio input was found; connect a microphone.\n"
    assert run(is_json=True) == 0
    assert capsys.readouterr().out == "[]\n"


FOR_REAL = """
import argparse
from streamasr.cli import devices
devices.run(argparse.Namespace(json=True))
"""


@pytest.mark.skipif(
    ctypes.util.find_library("portaudio") is None, reason="PortAudio is not installed"
)
def test_what_portaudio_finds_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".asoundrc").write_text("pcm.quiet { type null }\n")
    result = subprocess.run(
        [sys.executable, "-c", FOR_REAL],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    listed = json.loads(result.stdout)
    assert "quiet" in [device["name"] for device in listed if device["host_api"] == "ALSA"]
    assert sum(device["default"] for device in listed) == 1
