"""Live captions of a session of the daemon in the terminal.

Text that will not change is solid, text that may still change is dim. If stdout is not a terminal,
each final is one line. `follow` shows how to receive the events of a session.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from streamasr import client
from streamasr.client import MICROPHONE, Event, Reconnecting, Resumed, v1

MAX_LIVE_LINES = 6  # of text that may change; only the last ones are shown
ROW_BACK = Control(
    ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
)
JOINERS = "\u200c\u200d"  # required for the spelling of Persian, Hindi and emoji


async def follow(arguments: argparse.Namespace, show: Callable[[Event], None]) -> None:
    """Show every event of the session until its end."""
    events = client.listen(
        arguments.url,
        session=arguments.session,
        since=arguments.since,
        token=arguments.token_file and arguments.token_file.read_text("utf-8").strip(),
        timeouts=client.DEFAULT_TIMEOUTS if arguments.no_wait else client.ENDLESS_TIMEOUTS,
    )
    async with contextlib.aclosing(events):
        async for event in events:
            show(event)


async def follow_on_screen(arguments: argparse.Namespace, live: Live) -> None:
    """Show every event of the session as captions."""
    captions = Captions(live)
    asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, captions.fit)
    await follow(arguments, captions.show)


def plain(text: str) -> str:
    """Remove control codes, which a terminal would execute."""
    return "".join(map(_plain, text))


def _plain(letter: str) -> str:
    if letter.isprintable() or letter in JOINERS:
        return letter
    return "" if unicodedata.category(letter) == "Cf" else " "  # such as direction marks


def notice(event: Event) -> str | None:
    """Return the message of an event that is not text; None for other events."""
    match event:
        case Reconnecting():
            return f"waiting: {plain(event.reason)}"
        case Resumed():
            return "connected again; nothing is missing"
        case v1.Warning():
            return f"warning: {plain(event.message)}"
        case v1.Gap(start=start, end=end):
            return f"{end - start:.1f} s of audio have no text: {plain(event.reason)}"
        case _:
            return None


def print_line(event: Event) -> None:
    """Print a final as one line, for pipes and files; notices go to stderr."""
    if isinstance(event, v1.Final) and event.text:
        print(plain(event.text), flush=True)
    elif (line := notice(event)) and not (isinstance(event, Reconnecting) and event.tries > 1):
        print(line, file=sys.stderr, flush=True)


def print_json(event: Event) -> None:
    """Print a message as one line of JSON, as defined by the protocol, for programs."""
    if isinstance(event, Reconnecting | Resumed):
        print_line(event)
    else:
        print(v1.encode(event), flush=True)


class Captions:
    """Captions for a terminal: finals scroll; partials and a status stay below them."""

    def __init__(self, live: Live) -> None:
        """Begin with only a status."""
        self._live = live
        self._partials: dict[int, v1.Partial] = {}
        self._drawn: list[str] = []
        self._listening = ""
        self._notice: str | None = "connecting"
        live.update(self, refresh=True)

    def show(self, event: Event) -> None:
        """Draw an event."""
        self._unwrap()
        match event:
            case v1.Ready():
                self._listening = plain(f"listening to {event.session}, {event.model}")
                self._notice = None
            case v1.Partial():
                self._partials[event.segment] = event
            case v1.Final():
                self._partials.pop(event.segment, None)
                self._notice = None  # shown long enough
                if event.text:
                    self._live.console.print(Text(plain(event.text)))
            case v1.Gap():
                kept = (each for each in self._partials.values() if each.start >= event.end)
                self._partials = {each.segment: each for each in kept}
                self._live.console.print(Text(notice(event) or "", "yellow"))
            case v1.End():
                self._live.console.print(Text("the session is over", "dim"))
            case _:
                self._notice = notice(event) or self._notice
        self._live.refresh()

    def fit(self) -> None:
        """Redraw for the new size of the window."""
        self._unwrap()
        self._live.refresh()

    def _unwrap(self) -> None:
        """Move up by the rows that the terminal added when it wrapped lines in a narrower window.

        Most terminals wrap; in others, such as xterm, the lines above scroll out of sight.
        """
        width = self._live.console.width
        n_more = sum(n_rows(line, width) - 1 for line in self._drawn)
        self._live.console.control(*[ROW_BACK] * n_more)
        self._drawn = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        caption = Text(" ").join(
            Text(plain(each.text[: each.stable])) + Text(plain(each.text[each.stable :]), "dim")
            for each in self._partials.values()
        )
        room = max(1, min(MAX_LIVE_LINES, options.size.height - 2))
        status = Text(self._notice or self._listening, "yellow" if self._notice else "dim")
        status.truncate(options.max_width, overflow="ellipsis")
        lines = [*caption.wrap(console, options.max_width)[-room:], status]
        self._drawn = [line.plain for line in lines]
        yield from lines


def n_rows(line: str, width: int) -> int:
    """Return the number of terminal rows of a line; a wide character is not divided."""
    if cell_len(line) <= width:  # joined characters are narrower than their sum
        return 1
    rows, column = 1, 0
    for letter in line:
        column += cell_len(letter)
        if column > width:
            rows, column = rows + 1, cell_len(letter)
    return rows


def reason(error: Exception) -> str:
    """Return the message of an error in one sentence."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def main() -> int:
    """Run until the session ends or Ctrl-C is pressed; return the exit code."""
    parser = argparse.ArgumentParser(description="Live captions in the terminal.")
    parser.add_argument("--url", default=client.DEFAULT_URL, help="daemon (default: %(default)s)")
    parser.add_argument("--session", default=MICROPHONE, help="its name (default: %(default)s)")
    parser.add_argument("--since", type=int, metavar="N", help="continue after message N; 0: all")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="token of the server")
    parser.add_argument("--json", action="store_true", help="print messages as lines of JSON")
    parser.add_argument("--no-wait", action="store_true", help="fail if no server is running now")
    arguments = parser.parse_args()
    # SIGTERM ends the program as cleanly as SIGINT, which asyncio handles. Background jobs ignore
    # SIGINT, so for them SIGTERM keeps its default.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console(highlight=False)
    try:
        if arguments.json or not console.is_terminal or console.is_dumb_terminal:
            asyncio.run(follow(arguments, print_json if arguments.json else print_line))
        else:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                asyncio.run(follow_on_screen(arguments, live))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of stdout has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (client.StreamASRError, OSError, UnicodeError) as error:
        print(f"listen: {reason(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
