"""Expectations of errors, by their stable codes."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streamasr.core.errors import StreamASRError


@contextmanager
def raises(kind: type[StreamASRError], code: str) -> Iterator[pytest.ExceptionInfo[StreamASRError]]:
    """Expect an error of a class and with a code; yield what pytest knows of it."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, f"{caught.value.code!r}: {caught.value}"
