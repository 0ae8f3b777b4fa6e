"""Datagrams to a service manager, over a real socket."""

import logging
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.service.notify import Notifier, encode
from tests.support.supervisors import ManagerSocket


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,12}", fullmatch=True), st.text(max_size=40)))
def test_a_message_has_one_line_for_each_field_whatever_is_in_it(fields: dict[str, str]) -> None:
    lines = encode(fields).decode().split("\n")
    assert lines.pop() == ""
    assert [line.partition("=")[0] for line in lines] == list(fields)


def test_the_address_of_the_environment_is_used_and_not_passed_to_children(tmp_path: Path) -> None:
    with ManagerSocket(str(tmp_path / "notify")) as manager:
        environ = {"NOTIFY_SOCKET": manager.address, "HOME": "/"}
        notifier = Notifier.from_environ(environ)
        assert environ == {"HOME": "/"}
        notifier.send(READY="1", STATUS="all\nis well")
        assert manager.receive() == {"READY": "1", "STATUS": "all is well"}
        notifier.close()


def test_without_an_address_messages_are_dropped() -> None:
    notifier = Notifier.from_environ({})
    assert not notifier.has_receiver
    notifier.send(READY="1")


def test_an_unknown_kind_of_address_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notifier = Notifier("vsock:2:1234")
    assert not notifier.has_receiver
    assert "NOTIFY_SOCKET=vsock:2:1234 is not a path" in caplog.text


def test_a_manager_that_does_not_read_is_logged_once_and_blocks_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamasr.service.notify._TIMEOUT_S", 0.001)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(str(tmp_path / "notify"))
        notifier = Notifier(str(tmp_path / "notify"))
        with caplog.at_level(logging.WARNING):
            for _ in range(2000):
                notifier.send(STATUS="again")
        assert caplog.text.count("cannot send messages") == 1
        notifier.close()


def test_children_do_not_inherit_the_socket(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    assert notifier._socket is not None
    assert not os.get_inheritable(notifier._socket.fileno())
    notifier.close()
