"""Datagrams to a service manager, over a real socket."""

import logging
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.service.notify import Notifier, encode
from tests.support.supervisors import Ear


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,12}", fullmatch=True), st.text(max_size=40)))
def test_a_message_has_one_line_for_each_field_whatever_is_in_it(fields: dict[str, str]) -> None:
    lines = encode(fields).decode().split("\n")
    assert lines.pop() == ""
    assert [line.partition("=")[0] for line in lines] == list(fields)


def test_what_an_environment_names_is_told_and_not_passed_on(tmp_path: Path) -> None:
    with Ear(str(tmp_path / "notify")) as ear:
        environ = {"NOTIFY_SOCKET": ear.address, "HOME": "/"}
        notifier = Notifier.take(environ)
        assert environ == {"HOME": "/"}
        notifier.tell(READY="1", STATUS="all\nis well")
        assert ear.hear() == {"READY": "1", "STATUS": "all is well"}
        notifier.close()


def test_nothing_is_said_where_nobody_listens() -> None:
    notifier = Notifier.take({})
    assert not notifier.is_heard
    notifier.tell(READY="1")


def test_an_address_of_another_kind_is_said_to_be_no_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notifier = Notifier("vsock:2:1234")
    assert not notifier.is_heard
    assert "NOTIFY_SOCKET=vsock:2:1234 is no path" in caplog.text


def test_a_listener_that_does_not_read_holds_nobody_up_and_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamasr.service.notify._TIMEOUT_S", 0.001)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        with caplog.at_level(logging.WARNING):
            for _ in range(2000):
                notifier.tell(STATUS="again")
        assert caplog.text.count("cannot be told") == 1
        notifier.close()


def test_the_socket_is_not_for_children(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    assert notifier._socket is not None
    assert not os.get_inheritable(notifier._socket.fileno())
    notifier.close()
