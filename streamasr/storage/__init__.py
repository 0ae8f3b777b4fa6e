"""What outlives the process: the journal of what was said, and the audio not recognised yet."""

import re
from typing import Final

from streamasr.core.errors import StorageError

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(name: str) -> None:
    """Make sure that this is the name of a session: it becomes that of a directory.

    Raises:
        StorageError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise StorageError(
            f"{name[:80]!r} cannot name a session: use 1 to 64 of the characters A-Z a-z 0-9 _ -."
        )
