"""Access to the journal that survives its failures: it is opened again, or created again."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from streamasr.core.errors import StorageError
from streamasr.storage.journal import Journal
from streamasr.storage.records import SessionRecord

logger = logging.getLogger(__name__)


class JournalAccess:
    """Opens the journal when it is needed; belongs to the store's thread."""

    def __init__(self, path: Path, live: Callable[[], Iterable[SessionRecord]]) -> None:
        """Prepare.

        Args:
            path: of the database.
            live: returns the sessions that a new journal must have from its beginning.
        """
        self._path = path
        self._live = live
        self._journal: Journal | None = None
        self._is_failing = False

    @property
    def is_open(self) -> bool:
        """True while the journal can be read."""
        return self._journal is not None

    def mark_failing(self) -> None:
        """Open the journal again before the next write: a write failed, not only for a lock."""
        self._is_failing = True

    def for_reading(self, busy_timeout_s: float = 0.0) -> Journal:
        """Return the journal as it is.

        Args:
            busy_timeout_s: time to wait for another program that is writing.

        Raises:
            StorageError: the journal cannot be opened, or not have the live sessions.
        """
        if self._journal is None:
            self._journal = Journal(self._path, busy_timeout_s)
            try:
                for record in self._live():
                    self._journal.begin(record)
            except StorageError:
                self.close()
                raise
        self._journal.set_busy_timeout(busy_timeout_s)
        return self._journal

    def for_writing(self, busy_timeout_s: float) -> Journal:
        """Return the journal, opened or created again where it was deleted or failing.

        Args:
            busy_timeout_s: time to wait for another program that is writing.

        Raises:
            StorageError: the journal cannot be opened, or not have the live sessions.
        """
        if self._journal and not self._journal.is_in_place:
            logger.warning("%s was deleted; a new one is created", self._path)
            self.close()
        elif self._journal and self._is_failing:
            fresh = Journal(self._path, busy_timeout_s)  # if this fails, the old one can be read
            self.close()
            self._journal = fresh
            fresh.checkpoint()  # on a full disk, this is what makes room
        journal = self.for_reading(busy_timeout_s)
        self._is_failing = False
        return journal

    def shorten_log(self) -> None:
        """Write a long log of writes into the database; a failure is logged and ignored."""
        try:
            if self._journal:
                self._journal.shorten_log()
        except StorageError as error:
            logger.info("%s", error)  # nothing is lost, and the next write reports it

    def close(self) -> None:
        """Close the journal; a failure is logged and ignored."""
        journal, self._journal = self._journal, None
        if journal:
            try:
                journal.close()
            except StorageError as error:
                logger.warning("%s", error)
