"""Answers and redirects of servers."""

from pathlib import Path

import pytest

from streamasr.catalogue.timeouts import Policy
from tests.support.fetching import PATH, SHA256, fetch, left, ranges, refusal
from tests.support.hubs import FileServer, redirect, reply, status, truncate


@pytest.mark.parametrize(
    ("answer", "code", "named"),
    [
        (404, "not_found", "(404 Not Found)"),
        (410, "not_found", "(410 Gone)"),
        (401, "access_denied", "401 Unauthorized"),
        (403, "access_denied", "HF_TOKEN"),
        (418, "server_error", "418"),
        (304, "server_error", "304 Not Modified"),
        (204, "server_error", "204 No Content"),
        (599, "server_error", "599."),
        (416, "server_error", "416"),
    ],
)
def test_permanent_errors_are_reported_at_once(
    *,
    answer: int,
    code: str,
    named: str,
    server: FileServer,
    url: str,
    path: Path,
    policy: Policy,
    waited: list[float],
) -> None:
    server.script(PATH, status(answer))
    assert named in refusal(url, path, policy, code)
    assert not waited
    assert not left(path)


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
    ("location", "named"),
    [
        ("/a", "again and again"),
        ("file:///etc/passwd", "'file:///etc/passwd', which is not an HTTP"),
        ("ftp://h/x", "not an HTTP address"),
        ("http://", "again and again"),
        ("http://me:word@127.0.0.1/", "not an HTTP address"),
        ("http://[::1", "an invalid address"),
        ("/\xff\xfe", "an invalid address"),
        ("javascript:alert(1)", "not an HTTP address"),
    ],
)
def test_bad_redirects_are_reported(
    location: str, named: str, server: FileServer, path: Path, policy: Policy
) -> None:
    server.script("/a", *[redirect(location)] * 20)
    assert named in refusal(f"{server.url}/a", path, policy, "bad_redirect")


@pytest.mark.parametrize(
    "address", ["", "model", "ftp://h/x", "http://", "http://[", "http://a b/"]
)
def test_an_invalid_address_is_reported(address: str, path: Path, policy: Policy) -> None:
    assert "cannot be fetched: " in refusal(address, path, policy, "invalid_url")


PAGE = b"<!DOCTYPE html><html><body>Log in</body></html>"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PAGE, "text/html; charset=utf-8"),
        (b"Please log in", "Text/HTML"),
        (PAGE, "application/octet-stream"),
        (b"\xef\xbb\xbf\r\n  <html>", "application/octet-stream"),
        (b"<HTML lang=de>", "binary/octet-stream"),
    ],
)
def test_a_web_page_in_place_of_a_file_is_reported_and_not_kept(
    *, content: bytes, kind: str, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, reply(content, Content_Type=kind, Content_Length=str(len(content))))
    assert refusal(url, path, policy, "web_page").startswith(f"{url} sent a web page")
    assert not left(path)


def test_a_web_page_does_not_harm_the_downloaded_part(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000), reply(PAGE, Content_Type="text/html"))
    refusal(url, path, policy, "web_page")
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server)[-1] == "bytes=100000-"
