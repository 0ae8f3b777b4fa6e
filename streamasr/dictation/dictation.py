"""Running dictation: executes the commands of shortcuts, records, and types recognised text."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from streamasr.client import Event, Reconnecting, Resumed, v1
from streamasr.core.errors import StreamASRError
from streamasr.core.notices import NoticeCode
from streamasr.dictation import push_to_talk as talk
from streamasr.dictation.composer import Composer
from streamasr.dictation.control import Command, serve
from streamasr.dictation.push_to_talk import PushToTalk
from streamasr.dictation.tools import DesktopGoneError, ToolError
from streamasr.dictation.utterance import Source, Utterance
from streamasr.writing.edits import Edit

logger = logging.getLogger(__name__)

_REPORTED: Final = frozenset(
    {
        NoticeCode.LAGGING,
        NoticeCode.AUDIO,
        NoticeCode.DEVICE_LOST,
        NoticeCode.OVERFLOW,
        NoticeCode.BACKLOG,
    }
)
"""Codes of the notices that are shown to the speaker at once."""


class Target(Protocol):
    """Destination of text; see `outputs.Chain`."""

    async def apply(self, edit: Edit) -> None:
        """Change the text before the caret."""

    def place(self) -> object:
        """Return the window that contains the caret; None if it cannot be determined."""


async def silence(_: talk.SoundName) -> None:
    """Play nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DictationOptions:
    """Options of a dictation."""

    is_held: bool = False
    """The key is held down during speech. Nothing is typed before its release, because text typed
    while a modifier is held down acts as shortcuts."""
    begins_at_once: bool = False
    """Begin without waiting for a shortcut, and end when the source of audio ends."""
    tail_s: float = talk.TAIL_S
    """Seconds recorded after the stop command."""
    longest_s: float = talk.LONGEST_S
    """Seconds after which an utterance ends without a stop command."""
    control: Path | None = None
    """Path of the socket for the commands of shortcuts; None for no socket."""
    play: Callable[[talk.SoundName], Awaitable[None]] = silence
    """Plays a sound."""
    on_ready: Callable[[], None] = lambda: None
    """Called when commands of shortcuts are accepted."""


@dataclass(slots=True)
class _Active:
    """Utterance that is being recorded, or whose text is pending."""

    utterance: Utterance
    may_type: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    was_ended: bool = False
    """The end was requested; otherwise the source ended by itself."""

    def end(self) -> None:
        """End the recording, and allow its text to be typed."""
        self.was_ended = True
        self.utterance.end()
        self.may_type.set()

    def abandon(self) -> None:
        """End the recording, and type no more of its text."""
        self.was_ended = True
        self.utterance.end()
        if self.task is not None:
            self.task.cancel()


class Dictation:
    """Dictation from a source to a target; all methods run on the event loop's thread."""

    def __init__(
        self,
        source: Source,
        composer: Composer,
        target: Target,
        report: Callable[[str], None],
        options: DictationOptions,
    ) -> None:
        self._source = source
        self._composer = composer
        self._target = target
        self._report = report
        self._options = options
        self._talk = PushToTalk(tail_s=options.tail_s, longest_s=options.longest_s)
        self._active: dict[int, _Active] = {}
        self._place: object = None
        self._over = asyncio.Event()
        self._failure: StreamASRError | None = None
        self._sounds: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run until cancelled or, with `begins_at_once`, until the source of audio ends.

        Raises:
            ConfigError: another dictation is running, or the control socket cannot be used.
            DesktopGoneError: the desktop session has ended.
            StreamASRError: the utterance begun at once failed and was not ended by a command.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._options.control is not None:
                await stack.enter_async_context(serve(self._options.control, self.execute))
            await stack.enter_async_context(self._source.running())
            stack.push_async_callback(self._leave)
            self._options.on_ready()
            if self._options.begins_at_once:
                self.execute("start")
            await self._over.wait()
        if self._failure is not None:
            raise self._failure

    def execute(self, command: Command) -> talk.State:
        """Execute a command; return the state afterwards."""
        now = asyncio.get_running_loop().time()
        match command:
            case "start":
                self._receive(talk.Started(now))
            case "stop":
                self._receive(talk.Stopped(now))
            case "toggle":
                self._receive(talk.Toggled(now))
            case "cancel":
                self._receive(talk.Cancelled())
            case "status":
                pass
        return self._talk.state

    def _receive(self, event: talk.Event) -> None:
        for action in self._talk.receive(event):
            self._act(action)

    def _act(self, action: talk.Action) -> None:
        match action:
            case talk.Begin(number):
                self._begin(number)
            case talk.End(number):
                self._active[number].end()
            case talk.Abandon(number):
                self._active[number].abandon()
            case talk.SetTimer(at):
                asyncio.get_running_loop().call_at(at, self._receive, talk.TimerFired(at))
            case talk.Play(sound):
                task = asyncio.ensure_future(self._options.play(sound))
                self._sounds.add(task)
                task.add_done_callback(self._sounds.discard)

    def _begin(self, number: int) -> None:
        logger.info("utterance %d begins", number)
        loop = asyncio.get_running_loop()

        def on_audio() -> None:
            # The first audio may arrive before `_active` contains the utterance.
            loop.call_soon(self._receive, talk.AudioArrived(number))

        utterance = self._source.begin(on_audio)
        before = [active.task for active in self._active.values() if active.task is not None]
        active = self._active[number] = _Active(utterance)
        if not self._options.is_held:
            active.may_type.set()
        active.task = asyncio.create_task(self._follow(number, active, before))
        active.task.add_done_callback(lambda _: self._forget(number))

    async def _follow(
        self, number: int, active: _Active, before: "list[asyncio.Task[None]]"
    ) -> None:
        """Type the recognised text of an utterance, after the texts of those before it."""
        try:
            async with contextlib.aclosing(active.utterance.events()) as events:
                async for event in events:
                    if not self._report_trouble(event):
                        await active.may_type.wait()
                        if before:
                            await asyncio.wait(before)
                        await self._type_all(event, events)
        except DesktopGoneError as error:
            self._failure = error
            self._over.set()
        except StreamASRError as error:
            self._failure = error
            if not self._options.begins_at_once or active.was_ended:
                self._report(str(error))
        finally:
            active.utterance.end()
            logger.info("utterance %d is over", number)

    def _report_trouble(self, event: Event) -> bool:
        """Report the event if it is a trouble; return whether it needs no further processing."""
        match event:
            case Reconnecting(reason=reason, tries=tries):
                if tries == 1:
                    self._report(reason)
            case v1.Warning(code=code, message=message):
                if code in _REPORTED:
                    self._report(message)
            case Resumed():
                pass
            case _:
                return False
        return True

    async def _type_all(self, first: Event, rest: AsyncIterator[Event]) -> None:
        try:
            await self._take(first)
            async for event in rest:
                await self._take(event)
        finally:
            self._composer.abandon()

    async def _take(self, event: Event) -> None:
        if not self._report_trouble(event):
            assert not isinstance(event, Reconnecting | Resumed)
            await self._type(event)

    async def _type(self, message: v1.ServerMessage) -> None:
        try:
            if (place := self._target.place()) != self._place:
                self._place = place
                self._composer.move()
            for edit in self._composer.receive(message):
                await self._target.apply(edit)
        except DesktopGoneError:
            raise
        except asyncio.CancelledError:
            self._composer.interrupt()
            raise
        except ToolError as error:
            self._composer.lose_track()
            self._report(f"{str(error).rstrip('.')}; the text is in `streamasr history`")

    def _forget(self, number: int) -> None:
        active = self._active.pop(number)
        self._receive(talk.Done(number))
        if self._options.begins_at_once and not active.was_ended:
            self._over.set()

    async def _leave(self) -> None:
        tasks = [active.task for active in self._active.values() if active.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._sounds:
            await asyncio.wait(self._sounds)
