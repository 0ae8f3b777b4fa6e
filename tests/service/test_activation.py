"""Sockets that the service manager passes to the daemon: the choice, and the refusals."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pytest

from streamasr.core.errors import ConfigError
from streamasr.service import activation
from streamasr.service.activation import Inherited, take_socket
from tests.support.errors import raises
from tests.support.supervisors import listening, listening_unix


@contextmanager
def passed(*sockets: socket.socket | TextIO, **environ: str) -> Iterator[dict[str, str]]:
    """Copy sockets to consecutive descriptors, and yield an environment that counts them."""
    begin = 600
    for number, each in enumerate(sockets, begin):
        os.dup2(each.fileno(), number)
    facts = {"LISTEN_PID": "7", "LISTEN_FDS": str(len(sockets)), "HOME": "/"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation, "FIRST", begin)
        yield facts | environ
    for number, _ in enumerate(sockets, begin):
        with suppress(OSError):
            os.close(number)


def test_the_socket_is_taken_over_and_not_passed_to_children() -> None:
    with listening() as opened, passed(opened, LISTEN_FDNAMES="streamasr") as environ:
        found = take_socket(environ, 7)
        assert environ == {"HOME": "/"}
        assert found is not None
        assert found.socket.getsockname() == opened.getsockname()
        assert not os.get_inheritable(found.socket.fileno())
        found.socket.close()


@pytest.mark.parametrize(
    "environ", [{"LISTEN_PID": "8"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "x"}]
)
def test_a_socket_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    with listening() as opened, passed(opened, **environ) as facts:
        assert take_socket(facts, 7) is None
        assert facts == {"HOME": "/"}


def test_of_several_sockets_the_one_with_our_name_is_taken() -> None:
    with (
        listening() as ours,
        listening() as other,
        passed(other, ours, LISTEN_FDNAMES="metrics:streamasr") as environ,
    ):
        found = take_socket(environ, 7)
        assert found is not None
        assert found.socket.getsockname() == ours.getsockname()
        found.socket.close()


@pytest.mark.parametrize(("names", "count"), [("", 0), ("a:b", 0), ("streamasr:streamasr", 2)])
def test_several_sockets_without_exactly_one_of_our_name_are_refused(
    names: str, count: int
) -> None:
    with listening() as one, listening() as two, passed(one, two) as environ:
        environ["LISTEN_FDNAMES"] = names
        with raises(ConfigError, "socket_ambiguous") as caught:
            take_socket(environ, 7)
        assert f"2 sockets, {count} of them" in str(caught.value)


def test_a_missing_descriptor_is_refused() -> None:
    with passed(LISTEN_FDS="1") as environ, raises(ConfigError, "socket_missing"):
        take_socket(environ, 7)


def test_a_file_is_refused(tmp_path: Path) -> None:
    with (
        (tmp_path / "file").open("w") as file,
        passed(file) as environ,
        raises(ConfigError, "socket_not_listening"),
    ):
        take_socket(environ, 7)


def test_a_datagram_socket_is_refused() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as opened,
        passed(opened) as environ,
        raises(ConfigError, "socket_not_listening"),
    ):
        take_socket(environ, 7)


def test_a_connection_is_refused() -> None:
    """A unit with `Accept=yes` passes one."""
    one, two = socket.socketpair()
    with one, two, passed(one) as environ, raises(ConfigError, "socket_not_listening"):
        take_socket(environ, 7)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    with listening(host) as opened:
        assert Inherited(opened).is_local
        Inherited(opened).check_access(None)


def test_a_unix_socket_needs_no_token(tmp_path: Path) -> None:
    with listening_unix(tmp_path / "socket") as opened:
        assert Inherited(opened).is_local
        assert Inherited(opened).host == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_for_other_machines_needs_a_token(host: str) -> None:
    with listening(host) as opened:
        with raises(ConfigError, "socket_needs_token"):
            Inherited(opened).check_access(None)
        Inherited(opened).check_access("a token")
