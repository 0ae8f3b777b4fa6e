"""Fetching one file, against a real server on the loopback that misbehaves in every way."""

import gzip
import hashlib
import itertools
import resource
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.download import MOST_BYTES, download
from streamasr.catalogue.partial_file import Downloaded
from streamasr.catalogue.patience import Policy
from streamasr.errors import ConfigError, DownloadError
from tests.hubs import (
    FileServer,
    drop,
    raw,
    redirect,
    reply,
    stall,
    status,
    truncate,
)

CONTENT = bytes(range(256)) * 1200  # 300 kB: several pieces
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
PATH = "/files/model.gguf"


NOW = 1_000_000_000.0
"""Sun, 09 Sep 2001 01:46:40 GMT."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
def url(server: FileServer) -> str:
    return server.put(PATH, CONTENT)


@pytest.fixture
def waited() -> list[float]:
    """Seconds that would have passed; nobody really waits."""
    return []


@pytest.fixture
def policy(waited: list[float]) -> Policy:
    return Policy(
        connect_s=60, silence_s=60, sleep=waited.append, chance=lambda: 1.0, now=lambda: NOW
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def fetch(url: str, path: Path, policy: Policy, **options: Any) -> Downloaded:
    with open_session() as session:
        return download(url, path, session=session, policy=policy, **options)


def refusal(url: str, path: Path, policy: Policy, **options: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(url, path, policy, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ranges(server: FileServer, path: str = PATH) -> list[str | None]:
    """What each request asked for."""
    return [each.headers.get("Range") for each in server.asked_for(path)]


def left(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


# What goes well


def test_a_file_comes_whole_and_gets_its_name(url: str, path: Path, policy: Policy) -> None:
    told: list[tuple[str, int, int]] = []
    found = fetch(url, path, policy, progress=lambda *step: told.append(step))
    assert found == Downloaded(path, len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT
    assert left(path) == {"model.gguf"}
    assert told[0] == ("model.gguf", 0, len(CONTENT))
    assert told[-1] == ("model.gguf", len(CONTENT), len(CONTENT))
    done = [step[1] for step in told]
    assert done == sorted(done)


def test_known_size_and_hash_are_checked(url: str, path: Path, policy: Policy) -> None:
    assert fetch(url, path, policy, size=len(CONTENT), sha256=SHA256).sha256 == SHA256


def test_an_empty_file_is_a_file(server: FileServer, path: Path, policy: Policy) -> None:
    assert fetch(server.put("/empty", b""), path, policy).size == 0
    assert path.read_bytes() == b""


def test_a_file_of_unstated_length_ends_with_its_connection(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, has_length=False)
    assert fetch(url, path, policy, sha256=SHA256).size == len(CONTENT)


def test_a_file_that_comes_in_chunks_is_put_together(
    server: FileServer, path: Path, policy: Policy
) -> None:
    chunks = (
        b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (b"one", b"two")) + b"0\r\n\r\n"
    )
    server.script(PATH, reply(chunks, Transfer_Encoding="chunked"))
    fetch(server.url + PATH, path, policy)
    assert path.read_bytes() == b"onetwo"


def test_a_file_that_is_there_already_is_not_fetched_again(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    path.write_bytes(CONTENT)
    assert fetch(url, path, policy, sha256=SHA256) == Downloaded(path, len(CONTENT), SHA256)
    assert not server.asked


def test_a_file_with_another_hash_is_replaced(url: str, path: Path, policy: Policy) -> None:
    path.write_bytes(OTHER)
    fetch(url, path, policy, sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_file_without_a_known_hash_is_fetched_anew(url: str, path: Path, policy: Policy) -> None:
    path.write_bytes(b"old")
    fetch(url, path, policy)
    assert path.read_bytes() == CONTENT


def test_nothing_is_asked_to_be_compressed(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    fetch(url, path, policy)
    (asked,) = server.asked
    assert asked.headers["Accept-Encoding"] == "identity"
    assert asked.headers["User-Agent"].startswith("streamasr/")


def test_what_comes_compressed_all_the_same_is_unpacked(
    server: FileServer, path: Path, policy: Policy
) -> None:
    packed = gzip.compress(CONTENT)
    headers = {"Content_Encoding": "gzip", "Content_Length": str(len(packed))}
    server.script(PATH, reply(packed, **headers))
    assert fetch(server.url + PATH, path, policy, size=len(CONTENT)).sha256 == SHA256


def test_a_compressed_file_cannot_grow_beyond_its_bound(
    server: FileServer, path: Path, policy: Policy
) -> None:
    server.script(PATH, reply(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip"))
    assert "more bytes come than" in refusal(server.url + PATH, path, policy, size=1000)
    server.script(PATH, reply(b"no gzip at all", Content_Encoding="gzip"))
    assert "compressed in a way" in refusal(server.url + PATH, path, policy)
    assert not left(path)


# Connections that fail


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
    assert len(server.asked) == 2
    if trouble is truncate and after:
        assert ranges(server) == [None, f"bytes={after}-"]
        assert server.asked[1].headers["If-Range"] == '"one"'


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
    said = refusal(url, path, replace(policy, silence_s=0.2, attempts=2))
    assert "nothing came for 0 s, 2 times in a row" in said


def test_a_server_that_sends_a_byte_now_and_then_is_left(
    server: FileServer, url: str, path: Path, policy: Policy, waited: list[float]
) -> None:
    server.script(PATH, stall(1000))
    times = itertools.chain([0.0, 121.0], itertools.repeat(200.0))
    assert fetch(url, path, replace(policy, now=lambda: next(times))).sha256 == SHA256
    assert waited == [1]


def test_nobody_there_is_said_after_some_tries(
    path: Path, policy: Policy, waited: list[float]
) -> None:
    with FileServer() as gone:
        url = gone.put(PATH, CONTENT)
    assert "the connection was refused, 6 times in a row." in refusal(url, path, policy)
    assert waited == [1, 2, 4, 8, 16]
    assert not left(path)


def test_an_unknown_host_is_said(path: Path, policy: Policy) -> None:
    said = refusal("http://no-such-host.invalid/x", path, replace(policy, attempts=1))
    assert "no-such-host.invalid is not found (no network?)." in said


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
    assert "the connection was dropped, 6 times in a row" in refusal(url, path, policy)
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "noise", [b"", b"\0\0\0", b"SSH-2.0-x\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nA"]
)
def test_what_is_not_http_counts_as_a_lost_connection(
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


# Going on later


def test_what_an_interrupted_call_left_is_not_fetched_again(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000))
    once = replace(policy, attempts=1)
    assert "the connection was dropped; what has come is kept" in refusal(url, path, once)
    assert left(path) == {"model.gguf.partial", "model.gguf.partial.json"}
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]
    assert left(path) == {"model.gguf"}


def test_ctrl_c_keeps_what_has_come(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url, path, policy, progress=interrupt)
    assert (path.parent / "model.gguf.partial").stat().st_size > 0
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server)[1] is not None


def test_a_file_that_changed_meanwhile_is_begun_anew(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000))
    refusal(url, path, replace(policy, attempts=1))
    server.put(PATH, OTHER, etag='"two"')
    fetch(url, path, policy)
    assert path.read_bytes() == OTHER
    assert ranges(server)[1] == "bytes=100000-"


def test_a_file_that_changed_on_a_server_without_if_range_is_begun_anew(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000))
    refusal(url, path, replace(policy, attempts=1))
    server.put(PATH, OTHER, etag='"two"')
    headers = {
        "Content_Range": f"bytes 100000-{len(OTHER) - 1}/{len(OTHER)}",
        "ETag": '"two"',
        "Content_Length": str(len(OTHER) - 100_000),
    }
    server.script(PATH, reply(OTHER[100_000:], 206, **headers))
    fetch(url, path, policy)
    assert path.read_bytes() == OTHER


def test_a_server_that_ignores_ranges_sends_all_of_it(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, ranges=False)
    server.script(PATH, truncate(100_000))
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]


def test_without_anything_that_names_the_version_all_of_it_is_fetched_again(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, etag=None)
    server.script(PATH, truncate(100_000))
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server) == [None, None]


def test_a_weak_tag_names_no_version_and_a_date_does(
    server: FileServer, path: Path, policy: Policy
) -> None:
    date = "Sat, 21 Nov 2026 10:00:00 GMT"
    url = server.put(PATH, CONTENT, etag='W/"one"', modified=date)
    server.script(PATH, truncate(100_000))
    assert fetch(url, path, policy).sha256 == SHA256
    assert server.asked[1].headers["If-Range"] == date


def test_with_a_known_hash_no_version_is_needed_to_go_on(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, etag=None)
    server.script(PATH, truncate(100_000))
    assert fetch(url, path, policy, sha256=SHA256).sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]


def test_parts_of_two_versions_are_noticed_by_the_hash_and_fetched_once_more(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, etag=None)
    path.with_name("model.gguf.partial").write_bytes(OTHER[:1000])
    assert fetch(url, path, policy, sha256=SHA256).sha256 == SHA256
    assert ranges(server) == ["bytes=1000-", None]


def test_what_came_from_another_address_is_not_gone_on_with(
    server: FileServer, path: Path, policy: Policy
) -> None:
    old = server.put("/old", CONTENT)
    server.script("/old", truncate(1000))
    refusal(old, path, replace(policy, attempts=1))
    assert fetch(server.put(PATH, CONTENT), path, policy).sha256 == SHA256
    assert ranges(server) == [None]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_part_that_was_all_of_it_is_finished(
    size: int | None, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    path.with_name("model.gguf.partial").write_bytes(CONTENT)
    assert fetch(url, path, policy, sha256=SHA256, size=size).sha256 == SHA256
    assert ranges(server) == ([f"bytes={len(CONTENT)}-"] if size is None else [])


@pytest.mark.parametrize("extra", [b"x", OTHER])
def test_a_part_that_is_longer_than_the_file_is_thrown_away(
    extra: bytes, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    for size in (None, len(CONTENT)):
        path.with_name("model.gguf.partial").write_bytes(CONTENT + extra)
        assert fetch(url, path, policy, size=size, sha256=SHA256).sha256 == SHA256
        path.unlink()


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"url": 1}', b"\xff", b'{"version": 3}'])
def test_a_damaged_note_costs_a_new_beginning(
    note: bytes, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    path.with_name("model.gguf.partial").write_bytes(OTHER[:1000])
    path.with_name("model.gguf.partial.json").write_bytes(note)
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server) == [None]


def test_a_server_that_sends_the_wrong_part_is_asked_anew(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(
        PATH,
        truncate(100_000),
        reply(b"abc", 206, Content_Range="bytes 5-7/300", ETag='"one"', Content_Length="3"),
    )
    assert fetch(url, path, policy).sha256 == SHA256
    server.script(PATH, truncate(100_000), reply(b"abc", 206, Content_Length="3"))
    assert fetch(url, path, policy).sha256 == SHA256


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    troubles=st.lists(
        st.one_of(
            st.integers(0, len(CONTENT)).map(truncate),
            st.integers(0, len(CONTENT)).map(drop),
            st.sampled_from([429, 500, 503]).map(status),
            st.just(raw(b"noise")),
        ),
        max_size=4,
    ),
    has_ranges=st.booleans(),
    etag=st.sampled_from([None, '"one"', 'W/"one"']),
    is_known=st.booleans(),
)
def test_whatever_fails_on_the_way_the_file_is_the_same(
    *,
    server: FileServer,
    tmp_path: Path,
    policy: Policy,
    troubles: list[Any],
    has_ranges: bool,
    etag: str | None,
    is_known: bool,
) -> None:
    url = server.put(PATH, CONTENT, ranges=has_ranges, etag=etag)
    server.scripts.clear()
    server.script(PATH, *troubles)
    path = tmp_path / "model.gguf"
    fetch(url, path, policy, sha256=SHA256 if is_known else None)
    assert path.read_bytes() == CONTENT
    assert left(path) == {"model.gguf"}
    path.unlink()


# What servers answer


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
    assert "answered 503 Service Unavailable, 6 times in a row." in refusal(url, path, policy)


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


def test_a_server_that_asks_for_too_much_patience_is_told_no(
    server: FileServer, url: str, path: Path, policy: Policy, waited: list[float]
) -> None:
    server.script(PATH, status(429, Retry_After="86400"))
    assert "answered 429 Too Many Requests and asks to be left alone for 86400 s" in refusal(
        url, path, policy
    )
    assert not waited


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (404, "has no such file (404 Not Found)."),
        (410, "has no such file (410 Gone)."),
        (401, "answered 401 Unauthorized: it does not exist, or is not open to all; for a"),
        (403, "into the variable HF_TOKEN."),
        (418, "answered 418"),
        (304, "answered 304 Not Modified."),
        (204, "answered 204 No Content."),
        (599, "answered 599."),
        (416, "answered 416"),
    ],
)
def test_answers_that_stay_are_said_at_once(
    *,
    code: int,
    sentence: str,
    server: FileServer,
    url: str,
    path: Path,
    policy: Policy,
    waited: list[float],
) -> None:
    server.script(PATH, status(code))
    assert sentence in refusal(url, path, policy)
    assert not waited
    assert not left(path)


# Redirects and who learns what


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", [PATH, "../files/model.gguf", "{url}/files/model.gguf"])
def test_redirects_are_followed(
    *, code: int, location: str, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script("/a/b", redirect(location.format(url=server.url), code))
    assert fetch(f"{server.url}/a/b", path, policy).sha256 == SHA256


def test_a_redirect_is_followed_anew_when_going_on(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script("/a", redirect(PATH), redirect(PATH))
    server.script(PATH, truncate(100_000))
    assert fetch(f"{server.url}/a", path, policy).sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("/a", "again and again"),
        ("file:///etc/passwd", "'file:///etc/passwd', which is not of the web"),
        ("ftp://h/x", "not of the web"),
        ("http://", "again and again"),
        ("http://me:word@127.0.0.1/", "not of the web"),
        ("http://[::1", "what is no address"),
        ("/\xff\xfe", "what is no address"),
        ("javascript:alert(1)", "not of the web"),
    ],
)
def test_redirects_that_lead_nowhere_are_said(
    location: str, sentence: str, server: FileServer, path: Path, policy: Policy
) -> None:
    server.script("/a", *[redirect(location)] * 20)
    assert sentence in refusal(f"{server.url}/a", path, policy)


def test_the_token_is_shown_to_its_own_host_alone(
    server: FileServer, path: Path, policy: Policy, tmp_path: Path
) -> None:
    with FileServer() as other, open_session(server.url, "sesame") as session:
        there = other.put(PATH, CONTENT)
        server.script("/a", redirect(there))
        other.script("/back", redirect(server.put("/b", CONTENT)))
        download(f"{server.url}/a", path, session=session, policy=policy)
        download(f"{other.url}/back", tmp_path / "b", session=session, policy=policy)
        assert server.asked_for("/a")[0].headers["Authorization"] == "Bearer sesame"
        assert server.asked_for("/b")[0].headers["Authorization"] == "Bearer sesame"
        assert not any("Authorization" in asked.headers for asked in other.asked)


def test_what_netrc_holds_is_not_sent(
    server: FileServer, url: str, path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = path.parent / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password word")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    fetch(url, path, policy)
    assert "Authorization" not in server.asked[0].headers


def test_a_proxy_is_asked_where_the_environment_names_one(
    server: FileServer, path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(PATH, CONTENT)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    address = f"http://models.invalid{PATH}"
    assert fetch(address, path, policy).sha256 == SHA256
    assert server.asked[0].target == address
    monkeypatch.setenv("NO_PROXY", "models.invalid")
    monkeypatch.setenv("no_proxy", "models.invalid")
    assert "is not found" in refusal(address, path, replace(policy, attempts=1))


def test_a_proxy_that_is_not_there_is_named_as_the_reason(
    url: str, path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileServer() as gone:
        address = gone.url
    monkeypatch.setenv("http_proxy", address)
    assert "the proxy cannot be reached" in refusal(url, path, replace(policy, attempts=1))


def test_a_connection_that_should_be_encrypted_and_is_not_is_no_success(
    server: FileServer, path: Path, policy: Policy
) -> None:
    address = server.url.replace("http://", "https://")
    assert "encrypted connection failed" in refusal(address, path, replace(policy, attempts=1))


@pytest.mark.parametrize(
    "address", ["", "model", "ftp://h/x", "http://", "http://[", "http://a b/"]
)
def test_what_is_no_address_is_said(address: str, path: Path, policy: Policy) -> None:
    assert "cannot be fetched: " in refusal(address, path, replace(policy, attempts=1))


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[FileServer]:
    """A server whose certificate nobody has signed but itself, in `certificate.pem`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FileServer() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.put(PATH, CONTENT)
        yield server


def test_a_certificate_must_be_one_that_is_trusted(
    encrypted: FileServer, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = encrypted.url.replace("http://", "https://")
    path = tmp_path / "model.gguf"
    assert "certificate of its host cannot be verified" in refusal(address + PATH, path, policy)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
    assert fetch(address + PATH, path, policy).sha256 == SHA256
    encrypted.script("/a", redirect(f"{encrypted.url}{PATH}"))
    assert "redirected to 127.0.0.1 without encryption" in refusal(f"{address}/a", path, policy)


# Files that are not what they should be


def test_a_wrong_hash_is_refused_and_nothing_kept(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    wrong = "0" * 64
    said = refusal(url, path, policy, sha256=wrong)
    assert f"its SHA-256 is {SHA256} instead of {wrong}" in said
    assert "it has been deleted" in said
    assert not left(path)
    assert len(server.asked) == 1


@pytest.mark.parametrize("size", [1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_size_that_is_announced_wrong_is_refused_before_it_comes(
    size: int, url: str, path: Path, policy: Policy
) -> None:
    said = refusal(url, path, policy, size=size)
    assert f"{len(CONTENT)} bytes are announced, it should have {size}." in said
    assert not left(path)


def test_no_more_is_written_than_was_announced(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, has_length=False)
    assert "more bytes come than were announced" in refusal(url, path, policy, size=1000)
    assert "more bytes come than were announced" in refusal(url, path, policy, limit=200_000)
    assert not left(path)


def test_more_than_the_bound_is_refused_before_it_comes(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    assert f"bytes are announced, more than {MOST_BYTES}" in refusal_of(
        server, path, policy, Content_Length=str(MOST_BYTES + 1)
    )
    assert "it has 9 bytes, more than 8" in refusal(url, path, policy, size=9, limit=8)


def refusal_of(server: FileServer, path: Path, policy: Policy, **headers: str) -> str:
    server.script(PATH, reply(b"x", **headers))
    return refusal(server.url + PATH, path, policy)


def test_a_stated_length_that_is_none_is_not_believed(
    server: FileServer, path: Path, policy: Policy
) -> None:
    for length in ("-5", "many", "1e3"):
        server.script(PATH, reply(CONTENT, Content_Length=length))
        try:
            assert fetch(server.url + PATH, path, policy, sha256=SHA256).size == len(CONTENT)
        except DownloadError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both ends are fine
        server.scripts.clear()


# Where it is written


def test_a_file_that_has_no_room_is_refused_before_it_comes(
    server: FileServer, path: Path, policy: Policy
) -> None:
    server.script(PATH, reply(b"x", Content_Length=str(1 << 50)))
    with pytest.raises(ConfigError, match=r"GB are to be written, and only .* GB are free"):
        fetch(server.url + PATH, path, policy, limit=1 << 60)
    assert not left(path)


def test_a_disk_that_takes_no_more_is_said_and_what_fits_is_kept(
    url: str, path: Path, policy: Policy
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(ConfigError, match="cannot be written: File too large"):
            fetch(url, path, policy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.with_name("model.gguf.partial").stat().st_size > 0
    assert fetch(url, path, policy).sha256 == SHA256


def test_places_that_cannot_be_written_are_said(url: str, tmp_path: Path, policy: Policy) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        fetch(url, tmp_path / "none" / "a", policy)
    (tmp_path / "a.partial").mkdir()
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        fetch(url, tmp_path / "a", policy)


def test_a_link_in_place_of_the_part_is_not_followed(
    url: str, tmp_path: Path, policy: Policy
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.partial").symlink_to(victim)
    with pytest.raises(ConfigError, match="cannot be written"):
        fetch(url, tmp_path / "a", policy)
    assert victim.read_text() == "mine"


def test_two_processes_do_not_write_the_same_file(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    is_halfway, may_go_on = threading.Event(), threading.Event()

    def wait(what: str, done: int, total: int) -> None:
        if done and not may_go_on.is_set():
            is_halfway.set()
            assert may_go_on.wait(60)

    first = threading.Thread(target=fetch, args=[url, path, policy], kwargs={"progress": wait})
    first.start()
    assert is_halfway.wait(60)
    with pytest.raises(DownloadError, match="is being fetched by another process"):
        fetch(url, path, policy)
    may_go_on.set()
    first.join()
    assert path.read_bytes() == CONTENT


def test_no_descriptor_is_left_open(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    before = n_open()
    for code in (404, 503):
        server.script(PATH, status(code))
        refusal(url, path, replace(policy, attempts=1))
    fetch(url, path, policy)
    assert n_open() <= before + 3  # the server's ends close by themselves


def n_open() -> int:
    return len([*Path("/proc/self/fd").iterdir()])
