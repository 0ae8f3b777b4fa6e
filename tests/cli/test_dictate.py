"""`streamasr dictate` as a person runs it: a daemon, a shortcut's command, and what comes out."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamasr.cli.dictate import MODES, OUTPUTS, daemon_of, overrides_from, waits_for_keys
from streamasr.cli.main import parse
from streamasr.config import listing
from streamasr.config.document import toml
from streamasr.config.file import load_config
from streamasr.config.sections import DictationConfig
from streamasr.dictation import composer, desktop
from streamasr.models import tiny
from tests.support.daemons import RunningDaemon
from tests.support.desktops import Window, needs, needs_tk, shows, x_display
from tests.support.embedded import EmbeddedModel
from tests.support.marking import unmarked
from tests.support.punctuation import write_punctuation
from tests.support.settings import TOKEN, changed, load, write_token
from tests.support.waiting import eventually

TIMEOUT_S = 60.0


@contextmanager
def running_daemon(model: str) -> Iterator[RunningDaemon]:
    with (
        tempfile.TemporaryDirectory() as name,
        RunningDaemon(Path(name), "--no-mic", model=model) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with running_daemon(tiny.NAME) as running:
        yield running


@pytest.fixture(scope="module")
def each_daemon(embedded: EmbeddedModel) -> Iterator[RunningDaemon]:
    """Return a daemon with each embedded model."""
    with running_daemon(embedded.name) as running:
        yield running


@pytest.fixture
def control() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name) / "own" / "dictate.sock"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamasr", "dictate", *arguments]


def dictate(control: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = command("--control", str(control), *arguments)
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)


def settings(path: Path, text: str) -> list[str]:
    """The option that names a file of settings."""
    path.write_text(text, "utf-8")
    return ["--config", str(path)]


def text_of(daemon: RunningDaemon, control: Path, *arguments: str) -> str:
    source = ("--input", str(tiny.DEMO), "--speed", "0", "--url", daemon.url)
    result = dictate(control, *source, "--output", "stdout", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("mode", ["stable", "final"])
def test_a_file_is_dictated_to_stdout(each_daemon: RunningDaemon, control: Path, mode: str) -> None:
    text = text_of(each_daemon, control, "--mode", mode)
    assert text.startswith("hello good morning please open page")
    assert text.endswith("send my message?\n一二三四五六七八九十")


@pytest.mark.parametrize("mode", ["stable", "final"])
def test_marks_of_a_model_of_their_own_are_typed(tmp_path: Path, control: Path, mode: str) -> None:
    options = ("--no-mic", "--punctuation", str(write_punctuation(tmp_path / "marks")))
    hasty = "[live]\ncommit_lag_tokens = 1\ncommit_lag_s = 0.1\n"
    with RunningDaemon(tmp_path, *options, settings=hasty, model="tiny-paraformer") as daemon:
        words = ("--mode", mode, "--no-commands", "--no-itn", "--speed", "4")
        typed = text_of(daemon, control, *words)
        finals = [json.loads(line)["text"] for line in daemon.history("json").splitlines()]
    assert "".join(typed.split()).lower() == "".join("".join(finals).split()).lower()
    assert unmarked(typed) != typed.lower()


def test_commands_can_be_words(each_daemon: RunningDaemon, control: Path) -> None:
    assert "comma send my message question mark" in text_of(each_daemon, control, "--no-commands")


def test_the_daemons_microphone_is_followed(
    tmp_path: Path, control: Path, embedded: EmbeddedModel
) -> None:
    options = ("--input", str(tiny.DEMO), "--speed", "4")
    with RunningDaemon(tmp_path, *options, model=embedded.name) as daemon:
        result = dictate(control, "--output", "stdout", "--url", daemon.url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\n一二三四五六七八九十")


@pytest.mark.parametrize(
    ("option", "how"),
    [("--push-to-talk", "between `streamasr dictate start` and `stop`"), ("-v", "as it is heard")],
)
def test_a_terminal_shows_how_dictation_types(
    daemon: RunningDaemon, control: Path, option: str, how: str
) -> None:
    ours, its = pty.openpty()
    arguments = ("--control", str(control), "--output", "stdout", "--url", daemon.url, option)
    with subprocess.Popen(
        command(*arguments), stdin=its, stdout=subprocess.PIPE, stderr=its
    ) as process:
        os.close(its)
        with os.fdopen(ours, encoding="utf-8") as terminal:
            sentence = next(line for line in terminal if line.startswith("streamasr: "))
        process.terminate()
    assert sentence == f"streamasr: typing with stdout, {how}; Ctrl-C ends it\n"


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
        code = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        assert self.process.stderr
        assert self.process.stdout
        errors = self.process.stderr.read().decode()
        self.process.stderr.close()
        self.process.stdout.close()
        return code, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_push_to_talk_from_press_to_release(
    daemon: RunningDaemon, control: Path, number: signal.Signals
) -> None:
    dictation = Running(
        control,
        *("--push-to-talk", "--output", "stdout", "--url", daemon.url),
        *("--input", str(tiny.DEMO), "--speed", "2"),
    )
    await dictation.wait_until_ready()
    assert dictation.ask("status") == "idle"
    assert dictation.ask("toggle") == "listening"
    assert dictation.ask("start") == "listening"
    await eventually(lambda: "hello good morning" in dictation.text)
    assert dictation.ask("stop") == "finishing"
    await eventually(lambda: dictation.ask("status") == "idle")
    assert dictation.ask("cancel") == "idle"
    code, errors = dictation.stop(number)
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert errors == ""
    assert not control.exists()


@needs("Xvfb", "xdotool")
@needs_tk
async def test_speech_is_typed_into_the_window(
    each_daemon: RunningDaemon, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    expected = text_of(each_daemon, control)
    with x_display() as name:
        monkeypatch.setenv("DISPLAY", name)
        for mode in ("stable", "live"):
            with Window() as window:
                result = dictate(
                    control,
                    *("--mode", mode, "--input", str(tiny.DEMO), "--url", each_daemon.url),
                    *("--speed", "4"),
                )
                assert (result.returncode, result.stderr) == (0, "")
                await shows(window, expected)


def test_a_missing_dictation_daemon_or_output_is_one_sentence(
    control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dictate(control, "toggle")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "streamasr: no dictation is running; start one with `streamasr dictate --push-to-talk`.\n"
    )
    result = dictate(control, "--no-wait", "--output", "stdout", "--url", "ws://127.0.0.1:1")
    assert result.returncode == 1
    assert result.stderr.startswith("streamasr: there is no server at ws://127.0.0.1:1")
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("PATH", "/nowhere")
    result = dictate(control, "--url", "ws://127.0.0.1:1")
    assert result.returncode == 78
    assert result.stderr.startswith("streamasr: cannot type on this desktop (")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["explode"],
        ["--push-to-talk", "--pre-roll", "60"],
        ["--push-to-talk", "--longest", "0"],
        ["--no-push-to-talk", "--hold"],
        ["--rules", "more.toml", "--no-commands"],
        ["--mode", "live", "--output", "paste"],
        ["--output", "telepathy"],
    ],
)
def test_contradictory_options_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(["dictate", *arguments])
    assert raised.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


# Settings


def of(path: Path, text: str, *arguments: str) -> DictationConfig:
    """Dictation settings of a file of settings and options."""
    options = parse(["dictate", *settings(path, text), *arguments])
    return load_config(options.config, overrides_from(options)).dictation


def test_each_option_overrides_its_setting(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    text = toml(
        changed(
            {
                "dictation.push_to_talk": True,
                "dictation.hold": True,
                "dictation.pre_roll_s": 1.0,
                "dictation.sound": True,
                "dictation.device": "USB",
                "dictation.language": "de",
                "dictation.commands": False,
                "dictation.output": "xdotool",
                "dictation.rules": Path("/rules"),
            }
        )
    )
    options = """--push-to-talk --no-hold --pre-roll 0.5 --longest 9 --no-sound --device 3
        --language en --context names --mode final --commands --no-itn --rules /more
        --output stdout --keyboard de --newline Tab --paste-key ctrl+v"""
    assert of(path, text, *options.split()) == DictationConfig(
        push_to_talk=True,
        hold=False,
        pre_roll_s=0.5,
        longest_s=9,
        sound=False,
        device=3,
        language="en",
        context="names",
        mode="final",
        commands=True,
        itn=False,
        rules=Path("/more"),
        output="stdout",
        keyboard="de",
        newline="Tab",
        paste_key="ctrl+v",
    )
    without = of(path, text)
    assert (without.hold, without.device, without.rules) == (True, "USB", Path("/rules"))


@pytest.mark.parametrize(
    ("text", "arguments", "is_push_to_talk"),
    [
        ("", [], False),
        ("", ["--service"], True),
        ("", ["--push-to-talk"], True),
        ("", ["--hold"], True),
        ("push_to_talk = true", [], True),
        ("push_to_talk = false", ["--service"], False),
        ("push_to_talk = false", ["--push-to-talk"], True),
        ("push_to_talk = false", ["--hold"], True),
        ("hold = true", [], True),
        ("hold = true", ["--no-push-to-talk"], False),
        ("push_to_talk = true\nhold = true", ["--no-push-to-talk"], False),
    ],
)
def test_a_service_is_push_to_talk_by_default(
    tmp_path: Path, text: str, arguments: list[str], *, is_push_to_talk: bool
) -> None:
    dictation = of(tmp_path / "config.toml", f"[dictation]\n{text}", *arguments)
    assert waits_for_keys(parse(["dictate", *arguments]), dictation) is is_push_to_talk


@pytest.mark.parametrize(
    ("server", "arguments", "found"),
    [
        ("", [], ("ws://127.0.0.1:8765", None)),
        ("port = 9", [], ("ws://127.0.0.1:9", None)),
        ('host = "::1"', [], ("ws://[::1]:8765", None)),
        ('socket = "/run/s"', [], ("unix:///run/s", None)),
        ('token_file = "token"', [], ("ws://127.0.0.1:8765", TOKEN)),
        ('host = "0.0.0.0"\ntoken_file = "token"', [], ("ws://127.0.0.1:8765", TOKEN)),
        ('host = "::"\ntoken_file = "token"', [], ("ws://[::1]:8765", TOKEN)),
        ('port = 9\ntoken_file = "token"', ["--url", "ws://a"], ("ws://a", None)),
        ("port = 9", ["--token-file", "token"], ("ws://127.0.0.1:9", TOKEN)),
    ],
)
def test_the_daemon_is_found_where_the_settings_have_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    arguments: list[str],
    found: tuple[str, str | None],
) -> None:
    write_token(tmp_path / "token", f"{TOKEN}\n".encode())
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path / "config.toml", f"[server]\n{server}")
    assert daemon_of(parse(["dictate", *arguments]), config.server) == found


def test_a_daemon_on_any_port_has_to_be_named(tmp_path: Path, control: Path) -> None:
    file = settings(tmp_path / "config.toml", "server.port = 0")
    result = dictate(control, *file, "--output", "stdout")
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr == (
        "streamasr: server.port is 0, any free port: give the address with --url.\n"
    )


def test_a_file_of_settings_is_enough(daemon: RunningDaemon, control: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text('[en.replace]\n"good morning" = "good evening"\n', "utf-8")
    text = f"""
        server.port = {daemon.port}
        [dictation]
        output = "stdout"
        mode = "final"
        itn = false
        rules = "rules.toml"
    """
    file = settings(tmp_path / "config.toml", text)
    result = dictate(control, *file, "--input", str(tiny.DEMO), "--speed", "0")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("hello good evening please open page one hundred and")


@pytest.mark.parametrize(
    ("text", "arguments", "sentence"),
    [
        (
            "",
            ["--pre-roll", "1"],
            "--pre-roll belongs to push to talk: otherwise the microphone",
        ),
        ("", ["--language", "de"], "--language and --context belong to a microphone of its own"),
        ("commands = false", ["--rules", "a"], "dictation.commands is false: --rules needs"),
        ('rules = "a.toml"', [], "a.toml: the file does not exist."),
        ('output = "paste"', ["--mode", "live"], "command line: [dictation] mode live corrects"),
    ],
)
def test_options_without_effect_are_refused(
    tmp_path: Path, control: Path, text: str, arguments: list[str], sentence: str
) -> None:
    file = settings(tmp_path / "config.toml", f"[dictation]\n{text}")
    result = dictate(control, *file, *arguments)
    assert (result.returncode, result.stdout) == (78, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


SPY = """
import sys
from streamasr.cli.main import main
try:
    main(["dictate", "--control", sys.argv[1], "toggle"])
finally:
    for name in ("numpy", "streamasr.config", "streamasr.client", "streamasr.writing"):
        assert name not in sys.modules, name
"""


def test_a_shortcut_loads_no_settings(control: Path) -> None:
    argv = [sys.executable, "-c", SPY, str(control)]
    result = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("streamasr: no dictation is running")


def test_the_choices_of_the_command_line_are_those_of_the_settings() -> None:
    choices = {one.name: one.choices for one in listing.settings() if one.section == "dictation"}
    assert choices["mode"] == MODES == composer.MODES
    assert choices["output"] == OUTPUTS == desktop.OUTPUTS
