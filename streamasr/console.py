"""What a person sees while a file is being transcribed."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from streamasr.events import End, Final, Gap, Message, Partial, Speech, Words
from streamasr.units import to_seconds


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
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _AudioTimeColumn(),
            _SpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            disable=not (is_wanted and console.is_terminal),
        )
        self._task: TaskID = self._progress.add_task(name, total=duration)

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

    Where stderr is no terminal each step is a line, so that a log tells what took so long.
    """

    def __init__(self) -> None:
        """Prepare; nothing is shown before `__enter__`."""
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # names of files may hold brackets
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._what: str | None = None
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

    def show(self, what: str, done: int, total: int) -> None:
        """So many bytes of this step have been done; a total of 0 is one that is not known."""
        if what != self._what:
            self._begin(what, total)
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total or None)

    def _begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._what = what
        self._task = self._progress.add_task(what, total=total or None)
        if not self._console.is_terminal:
            print(f"streamasr: {what}", file=sys.stderr, flush=True)


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
                self._print(clock(to_seconds(end)), "partial", Text(text, style="dim"))
            case Final(text=text, language=language, end=end):
                shown = Text(text or "(no speech)", style="bold" if text else "dim")
                if language:
                    shown.append(f"  [{language}]", style="cyan")
                self._print(clock(to_seconds(end)), "final", shown)
            case Words():
                self._console.print(_word_table(message))
            case Gap(reason=why, end=end):
                self._print(clock(to_seconds(end)), "gap", Text(why, style="red"))

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
        score = "" if word.score is None else f"{word.score:.2f}"
        table.add_row("", f"{start:.2f}", f"{end:.2f}", score, Text(word.text))
    return table


def clock(seconds: float) -> str:
    """Minutes and seconds as people read them: 1:02:03.4."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
