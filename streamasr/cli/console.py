"""Widgets of the terminal: progress bars, tables, and the view of partials and finals."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar as BarOfRich
from rich.table import Column, Table
from rich.text import Text

from streamasr.core.messages import End, Gap, Message, Partial, Speech, Words
from streamasr.core.messages import Final as FinalText
from streamasr.core.sizes import size_text
from streamasr.core.text import printable
from streamasr.core.units import to_seconds


class ProgressBar:
    """Audio time, speed and time left on stderr; nothing if that is not a terminal."""

    def __init__(self, name: str, duration: float | None, is_wanted: bool) -> None:
        """Prepare a bar for one file.

        Args:
            name: of the file.
            duration: of the audio in seconds, None where unknown.
            is_wanted: False if something else shows the progress.
        """
        console = Console(stderr=True)
        # On a terminal, text on stdout is printed above the bar; to a pipe it goes unchanged.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # file names may contain brackets
            BarColumn(bar_width=24),
            _AudioTimeColumn(),
            _SpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            disable=not (is_wanted and console.is_terminal),
        )
        self._task: TaskID = self._progress.add_task(printable(name), total=duration)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, seconds: float) -> None:
        """Show how many seconds of audio are done."""
        self._progress.update(self._task, completed=seconds)


class StepProgress:
    """Steps of a long piece of work on stderr, with a bar for the running step.

    A step has a line of its own above its bar, as file names are long. If stderr is not a terminal,
    each step is a line, so that a log shows the steps.
    """

    def __init__(
        self, console: Console | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; entering the context begins the display.

        Args:
            console: of the display; by default stderr.
            now: clock in seconds.
        """
        self._console = console or Console(stderr=True)
        self._now = now
        self._progress = _Steps(
            _StepBar(now),
            _BytesColumn(),
            _StepSpeedColumn(now),
            _StepTimeColumn(now),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            get_time=now,
        )
        self._rate = _Rate(now)
        self._what: str | None = None
        self._said: set[str] = set()
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __rich__(self) -> RenderableType:
        """Return the present display of a terminal."""
        return self._progress.get_renderable()

    def show(self, what: str, done: int, total: int) -> None:
        """Show how many bytes of a step are done; a total of 0 is unknown."""
        if what != self._what:
            self._what = what
            self._begin(printable(what), total)
            self._rate.begin(what, done)
        self._rate.advance(done)
        if self._task is not None:
            self._progress.update(
                self._task,
                completed=done,
                total=total or None,
                told=self._now(),
                speed=self._rate.speed(),
            )

    def note(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        sentence = printable(sentence)
        if self._console.is_terminal:
            self._console.print(Text(f"streamasr: {sentence}"), soft_wrap=True)
        else:
            self._say(sentence)

    def _begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(
            what, total=total or None, told=self._now(), speed=None
        )
        if not self._console.is_terminal and what not in self._said:
            self._said.add(what)  # a step that is repeated is not printed again
            self._say(what)

    def _say(self, text: str) -> None:
        print(f"streamasr: {text}", file=self._console.file, flush=True)


class _Rate:
    """Bytes per second, over consecutive steps of the same kind, such as all files."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._verb = ""
        self._since = 0.0
        self._moved = self._last = 0

    def begin(self, what: str, done: int) -> None:
        """Begin a step, of which some bytes were done before."""
        verb = what.partition(" ")[0]
        if verb != self._verb:
            self._verb, self._since, self._moved = verb, self._now(), 0
        self._last = done

    def advance(self, done: int) -> None:
        """Note the bytes of the step that are done; fewer than before if it starts over."""
        self._moved += max(0, done - self._last)
        self._last = done

    def speed(self) -> float | None:
        """Return bytes per second; None in the first second."""
        seconds = self._now() - self._since
        return self._moved / seconds if self._moved and seconds >= _STANDING_S else None


_STANDING_S: Final = 1.0
"""Seconds without news after which a bar no longer shows a position."""


def _is_standing(task: Task, now: float) -> bool:
    return task.total is None or now - float(task.fields["told"]) > _STANDING_S


class _Steps(Progress):
    """The running step, with its bar below."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress.get_renderables`."""
        for task in self.tasks:
            yield Text(
                shorten(task.description, self.console.width), no_wrap=True, overflow="ellipsis"
            )
        yield self.make_tasks_table(self.tasks)


class _Narrow(ProgressColumn):
    """A column that never wraps."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(Column(no_wrap=True))
        self._now = now


class _StepBar(_Narrow):
    """Bar of the progress; a pulse where that is unknown."""

    def render(self, task: Task) -> RenderableType:
        is_standing = _is_standing(task, self._now())
        return BarOfRich(
            total=None if is_standing else task.total,
            completed=task.completed,
            width=24,
            pulse=is_standing,
            animation_time=self._now(),
        )


class _BytesColumn(_Narrow):
    """Bytes done, and their total."""

    def render(self, task: Task) -> Text:
        done = size_text(task.completed) if task.completed or task.total else ""
        text = done if task.total is None else f"{done} of {size_text(task.total)}"
        return Text(text, style="progress.download")


class _StepSpeedColumn(_Narrow):
    """Bytes per second."""

    def render(self, task: Task) -> Text:
        speed = task.fields["speed"]
        is_known = speed is not None and not _is_standing(task, self._now())
        return Text(f"{size_text(speed)}/s" if is_known else "", style="dim")


class _StepTimeColumn(_Narrow):
    """Time left or, where that is unknown, time passed."""

    def render(self, task: Task) -> Text:
        if _is_standing(task, self._now()):
            return Text(f"for {_minutes(task.elapsed or 0)}", style="progress.elapsed")
        speed = task.fields["speed"]
        left = "" if speed is None else f"{_minutes((task.remaining or 0) / speed)} left"
        return Text(left, style="progress.remaining")


def _minutes(seconds: float) -> str:
    """Return minutes and seconds: 61:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def shorten(text: str, width: int) -> str:
    """Return a text without its middle if it is too long: the ends of a file name matter more."""
    if len(text) <= width:
        return text
    kept = max(0, width - 1)
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def print_table(table: Table, console: Console) -> None:
    """Print a table: fitted to the width of a terminal, and in full width to a pipe.

    Paths in a log stay whole, and no line ends in blanks.
    """
    if console.is_terminal:
        console.print(table)
        return
    wide = console.options.update(width=_WIDER_THAN_ANY)
    for line in console.render_lines(table, wide, pad=False):
        print("".join(part.text for part in line).rstrip(), file=console.file)


_WIDER_THAN_ANY: Final = 1 << 16
"""Width in columns for tables whose cells are sentences."""


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Show the present work on stderr; nothing if that is not a terminal.

    Yields:
        A function that shows the next piece of work.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(escape(what)) as status:
        yield lambda text: status.update(escape(text))


class _AudioTimeColumn(ProgressColumn):
    """Audio time done, and its total."""

    def render(self, task: Task) -> Text:
        done = clock(task.completed)
        return Text(done if task.total is None else f"{done} / {clock(task.total)}")


class _SpeedColumn(ProgressColumn):
    """Seconds of audio per second."""

    def render(self, task: Task) -> Text:
        if not task.elapsed or not task.completed:
            return Text("")
        return Text(f"{task.completed / task.elapsed:.1f}x", style="dim")


class WatchView:
    """Partials, finals and words on stdout, as they come."""

    def __init__(self) -> None:
        """Write to stdout."""
        self._console = Console(highlight=False)

    def show(self, message: Message) -> None:
        """Print one message."""
        match message:
            case Speech() | End():
                pass
            case Partial(text=text, end=end):
                self._print(clock(to_seconds(end)), "partial", Text(printable(text), style="dim"))
            case FinalText(text=text, language=language, end=end):
                shown = Text(printable(text) or "(no speech)", style="bold" if text else "dim")
                if language:
                    shown.append(printable(f"  [{language}]"), style="cyan")
                self._print(clock(to_seconds(end)), "final", shown)
            case Words():
                self._console.print(_word_table(message))
            case Gap(reason=why, end=end):
                self._print(clock(to_seconds(end)), "gap", Text(printable(why), style="red"))

    def _print(self, time: str, kind: str, text: Text) -> None:
        line = Text(f"{time:>8}  {kind:<8}", style="green" if kind == "final" else "dim")
        self._console.print(line + text, soft_wrap=True)


def _word_table(message: Words) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("", width=17)
    has_scores = any(word.confidence is not None for word in message.words)
    for name in ("start", "end", *(["score"] * has_scores)):
        table.add_column(name, justify="right", style="dim", header_style="dim")
    table.add_column("word", header_style="dim")
    for word in message.words:
        start, end = to_seconds(word.start), to_seconds(word.end)
        numbers = [f"{start:.2f}", f"{end:.2f}"]
        if has_scores:
            numbers.append("" if word.confidence is None else f"{word.confidence:.2f}")
        table.add_row("", *numbers, Text(printable(word.text)))
    return table


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: 1:02:03.4."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
