r"""The daemon: connects all parts, starts them in order, and stops them.

    sockets --\                                       /--> encoder, aligner (processes)
               >--> sessions --> stream --> engine ---<
    microphone-/        |                              \--> decoder (thread)
                     store: journal, spool (thread)

Everything but the engine and the store runs in one event loop.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, TypeAlias

from streamasr.audio.capture import Capture
from streamasr.audio.microphone import Microphone
from streamasr.audio.paced import PacedFile
from streamasr.config.endpoint import is_loopback
from streamasr.config.sections import MicrophoneConfig, Settings
from streamasr.core.errors import StorageError
from streamasr.core.notices import NoticeCode
from streamasr.core.options import SessionOptions
from streamasr.core.requested_options import OperatorDefaults, RequestedOptions
from streamasr.core.session_names import MICROPHONE
from streamasr.daemon.background import background, clean_up, watch_lag
from streamasr.daemon.reload import LiveSettings, host_settings
from streamasr.daemon.signals import handled_signals
from streamasr.engine.ports import Engine, OnTrouble
from streamasr.host.local_host import LocalSessionHost
from streamasr.host.microphone import MicrophoneSession
from streamasr.host.recovery import Recovered, recover
from streamasr.server.listen import Server
from streamasr.server.metrics import Metrics, Readings
from streamasr.service.supervision import Supervision, Vitals
from streamasr.storage.lock import Lock
from streamasr.storage.places import journal_path, spool_path
from streamasr.storage.store import Store

logger = logging.getLogger(__name__)

OpenCapture: TypeAlias = Callable[[], Capture]

_CLOSING_S: Final = 2.0  # for clients to read their `end`
_EXIT_AT_ONCE: Final = 130


class Daemon:
    """Serves sessions of clients and of a microphone until a signal stops it."""

    def __init__(
        self,
        settings: Settings,
        load_settings: Callable[[], Settings],
        *,
        open_engine: Callable[[OnTrouble], Engine],
        supervision: Supervision | None = None,
        choose_capture: "Callable[[MicrophoneConfig], OpenCapture | None] | None" = None,
    ) -> None:
        """Connect all parts; `run` starts them.

        Args:
            settings: at the start.
            load_settings: reads the settings again.
            open_engine: makes the engine, which `run` starts and stops.
            supervision: by a service manager; None without one.
            choose_capture: returns a function that opens the source of the microphone's session;
                None for the microphone or the file of the settings.

        Raises:
            ConfigError: the settings exclude each other, or the token cannot be read.
            ModelError: the model cannot be used.
        """
        directory = settings.storage.directory
        self._journal_path = journal_path(directory)
        self._spool_path = spool_path(directory) if settings.storage.spool else None
        self._lock = Lock(directory)
        self._supervision = supervision or Supervision()
        self._settings = LiveSettings(settings, load_settings, self._supervision)
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._engine = open_engine(self._report_from_thread)
        self._store = Store(
            self._journal_path,
            self._spool_path,
            self._report_from_thread,
            settings.storage.history_days,
        )
        self._metrics = Metrics(self._readings())
        self._host = LocalSessionHost(
            host_settings(settings),
            model=self._engine.facts,
            recogniser=self._engine,
            resolve=self._resolve,
            store=self._store,
            observer=self._metrics,
        )
        self._microphone = MicrophoneSession(
            self._host,
            (choose_capture or _choose_capture)(settings.microphone),
            can_wait=settings.microphone.input is not None,
        )
        self._server = Server(
            self._host,
            access=lambda: self._settings.access,
            metrics=lambda: (self._metrics.text(), self._metrics.content_type),
        )

    async def run(self, announce: Callable[[str], None]) -> int:
        """Run until a signal comes.

        Args:
            announce: called with the address for clients, once they can connect.

        Returns:
            The exit code: 0, or 1 when the engine could not be kept running.

        Raises:
            ConfigError: the storage directory or the address cannot be used.
            ModelError: the model cannot be loaded.
        """
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            # Signals first: a program that finds the lock may send one.
            stack.enter_context(
                handled_signals(
                    stop=self._request_stop,
                    reload=lambda: self._settings.reload(self._host),
                    pause=self._microphone.pause,
                    unpause=self._microphone.unpause,
                )
            )
            stack.enter_context(self._lock)
            recovered = await asyncio.to_thread(self._recover)
            stack.enter_context(self._store)
            stack.push_async_callback(self._host.sessions.close)
            announce(await stack.enter_async_context(self._listening()))
            await stack.enter_async_context(self._supervision.reporting(self._vitals))
            await stack.enter_async_context(self._running_engine())
            if not self._stop.is_set():
                await self._resume_sessions(recovered)
                await self._microphone.begin()
                self._host.is_ready.set()
                self._stop_if_lost()  # the engine may have been lost while sessions were resumed
            async with background(
                watch_lag(self._host.sessions),
                clean_up(self._store, lambda: self._settings.current.storage.history_days),
                self._microphone.run(),
            ):
                await self._stop.wait()
            await self._finish()
        return self._exit_code

    # Wiring.

    def _readings(self) -> Readings:
        engine = self._engine
        return Readings(
            model=engine.facts,
            sessions=lambda: len(self._host.sessions),
            connections=lambda: self._server.n_connections,
            lag_s=lambda: max((live.lag_s for live in self._host.sessions), default=0.0),
            restarts=lambda: engine.restarts,
            queues=engine.queue_lengths,
        )

    def _resolve(self, requested: RequestedOptions, defaults: OperatorDefaults) -> SessionOptions:
        options = requested.resolve(defaults, self._engine.languages.resolve)
        self._engine.check_options(options)
        return options

    def _vitals(self) -> Vitals:
        model = self._host.model.name
        if self._stop.is_set():
            status = "stopping"
        elif not self._host.is_ready.is_set():
            status = f"loading {model}"
        else:
            n_sessions = len(self._host.sessions)
            status = f"{model} is ready, {n_sessions} session{'s' * (n_sessions != 1)}"
        return Vitals(status, self._engine.pulse)

    # Starting.

    def _recover(self) -> list[Recovered]:
        try:
            return recover(self._journal_path, self._spool_path)
        except StorageError as error:
            logger.warning("earlier sessions cannot be resumed: %s", error)
            return []

    def _listening(self) -> "contextlib.AbstractAsyncContextManager[str]":
        server = self._settings.current.server
        return self._server.running(
            server.host,
            server.port,
            server.socket,
            is_loopback=is_loopback(server.host),
            inherited=self._supervision.inherited,
        )

    @asynccontextmanager
    async def _running_engine(self) -> AsyncIterator[None]:
        """Load the models, unless the daemon is stopped meanwhile; stop the engine at the end."""
        starting = asyncio.create_task(asyncio.to_thread(self._engine.start))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                logger.info("model %s is loaded", self._host.model.name)
            yield
        finally:
            stopping.cancel()
            await asyncio.to_thread(self._engine.stop)
            await asyncio.gather(starting, return_exceptions=True)  # fails when it is stopped

    async def _resume_sessions(self, recovered: list[Recovered]) -> None:
        for one in recovered:
            is_own = one.record.name == MICROPHONE
            await (self._microphone.resume(one) if is_own else self._host.resume(one))

    # Stopping.

    def _request_stop(self) -> None:
        if self._stop.is_set():
            logger.warning("stopping at once")
            os._exit(_EXIT_AT_ONCE)  # the children end, too; sessions continue after a restart
        logger.info("stopping")
        self._stop.set()

    async def _finish(self) -> None:
        """Recognise the audio received so far, and give clients time to read the end."""
        stop_timeout_s = self._settings.current.server.stop_timeout_s
        self._supervision.stopping(stop_timeout_s)
        self._server.stop_listening()
        self._host.sessions.finish_all()
        if not self._host.is_ready.is_set() or self._is_lost():
            return
        try:
            async with asyncio.timeout(stop_timeout_s):
                await self._host.sessions.wait_all_over()
        except TimeoutError:
            logger.warning(
                "not all audio was recognised in time; sessions continue after a restart"
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await self._server.wait_empty()

    # Trouble.

    def _report_from_thread(self, code: str, message: str) -> None:
        """Report trouble from a thread of the engine or of the store."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all readers with it
            self._loop.call_soon_threadsafe(self._report, code, message)

    def _report(self, code: str, message: str) -> None:
        if code != NoticeCode.DEGRADED:  # the engine has logged it
            logger.warning("%s", message)
        self._host.notify_all(code, message)
        self._stop_if_lost()

    def _stop_if_lost(self) -> None:
        if self._is_lost() and not self._stop.is_set():
            logger.error("the engine cannot be kept running; sessions continue after a restart")
            self._exit_code = 1
            self._stop.set()

    def _is_lost(self) -> bool:
        return self._host.is_ready.is_set() and not self._engine.is_alive


def _choose_capture(settings: MicrophoneConfig) -> OpenCapture | None:
    """Return a function that opens the source of the microphone's session; None for no source."""
    if (file := settings.input) is not None:
        return lambda: PacedFile(file, settings.speed)
    return (lambda: Microphone(settings.device)) if settings.enabled else None
