"""Findings about an installation."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """The program works, but not as well as it could, or not as it was asked to."""
    PROBLEM = "problem"
    """Some part of the program does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis."""

    subject: str
    level: Level
    text: str
    advice: str | None = None
    """Action that repairs it."""
    code: str | None = None
    """Name of the condition for programs; None where all is well."""


def ok(subject: str, text: str) -> Finding:
    """Return a finding without a fault."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, advice: str, code: str) -> Finding:
    """Return a finding of `Level.WARNING`."""
    return Finding(subject, Level.WARNING, text, advice, code)


def problem(subject: str, text: str, advice: str, code: str) -> Finding:
    """Return a finding of `Level.PROBLEM`."""
    return Finding(subject, Level.PROBLEM, text, advice, code)
