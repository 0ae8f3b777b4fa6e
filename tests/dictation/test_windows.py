"""Tests of typing into real windows: any layout, any script, with modifiers held down."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from streamasr.core.errors import ConfigError
from streamasr.dictation import x11
from streamasr.dictation.clipboard import Clipboard, Content, Selection, WlClipboard, Xclip, Xsel
from streamasr.dictation.desktop import TypingOptions, open_chain
from streamasr.dictation.tools import ToolError, run_tool
from streamasr.writing.edits import Edit
from tests.support.desktops import (
    TIMEOUT_S,
    TerminalWindow,
    Window,
    has_focus,
    needs,
    needs_tk,
    shows,
    wayland,
    x_display,
)
from tests.support.errors import raises
from tests.support.waiting import eventually

GERMAN: Final = "Äpfel, Öl & Übermut: „süße“ Grüße – 5 € @ [x] {y} ~ ^ ` \\ | zy ZY "
MIXED: Final = (
    "-dash first. Grüße aus Köln, ÄÖÜß!\nСъешь же ЕЩЁ этих булок.\n"
    "二零二四年三月十五日,今天天气很好。\n日本語のテキスト。 한국어 문장.\nEmoji 😀 👍🏽 🇩🇪 end"
)


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with x_display() as name:
        monkeypatch.setenv("DISPLAY", name)
        yield name


@pytest.fixture
def window(display: str) -> Iterator[Window]:
    with Window() as opened:
        yield opened


def tool(*argv: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(argv, input=stdin, check=True, stdout=subprocess.PIPE)
    return done.stdout


def lay_out(layout: str) -> None:
    tool("setxkbmap", layout)


async def type_all(*edits: Edit, **options: str) -> None:
    reports: list[str] = []
    async with open_chain(
        os.environ,
        TypingOptions(**options),  # type: ignore[arg-type]
        reports.append,
    ) as chain:
        for edit in edits:
            await chain.apply(edit)
    assert reports == []


async def holds(clipboard: Clipboard, selection: Selection, content: Content) -> None:
    """Wait until a selection has a content; the program may exit before it owns the selection."""
    while await clipboard.read(selection) != content:
        pass


async def put(clipboard: Clipboard, selection: Selection, content: Content) -> None:
    """Set a selection, and wait until it has the content."""
    await clipboard.put(selection, content)
    await holds(clipboard, selection, content)


on_x11 = needs("Xvfb", "xdotool", "setxkbmap")


@on_x11
@needs_tk
class TestXdotool:
    """Typing on X11 with xdotool."""

    @pytest.mark.parametrize("layout", ["de", "ru", "us,ru", "us"])
    async def test_any_script_on_any_layout(self, window: Window, layout: str) -> None:
        lay_out(layout)
        await type_all(Edit(text=MIXED))
        await shows(window, MIXED)

    async def test_a_tab_is_a_key(self, window: Window) -> None:
        await type_all(Edit(text="one\ttwo\nthree"))
        await shows(window, "one\ttwo\nthree")

    async def test_two_thousand_characters(self, window: Window) -> None:
        lay_out("de")
        text = (GERMAN * 40)[:2000]
        await type_all(Edit(text=text))
        await shows(window, text)

    async def test_many_more_characters_than_there_are_spare_keys(self, window: Window) -> None:
        text = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 100))
        await type_all(Edit(text=text))
        await shows(window, text)

    async def test_spare_keys_are_restored(self, window: Window) -> None:
        before = tool("xkbcomp", os.environ["DISPLAY"], "-")
        await type_all(Edit(text="Grüße, 你好"))
        assert tool("xkbcomp", os.environ["DISPLAY"], "-") == before

    async def test_a_held_shift_is_waited_for(self, window: Window) -> None:
        await run_tool(["xdotool", "keydown", "Shift_L"])
        with x11.Keyboard.of_display() as keyboard:
            assert keyboard.holds_modifiers()
            typing = asyncio.create_task(type_all(Edit(text="not shouted 123")))
            done, _ = await asyncio.wait([typing], timeout=0.3)
            assert (done, window.text) == (set(), "")
            await run_tool(["xdotool", "keyup", "Shift_L"])
            await typing
        await shows(window, "not shouted 123")

    @pytest.mark.parametrize("modifier", ["Shift_L", "Control_L", "Super_L"])
    async def test_a_modifier_that_is_never_released_has_no_effect(
        self, window: Window, modifier: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(x11, "_RELEASE_TIMEOUT_S", 0.1)
        await run_tool(["xdotool", "keydown", modifier])
        await type_all(Edit(text="not shouted 123"))
        await shows(window, "not shouted 123")
        await run_tool(["xdotool", "keyup", modifier])

    async def test_caps_lock_has_no_effect(self, window: Window) -> None:
        await run_tool(["xdotool", "key", "Caps_Lock"])
        await type_all(Edit(text="Quiet, ä."))
        await shows(window, "Quiet, ä.")

    async def test_corrections_delete_the_right_characters(self, window: Window) -> None:
        await type_all(Edit(text="ein schöner Tat"), Edit(1, "g"), Edit(11, "Grüße 你好"), Edit(1))
        await shows(window, "ein Grüße 你")

    async def test_more_backspaces_than_in_one_run(self, window: Window) -> None:
        await type_all(Edit(text="a" * 250 + "b"), Edit(230))
        await shows(window, "a" * 21)


@on_x11
@pytest.mark.parametrize("key", ["Enter", "shift+Enter", "+", "shift+"])
@pytest.mark.parametrize("name", ["newline", "paste_key"])
async def test_an_unknown_key_is_refused_before_any_text_is_lost(
    display: str, name: str, key: str
) -> None:
    output = {"newline": "xdotool", "paste_key": "paste"}[name]
    with raises(ConfigError, "unknown_key") as caught:
        await type_all(output=output, **{name: key})
    assert repr(key) in str(caught.value)


@on_x11
@needs_tk
@needs("xclip", "xsel")
class TestPaste:
    """Pasting through the clipboard of X11."""

    @pytest.mark.parametrize("name", ["xclip", "xsel"])
    async def test_text_is_pasted_and_the_clipboard_is_restored(
        self, window: Window, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if name == "xsel":
            monkeypatch.setattr("shutil.which", lambda tool: None if tool == "xclip" else tool)
        text = MIXED + GERMAN * 30
        xsel = Xsel()
        await put(xsel, "clipboard", Content("UTF8_STRING", "kept, ß".encode()))
        await put(xsel, "primary", Content("UTF8_STRING", b"chosen"))
        await type_all(Edit(text=text), output="paste")
        await shows(window, text)
        await holds(xsel, "clipboard", Content("UTF8_STRING", "kept, ß".encode()))
        await holds(xsel, "primary", Content("UTF8_STRING", b"chosen"))

    async def test_a_picture_in_the_clipboard_stays(self, window: Window) -> None:
        picture = bytes(range(256)) * 500
        xclip = Xclip()
        await put(xclip, "clipboard", Content("image/png", picture))
        await type_all(Edit(text="beside"), output="paste")
        await shows(window, "beside")
        await holds(xclip, "clipboard", Content("image/png", picture))

    async def test_an_empty_clipboard_works(self, window: Window) -> None:
        await type_all(Edit(text="one "), Edit(text="two "), Edit(text="three"), output="paste")
        await shows(window, "one two three")
        assert await Xclip().read("clipboard") in (None, Content("UTF8_STRING", b""))

    async def test_text_that_no_window_pastes_is_an_error(self, display: str) -> None:
        await put(Xclip(), "clipboard", Content("UTF8_STRING", b"kept"))
        with raises(ToolError, "paste_not_requested"):
            await type_all(Edit(text="without a window"), output="paste")
        await holds(Xclip(), "clipboard", Content("UTF8_STRING", b"kept"))


@on_x11
@needs("xterm", "xclip")
@pytest.mark.parametrize("output", ["xdotool", "paste"])
async def test_text_arrives_in_a_terminal(display: str, tmp_path: Path, output: str) -> None:
    lay_out("de")
    text = "echo Grüße, ЕЩЁ 你好 -- ok\nsecond"
    terminal = TerminalWindow(tmp_path, "xterm", "-u8", "-e")
    try:
        await terminal.wait_until_ready()
        search = ["xdotool", "search", "--sync", "--onlyvisible", "--class", "xterm"]
        await run_tool(search, timeout_s=TIMEOUT_S)
        await type_all(Edit(text=text), output=output)
        await shows(terminal, text)
    finally:
        terminal.close()


@needs("sway", "wtype", "foot", "wl-copy")
class TestWayland:
    """Typing in a compositor with the virtual-keyboard protocol."""

    async def test_any_script_arrives(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = MIXED + (GERMAN * 40)[:2000]
        async with wayland_terminal(tmp_path, monkeypatch) as terminal:
            await type_all(Edit(text=text))
            await shows(terminal, text)

    async def test_keys_held_down_on_another_keyboard_have_no_effect(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with wayland_terminal(tmp_path, monkeypatch) as terminal:
            holding = await asyncio.create_subprocess_exec(
                *["wtype", "-M", "shift", "-k", "a", "-s", "60000"]
            )
            await eventually(lambda: terminal.text != "")
            await type_all(Edit(text=" not shouted 123"))
            await shows(terminal, terminal.text[0] + " not shouted 123")
            holding.kill()
            await holding.wait()

    async def test_text_is_pasted_and_the_clipboard_is_restored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with wayland_terminal(tmp_path, monkeypatch) as terminal:
            clipboard = WlClipboard()
            assert await clipboard.read("clipboard") is None
            kept = Content("text/plain;charset=utf-8", "kept, ß".encode())
            await clipboard.put("clipboard", kept)
            await type_all(Edit(text="-Grüße 你好 😀"), output="paste")
            await shows(terminal, "-Grüße 你好 😀")
            assert await clipboard.read("clipboard") == kept
            assert await clipboard.read("primary") is None


@asynccontextmanager
async def wayland_terminal(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TerminalWindow]:
    """Open a terminal that has the focus, in a compositor of its own."""
    async with wayland(monkeypatch):
        terminal = TerminalWindow(directory, "foot")
        try:
            await terminal.wait_until_ready()
            await eventually(lambda: has_focus("foot"))
            yield terminal
        finally:
            terminal.close()
