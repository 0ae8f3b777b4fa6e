"""What servers answer, and where they send one."""

from dataclasses import replace
from pathlib import Path

import pytest

from streamasr.catalogue.timeouts import Policy
from tests.support.fetching import PATH, SHA256, fetch, left, ranges, refusal
from tests.support.hubs import FileServer, redirect, reply, status, truncate


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


@pytest.mark.parametrize(
    "address", ["", "model", "ftp://h/x", "http://", "http://[", "http://a b/"]
)
def test_what_is_no_address_is_said(address: str, path: Path, policy: Policy) -> None:
    assert "cannot be fetched: " in refusal(address, path, replace(policy, attempts=1))


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
def test_a_web_page_in_place_of_a_file_is_said_and_not_kept(
    *, content: bytes, kind: str, server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, reply(content, Content_Type=kind, Content_Length=str(len(content))))
    assert refusal(url, path, policy) == (
        f"what {url} sent is a web page, not a model; open the address in a browser."
    )
    assert not left(path)


def test_a_web_page_does_no_harm_to_what_has_come_before(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000), reply(PAGE, Content_Type="text/html"))
    refusal(url, path, policy)
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server)[-1] == "bytes=100000-"
