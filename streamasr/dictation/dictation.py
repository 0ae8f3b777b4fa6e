"""A running dictation: obeys the shortcuts, listens, and types."""

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

_TROUBLES: Final = frozenset(
    {
        NoticeCode.LAGGING,
        NoticeCode.AUDIO,
        NoticeCode.DEVICE_LOST,
        NoticeCode.OVERFLOW,
        NoticeCode.BACKLOG,
    }
)
"""Codes of what a speaker should know at once."""


class Target(Protocol):
    """See `outputs.Chain`."""

    async def apply(self, edit: Edit) -> None:
        """Change the text before the caret."""

    def place(self) -> object:
        """Where the caret is, as far as that can be told: the same in the same window."""


async def silence(_: talk.SoundName) -> None:
    """Play nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a dictation behaves."""

    is_held: bool = False
    """The key is held down while somebody speaks: nothing is typed before it is released, for what
    is typed beside a held modifier is a shortcut."""
    begins_at_once: bool = False
    """Without waiting for a shortcut; and it ends when there is nothing more to hear."""
    tail_s: float = talk.TAIL_S
    longest_s: float = talk.LONGEST_S
    control: Path | None = None
    """The socket that shortcuts reach it by."""
    play: Callable[[talk.SoundName], Awaitable[None]] = silence
    on_ready: Callable[[], None] = lambda: None
    """Called when shortcuts are answered."""


@dataclass(slots=True)
class _Live:
    """An utterance that is being said, or whose text is owed."""

    utterance: Utterance
    may_type: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None
    was_told: bool = False
    """To end; otherwise, that it is over is news."""

    def end(self) -> None:
        """Say no more."""
        self.was_told = True
        self.utterance.end()
        self.may_type.set()

    def abandon(self) -> None:
        """Type no more."""
        self.was_told = True
        self.utterance.end()
        if self.task is not None:
            self.task.cancel()


class Dictation:
    """See above; everything happens on the event loop's thread."""

    def __init__(
        self,
        source: Source,
        composer: Composer,
        target: Target,
        report: Callable[[str], None],
        manner: Manner,
    ) -> None:
        self._source = source
        self._composer = composer
        self._target = target
        self._report = report
        self._manner = manner
        self._talk = PushToTalk(tail_s=manner.tail_s, longest_s=manner.longest_s)
        self._lives: dict[int, _Live] = {}
        self._place: object = None
        self._over = asyncio.Event()
        self._failure: StreamASRError | None = None
        self._sounds: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Run until nothing more is to be heard, or for ever.

        Raises:
            ConfigError: another one is running.
            DesktopGoneError: there is nothing any more to type into.
            StreamASRError: what began at once cannot go on.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._manner.control is not None:
                await stack.enter_async_context(serve(self._manner.control, self.obey))
            await stack.enter_async_context(self._source.running())
            stack.push_async_callback(self._leave)
            self._manner.on_ready()
            if self._manner.begins_at_once:
                self.obey("start")
            await self._over.wait()
        if self._failure is not None:
            raise self._failure

    def obey(self, command: Command) -> talk.State:
        """Do what a shortcut wants; the state afterwards."""
        now = asyncio.get_running_loop().time()
        match command:
            case "start":
                self._happen(talk.Started(now))
            case "stop":
                self._happen(talk.Stopped(now))
            case "toggle":
                self._happen(talk.Toggled(now))
            case "cancel":
                self._happen(talk.Cancelled())
            case "status":
                pass
        return self._talk.state

    def _happen(self, event: talk.Event) -> None:
        for action in self._talk.receive(event):
            self._act(action)

    def _act(self, action: talk.Action) -> None:
        match action:
            case talk.Begin(number):
                self._begin(number)
            case talk.End(number):
                self._lives[number].end()
            case talk.Abandon(number):
                self._lives[number].abandon()
            case talk.Wake(at):
                asyncio.get_running_loop().call_at(at, self._happen, talk.Woke(at))
            case talk.Play(sound):
                task = asyncio.ensure_future(self._manner.play(sound))
                self._sounds.add(task)
                task.add_done_callback(self._sounds.discard)

    def _begin(self, number: int) -> None:
        logger.info("utterance %d begins", number)
        loop = asyncio.get_running_loop()

        def hear() -> None:
            # The first audio may be there before `_lives` knows of it.
            loop.call_soon(self._happen, talk.Heard(number))

        utterance = self._source.begin(hear)
        before = [live.task for live in self._lives.values() if live.task is not None]
        live = self._lives[number] = _Live(utterance)
        if not self._manner.is_held:
            live.may_type.set()
        live.task = asyncio.create_task(self._follow(number, live, before))
        live.task.add_done_callback(lambda _: self._forget(number))

    async def _follow(self, number: int, live: _Live, before: "list[asyncio.Task[None]]") -> None:
        """Type what is recognised of an utterance, after those before it."""
        try:
            async with contextlib.aclosing(live.utterance.events()) as events:
                async for event in events:
                    if not self._tell(event):
                        await live.may_type.wait()
                        if before:
                            await asyncio.wait(before)
                        await self._type_all(event, events)
        except DesktopGoneError as error:
            self._failure = error
            self._over.set()
        except StreamASRError as error:
            self._failure = error
            if not self._manner.begins_at_once or live.was_told:
                self._report(str(error))
        finally:
            live.utterance.end()
            logger.info("utterance %d is over", number)

    def _tell(self, event: Event) -> bool:
        """Report what people should know at once; whether that is all there is to an event."""
        match event:
            case Reconnecting(reason=reason, tries=tries):
                if tries == 1:
                    self._report(reason)
            case v1.Warning(code=code, message=message):
                if code in _TROUBLES:
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
        if not self._tell(event):
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
            self._composer.break_off()
            raise
        except ToolError as error:
            self._composer.lose_track()
            self._report(f"{error}; the text is in `streamasr history`")

    def _forget(self, number: int) -> None:
        live = self._lives.pop(number)
        self._happen(talk.Done(number))
        if self._manner.begins_at_once and not live.was_told:
            self._over.set()

    async def _leave(self) -> None:
        tasks = [live.task for live in self._lives.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._sounds:
            await asyncio.wait(self._sounds)
