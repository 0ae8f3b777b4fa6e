"""Tests of sending a file to the daemon: text on stdout, files, a lost connection."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec import json

import streamasr
from streamasr.core.units import SAMPLE_RATE
from streamasr.pipeline.formats import FORMATS
from tests.support.audio_files import write_audio
from tests.support.fake_daemon import (
    DaemonOptions,
    FakeDaemon,
    Json,
    exact,
    recognise,
    running_daemon,
)
from tests.support.fakes import talk, write_wav
from tests.support.waiting import eventually

SCRIPT = Path(streamasr.__file__).parents[1] / "clients" / "stream_file.py"
TOKEN = "correct-horse"

TALK = exact(talk(0.7, 1.1, 0.5))
FINALS = [message for message in recognise(TALK) if message["type"] == "final"]
TEXT = "".join(f"{final['text']}\n" for final in FINALS)


async def stream_file(*arguments: object) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *map(str, arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "talk.wav", TALK)


async def test_the_text_of_a_file_goes_to_stdout(tmp_path: Path, file: Path) -> None:
    (tmp_path / "daemon").mkdir()
    async with running_daemon(tmp_path / "daemon") as daemon:
        assert await stream_file("--url", daemon.address, file) == (0, TEXT, "")


async def test_every_format_is_written_as_transcribe_writes_it(tmp_path: Path, file: Path) -> None:
    (tmp_path / "daemon").mkdir()
    async with running_daemon(tmp_path / "daemon") as daemon:
        formats = [option for name in FORMATS for option in ("--format", name)]
        outcome = await stream_file("--url", daemon.address, *formats, "-o", tmp_path, file)
        assert outcome == (0, "", "")
    assert (tmp_path / "talk.txt").read_text() == TEXT
    assert (tmp_path / "talk.srt").read_text().startswith("1\n00:00:00,")
    assert (tmp_path / "talk.vtt").read_text().startswith("WEBVTT\n\n00:00:00.")
    document = json.decode((tmp_path / "talk.json").read_bytes(), type=Json)
    assert document["model"] == "fake"
    assert document["duration"] == len(TALK) / SAMPLE_RATE
    assert [segment["text"] for segment in document["segments"]] == TEXT.splitlines()
    for segment in document["segments"]:
        assert " ".join(word["text"] for word in segment["words"]) == segment["text"]


async def test_no_text_is_lost_with_a_connection(tmp_path: Path) -> None:
    long = exact(np.concatenate([talk(0.7)] * 20))
    write_wav(tmp_path / "long.wav", long)
    expected = [m["text"] for m in recognise(long) if m["type"] == "final"]

    async def cut(daemon: FakeDaemon) -> None:
        for share in (0.2, 0.6):
            await eventually(
                lambda: any(live.intake.position > share * len(long) for live in daemon.sessions)  # noqa: B023
            )
            for connection in daemon.server.connections:
                connection.abort()

    (tmp_path / "daemon").mkdir()
    async with running_daemon(tmp_path / "daemon", DaemonOptions(max_lag_s=5.0)) as daemon:
        cutting = asyncio.create_task(cut(daemon))
        code, out, err = await stream_file("--url", daemon.address, tmp_path / "long.wav")
        await cutting
    assert (code, out.splitlines()) == (0, expected)
    assert err.startswith("waiting: ")


async def test_the_token_is_sent_to_the_server(tmp_path: Path, file: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "daemon").mkdir()
    async with running_daemon(tmp_path / "daemon", DaemonOptions(token=TOKEN)) as daemon:
        where = ("--url", daemon.address)
        code, out, _ = await stream_file(*where, "--token-file", tmp_path / "token", file)
        assert (code, out) == (0, TEXT)
        code, out, err = await stream_file(*where, file)
        assert (code, out) == (1, "")
        assert err == (
            f"stream_file: the server at {daemon.address} needs a token, "
            "or does not know this one\n"
        )


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["/nowhere/talk.wav"], 1, "stream_file: "),
        ([SCRIPT], 1, "stream_file: "),
        (["--url", "http://localhost", "FILE"], 1, "is not the address of a server"),
        (["--url", "ws://127.0.0.1:1", "FILE"], 1, "there is no server"),
        (["--token-file", "/nowhere/token", "FILE"], 1, "No such file or directory"),
        (["-o", SCRIPT, "--url", "ws://127.0.0.1:1", "FILE"], 1, f"{SCRIPT}: File exists"),
        (["-o", "/proc/no", "--url", "ws://127.0.0.1:1", "FILE"], 1, "/proc/no: No such file"),
        (["-f", "txt", "-f", "srt", "FILE"], 2, "several formats need a directory"),
    ],
)
async def test_an_invalid_argument_gives_one_sentence(
    file: Path, arguments: list[object], code: int, sentence: str
) -> None:
    arguments = [file if argument == "FILE" else argument for argument in arguments]
    got, out, err = await stream_file(*arguments)
    assert (got, out) == (code, "")
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err
    assert code == 2 or err.count("\n") == 1


async def test_the_readable_part_of_a_broken_file_is_transcribed(tmp_path: Path) -> None:
    file = write_audio(tmp_path / "broken.flac", talk(0.7, 1.1, 0.5), codec="flac")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    (tmp_path / "daemon").mkdir()
    async with running_daemon(tmp_path / "daemon") as daemon:
        code, out, err = await stream_file("--url", daemon.address, file)
    assert code == 1
    assert out.count("samples") >= 1
    assert err.startswith("stream_file: ")
    assert err.count("\n") == 1
