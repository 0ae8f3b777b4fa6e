"""Tests of the chain of outputs, with recorded calls of the external programs."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError
from streamasr.dictation import outputs
from streamasr.dictation.clipboard import Clipboard, Content, Offer, Selection
from streamasr.dictation.desktop import Desktop, TypingOptions, desktop_of, open_chain, order_for
from streamasr.dictation.keyboards import Dotool, Keyboard, Wtype, Xdotool, Ydotool
from streamasr.dictation.outputs import (
    AVOIDED_S,
    PASTE_KEY,
    Chain,
    Output,
    Pasting,
    Printing,
    Typing,
)
from streamasr.dictation.sounds import as_wav, play, tone
from streamasr.dictation.tools import ToolError, run_tool
from streamasr.writing.edits import Edit
from tests.support.errors import raises
from tests.support.waiting import eventually, let_others_run


class Fake(Output):
    """Output that records text until it is broken."""

    def __init__(self, name: str, alphabet: str | None = None) -> None:
        self.name = name
        self.alphabet = alphabet
        self.text = ""
        self.is_broken = False

    async def check(self) -> None:
        pass

    def can_write(self, text: str) -> bool:
        return self.alphabet is None or set(text) <= set(self.alphabet)

    def cut(self, text: str) -> tuple[str, str]:
        return text[:3], text[3:]

    async def write(self, piece: str) -> None:
        if self.is_broken:
            raise ToolError("the fake is broken", code="broken")
        self.text += piece

    async def delete(self, n_characters: int) -> None:
        if self.is_broken:
            raise ToolError("the fake is broken", code="broken")
        self.text = self.text[:-n_characters]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def chain_of(*fakes: Output) -> tuple[Chain, list[str], Clock]:
    reports: list[str] = []
    clock = Clock()
    return Chain(fakes, reports.append, clock=clock), reports, clock


async def test_a_text_goes_to_the_first_output_that_is_certain_to_write_it() -> None:
    plain, any_ = Fake("plain", "abc "), Fake("any")
    chain, reports, _ = chain_of(plain, any_)
    await chain.apply(Edit(text="abc abc"))
    await chain.apply(Edit(text="abc ä"))
    assert (plain.text, any_.text, reports) == ("abc abc", "abc ä", [])


async def test_a_failed_output_is_reported_and_the_next_continues_with_the_same_piece() -> None:
    first, second = Fake("first"), Fake("second")
    chain, reports, clock = chain_of(first, second)
    first.is_broken = True
    await chain.apply(Edit(text="whole text"))
    await chain.apply(Edit(1, "s"))
    assert (first.text, second.text) == ("", "whole texs")
    assert reports == ["first: the fake is broken"]
    first.is_broken = False
    clock.now += AVOIDED_S + 1
    await chain.apply(Edit(text="again"))
    assert first.text == "again"


async def test_text_that_no_output_can_write_is_an_error() -> None:
    only = Fake("only", "abc")
    chain, _, _ = chain_of(only)
    with raises(ToolError, "text_not_typeable"):
        await chain.apply(Edit(text="ä"))
    only.is_broken = True
    with raises(ToolError, "broken") as caught:
        await chain.apply(Edit(text="a"))
    assert str(caught.value) == "only: the fake is broken"


async def test_control_codes_are_not_written() -> None:
    fake = Fake("fake")
    chain, _, _ = chain_of(fake)
    await chain.apply(Edit(text="a\x1b[31mb\x07\r\nc"))
    assert fake.text == "a[31mb\nc"


async def test_stdout_gets_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    chain, _, _ = chain_of(Printing())
    await chain.apply(Edit(text="-n Grüße\n"))
    assert capsys.readouterr().out == "-n Grüße\n"
    with raises(ToolError, "cannot_delete_from_pipe"):
        await chain.apply(Edit(3))


class Recorded:
    """Programs on the PATH that record their calls."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._log = directory / "log"
        monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def add(self, name: str, script: str = "") -> None:
        path = self._directory / name
        log = f'{{ printf "%s" "{name}"; printf " [%s]" "$@"; printf " <"; cat; echo ">"; }}'
        path.write_text(f'#!/bin/sh\n{log} >> "{self._log}"\n{script}\n')
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self._log.read_text("utf-8").splitlines() if self._log.exists() else []


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(tmp_path, monkeypatch)


async def test_dotool_gets_commands_on_stdin_and_the_layout(recorded: Recorded) -> None:
    recorded.add("dotool", 'echo "layout $DOTOOL_XKB_LAYOUT" >> "$(dirname "$0")/log"')
    typing = Typing(Dotool("de"))
    chain, reports, _ = chain_of(typing)
    await chain.apply(Edit(2, "zwei Worte\nnoch"))
    assert reports == []
    assert [call for call in recorded.calls if not call.startswith("layout")] == [
        "dotool [] <key backspace",
        "key backspace",
        ">",
        "dotool [] <type zwei Worte",
        ">",
        "dotool [] <key enter",
        ">",
        "dotool [] <type noch",
        ">",
    ]
    assert "layout de" in recorded.calls


@pytest.mark.parametrize(
    ("keyboard", "typed", "not_typed"),
    [
        (Dotool("de"), "Worte, 12.", "Grüße"),
        (Dotool("ru"), "", "Worte"),
        (Dotool(None), "", "a"),
        (Ydotool("us"), "words", "it's"),
        (Ydotool("de"), "", "words"),
        (Wtype(), "Grüße 你好 👍🏽", None),
        (Xdotool(None), "words (all of them)", "Grüße"),
    ],
)
def test_scan_codes_are_pressed_only_where_they_give_the_right_letters(
    keyboard: Keyboard, typed: str, not_typed: str | None
) -> None:
    assert not typed or Typing(keyboard).can_write(typed)
    assert not_typed is None or not Typing(keyboard).can_write(not_typed)


async def test_ydotool_gets_text_on_stdin_and_keys_by_scan_codes(
    recorded: Recorded,
) -> None:
    recorded.add("ydotool", 'echo "KEYCODES"')
    keyboard = Ydotool("us")
    await keyboard.check()
    chain, _, _ = chain_of(Typing(keyboard))
    await chain.apply(Edit(1, "two words\n"))
    await keyboard.press("shift+Insert")
    assert recorded.calls == [
        "ydotool [key] [--help] <>",
        "ydotool [key] [14:1] [14:0] <>",
        "ydotool [type] [--file] [-] <two words>",
        "ydotool [key] [28:1] [28:0] <>",
        "ydotool [key] [42:1] [110:1] [110:0] [42:0] <>",
    ]


async def test_an_old_ydotool_is_not_used(recorded: Recorded) -> None:
    recorded.add("ydotool", "echo 'Usage: key [--delay ms] <key sequence>'")
    with raises(ToolError, "ydotool_too_old"):
        await Ydotool("us").check()


async def test_wtype_and_xdotool_get_text_on_stdin_whatever_it_begins_with(
    recorded: Recorded,
) -> None:
    recorded.add("wtype")
    recorded.add("xdotool")
    for keyboard in (Wtype(), Xdotool(None)):
        chain, _, _ = chain_of(Typing(keyboard, newline="shift+Return"))
        await chain.apply(Edit(2, "--help\n"))
    assert recorded.calls == [
        "wtype [-k] [BackSpace] [-k] [BackSpace] <>",
        "wtype [-] <--help>",
        "wtype [-M] [shift] [-k] [Return] [-m] [shift] <>",
        "xdotool [key] [--clearmodifiers] [--delay] [4] [BackSpace] [BackSpace] <>",
        "xdotool [type] [--clearmodifiers] [--delay] [4] [--file] [-] <--help>",
        "xdotool [key] [--clearmodifiers] [--delay] [4] [shift+Return] <>",
    ]


async def test_line_ends_and_tabs_are_keys(recorded: Recorded) -> None:
    recorded.add("wtype")
    chain, _, _ = chain_of(Typing(Wtype()))
    await chain.apply(Edit(text="one\t\t\ntwo"))
    assert recorded.calls == [
        "wtype [-] <one>",
        "wtype [-k] [Tab] [-k] [Tab] <>",
        "wtype [-k] [Return] <>",
        "wtype [-] <two>",
    ]


async def test_a_long_text_is_typed_in_pieces(recorded: Recorded) -> None:
    recorded.add("wtype")
    chain, _, _ = chain_of(Typing(Wtype()))
    text = "0123456789" * 55
    await chain.apply(Edit(text=text))
    typed = [call.partition("<")[2].rstrip(">") for call in recorded.calls]
    assert "".join(typed) == text
    assert max(map(len, typed)) == outputs.PIECE


async def test_the_error_of_a_program_is_in_the_message(recorded: Recorded) -> None:
    recorded.add("wtype", "echo something first >&2; echo 'no such protocol\x07' >&2; exit 3")
    with raises(ToolError, "tool_failed") as caught:
        await Wtype().check()
    assert str(caught.value).rstrip() == "wtype failed: no such protocol"


async def test_a_program_that_hangs_is_killed_with_its_children(recorded: Recorded) -> None:
    pid = recorded._directory / "pid"
    recorded.add("wtype", f"sleep 1000 & echo $! > {pid}; wait")
    with raises(ToolError, "tool_timeout") as caught:
        await run_tool(["wtype", ""], timeout_s=1.0)
    assert "wtype did not end within 1 s" in str(caught.value)
    status = Path(f"/proc/{int(pid.read_text())}/status")
    await eventually(lambda: not status.exists() or "zombie" in status.read_text())


async def test_a_child_left_in_the_background_is_not_waited_for(recorded: Recorded) -> None:
    pid = recorded._directory / "pid"
    recorded.add("wl-copy", f"sleep 1000 & echo $! > {pid}")
    await run_tool(["wl-copy"], b"text")
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_cancelled_program_is_killed(recorded: Recorded) -> None:
    started = recorded._directory / "started"
    recorded.add("wtype", f"echo $$ > {started}.new; mv {started}.new {started}; exec sleep 1000")
    running = asyncio.create_task(run_tool(["wtype"], timeout_s=1000))
    await eventually(started.exists)
    running.cancel()
    await asyncio.wait([running])
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


async def test_a_program_that_presses_keys_is_not_interrupted_by_a_cancellation(
    recorded: Recorded,
) -> None:
    """Between the press of a key and its release, the key would remain held down."""
    started, ended = recorded._directory / "started", recorded._directory / "ended"
    may_end = recorded._directory / "may_end"
    os.mkfifo(may_end)
    recorded.add("wtype", f"touch {started}; read line < {may_end}; touch {ended}")
    running = asyncio.create_task(Wtype().type("text"))
    await eventually(started.exists)
    for _ in range(2):  # by the user, and then by the end of the program
        running.cancel()
        await let_others_run()
    assert not running.done()
    gate = os.open(may_end, os.O_RDWR)
    os.write(gate, b"now\n")
    await asyncio.wait([running])
    os.close(gate)
    assert running.cancelled()
    assert ended.exists()


async def test_a_program_that_presses_keys_and_hangs_is_killed(recorded: Recorded) -> None:
    recorded.add("wtype", "exec sleep 1000")
    with raises(ToolError, "tool_timeout"):
        await run_tool(["wtype"], timeout_s=0.2, is_whole=True)


async def test_a_program_that_hangs_after_a_cancellation_stays_cancelled(
    recorded: Recorded,
) -> None:
    started = recorded._directory / "started"
    recorded.add("wtype", f"touch {started}; exec sleep 1000")
    running = asyncio.create_task(run_tool(["wtype"], timeout_s=0.5, is_whole=True))
    await eventually(started.exists)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


class PasteKey(Keyboard):
    """Keyboard that reports the press of the paste key."""

    name = "paste key"

    def __init__(self) -> None:
        self.pressed = asyncio.Event()

    async def check(self) -> None:
        pass

    async def type(self, text: str) -> None:
        raise AssertionError(text)

    async def press(self, chord: str, times: int = 1) -> None:
        assert (chord, times) == (PASTE_KEY, 1)
        self.pressed.set()


class FakeClipboard(Clipboard):
    """Clipboard from which text is pasted when a test allows it."""

    name = "fake"

    def __init__(self) -> None:
        self.content: dict[Selection, Content | None] = {"clipboard": A_TEXT, "primary": A_TEXT}
        self.can_be_pasted = asyncio.Event()
        self.broken: set[Selection] = set()
        self.offered = ""

    async def read(self, selection: Selection) -> Content | None:
        return self.content[selection]

    async def put(self, selection: Selection, content: Content | None) -> None:
        if selection in self.broken:
            raise ToolError("the selection is gone")
        self.content[selection] = content

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        self.content, self.offered = {"clipboard": None, "primary": None}, text
        yield FakeOffer(self.can_be_pasted)


class FakeOffer(Offer):
    def __init__(self, can_be_pasted: asyncio.Event) -> None:
        self._can_be_pasted = can_be_pasted

    async def wait_until_pasted(self) -> None:
        await self._can_be_pasted.wait()


A_TEXT = Content("UTF8_STRING", b"before")


async def test_the_clipboard_is_restored_after_the_paste_despite_a_cancellation() -> None:
    clipboard, keyboard = FakeClipboard(), PasteKey()
    writing = asyncio.create_task(Pasting(clipboard, keyboard).write("text"))
    await keyboard.pressed.wait()
    writing.cancel()
    await let_others_run()
    assert clipboard.content == {"clipboard": None, "primary": None}
    clipboard.can_be_pasted.set()
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert clipboard.content == {"clipboard": A_TEXT, "primary": A_TEXT}


async def test_a_failure_to_restore_is_logged_and_the_text_is_not_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clipboard = FakeClipboard()
    clipboard.can_be_pasted.set()
    clipboard.broken = {"clipboard"}
    other = Fake("other")
    chain, reports, _ = chain_of(Pasting(clipboard, PasteKey()), other)
    await chain.apply(Edit(text="text"))
    assert (clipboard.offered, other.text, reports) == ("text", "", [])
    assert clipboard.content == {"clipboard": None, "primary": A_TEXT}
    assert "cannot restore the content of the clipboard: the selection is gone" in caplog.text


def desktop(**environment: str) -> Desktop:
    return desktop_of(environment)


@pytest.mark.parametrize(
    ("environment", "order"),
    [
        ({"WAYLAND_DISPLAY": "w", "DISPLAY": ":0"}, ["wtype", "dotool", "ydotool", "paste"]),
        ({"DISPLAY": ":0"}, ["xdotool", "paste", "dotool", "ydotool"]),
        ({}, ["dotool", "ydotool"]),
    ],
)
def test_the_session_determines_the_outputs_to_try(
    environment: dict[str, str], order: list[str]
) -> None:
    found = desktop_of(environment)
    assert order_for(found, TypingOptions(), has_terminal=False) == order
    assert order_for(found, TypingOptions(), has_terminal=True) == [*order, "stdout"]
    assert order_for(found, TypingOptions(output="paste"), has_terminal=True) == ["paste"]


async def names_of(environment: dict[str, str], options: TypingOptions) -> list[str]:
    async with open_chain(environment, options, print) as chain:
        return [output.name for output in chain.outputs]


async def test_only_working_outputs_are_in_the_chain(recorded: Recorded) -> None:
    recorded.add("wtype", "echo 'Compositor does not support the protocol' >&2; exit 1")
    recorded.add("dotool")
    recorded.add("ydotool", "echo KEYCODES")
    recorded.add("wl-copy")
    recorded.add("wl-paste", "echo 'Nothing is copied' >&2; exit 1")
    wayland = {"WAYLAND_DISPLAY": "wayland-9"}
    assert await names_of(wayland, TypingOptions(layout="de")) == ["dotool", "ydotool", "paste"]


async def test_if_no_output_works_the_error_gives_each_reason(recorded: Recorded) -> None:
    recorded.add("wtype", "echo 'Compositor does not support it' >&2; exit 1")
    for name in ("dotool", "ydotool", "wl-copy"):
        recorded.add(name, "echo broken >&2; exit 1")
    with raises(ConfigError, "no_output_works") as raised:
        await names_of({"WAYLAND_DISPLAY": "wayland-9"}, TypingOptions())
    sentence = str(raised.value)
    assert sentence.startswith("cannot type on this desktop (wtype: wtype failed: Compositor")
    assert "dotool: dotool failed: broken" in sentence
    assert "\n" not in sentence


async def test_a_chosen_output_that_is_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with raises(ConfigError, "no_output_works") as caught:
        await names_of({}, TypingOptions(output="dotool"))
    assert "dotool: dotool is not installed" in str(caught.value)


def test_the_sounds_are_short_quiet_and_do_not_click() -> None:
    for name in ("start", "stop", "cancel"):
        samples = tone(name)
        assert 0.05 < len(samples) / 48_000 < 0.3
        assert 0.05 < abs(samples).max() <= 0.2
        assert abs(samples[[0, -1]]).max() < 0.01
        assert as_wav(samples)[:4] == b"RIFF"


async def test_a_sound_is_played_by_an_installed_player(recorded: Recorded) -> None:
    recorded.add("pw-play", "exit 1")
    await play("start")
    assert recorded.calls[0].startswith("pw-play [/")
