"""Child side of a worker: a process that builds something and answers requests with it."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Generic, TypeAlias, TypeVar

from streamasr.core.errors import StreamASRError
from streamasr.core.log import log_to_stderr

ConfigT = TypeVar("ConfigT")
RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Ready:
    """First message of a child: its models are loaded."""

    pid: int
    warnings: tuple[str, ...] = ()
    """Sentences about everything in which the child differs from its configuration."""


@dataclass(frozen=True, slots=True)
class Broken:
    """First message of a child that can never be ready, for example because a file is missing."""

    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer to a request that the child understood and cannot fulfil."""

    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Built(Generic[RequestT, AnswerT]):
    """Function that answers requests, and warnings for the parent."""

    answer: Callable[[RequestT], AnswerT]
    warnings: tuple[str, ...] = ()


Build: TypeAlias = Callable[[ConfigT], Callable[[RequestT], AnswerT] | Built[RequestT, AnswerT]]
"""Module-level function, or a partial of one, that a child calls once."""


def process_title(name: str) -> str:
    """Return the name under which `ps`, `top` and the log show a process of ours."""
    return f"streamasr: {name}"


def show_as(name: str) -> None:
    """Give this process its name in `ps` and `top`."""
    import setproctitle

    setproctitle.setproctitle(process_title(name))


def run_child(
    connection: Connection,
    name: str,
    build: Build[ConfigT, RequestT, AnswerT],
    config: ConfigT,
    log_level: int,
) -> None:
    """Send `Ready`, then answer one request after the other until the pipe closes.

    Args:
        connection: to the parent.
        name: of the worker.
        build: makes the function that answers.
        config: for `build`.
        log_level: of the parent's log.
    """
    show_as(name)
    log_to_stderr(log_level)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _answer_requests(connection, build, config)


def _answer_requests(
    connection: Connection,
    build: Build[ConfigT, RequestT, AnswerT],
    config: ConfigT,
) -> None:
    try:
        built = build(config)
    except StreamASRError as error:
        connection.send(Broken(str(error), error.code))
        return
    if not isinstance(built, Built):
        built = Built(built)
    connection.send(Ready(os.getpid(), built.warnings))
    while True:
        request = connection.recv()
        try:
            result: AnswerT | Refused = built.answer(request)
        except StreamASRError as error:
            result = Refused(str(error), error.code)
        connection.send(result)
