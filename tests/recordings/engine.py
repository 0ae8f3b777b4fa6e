"""Adapter between the scenarios and the daemon: the only module here that knows internals.

It runs the daemon in this process, with a scripted engine in place of the models and a scripted
source in place of the microphone. When the daemon's insides change, this module has to follow; the
scenarios and their recordings do not.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any, Final, Literal, TypeAlias

from streamasr.audio.capture import Captured, CaptureEvent, Missed, MissReason, Troubled
from streamasr.config import sections
from streamasr.config.file import load_config
from streamasr.core.events import Aligned, Answer, PassFailed, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Align,
    Order,
    Promote,
    Rank,
    Recognise,
    Release,
    SpreadWords,
)
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.daemon.daemon import Daemon
from streamasr.engine.ports import Deliver
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.server.audio_input import AudioInput
from tests.recordings.audio import Audio
from tests.recordings.script import Failed, Script

MODEL: Final = "scripted"
"""Name of the model in `ready`."""

Settings: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Sections of the configuration file."""

Held: TypeAlias = Literal["text", "words"]
"""Answers that can be held back."""

_TURNS: Final = 20
"""Turns of the event loop in which everything that follows from an answer has happened."""


class ScriptedChannel:
    """Orders of one session."""

    def __init__(self, engine: "ScriptedEngine", deliver: Deliver) -> None:
        self._engine = engine
        self._deliver = deliver
        self._is_closed = False

    def perform(self, order: Order) -> None:
        """Answer an order, or keep it while answers of its kind are held back."""
        if not self._is_closed:
            self._engine.perform(order, self._hand_over)

    def close(self) -> None:
        """Deliver nothing more."""
        self._is_closed = True

    def _hand_over(self, answer: Answer) -> None:
        if not self._is_closed:
            self._deliver(answer)


class ScriptedEngine:
    """Engine that answers every order at once, as a script says."""

    traits = FamilyTraits()
    facts = ModelFacts(MODEL, MODEL, ("English", "Chinese"))
    languages = LANGUAGES

    def __init__(self, script: Script, *, is_loaded: bool = True) -> None:
        self.restarts: dict[str, int] = {}
        self.pulse = None
        self.is_alive = True
        self.is_ready = is_loaded
        self.n_orders = 0
        self._script = script
        self._held: set[Held] = set()
        self._waiting: deque[tuple[Order, Deliver]] = deque()
        self._loaded = ThreadEvent()
        if is_loaded:
            self._loaded.set()

    def start(self) -> None:
        """Wait until loading is said to be finished."""
        self._loaded.wait()

    def stop(self) -> None:
        """End a start that waits."""
        self._loaded.set()

    def channel(self, deliver: Deliver) -> ScriptedChannel:
        """Return a channel for one session."""
        return ScriptedChannel(self, deliver)

    def check_options(self, _: SessionOptions) -> None:
        """Accept all options."""

    def queue_lengths(self) -> dict[str, int]:
        """Return the queues of the stages."""
        return {"encoder": 0, "decoder": 0, "aligner": 0}

    def hold(self, kind: Held) -> None:
        """Hold answers of a kind back."""
        self._held.add(kind)

    def release(self) -> None:
        """Give the answers that were held back, in the order they were asked for."""
        self._held.clear()
        while self._waiting:
            self._answer(*self._waiting.popleft())

    def perform(self, order: Order, deliver: Deliver) -> None:
        """Answer an order, or keep it."""
        self.n_orders += 1
        kind: Held = "words" if isinstance(order, Align | SpreadWords) else "text"
        if kind in self._held:
            self._waiting.append((order, deliver))
        else:
            self._answer(order, deliver)

    def _answer(self, order: Order, deliver: Deliver) -> None:
        match order:
            case Recognise():
                # The recorded engine answered in two turns of the loop, one for the encoder and one
                # for the decoder; with one turn, partials would be due at other samples.
                loop = asyncio.get_running_loop()
                loop.call_soon(lambda: deliver(self._recognise(order)))
            case Align():
                deliver(self._align(order))
            case AbandonPass() | Promote() | Release() | SpreadWords():
                pass

    def _recognise(self, order: Recognise) -> Answer:
        options = order.options
        result = self._script.recognise(
            order.of.segment,
            len(order.samples),
            is_partial=order.of.rank is Rank.PARTIAL,
            language=options.language,
            context=" ".join([options.context, *options.hotwords]).strip(),
            forced=order.forced,
        )
        if isinstance(result, Failed):
            return PassFailed(order.of, result.reason)
        hypothesis = Hypothesis(
            result.text, result.language, result.tokens, result.ends, result.is_suspicious
        )
        return Recognised(order.of, hypothesis)

    def _align(self, order: Align) -> Aligned:
        timed, method = self._script.align(
            order.segment, len(order.samples), order.text, order.language
        )
        words = tuple(
            Word(
                word.text,
                Samples(order.start + word.start),
                Samples(order.start + word.end),
                word.score,
            )
            for word in timed
        )
        return Aligned(order.segment, words, "spread" if method == "spread" else "aligned")


class ScriptedMicrophone:
    """Live source that gives what a scenario puts into it."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[CaptureEvent | None] = asyncio.Queue()

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """See `Capture.events`."""
        while (event := await self._events.get()) is not None:
            yield event
            self._events.task_done()
        self._events.task_done()

    def put(self, event: CaptureEvent | None) -> None:
        """Add an event; None ends the source."""
        self._events.put_nowait(event)

    async def wait_taken(self) -> None:
        """Wait until every event has been taken."""
        await self._events.join()


class RunningServer:
    """Daemon in this process, as far as scenarios have to control it."""

    def __init__(
        self, directory: Path, settings: Settings, script: Script, *, token: str | None = None
    ) -> None:
        """Prepare a daemon.

        Args:
            directory: for all storage directories of this daemon; the first is `storage` in it.
            settings: what differs from the defaults.
            script: of the engine.
            token: that clients must show.
        """
        self.url = ""
        self.storage = directory / "storage"
        self._directory = directory
        self._settings = settings
        self._script = script
        self._token = token
        self._n_crashes = 0

    async def start(self, *, is_loaded: bool = True) -> None:
        """Start the daemon over its storage directory, and wait until it is ready.

        Args:
            is_loaded: False leaves the engine loading until `finish_loading`.
        """
        self._engine = ScriptedEngine(self._script, is_loaded=is_loaded)
        self._microphone = ScriptedMicrophone()
        settings = self._load()
        has_microphone = settings.microphone.enabled or settings.microphone.input is not None
        capture = (lambda: self._microphone) if has_microphone else None
        self._daemon = Daemon(
            settings,
            self._load,
            open_engine=lambda _: self._engine,
            choose_capture=lambda _: capture,
        )
        self._host = self._daemon._host
        announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._daemon.run(announced.set_result))
        self._running.add_done_callback(lambda _: announced.cancel())
        try:
            self.url = await announced
        except asyncio.CancelledError:
            self._running.result()  # says why
            raise
        if is_loaded:
            await self._host.is_ready.wait()
            await self.settle()

    async def finish_loading(self) -> None:
        """Let the engine finish loading, and wait until the daemon is ready."""
        self._engine.stop()
        await self._host.is_ready.wait()

    async def stop(self) -> None:
        """Stop the daemon as a service manager does, and wait until it has ended."""
        if not self._running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        assert await self._running == 0

    async def restart(self) -> None:
        """Stop the daemon and start another one over the same storage directory."""
        await self.stop()
        await self.start()

    async def crash(self, script: Script | None = None) -> None:
        """Start another daemon over what a crash at this moment leaves on the disk.

        Args:
            script: of its engine; None for the one before.
        """
        await self.settle()
        self._script = script or self._script
        self._n_crashes += 1
        left = self._directory / f"storage-{self._n_crashes}"
        shutil.copytree(self.storage, left)
        await self.abandon()
        self.storage = left
        await self.start()

    async def abandon(self) -> None:
        """End the daemon without finishing anything."""
        self._engine.stop()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def reload(self, settings: Settings) -> None:
        """Change the settings of the running daemon."""
        self._settings = settings
        os.kill(os.getpid(), signal.SIGHUP)
        await self.settle()

    async def settle(self) -> None:
        """Wait until everything that follows from what was received has happened.

        Answers that are held back are not waited for.
        """
        if self._running.done():
            return
        n_orders = -1
        while n_orders != self._engine.n_orders or not self._is_idle():
            n_orders = self._engine.n_orders
            await self._microphone.wait_taken()
            # Done after everything that the store was asked for before.
            done = self._daemon._store.read_messages("none", 0, 1)
            await asyncio.wrap_future(done)
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _is_idle(self) -> bool:
        publishers = [live.publisher for live in self._host.sessions]
        readers = [reader for publisher in publishers for reader in publisher._readers]
        owners = [entry.owner for entry in self._host.sessions._entries.values()]
        inputs = [owner for owner in owners if isinstance(owner, AudioInput)]
        return (
            all(publisher.is_idle for publisher in publishers)
            and not any(reader.outbox for reader in readers)
            and not any(input_._transport.has_left for input_ in inputs)
        )

    async def hold(self, kind: Held) -> None:
        """Hold back what the engine would answer."""
        self._engine.hold(kind)

    async def release(self) -> None:
        """Deliver what was held back, and hold nothing back any more."""
        self._engine.release()
        await self.settle()

    async def speak(self, samples: Audio) -> None:
        """Give samples to the daemon's own session."""
        self._microphone.put(Captured(samples))
        await self.settle()

    async def lose_audio(self, n_samples: int, reason: MissReason) -> None:
        """Report audio that the microphone missed."""
        self._microphone.put(Missed(Samples(n_samples), reason))
        await self.settle()

    async def report_trouble(self, message: str) -> None:
        """Report that the microphone was lost."""
        self._microphone.put(Troubled("device_lost", message))
        await self.settle()

    async def end_microphone(self) -> None:
        """End the source of the daemon's own session."""
        self._microphone.put(None)
        await self.settle()

    async def pause_microphone(self) -> None:
        """Close the microphone."""
        os.kill(os.getpid(), signal.SIGUSR1)
        await self.settle()

    async def resume_microphone(self) -> None:
        """Open the microphone again."""
        os.kill(os.getpid(), signal.SIGUSR2)
        await self.settle()

    def _load(self) -> sections.Settings:
        tables: dict[str, dict[str, Any]] = {
            name: dict(section) for name, section in self._settings.items()
        }
        tables.setdefault("microphone", {"enabled": False})
        tables["storage"] = {"directory": str(self.storage), **tables.get("storage", {})}
        server = {"port": 0, **tables.get("server", {})}
        if self._token is not None:
            file = self._directory / "token"
            file.touch(mode=0o600)
            file.write_text(self._token, encoding="ascii")
            server["token_file"] = str(file)
        tables["server"] = server
        return load_config(None, tables)


@contextlib.asynccontextmanager
async def serve(
    directory: Path,
    settings: Settings,
    script: Script,
    *,
    token: str | None = None,
    is_loaded: bool = True,
) -> AsyncIterator[RunningServer]:
    """Run a daemon on loopback; see `RunningServer`."""
    server = RunningServer(directory, settings, script, token=token)
    await server.start(is_loaded=is_loaded)
    try:
        yield server
    finally:
        await server.abandon()
