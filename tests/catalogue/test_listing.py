"""The words of the list of models."""

import pytest

from streamasr.catalogue.listing import count_text, spdx


@pytest.mark.parametrize(
    ("number", "text"),
    [(780_000_000, "0.8B"), (1_700_000_000, "1.7B"), (5_300_000, "5M"), (300_000, "0.3M")],
)
def test_weights_are_counted_as_models_are_named(number: int, text: str) -> None:
    assert count_text(number) == text


def test_licences_are_written_as_spdx_does() -> None:
    assert spdx("apache-2.0") == "Apache-2.0"
    assert spdx("mine") == "mine"
    assert spdx("") == ""
