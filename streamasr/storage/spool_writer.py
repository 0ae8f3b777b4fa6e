"""Spools of all sessions; for the store's thread.

Audio that cannot be spooled is missing in the spool, which is tried again later. While a message
waits for the journal, the audio that it came from stays in the spool, even if it is settled or its
session is over: if the process dies before the journal can be written, that audio is recognised
once more. Only when the spool cannot be written either, the audio that can be deleted is deleted.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamasr.core.errors import StorageError
from streamasr.core.notices import NoticeCode
from streamasr.core.units import Float32Array, Samples
from streamasr.storage.limits import Limits
from streamasr.storage.spool import Spool, SpoolFullError, delete_spool
from streamasr.storage.trouble import TroubleReporter

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Audio:
    """The spooled audio of one session."""

    spool: Spool | None = None
    is_broken: bool = False
    retry_at: float = 0.0  # monotonic seconds, if broken
    settled: Samples = Samples(0)  # noqa: RUF009 - an int
    is_over: bool = False


class SpoolWriter:
    """Writes audio of all sessions, and deletes it when it is not needed any more."""

    def __init__(
        self,
        root: Path,
        limits: Limits,
        troubles: TroubleReporter,
        needs_audio: Callable[[str], bool],
    ) -> None:
        """Prepare; spools are opened by their first samples.

        Args:
            root: directory of all spools.
            limits: times and sizes.
            troubles: receives the failures.
            needs_audio: returns True for the name of a session whose text is only in memory.
        """
        self._root = root
        self._limits = limits
        self._troubles = troubles
        self._needs_audio = needs_audio
        self._audio: dict[str, _Audio] = {}
        self._deferred: set[str] = set()  # sessions whose audio can go when their text is written

    def begin(self, name: str) -> None:
        """Delete what an earlier session of this name has left, if it ended in this process."""
        if name in self._audio:
            self._release(name, must=True)

    def append(self, name: str, position: Samples, samples: Float32Array) -> None:
        """Write samples that begin at `position`."""
        audio = self._audio.setdefault(name, _Audio())
        if audio.is_broken and time.monotonic() < audio.retry_at:
            return
        try:
            spool = self._opened(name, audio, position)
            spool.skip(position - spool.position)
            spool.append(samples)
        except SpoolFullError as error:
            self._troubles.report(NoticeCode.SPOOL_FULL, str(error))
            self._release(name)
        except StorageError as error:
            audio.is_broken = True
            audio.retry_at = time.monotonic() + self._limits.retry_s
            self._troubles.report(NoticeCode.SPOOL, str(error))
            self._release(name)

    def skip(self, name: str, position: Samples) -> None:
        """Leave the samples before `position` out that were not written."""
        audio = self._audio.get(name)
        if audio and audio.spool:
            audio.spool.skip(position - audio.spool.position)

    def settle(self, name: str, position: Samples) -> None:
        """Delete the audio before `position`, as far as it is not needed."""
        audio = self._audio.setdefault(name, _Audio())
        audio.settled = max(audio.settled, position)
        self._release(name)

    def end(self, name: str) -> None:
        """Delete all audio of a session, when it is not needed."""
        self._audio.setdefault(name, _Audio()).is_over = True
        self._release(name)

    def release_deferred(self) -> None:
        """Delete the audio that had to wait for its text to be written."""
        deferred, self._deferred = self._deferred, set()
        for name in deferred:
            self._release(name)

    def close(self) -> None:
        """Close all files."""
        for audio in self._audio.values():
            if audio.spool:
                audio.spool.close()

    def _opened(self, name: str, audio: _Audio, position: Samples) -> Spool:
        if audio.spool is None or audio.is_broken:
            if audio.spool:
                audio.spool.close()
                audio.spool = None
            audio.spool = Spool(self._root / name, position, self._limits.spool_bytes)
            audio.is_broken = False
        return audio.spool

    def _release(self, name: str, *, must: bool = False) -> None:
        """Delete the audio that is settled, unless its text is only in memory."""
        audio = self._audio.get(name)
        if audio is None:
            return
        if not must and self._must_keep(name, audio):
            self._deferred.add(name)
            return
        try:
            if audio.is_over:
                self._delete(name, audio)
            elif audio.spool:
                audio.spool.forget_before(audio.settled)
        except StorageError as error:
            self._troubles.report(NoticeCode.SPOOL, str(error))

    def _must_keep(self, name: str, audio: _Audio) -> bool:
        if audio.is_broken or (audio.spool and audio.spool.is_full):
            return False
        return self._needs_audio(name)

    def _delete(self, name: str, audio: _Audio) -> None:
        del self._audio[name]
        if audio.spool:
            audio.spool.close()
        delete_spool(self._root / name)
