"""Sizes as people read them."""

import pytest

from streamasr.core.sizes import size_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (11_900_000, "11.9 MB"), (2 * 10**9, "2.0 GB")],
)
def test_sizes_are_shown_as_people_read_them(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text
