"""Connections that fail and servers that are busy: when it is tried again, and when not."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from streamasr.catalogue.timeouts import Policy
from tests.support.fetching import CONTENT, PATH, SHA256, fetch, left, ranges, refusal
from tests.support.hubs import FileServer, drop, raw, reply, stall, status, truncate


@pytest.mark.parametrize("trouble", [truncate, drop])
@pytest.mark.parametrize("after", [0, 1, 200_000, len(CONTENT) - 1])
def test_a_connection_that_is_lost_is_taken_up_where_it_ended(
    *,
    trouble: Any,
    after: int,
    server: FileServer,
    url: str,
    path: Path,
    policy: Policy,
    waited: list[float],
) -> None:
    server.script(PATH, trouble(after))
    assert fetch(url, path, policy).sha256 == SHA256
    assert waited == [1.0]
    assert len(server.requests) == 2
    if trouble is truncate and after:
        assert ranges(server) == [None, f"bytes={after}-"]
        assert server.requests[1].headers["If-Range"] == '"one"'


def test_a_server_that_stalls_is_left(
    server: FileServer, url: str, path: Path, policy: Policy, waited: list[float]
) -> None:
    server.script(PATH, stall(200_000), stall(0))
    impatient = replace(policy, silence_s=0.4, attempts=20)
    assert fetch(url, path, impatient).sha256 == SHA256
    assert len(waited) >= 2


def test_a_server_that_only_stalls_is_given_up(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, stall(1000), stall(0))
    impatient = replace(policy, silence_s=0.2, attempts=2)
    said = refusal(url, path, impatient, "connection_failed")
    assert "no byte came for 0 s, 2 times in a row" in said


def test_a_server_that_sends_a_byte_now_and_then_is_left(
    server: FileServer, url: str, path: Path, policy: Policy, waited: list[float]
) -> None:
    server.script(PATH, stall(1000))
    times = itertools.chain([0.0, 121.0], itertools.repeat(200.0))
    assert fetch(url, path, replace(policy, now=lambda: next(times))).sha256 == SHA256
    assert waited == [1]


def test_a_server_that_is_down_is_reported_after_some_attempts(
    path: Path, policy: Policy, waited: list[float]
) -> None:
    with FileServer() as gone:
        url = gone.put(PATH, CONTENT)
    said = refusal(url, path, policy, "connection_failed")
    assert f"{urlsplit(url).netloc} refused the connection, 6 times in a row." in said
    assert waited == [1, 2, 4, 8, 16]
    assert not left(path)


def test_an_unknown_host_is_tried_once_more_and_reported(
    path: Path, policy: Policy, waited: list[float]
) -> None:
    said = refusal("http://no-such-host.invalid/x", path, policy, "connection_failed")
    assert said == (
        "http://no-such-host.invalid/x cannot be fetched: no-such-host.invalid was not found (no "
        "network?); name a proxy with HTTPS_PROXY."
    )
    assert waited == [1]


def test_retries_are_reported(server: FileServer, url: str, path: Path, policy: Policy) -> None:
    server.script(PATH, status(503))
    said: list[str] = []
    fetch(url, path, policy, label="fetching it", notice=said.append)
    assert said == ["fetching it: 127.0.0.1 answered 503 Service Unavailable; trying again in 1 s"]


def test_waits_grow_up_to_a_bound_and_are_spread() -> None:
    policy = Policy(chance=lambda: 1.0)
    assert [policy.wait_s(n) for n in (1, 2, 7, 1000)] == [1, 2, 60, 60]
    assert Policy(chance=lambda: 0.0).wait_s(3) == 2


def test_failures_are_forgotten_while_new_bytes_come(
    server: FileServer, path: Path, policy: Policy, waited: list[float]
) -> None:
    content = CONTENT * 16  # 4.9 MB
    url = server.put(PATH, content)
    server.script(PATH, *[truncate(1 << 20)] * 4)
    assert fetch(url, path, replace(policy, attempts=2)).size == len(content)
    assert waited == [1, 1, 1, 1]


def test_a_server_that_always_ends_at_the_same_byte_is_given_up(
    server: FileServer, path: Path, policy: Policy, waited: list[float]
) -> None:
    url = server.put(PATH, CONTENT * 8, ranges=False)
    server.script(PATH, *[truncate(2_000_000)] * 100)
    assert "6 times in a row" in refusal(url, path, policy, "connection_failed")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "noise", [b"", b"\0\0\0", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nA"]
)
def test_an_answer_that_is_not_http_counts_as_a_lost_connection(
    noise: bytes, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, raw(noise))
    assert fetch(url, path, policy).sha256 == SHA256


def test_chunks_that_are_cut_off_or_broken_count_as_a_lost_connection(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    for chunks in (b"5\r\nab", b"zz\r\n"):
        server.script(PATH, reply(chunks, Transfer_Encoding="chunked"))
    assert fetch(url, path, policy).sha256 == SHA256


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_answers_that_pass_are_waited_for(
    *, code: int, server: FileServer, url: str, path: Path, policy: Policy, waited: list[float]
) -> None:
    server.script(PATH, status(code), status(code))
    assert fetch(url, path, policy).sha256 == SHA256
    assert waited == [1, 2]


def test_a_server_that_stays_busy_is_given_up(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, *[status(503)] * 6)
    said = refusal(url, path, policy, "server_error")
    assert "answered 503 Service Unavailable, 6 times in a row." in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("Sun, 09 Sep 2001 01:47:10 GMT", 30),
        ("Sun, 09 Sep 2001 01:47:10 -0000", 30),
        ("Sun, 09 Sep 2001 01:00:00 GMT", 1),
        ("soon", 1),
        ("-5", 1),
        ("", 1),
        ("Sun, 99 Sep 2001 01:47:10 GMT", 1),
    ],
)
def test_a_server_is_left_alone_for_as_long_as_it_asks(
    *,
    text: str,
    seconds: float,
    server: FileServer,
    url: str,
    path: Path,
    policy: Policy,
    waited: list[float],
) -> None:
    server.script(PATH, status(429, Retry_After=text))
    fetch(url, path, policy)
    assert waited == [seconds]


def test_a_server_that_asks_for_too_long_a_pause_is_given_up(
    server: FileServer, url: str, path: Path, policy: Policy, waited: list[float]
) -> None:
    server.script(PATH, status(429, Retry_After="86400"))
    said = refusal(url, path, policy, "server_error")
    assert "answered 429 Too Many Requests and asks for a pause of 86400 s" in said
    assert not waited
