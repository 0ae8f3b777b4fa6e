"""What a person sees while a file is being transcribed."""

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
    """Audio time, speed and time left on the terminal of stderr; nothing when that is piped."""

    def __init__(self, name: str, duration: float | None, is_wanted: bool) -> None:
        """Prepare a bar for one file.

        Args:
            name: what is shown.
            duration: of the audio in seconds, None where unknown.
            is_wanted: False where something else shows how far things are.
        """
        console = Console(stderr=True)
        # On a screen, text on stdout goes above the bar; to a pipe it goes as it is.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # a name of a file may hold brackets
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
        """So much audio has been done."""
        self._progress.update(self._task, completed=seconds)


class StepProgress:
    """The steps of a long piece of work on the terminal of stderr: a bar for the running one.

    A step has a line of its own above its bar, as names of files are long. Where stderr is no
    terminal each step is a line, so that a log tells what took so long.
    """

    def __init__(
        self, console: Console | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; nothing is shown before `__enter__`.

        Args:
            console: where it is shown; by default stderr.
            now: seconds from any beginning.
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
        """What a terminal shows now."""
        return self._progress.get_renderable()

    def show(self, what: str, done: int, total: int) -> None:
        """So many bytes of this step have been done; a total of 0 is one that is not known."""
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
        """Say something that stays, above the bar."""
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
            self._said.add(what)  # a step that is gone back to is not said again
            self._say(what)

    def _say(self, text: str) -> None:
        print(f"streamasr: {text}", file=self._console.file, flush=True)


class _Rate:
    """Bytes for each second, over all steps in a row that do the same: over all files, say."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._verb = ""
        self._since = 0.0
        self._moved = self._last = 0

    def begin(self, what: str, done: int) -> None:
        """A step begins, of which so much was done before."""
        verb = what.partition(" ")[0]
        if verb != self._verb:
            self._verb, self._since, self._moved = verb, self._now(), 0
        self._last = done

    def advance(self, done: int) -> None:
        """So much of the step has been done; it may be less than before, if it starts over."""
        self._moved += max(0, done - self._last)
        self._last = done

    def speed(self) -> float | None:
        """None as long as nothing can be said."""
        seconds = self._now() - self._since
        return self._moved / seconds if self._moved and seconds >= _STANDING_S else None


_STANDING_S: Final = 1.0
"""Without news, after which a bar no longer claims to know how far things are."""


def _is_standing(task: Task, now: float) -> bool:
    return task.total is None or now - float(task.fields["told"]) > _STANDING_S


class _Steps(Progress):
    """The running step, and below it its bar."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """See `Progress.get_renderables`."""
        for task in self.tasks:
            yield Text(
                shorten(task.description, self.console.width), no_wrap=True, overflow="ellipsis"
            )
        yield self.make_tasks_table(self.tasks)


class _Narrow(ProgressColumn):
    """A column that stays on its line."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(Column(no_wrap=True))
        self._now = now


class _StepBar(_Narrow):
    """How much is done; a pulse where that is not known."""

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
    """Bytes done, and of how many."""

    def render(self, task: Task) -> Text:
        done = size_text(task.completed) if task.completed or task.total else ""
        text = done if task.total is None else f"{done} of {size_text(task.total)}"
        return Text(text, style="progress.download")


class _StepSpeedColumn(_Narrow):
    """Bytes for each second that passes."""

    def render(self, task: Task) -> Text:
        speed = task.fields["speed"]
        is_known = speed is not None and not _is_standing(task, self._now())
        return Text(f"{size_text(speed)}/s" if is_known else "", style="dim")


class _StepTimeColumn(_Narrow):
    """Time left; where that is not known, how long it has taken so far."""

    def render(self, task: Task) -> Text:
        if _is_standing(task, self._now()):
            return Text(f"for {_minutes(task.elapsed or 0)}", style="progress.elapsed")
        speed = task.fields["speed"]
        left = "" if speed is None else f"{_minutes((task.remaining or 0) / speed)} left"
        return Text(left, style="progress.remaining")


def _minutes(seconds: float) -> str:
    """Minutes and seconds: 61:05."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def shorten(text: str, width: int) -> str:
    """A text that is too long without its middle: both ends of a file's name tell more."""
    if len(text) <= width:
        return text
    kept = max(0, width - 1)
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def print_table(table: Table, console: Console) -> None:
    """Print a table: as wide as the terminal, and in a pipe as wide as it is.

    Paths in a log stay whole then, and no line ends in blanks.
    """
    if console.is_terminal:
        console.print(table)
        return
    wide = console.options.update(width=_WIDER_THAN_ANY)
    for line in console.render_lines(table, wide, pad=False):
        print("".join(part.text for part in line).rstrip(), file=console.file)


_WIDER_THAN_ANY: Final = 1 << 16
"""Columns of a table whose cells are sentences."""


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Say on the terminal of stderr what is being done; nothing where that is piped.

    Yields:
        What tells the next thing that is being done.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(escape(what)) as status:
        yield lambda text: status.update(escape(text))


class _AudioTimeColumn(ProgressColumn):
    """Audio done, and of how much."""

    def render(self, task: Task) -> Text:
        done = clock(task.completed)
        return Text(done if task.total is None else f"{done} / {clock(task.total)}")


class _SpeedColumn(ProgressColumn):
    """Seconds of audio for each second that passes."""

    def render(self, task: Task) -> Text:
        if not task.elapsed or not task.completed:
            return Text("")
        return Text(f"{task.completed / task.elapsed:.1f}x", style="dim")


class WatchView:
    """Partials, finals and words as they come, for someone who wants to see recognition at work."""

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
    for name in ("start", "end", "score"):
        table.add_column(name, justify="right", style="dim", header_style="dim")
    table.add_column("word", header_style="dim")
    for word in message.words:
        start, end = to_seconds(word.start), to_seconds(word.end)
        confidence = "" if word.confidence is None else f"{word.confidence:.2f}"
        table.add_row("", f"{start:.2f}", f"{end:.2f}", confidence, Text(printable(word.text)))
    return table


def clock(seconds: float) -> str:
    """Minutes and seconds as people read them: 1:02:03.4."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
