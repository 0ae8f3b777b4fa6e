"""The sessions of this process: one engine recognises them, one store keeps them."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from streamasr.core.model_facts import ModelFacts
from streamasr.core.notices import NoticeCode
from streamasr.core.options import SessionOptions
from streamasr.core.requested_options import OperatorDefaults, OptionsChange, RequestedOptions
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import Samples, to_samples
from streamasr.engine.ports import ChannelSource
from streamasr.host.latency import Observer
from streamasr.host.live_session import LiveSession
from streamasr.host.recovery import Recovered
from streamasr.host.registry import SessionRegistry
from streamasr.host.replay import replay
from streamasr.pipeline.stream import Beginning, StreamSettings
from streamasr.storage.records import SessionRecord, SessionSource
from streamasr.storage.store import Store

logger = logging.getLogger(__name__)

ResolveOptions: TypeAlias = Callable[[RequestedOptions, OperatorDefaults], SessionOptions]
"""Returns the options of a session. Raises ConfigError if the model cannot fulfil them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Settings of a host, which may change while it runs."""

    defaults: OperatorDefaults = OperatorDefaults()  # noqa: RUF009 - frozen
    streams: StreamSettings = field(default_factory=StreamSettings)
    """For new sessions."""
    max_lag: Samples = to_samples(60.0)  # noqa: RUF009 - an int
    """Audio of a session that may wait for recognition."""
    max_sessions: int = 8
    """Sessions of clients at the same time."""
    resume_s: float = 300.0
    """Time that a session waits for a client that lost its connection."""
    history_days: int = 30
    """0 forgets each session at its end."""


class LocalSessionHost:
    """Opens, configures and resumes sessions; see `SessionHost`."""

    def __init__(
        self,
        settings: HostSettings,
        *,
        model: ModelFacts,
        recogniser: ChannelSource,
        resolve: ResolveOptions,
        store: Store,
        observer: Observer,
        journal_timeout_s: float = 2.0,
        old_connection_s: float = 3.0,
    ) -> None:
        """Begin without sessions.

        Args:
            settings: until `apply` changes them.
            model: that recognises.
            recogniser: started before the first session is opened.
            resolve: returns the options of a session.
            store: started before the first session is opened.
            observer: receives the measurements.
            journal_timeout_s: see `LiveSession`.
            old_connection_s: see `SessionRegistry`.
        """
        self.model = model
        self.is_ready = asyncio.Event()
        self.sessions = SessionRegistry(
            self._open_live,
            max_sessions=settings.max_sessions,
            resume_s=settings.resume_s,
            on_end=self._forget,
            keeps_ends=lambda: self._settings.history_days > 0,
            old_connection_s=old_connection_s,
        )
        self._settings = settings
        self._recogniser = recogniser
        self._resolve = resolve
        self._store = store
        self._observer = observer
        self._journal_timeout_s = journal_timeout_s
        self._requested: dict[str, RequestedOptions] = {}

    @property
    def max_lag(self) -> Samples:
        """Audio of a session that may wait for recognition."""
        return self._settings.max_lag

    @property
    def resume_s(self) -> float:
        """Time that a session waits for a client that lost its connection."""
        return self._settings.resume_s

    def begin(self, requested: RequestedOptions) -> LiveSession:
        """Begin a session of a client; see `SessionHost.begin`."""
        return self._open(secrets.token_hex(8), requested)

    def begin_own(self) -> LiveSession:
        """Begin the daemon's own session, with the operator's options."""
        return self._open(MICROPHONE, RequestedOptions())

    def configure(self, live: LiveSession, change: OptionsChange) -> None:
        """Change some options of a session; see `SessionHost.configure`."""
        before = self._requested[live.name]
        requested = before.changed(change)
        if requested != before:
            self._set_options(live, self._resolve(requested, self._settings.defaults))
            self._remember(live, requested)

    async def resume(self, recovered: Recovered) -> LiveSession:
        """Continue a session from before a restart.

        The daemon's own session gets the operator's present options, others keep theirs.
        """
        record = recovered.record
        requested, options = RequestedOptions.restored(record.options), record.options
        if record.name == MICROPHONE:
            requested = RequestedOptions()
            options = self._resolve(requested, self._settings.defaults)
        beginning = recovered.beginning
        if record.model != self.model.name:
            published = beginning.published.for_another_model()
            beginning = replace(beginning, published=published)
        live = self.sessions.open(
            record.name, options, beginning, is_daemons_own=record.name == MICROPHONE
        )
        self._remember(live, requested)
        if recovered.is_over:
            live.mark_over()
        else:
            logger.info("session %s continues where it was", record.name)
            await replay(live, recovered, self.max_lag)
        return live

    def check(self, settings: HostSettings) -> None:
        """Check that every session can continue with new settings.

        Raises:
            ConfigError: the model cannot fulfil the options of a session; nothing was changed.
        """
        for requested in self._requested.values():
            self._resolve(requested, settings.defaults)

    def apply(self, settings: HostSettings) -> None:
        """Use new settings, which `check` has accepted, from the next segments on."""
        self._settings = settings
        self.sessions.max_sessions = settings.max_sessions
        self.sessions.resume_s = settings.resume_s
        self._store.history_days = settings.history_days
        for live in self.sessions:
            if not live.intake.is_finishing:
                requested = self._requested[live.name]
                self._set_options(live, self._resolve(requested, settings.defaults))

    def notify_all(self, code: str, message: str) -> None:
        """Give a notice to the readers of all sessions."""
        for live in self.sessions:
            live.notify(code, message)

    def _open(self, name: str, requested: RequestedOptions) -> LiveSession:
        options = self._resolve(requested, self._settings.defaults)
        live = self.sessions.open(name, options, is_daemons_own=name == MICROPHONE)
        self._remember(live, requested)
        return live

    def _set_options(self, live: LiveSession, options: SessionOptions) -> None:
        live.configure(options)
        self._store.configure(live.name, options)

    def _remember(self, live: LiveSession, requested: RequestedOptions) -> None:
        """Keep what a client asked for, and tell its readers which of it has no effect."""
        self._requested[live.name] = requested
        before, live.notice = live.notice, self.model.about_ignored(requested)
        if live.notice and live.notice != before:
            live.notify(NoticeCode.OPTION_IGNORED, live.notice)

    def _open_live(self, name: str, options: SessionOptions, beginning: Beginning) -> LiveSession:
        source: SessionSource = "microphone" if name == MICROPHONE else "client"
        self._store.begin(SessionRecord(name, source, time.time(), self.model.name, options))
        return LiveSession(
            name,
            options,
            recogniser=self._recogniser,
            settings=self._settings.streams,
            archive=self._store,
            observer=self._observer,
            beginning=beginning,
            journal_timeout_s=self._journal_timeout_s,
        )

    def _forget(self, name: str) -> None:
        self._requested.pop(name, None)
        self._store.end(name)
