"""Sockets that are there before the daemon is: which of them is taken, and which is not."""

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
from tests.support.supervisors import listening, listening_unix


@contextmanager
def handed_over(*sockets: socket.socket | TextIO, **environ: str) -> Iterator[dict[str, str]]:
    """Copies of sockets, one behind the other, and an environment that says so."""
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


def test_the_socket_is_taken_over_and_not_passed_on() -> None:
    with listening() as opened, handed_over(opened, LISTEN_FDNAMES="streamasr") as environ:
        found = take_socket(environ, 7)
        assert environ == {"HOME": "/"}
        assert found is not None
        assert found.socket.getsockname() == opened.getsockname()
        assert not os.get_inheritable(found.socket.fileno())
        found.socket.close()


@pytest.mark.parametrize(
    "environ", [{"LISTEN_PID": "8"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "x"}]
)
def test_what_is_meant_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    with listening() as opened, handed_over(opened, **environ) as facts:
        assert take_socket(facts, 7) is None
        assert facts == {"HOME": "/"}


def test_of_several_one_has_our_name() -> None:
    with (
        listening() as ours,
        listening() as other,
        handed_over(other, ours, LISTEN_FDNAMES="metrics:streamasr") as environ,
    ):
        found = take_socket(environ, 7)
        assert found is not None
        assert found.socket.getsockname() == ours.getsockname()
        found.socket.close()


@pytest.mark.parametrize(("names", "count"), [("", 0), ("a:b", 0), ("streamasr:streamasr", 2)])
def test_of_several_not_exactly_one_has_our_name(names: str, count: int) -> None:
    with listening() as one, listening() as two, handed_over(one, two) as environ:
        environ["LISTEN_FDNAMES"] = names
        with pytest.raises(ConfigError, match=f"handed over 2 sockets, {count} of them named"):
            take_socket(environ, 7)


def test_a_descriptor_that_is_not_there_is_refused() -> None:
    with handed_over(LISTEN_FDS="1") as environ, pytest.raises(ConfigError, match="LISTEN_FDS"):
        take_socket(environ, 7)


def test_a_file_is_no_socket(tmp_path: Path) -> None:
    with (
        (tmp_path / "file").open("w") as file,
        handed_over(file) as environ,
        pytest.raises(ConfigError, match="is no socket"),
    ):
        take_socket(environ, 7)


def test_a_socket_of_datagrams_is_refused() -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as opened,
        handed_over(opened) as environ,
        pytest.raises(ConfigError, match="takes no connections"),
    ):
        take_socket(environ, 7)


def test_a_connection_is_refused() -> None:
    """What `Accept=yes` hands over."""
    one, two = socket.socketpair()
    with one, two, handed_over(one) as environ, pytest.raises(ConfigError, match="Accept=no"):
        take_socket(environ, 7)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1"])
def test_loopback_needs_no_token(host: str) -> None:
    with listening(host) as opened:
        assert Inherited(opened).is_local
        Inherited(opened).check_access(None)


def test_a_unix_socket_needs_none(tmp_path: Path) -> None:
    with listening_unix(tmp_path / "socket") as opened:
        assert Inherited(opened).is_local
        assert Inherited(opened).host == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_need_one(host: str) -> None:
    with listening(host) as opened:
        with pytest.raises(ConfigError, match="other machines could connect"):
            Inherited(opened).check_access(None)
        Inherited(opened).check_access("a token")
