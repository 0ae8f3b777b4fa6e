"""Data that outlives the process: the journal of published messages, and audio without a final.

database      connection to SQLite, transactions, errors as sentences
schema        tables of the journal, and migration from earlier versions
records       values that the journal returns
documents     values that are stored as JSON
journal       the one writer of the journal
reader        readers of the journal, in this process or another
search        index of words, for scripts with and without spaces
spool         audio files of one session
store         journal and spool behind one thread, which no slow or full disk can stop
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
