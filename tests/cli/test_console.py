"""The bar of a long step, as a terminal of so many columns and a pipe show it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamasr.cli.console import StepProgress, shorten

LONG = "fetching model-00001-of-00002.safetensors (file 2 of 7)"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def lines(steps: StepProgress, width: int = 80) -> list[str]:
    """Return the text on the screen."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(steps)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_step_is_shown_above_its_bar_with_size_speed_and_time_left() -> None:
    clock = Clock()
    steps = StepProgress(terminal(), clock)
    for done in (0, 100_000_000, 200_000_000):
        steps.show(LONG, done, 1_000_000_000)
        clock.seconds += done < 200_000_000
    what, bar = lines(steps)
    assert what == LONG
    assert bar.endswith("200.0 MB of 1.0 GB 100.0 MB/s 0:08 left")


def test_the_speed_covers_all_files_without_earlier_downloads() -> None:
    clock = Clock()
    steps = StepProgress(terminal(), clock)
    steps.show("fetching a", 0, 100_000_000)
    clock.seconds += 2
    steps.show("fetching a", 100_000_000, 100_000_000)
    steps.show("fetching b", 500_000_000, 1_000_000_000)
    clock.seconds += 2
    steps.show("fetching b", 600_000_000, 1_000_000_000)
    assert lines(steps)[1].endswith("50.0 MB/s 0:08 left")
    steps.show("checking", 0, 5)
    assert "/s" not in lines(steps)[1]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_nothing_is_wrapped_however_narrow_it_is(width: int) -> None:
    clock = Clock()
    steps = StepProgress(terminal(width), clock)
    steps.show(LONG * 3, 701_000_000, 70_100_000_000)
    shown = lines(steps, width)
    assert len(shown) == 2
    assert all(len(line) <= width for line in shown)


def test_a_full_bar_of_an_unfinished_step_pulses_and_shows_the_time() -> None:
    clock = Clock()
    steps = StepProgress(terminal(), clock)
    steps.show("encoder", 0, 701_000_000)
    clock.seconds += 9
    steps.show("encoder", 701_000_000, 701_000_000)
    assert "0:00 left" in lines(steps)[1]
    clock.seconds += 5
    assert lines(steps)[1].endswith("for 0:14")


def test_a_step_of_unknown_length_shows_the_time_passed() -> None:
    clock = Clock()
    steps = StepProgress(terminal(), clock)
    steps.show("decoder, to q8_0", 0, 0)
    clock.seconds += 65
    what, bar = lines(steps)
    assert what == "decoder, to q8_0"
    assert bar.endswith("for 1:05")
    assert " B" not in bar


def test_names_with_brackets_are_shown_as_they_are() -> None:
    steps = StepProgress(terminal(), Clock())
    steps.show("fetching [red]x[/].gguf", 1, 2)
    assert lines(steps)[0] == "fetching [red]x[/].gguf"


def test_a_pipe_gets_each_step_and_each_note_as_a_line_once() -> None:
    console = Console(file=io.StringIO(), force_terminal=False)
    with StepProgress(console, Clock()) as steps:
        for what in ("a", "a", "b", "a"):
            steps.show(what, 1, 2)
        steps.note(f"{LONG}: {'no answer ' * 10}")
        steps.show("a", 2, 2)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue().splitlines()
    assert said == [
        "streamasr: a",
        "streamasr: b",
        f"streamasr: {LONG}: {'no answer ' * 10}",
    ]


def test_a_note_stays_on_a_terminal_and_the_bar_goes() -> None:
    console = terminal()
    with StepProgress(console, Clock()) as steps:
        steps.show("a", 1, 2)
        steps.note("the connection was lost; trying again in 2 s")
    assert isinstance(console.file, io.StringIO)
    assert "streamasr: the connection was lost; trying again in 2 s" in console.file.getvalue()


@given(st.text(max_size=60), st.integers(1, 80))
def test_a_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) <= width
    if len(text) <= width:
        assert short == text
    elif width >= 3:
        assert short[0] == text[0]
        assert short[-1] == text[-1]


def test_names_in_steps_move_no_cursor() -> None:
    pipe = Console(file=io.StringIO())
    with StepProgress(pipe) as steps:
        for _ in range(2):
            steps.show("fetching a\x1b[2J\nb", 1, 2)
        steps.note("c\x9bd")
    assert isinstance(pipe.file, io.StringIO)
    assert pipe.file.getvalue() == ("streamasr: fetching a\ufffd[2J b\nstreamasr: c\ufffdd\n")
