"""Settings of a running daemon: their values for its parts, and how they change."""

import logging
from collections.abc import Callable

from streamasr.config.changes import Changes, compare, reload
from streamasr.config.endpoint import read_token
from streamasr.config.sections import Settings
from streamasr.core.errors import StreamASRError
from streamasr.core.requested_options import OperatorDefaults
from streamasr.core.units import to_samples
from streamasr.host.local_host import HostSettings, LocalSessionHost
from streamasr.pipeline.stream import StreamSettings
from streamasr.server.access import Access
from streamasr.service.supervision import Supervision
from streamasr.session.session import SessionSettings
from streamasr.session.stable_prefix import CommitLag

logger = logging.getLogger(__name__)


class LiveSettings:
    """The settings that hold at present, read again on request."""

    def __init__(
        self, settings: Settings, load: Callable[[], Settings], supervision: Supervision
    ) -> None:
        """Begin with settings.

        Args:
            settings: at the start.
            load: reads them again.
            supervision: is told of a reload, and has the inherited socket.

        Raises:
            ConfigError: the token cannot be read, or other machines could connect without one.
        """
        self.current = settings
        self._load = load
        self._supervision = supervision
        self.access = self._access(settings)

    def reload(self, host: LocalSessionHost) -> None:
        """Read the settings again, and apply those that need no restart.

        Wrong settings change nothing; the error is logged.
        """
        if not host.is_ready.is_set():
            logger.warning("the configuration is not read again before the models are loaded")
            return
        try:
            with self._supervision.reloading():
                wanted = self._load()
                changes = compare(self.current, wanted)
                self._apply(reload(self.current, wanted), host)
        except StreamASRError as error:
            logger.warning("the configuration stays as it was: %s", error)
        else:
            _log(changes)

    def _apply(self, settings: Settings, host: LocalSessionHost) -> None:
        access = self._access(settings)
        host.check(host_settings(settings))  # before anything has changed
        host.apply(host_settings(settings))
        self.current, self.access = settings, access
        logging.getLogger().setLevel(settings.log.level.upper())

    def _access(self, settings: Settings) -> Access:
        server = settings.server
        token = None if server.token_file is None else read_token(server.token_file)
        if self._supervision.inherited:
            self._supervision.inherited.check_access(token)
        return Access(token, frozenset(server.allow_origin))


def host_settings(settings: Settings) -> HostSettings:
    """Return the settings of the sessions' host."""
    return HostSettings(
        defaults=operator_defaults(settings),
        streams=stream_settings(settings),
        max_lag=to_samples(settings.server.max_lag_s),
        max_sessions=settings.server.max_sessions,
        resume_s=settings.server.resume_s,
        history_days=settings.storage.history_days,
    )


def operator_defaults(settings: Settings) -> OperatorDefaults:
    """Return the operator's options, for what clients leave open."""
    return OperatorDefaults(
        language=settings.model.language,
        languages=settings.model.languages,
        context=settings.model.context,
        hotwords=settings.model.hotwords,
        partials=settings.live.partials,
        words=settings.live.words,
    )


def stream_settings(settings: Settings) -> StreamSettings:
    """Return the settings of new streams."""
    live = settings.live
    commit = None
    if live.commit == "agreement":
        commit = CommitLag(live.commit_lag_tokens, to_samples(live.commit_lag_s))
    session = SessionSettings(to_samples(live.partial_interval_s), commit=commit)
    return StreamSettings(settings.vad, settings.segmentation, session)


def _log(changes: Changes) -> None:
    if changes.applied:
        logger.info("applied new settings: %s", ", ".join(changes.applied))
    if changes.needs_restart:
        logger.warning("restart the daemon to apply: %s", ", ".join(changes.needs_restart))
    if changes == Changes((), ()):
        logger.info("no setting of the daemon has changed")
