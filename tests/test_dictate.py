"""`streamasr dictate` as a person runs it: a daemon, a shortcut's command, and what comes out."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamasr.cli import parse
from streamasr.models import tiny
from tests.daemons import RunningDaemon
from tests.desktops import Window, needs, needs_tk, shows, x_display
from tests.house import eventually, run

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with (
        tempfile.TemporaryDirectory() as name,
        RunningDaemon(Path(name), "--no-mic") as running,
    ):
        yield running


@pytest.fixture
def control() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "own" / "dictate.sock"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamasr", "dictate", *arguments]


def dictate(control: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = command("--control", str(control), *arguments)
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE_S)


def text_of(daemon: RunningDaemon, control: Path, *arguments: str) -> str:
    source = ("--input", str(tiny.DEMO), "--speed", "0", "--url", daemon.url)
    result = dictate(control, *source, "--output", "stdout", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("mode", ["stable", "final"])
def test_a_file_is_dictated_to_stdout(daemon: RunningDaemon, control: Path, mode: str) -> None:
    text = text_of(daemon, control, "--mode", mode)
    assert text.startswith("hello good morning please open page")
    assert text.endswith("send my message?\n一二三四五六七八九十")


def test_commands_can_be_words(daemon: RunningDaemon, control: Path) -> None:
    assert "comma send my message question mark" in text_of(daemon, control, "--no-commands")


def test_the_daemons_microphone_is_followed(tmp_path: Path, control: Path) -> None:
    with RunningDaemon(tmp_path, "--input", str(tiny.DEMO), "--speed", "4") as daemon:
        result = dictate(control, "--output", "stdout", "--url", daemon.url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\n一二三四五六七八九十")


class Running:
    """A dictation that waits for shortcuts."""

    def __init__(self, control: Path, *arguments: str) -> None:
        self.control = control
        self.process = subprocess.Popen(
            command("--control", str(control), *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.out = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        while data := os.read(self.process.stdout.fileno(), 1 << 12):
            self.out += data

    @property
    def text(self) -> str:
        return self.out.decode(errors="replace")

    async def wait_until_ready(self) -> None:
        await eventually(lambda: self.control.exists() or self.process.poll() is not None)
        assert self.process.poll() is None

    def ask(self, action: str) -> str:
        result = dictate(self.control, action)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout.strip()

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stderr
        assert self.process.stdout
        errors = self.process.stderr.read().decode()
        self.process.stderr.close()
        self.process.stdout.close()
        return code, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_push_to_talk_from_press_to_release(
    daemon: RunningDaemon, control: Path, number: signal.Signals
) -> None:
    dictation = Running(
        control,
        *("--push-to-talk", "--output", "stdout", "--url", daemon.url),
        *("--input", str(tiny.DEMO), "--speed", "2"),
    )

    async def story() -> None:
        await dictation.wait_until_ready()
        assert dictation.ask("status") == "idle"
        assert dictation.ask("toggle") == "listening"
        assert dictation.ask("start") == "listening"
        await eventually(lambda: "hello good morning" in dictation.text)
        assert dictation.ask("stop") == "finishing"
        await eventually(lambda: dictation.ask("status") == "idle")
        assert dictation.ask("cancel") == "idle"

    run(story())
    code, errors = dictation.stop(number)
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert errors == ""
    assert not control.exists()


@needs("Xvfb", "xdotool")
@needs_tk
def test_what_is_said_stands_in_the_window(
    daemon: RunningDaemon, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    expected = text_of(daemon, control)
    with x_display() as name:
        monkeypatch.setenv("DISPLAY", name)
        for mode in ("stable", "live"):
            with Window() as window:
                result = dictate(
                    control,
                    *("--mode", mode, "--input", str(tiny.DEMO), "--url", daemon.url),
                    *("--speed", "4"),
                )
                assert (result.returncode, result.stderr) == (0, "")
                run(shows(window, expected))


def test_no_dictation_no_daemon_and_no_output_are_one_sentence_each(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dictate(control, "toggle")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "streamasr: no dictation is running; `streamasr dictate --push-to-talk` starts one\n"
    )
    result = dictate(control, "--no-wait", "--output", "stdout", "--url", "ws://127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("streamasr: there is no server at ws://127.0.0.1:1")
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("PATH", "/nowhere")
    result = dictate(control, "--url", "ws://127.0.0.1:1")
    assert result.returncode == 78
    assert result.stderr.startswith("streamasr: nothing can type on this desktop (")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["explode"],
        ["--pre-roll", "1"],
        ["--push-to-talk", "--pre-roll", "60"],
        ["--push-to-talk", "--longest", "0"],
        ["--language", "de"],
        ["--mode", "live", "--output", "paste"],
        ["--output", "telepathy"],
    ],
)
def test_what_contradicts_itself_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(["dictate", *arguments])
    assert raised.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
