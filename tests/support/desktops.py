"""Real desktops without a screen: a display, a window, and the text that the window shows."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.waiting import eventually

TIMEOUT_S = 60.0

_WINDOW = """
import sys, tkinter
root = tkinter.Tk()
root.geometry("600x300")
text = tkinter.Text(root)
text.pack()
text.focus_force()
def answer(file, mask):
    command = file.readline()
    if not command:
        root.destroy()
    if command == "clear\\n":
        text.delete("1.0", "end")
    print(repr(text.get("1.0", "end-1c")), flush=True)
root.createfilehandler(sys.stdin, tkinter.READABLE, answer)
root.update()
root.focus_force()
text.focus_force()
print(flush=True)
root.mainloop()
"""


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip a test if one of these programs is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def _has_tk() -> bool:
    command = [sys.executable, "-c", "import tkinter"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


needs_tk = pytest.mark.skipif(not _has_tk(), reason="this Python has no tkinter")


@contextlib.contextmanager
def x_display() -> Iterator[str]:
    """Run an X server; yield its display name."""
    read, write = os.pipe()
    # By default the server resets when its last client disconnects, which loses the layout and
    # connections opened at that moment.
    argv = ["Xvfb", "-noreset", "-displayfd", str(write), "-screen", "0", "800x600x24"]
    argv += ["-nolisten", "tcp"]
    with os.fdopen(read) as ready:
        server = subprocess.Popen(argv, pass_fds=[write], stderr=subprocess.DEVNULL)
        os.close(write)
        try:
            number = ready.readline().strip()
            assert number, "Xvfb does not start"
            yield f":{number}"
        finally:
            server.terminate()
            server.wait(TIMEOUT_S)


class Window:
    """Window with a text field that has the focus."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WINDOW],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def text(self) -> str:
        """Text that the window shows."""
        return str(eval(self._ask("read")))

    def clear(self) -> None:
        """Clear the text field."""
        self._ask("clear")

    def _ask(self, command: str) -> str:
        assert self._process.stdin
        print(command, file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


class TerminalWindow:
    """Terminal with a program that only writes the typed text to a file."""

    def __init__(self, directory: Path, *terminal: str) -> None:
        self._path = directory / "typed"
        self._path.touch()
        self._path.chmod(0o666)
        program = f"stty -icanon -echo -icrnl; touch {directory}/ready; exec cat >> {self._path}"
        self._process = subprocess.Popen(
            [*terminal, "sh", "-c", program],
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._is_ready = (directory / "ready").exists

    async def wait_until_ready(self) -> None:
        await eventually(self._is_ready)

    @property
    def text(self) -> str:
        """Typed text, with Return as a line end."""
        return self._path.read_text("utf-8").replace("\r", "\n")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_S)


async def shows(window: "Window | TerminalWindow", text: str) -> None:
    """Wait until a window shows a text; fail with the text that it shows instead."""
    try:
        async with asyncio.timeout(15):
            await eventually(lambda: window.text == text)
    except TimeoutError:
        assert window.text == text


@contextlib.asynccontextmanager
async def wayland(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Run a Wayland compositor, and set the environment for it."""
    with tempfile.TemporaryDirectory() as name:  # other users cannot enter those of pytest
        async with _compositor(Path(name), monkeypatch):
            yield


@contextlib.asynccontextmanager
async def _compositor(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    (directory / "config").write_text("xwayland disable\n")
    prefix: list[str] = []
    if os.getuid() == 0:  # sway refuses to run as root
        os.chown(directory, 65534, 65534)
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for name, value in {
        "XDG_RUNTIME_DIR": str(directory),
        "WLR_BACKENDS": "headless",
        "WLR_LIBINPUT_NO_DEVICES": "1",
        "WLR_RENDERER": "pixman",
        "HOME": str(directory),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    log = directory / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [*prefix, "sway", "-c", str(directory / "config")], stdout=file, stderr=file
        )
    try:
        await eventually(
            lambda: (
                all(any(directory.glob(name)) for name in ("wayland-?", "sway-ipc.*"))
                or server.poll() is not None
            )
        )
        assert server.poll() is None, log.read_text()
        monkeypatch.setenv("WAYLAND_DISPLAY", next(directory.glob("wayland-?")).name)
        monkeypatch.setenv("SWAYSOCK", str(next(directory.glob("sway-ipc.*"))))
        # As on a real desktop, a keyboard exists before the first key is pressed.
        keyboard = subprocess.Popen(["wtype", "-s", "600000"])
        yield
        keyboard.kill()
        keyboard.wait(TIMEOUT_S)
    finally:
        server.terminate()
        server.wait(TIMEOUT_S)


def has_focus(app: str) -> bool:
    """Return whether a window of the program has the focus of the compositor."""
    answer = subprocess.run(
        ["swaymsg", "-r", "-t", "get_tree"], check=False, capture_output=True, text=True
    )
    nodes = [json.loads(answer.stdout)] if answer.returncode == 0 else []
    while nodes:
        node = nodes.pop()
        if node.get("app_id") == app and node["focused"]:
            return True
        nodes += node["nodes"]
    return False
