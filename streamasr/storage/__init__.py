"""Data that outlives the process: the journal of published messages, and audio without a final.

* `database`: connection to SQLite, transactions, errors as sentences
* `schema`: tables of the journal, and migration from earlier versions
* `records`, `documents`: values that the journal takes and returns, and those stored as JSON
* `journal`, `reader`: the one writer of the journal; readers, in this process or another
* `search`: index of words, for scripts with and without spaces
* `spool`: audio files of one session
* `lock`: lock of the directory, with the daemon's PID
* `store`: journal and spool behind one thread (`order_thread`), so that a slow disk blocks nothing
  else; `journal_writer` keeps changes in memory while the disk refuses them, `journal_access` opens
  the journal again after a failure, `spool_writer` has the spools of all sessions
"""

import re
from typing import Final

from streamasr.core.errors import StorageError

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(name: str) -> None:
    """Check that a string can name a session, and with it a directory.

    Raises:
        StorageError: the name is empty, too long, or holds other characters than those allowed.
    """
    if not _NAME.fullmatch(name):
        raise StorageError(
            f"{name[:80]!r} cannot name a session: use 1 to 64 of the characters A-Z a-z 0-9 _ -.",
            code="invalid_session_name",
        )
