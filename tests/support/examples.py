"""Numbers of examples in property tests that differ from the usual one."""

from typing import Final

from hypothesis import settings

USUAL: Final = 60


def examples(number: int) -> int:
    """Return this number, or its share where the profile has fewer examples than usual."""
    return max(1, number * settings().max_examples // USUAL)
