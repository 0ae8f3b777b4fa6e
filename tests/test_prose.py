"""Prose of the project: the worst patterns do not occur."""

import pytest

from tests.support.prose import RAISES, Piece, find_offences, offences_in


def test_the_project_keeps_the_rules() -> None:
    offences = find_offences()
    assert not offences, "\n".join(map(str, offences))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("comment", "Whoever connects gets a session."),
        ("string", "take whichever is first"),
        ("name", "nobody is asked"),
        ("text", "A pipe is no\nordinary file."),
        ("docstring", "Return the segment, if there is."),
        ("docstring", "Whether the queue is empty."),
        ("docstring", "Those that wait."),
        ("docstring", "So many samples, in one piece."),
        ("docstring", "Queue that hears of the end."),
        ("name", "open house"),
    ],
)
def test_an_offence_is_found(kind: str, text: str) -> None:
    assert [line for line, _, _ in offences_in(Piece(kind, 3, text))] == [3]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("comment", "There is no device that is no longer than this."),
        ("comment", "Where a device is missing, wait; leave the file as it is."),
        ("docstring", "Return the queue's length."),
        ("string", "what the daemon receives"),
        ("name", "is open"),
    ],
)
def test_plain_prose_is_accepted(kind: str, text: str) -> None:
    assert not list(offences_in(Piece(kind, 1, text)))


def test_conditions_of_errors_are_given_in_full() -> None:
    docstring = """Read a file.

    Raises:
        AudioError: it cannot.
        ModelError: the file is missing
            or not a GGUF file.
        ConfigError: there
            is none.

    Source: none.
    """
    found = [(line, rule) for line, rule, _ in offences_in(Piece("docstring", 1, docstring))]
    assert found == [(4, RAISES), (7, RAISES)]
