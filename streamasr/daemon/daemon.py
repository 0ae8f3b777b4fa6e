r"""The daemon: the only module that knows everyone.

    sockets --\                                       /--> encoder, aligner (processes)
               >--> sessions --> stream --> engine ---<
    microphone-/        |                              \--> decoder (thread)
                     store: journal, spool (thread)

Everything but the engine and the store happens on one event loop.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from streamasr.audio.capture import Capture, Captured, CaptureEvent, Missed, Troubled
from streamasr.audio.microphone import Microphone
from streamasr.audio.paced import PacedFile
from streamasr.config.changes import Changes, compare, reload
from streamasr.config.endpoint import is_loopback, read_token
from streamasr.config.sections import Settings
from streamasr.core.errors import AudioError, StorageError, StreamASRError
from streamasr.core.memory import return_freed_memory
from streamasr.core.model_facts import ModelFacts
from streamasr.core.notices import NoticeCode
from streamasr.core.options import SessionOptions
from streamasr.core.refusal import RefusalError
from streamasr.core.requested_options import OperatorDefaults, OptionsChange, RequestedOptions
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import to_samples
from streamasr.engine.engine import Engine
from streamasr.engine.worker import OnTrouble
from streamasr.host.intake import LIVE_PACE
from streamasr.host.live_session import LiveSession
from streamasr.host.recovery import Recovered, recover
from streamasr.host.registry import SessionRegistry
from streamasr.host.replay import replay
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.pipeline.stream import Beginning, StreamSettings
from streamasr.server.access import Access
from streamasr.server.listen import Server
from streamasr.server.metrics import Metrics, Readings
from streamasr.service.supervision import Supervision, Vitals
from streamasr.session.session import SessionSettings
from streamasr.session.stable_prefix import CommitLag
from streamasr.storage.lock import Lock
from streamasr.storage.places import journal_path, spool_path
from streamasr.storage.records import SessionRecord, SessionSource
from streamasr.storage.store import Store

logger = logging.getLogger(__name__)

_LAGGING_S: Final = 5.0
_LAG_CHECK_S: Final = 1.0
_LAG_WARNINGS_S: Final = 10.0

_LEAST_BEFORE_LOSS: Final = to_samples(30.0)
"""A microphone cannot be held back. What it hears is not given up for a lag that is soon over: the
segment behind a cut may have begun seconds ago."""

_TIDY_UP_S: Final = 3600.0
_GOODBYE_S: Final = 2.0  # for clients to read their `end`
_EXIT_AT_ONCE: Final = 130


class Daemon:
    """Listens, recognises and tells, until it is asked to stop. See `SessionHost`."""

    def __init__(
        self,
        config: Settings,
        load_config: Callable[[], Settings],
        open_engine: Callable[[OnTrouble], Engine],
        supervision: Supervision | None = None,
    ) -> None:
        """Prepare; `run` does it.

        Args:
            config: what holds now.
            load_config: reads the configuration again.
            open_engine: makes the engine, which `run` starts and stops.
            supervision: by a service manager; None for none.

        Raises:
            ConfigError, ModelError: it cannot run this way.
        """
        self._config = config
        self._load_config = load_config
        self._supervision = supervision or Supervision()
        directory = config.storage.directory
        self._lock = Lock(directory)
        self._journal_path = journal_path(directory)
        self._spool_path = spool_path(directory) if config.storage.spool else None
        self._engine = open_engine(self._on_trouble_elsewhere)
        self._stop = asyncio.Event()
        self._listening = asyncio.Event()
        self._listening.set()
        self._capturing: asyncio.Task[None] | None = None
        self._asked: dict[str, RequestedOptions] = {}
        self._exit_code = 0
        self.model = ModelFacts(self._engine.bundle.name, "qwen3", tuple(LANGUAGES))
        self.is_ready = asyncio.Event()
        self.access = self._make_access(config)
        self.max_lag = to_samples(config.server.max_lag_s)

    async def run(self, announce: Callable[[str], None]) -> int:
        """Run until a signal comes.

        Args:
            announce: told where clients can connect, once they can.

        Returns:
            The exit code: 0, or 1 when the engine could not be kept running.

        Raises:
            ConfigError, ModelError: it cannot run this way.
        """
        self._loop = asyncio.get_running_loop()
        server = Server(self, access=lambda: self.access, metrics=self.metrics)
        self._metrics = self._make_metrics(server)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._signals())  # whoever finds the lock may send one
            stack.enter_context(self._lock)
            recovered = await asyncio.to_thread(self._recover)
            self._store = stack.enter_context(self._running_store())
            self.sessions = self._make_sessions()
            stack.push_async_callback(self.sessions.close)
            address = await stack.enter_async_context(
                server.running(
                    self._config.server.host,
                    self._config.server.port,
                    self._config.server.socket,
                    is_loopback=is_loopback(self._config.server.host),
                    inherited=self._supervision.inherited,
                )
            )
            announce(address)
            await stack.enter_async_context(self._supervision.reporting(self._vitals))
            await stack.enter_async_context(self._running_engine())
            if not self._stop.is_set():
                await self._resume_sessions(recovered)
                if self._is_capturing:
                    await self._open_own_session()
                self.is_ready.set()
                self._end_if_lost()  # which may have happened while sessions were resumed
            async with _background(self._watch_lag(), self._tidy_up(), self._listen()):
                await self._stop.wait()
            await self._finish(server)
        return self._exit_code

    # What the server asks for.

    def begin(self, requested: RequestedOptions) -> LiveSession:
        """See `SessionHost.begin`."""
        options = self._resolve(requested)
        name = secrets.token_hex(8)
        live = self.sessions.open(name, options)
        self._asked[name] = requested
        return live

    def configure(self, live: LiveSession, change: OptionsChange) -> None:
        """See `SessionHost.configure`."""
        before = self._asked[live.name]
        asked = before.changed(change)
        if asked != before:
            self._change_wishes(live, self._resolve(asked))
            self._asked[live.name] = asked

    def metrics(self) -> tuple[bytes, str]:
        """Return the figures for Prometheus, and their content type."""
        return self._metrics.text(), self._metrics.content_type

    def _resolve(self, asked: RequestedOptions) -> SessionOptions:
        return self._resolve_with(asked, self._config)

    def _resolve_with(self, asked: RequestedOptions, config: Settings) -> SessionOptions:
        options = asked.resolve(operator_defaults(config), LANGUAGES.resolve)
        context = self._engine.context_for(options.context, options.hotwords)
        return replace(options, context=context, hotwords=())

    def _change_wishes(self, live: LiveSession, wishes: SessionOptions) -> None:
        live.configure(wishes)
        self._store.configure(live.name, wishes)

    # Starting.

    def _make_metrics(self, server: Server) -> Metrics:
        engine = self._engine
        readings = Readings(
            sessions=lambda: len(self.sessions),
            connections=lambda: server.n_connections,
            lag_s=lambda: max((live.lag_s for live in self.sessions), default=0.0),
            restarts=lambda: engine.restarts,
            queues=engine.queue_lengths,
        )
        return Metrics(readings)

    def _make_sessions(self) -> SessionRegistry:
        return SessionRegistry(
            self._open_live,
            max_sessions=self._config.server.max_sessions,
            resume_s=self._config.server.resume_s,
            on_end=self._forget,
            keeps_ends=lambda: self._config.storage.history_days > 0,
        )

    def _open_live(self, name: str, wishes: SessionOptions, beginning: Beginning) -> LiveSession:
        source: SessionSource = "microphone" if name == MICROPHONE else "client"
        self._store.begin(SessionRecord(name, source, time.time(), self.model.name, wishes))
        return LiveSession(
            name,
            wishes,
            recogniser=self._engine,
            settings=stream_settings(self._config),
            archive=self._store,
            observer=self._metrics,
            beginning=beginning,
        )

    def _make_access(self, config: Settings) -> Access:
        access = _access(config)
        if self._supervision.inherited:
            self._supervision.inherited.check_access(access.token)
        return access

    def _forget(self, name: str) -> None:
        self._asked.pop(name, None)
        self._store.end(name)

    def _recover(self) -> list[Recovered]:
        try:
            return recover(self._journal_path, self._spool_path)
        except StorageError as error:
            logger.warning("earlier sessions cannot be resumed: %s", error)
            return []

    @contextlib.contextmanager
    def _running_store(self) -> Iterator[Store]:
        store = Store(
            self._journal_path,
            self._spool_path,
            self._on_trouble_elsewhere,
            self._config.storage.history_days,
        )
        with store:
            yield store

    @asynccontextmanager
    async def _running_engine(self) -> AsyncIterator[None]:
        starting = asyncio.create_task(asyncio.to_thread(self._engine.start))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                logger.info("model %s is loaded", self.model.name)
            yield
        finally:
            stopping.cancel()
            await asyncio.to_thread(self._engine.stop)
            await asyncio.gather(starting, return_exceptions=True)  # it fails when it is stopped

    async def _resume_sessions(self, recovered: list[Recovered]) -> None:
        """Go on with what a predecessor left unfinished."""
        for one in recovered:
            name = one.record.name
            is_own = name == MICROPHONE
            # The daemon's own session does what the configuration says now.
            asked = RequestedOptions() if is_own else RequestedOptions.restored(one.record.options)
            wishes = self._resolve(asked) if is_own else one.record.options
            live = self.sessions.open(name, wishes, one.beginning, is_daemons_own=is_own)
            self._asked[name] = asked
            if one.is_over:
                live.mark_over()
                continue
            logger.info("session %s goes on where it was", name)
            await replay(live, one, self.max_lag)
            if is_own:
                await self._resume_microphone(live, one)

    async def _resume_microphone(self, live: LiveSession, recovered: Recovered) -> None:
        away_s = time.time() - recovered.last_heard
        if self._is_capturing and 0 <= away_s <= self._config.server.resume_s:
            live.intake.skip(to_samples(max(away_s, 0.01)), "restart")
        else:
            live.intake.finish()
            await live.is_over.wait()

    # While it runs.

    @property
    def _is_capturing(self) -> bool:
        microphone = self._config.microphone
        return microphone.enabled or microphone.input is not None

    async def _listen(self) -> None:
        """The daemon's own session: a microphone, or a file in place of one."""
        if not self._is_capturing or not self.is_ready.is_set():
            return
        live = self.sessions.find(MICROPHONE)
        capture = self._make_capture()
        while not live.intake.is_finishing:
            await self._listening.wait()
            self._capturing = asyncio.create_task(self._take_all(capture, live))
            try:
                await asyncio.wait([self._capturing])
            finally:
                self._capturing.cancel()
                await asyncio.gather(self._capturing, return_exceptions=True)  # device closed
            _report(self._capturing)
            if self._capturing.cancelled():  # a pause
                live.intake.flush()
            else:  # a file is over, or the device cannot be used at all
                logger.info("there is nothing more to listen to")
                live.intake.finish()

    async def _open_own_session(self) -> None:
        """Begin it, unless it goes on from before a restart."""
        with contextlib.suppress(RefusalError):
            if not self.sessions.find(MICROPHONE).intake.is_finishing:
                return
            await self.sessions.drop(MICROPHONE)
        asked = self._asked[MICROPHONE] = RequestedOptions()
        self.sessions.open(MICROPHONE, self._resolve(asked), is_daemons_own=True)

    def _make_capture(self) -> Capture:
        microphone = self._config.microphone
        if microphone.input is not None:
            return PacedFile(microphone.input, microphone.speed)
        return Microphone(microphone.device)

    async def _take_all(self, capture: Capture, live: LiveSession) -> None:
        try:
            async with aclosing(capture.events()) as events:
                async for event in events:
                    await self._take(event, live)
        except AudioError as error:
            logger.warning("%s", error)
            live.notify(NoticeCode.AUDIO, str(error))

    async def _take(self, event: CaptureEvent, live: LiveSession) -> None:
        match event:
            case Captured(samples=samples):
                if self._config.microphone.input is not None:
                    await live.intake.wait_for_room(self.max_lag)
                live.intake.feed_or_drop(samples, max(self.max_lag, _LEAST_BEFORE_LOSS))
            case Missed(duration=duration, reason=reason):
                live.intake.skip(duration, reason)
            case Troubled(code=code, message=message):
                logger.warning("%s", message)
                live.notify(code, message)

    def _vitals(self) -> Vitals:
        if self._stop.is_set():
            status = "stopping"
        elif not self.is_ready.is_set():
            status = f"loading {self.model.name}"
        else:
            n_sessions = len(self.sessions)
            status = f"{self.model.name} is ready, {n_sessions} session{'s' * (n_sessions != 1)}"
        return Vitals(status, self._engine.pulse)

    async def _watch_lag(self) -> None:
        """Tell those whose text falls behind."""
        warned: dict[str, float] = {}
        while True:
            await asyncio.sleep(_LAG_CHECK_S)
            now = self._loop.time()
            for live in self.sessions:
                is_live = live.intake.pace <= LIVE_PACE
                if live.lag_s < _LAGGING_S or not is_live:
                    continue
                if now - warned.get(live.name, -_LAG_WARNINGS_S) >= _LAG_WARNINGS_S:
                    warned[live.name] = now
                    live.notify(
                        NoticeCode.LAGGING, f"the text is {live.lag_s:.0f} s behind the speech"
                    )

    async def _tidy_up(self) -> None:
        """Forget what is too old, and keep no memory that only earlier sessions needed."""
        while True:
            self._store.prune(self._config.storage.history_days)
            await asyncio.to_thread(return_freed_memory)
            await asyncio.sleep(_TIDY_UP_S)

    def _on_trouble_elsewhere(self, code: str, message: str) -> None:
        """From threads of the engine and of the store."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._on_trouble, code, message)

    def _on_trouble(self, code: str, message: str) -> None:
        if code != "degraded":  # the engine has logged it
            logger.warning("%s", message)
        for live in self.sessions:
            live.notify(code, message)
        self._end_if_lost()

    def _end_if_lost(self) -> None:
        if self._is_lost() and not self._stop.is_set():
            logger.error("the engine cannot be kept running; sessions go on after a restart")
            self._exit_code = 1
            self._stop.set()

    def _is_lost(self) -> bool:
        return self.is_ready.is_set() and not self._engine.is_alive

    # Signals.

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        reactions = {
            signal.SIGTERM: self._ask_to_stop,
            signal.SIGINT: self._ask_to_stop,
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._pause,
            signal.SIGUSR2: self._resume,
        }
        for number, react in reactions.items():
            self._loop.add_signal_handler(number, react)
        try:
            yield
        finally:
            for number in reactions:
                self._loop.remove_signal_handler(number)

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            logger.warning("stopping at once")
            os._exit(_EXIT_AT_ONCE)  # the children end with us; sessions go on after a restart
        logger.info("stopping")
        self._stop.set()

    def _pause(self) -> None:
        if self._listening.is_set():
            self._listening.clear()
            if self._capturing:
                self._capturing.cancel()
            self._tell_own_listeners(NoticeCode.PAUSED, "the microphone is closed")

    def _resume(self) -> None:
        if not self._listening.is_set():
            self._listening.set()
            self._tell_own_listeners(NoticeCode.RESUMED, "the microphone is open again")

    def _tell_own_listeners(self, code: str, message: str) -> None:
        logger.info("%s", message)
        if not self.is_ready.is_set():
            return
        with contextlib.suppress(RefusalError):
            self.sessions.find(MICROPHONE).notify(code, message)

    def _reload(self) -> None:
        if not self.is_ready.is_set():
            logger.warning("the configuration is not read again before the models are loaded")
            return
        try:
            with self._supervision.reloading():
                wanted = self._load_config()
                self._take_over(reload(self._config, wanted), compare(self._config, wanted))
        except StreamASRError as error:
            logger.warning("the configuration stays as it was: %s", error)

    def _take_over(self, config: Settings, changes: Changes) -> None:
        access = self._make_access(config)
        for asked in self._asked.values():  # refuses what cannot be, before anything has changed
            self._resolve_with(asked, config)
        self._config, self.access = config, access
        self.max_lag = to_samples(config.server.max_lag_s)
        self.sessions.max_sessions = config.server.max_sessions
        self.sessions.resume_s = config.server.resume_s
        self._store.history_days = config.storage.history_days
        logging.getLogger().setLevel(config.log.level.upper())
        for live in self.sessions:
            if not live.intake.is_finishing:
                self._change_wishes(live, self._resolve(self._asked[live.name]))
        if changes.applied:
            logger.info("taken over: %s", ", ".join(changes.applied))
        if changes.needs_restart:
            logger.warning("these need a restart: %s", ", ".join(changes.needs_restart))
        if changes == Changes((), ()):
            logger.info("nothing has changed for the daemon")

    # Stopping.

    async def _finish(self, server: Server) -> None:
        """Recognise what has been heard, and let everyone hear the end."""
        self._supervision.stopping(self._config.server.stop_timeout_s)
        server.stop_listening()
        self.sessions.finish_all()
        if not self.is_ready.is_set() or self._is_lost():
            return
        try:
            async with asyncio.timeout(self._config.server.stop_timeout_s):
                await self.sessions.wait_all_over()
        except TimeoutError:
            logger.warning("not everything was recognised in time; it goes on after a restart")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await server.wait_empty()


@asynccontextmanager
async def _background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these beside what happens inside, and no longer."""
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s failed", task.get_coro(), exc_info=error)


def _access(config: Settings) -> Access:
    server = config.server
    token = None if server.token_file is None else read_token(server.token_file)
    return Access(token, frozenset(server.allow_origin))


def operator_defaults(config: Settings) -> OperatorDefaults:
    """Return the options of the configuration, for what clients leave open."""
    return OperatorDefaults(
        language=config.model.language,
        context=config.model.context,
        hotwords=config.model.hotwords,
        partials=config.live.partials,
        words=config.live.words,
    )


def stream_settings(config: Settings) -> StreamSettings:
    """How sessions are cut and recognised."""
    live = config.live
    commit = None
    if live.commit == "agreement":
        commit = CommitLag(live.commit_lag_tokens, to_samples(live.commit_lag_s))
    session = SessionSettings(to_samples(live.partial_interval_s), commit=commit)
    return StreamSettings(config.vad, config.segmentation, session)
