"""The unit of dictation under a real service manager: it types, with its restrictions."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from streamasr.models import tiny
from streamasr.service.units import DICTATE
from tests.support.daemons import RunningDaemon
from tests.support.desktops import TerminalWindow, needs, shows, x_display
from tests.support.managers import UserManager, needs_manager
from tests.support.waiting import eventually

pytestmark = [needs_manager, needs("Xvfb", "xterm", "xdotool", "xclip")]

PLAYED = f"""
[Service]
ExecStart=
ExecStart={sys.executable} -P -m streamasr dictate --service --input {tiny.DEMO} --speed 4
"""
"""A file is played in place of the microphone."""


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with x_display() as name:
        monkeypatch.setenv("DISPLAY", name)
        yield name


@pytest.fixture
def manager(display: str) -> Iterator[UserManager]:
    with UserManager(DISPLAY=display) as running:
        yield running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path, "--no-mic") as running:
        yield running


@pytest.fixture
async def terminal(display: str, tmp_path: Path) -> AsyncIterator[TerminalWindow]:
    assert display
    (tmp_path / "terminal").mkdir()
    window = TerminalWindow(tmp_path / "terminal", "xterm", "-e")
    await window.wait_until_ready()
    yield window
    window.close()


@pytest.mark.parametrize("output", ["xdotool", "paste"])
async def test_the_unit_types_speech_and_the_clipboard_outlives_it(
    manager: UserManager, daemon: RunningDaemon, terminal: TerminalWindow, output: str
) -> None:
    def streamasr(*arguments: str) -> str:
        done = manager.run(sys.executable, "-m", "streamasr", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    manager.write(
        manager.home / ".config/streamasr/config.toml",
        f'server.port = {daemon.port}\n[dictation]\noutput = "{output}"\n',
    )
    manager.write(manager.home / f".config/systemd/user/{DICTATE}.d/played.conf", PLAYED)
    # The daemon runs elsewhere, where there is a machine for it.
    manager.write(manager.home / ".config/systemd/user/streamasr.service.d/none.conf", NO_DAEMON)
    manager.run("sh", "-c", "xclip -i -selection clipboard > /dev/null 2>&1", stdin="kept")

    assert f"{DICTATE} is started" in streamasr("service", "install", "--dictate")
    assert f"active, typing with {output}" in streamasr("service", "status")
    assert confinement(manager) == {"NoNewPrivs": "1", "Seccomp": "2", "CapBnd": 16 * "0"}
    assert streamasr("dictate", "start") == "listening\n"
    await shows(terminal, EXPECTED)
    await eventually(lambda: streamasr("dictate", "status") == "idle\n")

    assert manager.systemctl("stop", DICTATE).returncode == 0
    assert manager.systemctl("is-active", DICTATE).stdout == "inactive\n"
    assert manager.run("xclip", "-o", "-selection", "clipboard").stdout == "kept"


NO_DAEMON = """
[Service]
Type=oneshot
WatchdogSec=0
RemainAfterExit=yes
ExecStart=
ExecStart=true
"""

EXPECTED = (
    "hello good morning please open page 123 copy the last sentence, send my message?\n"
    "一二三四五六七八九十"
)


def confinement(manager: UserManager) -> dict[str, str]:
    """Return facts of the unit's process from the kernel."""
    number = manager.systemctl("show", "--property=MainPID", "--value", DICTATE).stdout.strip()
    status = manager.run("cat", f"/proc/{number}/status").stdout
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    return {name: facts[name] for name in ("NoNewPrivs", "Seccomp", "CapBnd")}
