"""Wording of errors and warnings, whatever they quote."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.cli.stderr import complain
from streamasr.cli.transcribe import warn_of
from streamasr.core.errors import ModelError
from streamasr.core.log import PrintableFormatter
from streamasr.core.text import printable

EVIL = "a\x1b[2J\x9b1Am\rb\nc\u202ed\x07\udcff"
HARMLESS = "a\ufffd[2J\ufffd1Am b c\ufffdd\ufffd\ufffd"


def test_what_would_move_the_cursor_is_not_shown() -> None:
    assert printable(EVIL) == HARMLESS
    assert printable("two\n\tlines\u2028more") == "two  lines more"


@pytest.mark.parametrize(
    "text", ["", "/models/零 一", "naïve “words” – → 𝄞", "宽\u3000空", "a\xa0b"]
)
def test_what_people_write_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(codec=None)))
def test_anything_becomes_one_line_of_the_same_length(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert shown.splitlines() in ([], [shown])
    assert printable(shown) == shown
    shown.encode()


def test_errors_and_warnings_are_harmless_lines(capsys: pytest.CaptureFixture[str]) -> None:
    complain(ModelError(f"{EVIL} is no tensor."), about=EVIL)
    warn_of("degraded", f"the encoder of {EVIL}")
    warn_of("worker_died", "is in the log")
    assert capsys.readouterr().err.split("\n") == [
        f"streamasr: {HARMLESS}: {HARMLESS} is no tensor.",
        f"streamasr: warning: the encoder of {HARMLESS}",
        "",
    ]


def test_the_log_has_a_harmless_line_for_each_message() -> None:
    formatter = PrintableFormatter("%(levelname)s %(message)s")
    record = logging.LogRecord("n", logging.WARNING, "p", 1, "name %s", (EVIL,), None)
    assert formatter.format(record) == f"WARNING name {HARMLESS}"


def test_tracebacks_keep_their_lines_and_nothing_else() -> None:
    with pytest.raises(ModelError) as caught:
        raise ModelError(EVIL)
    failure = caught.type, caught.value, caught.tb
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "failed", (), failure)
    first, second, *_, last = PrintableFormatter().format(record).split("\n")
    assert (first, second) == ("failed", "Traceback (most recent call last):")
    assert last == "c\ufffdd\ufffd\ufffd"
