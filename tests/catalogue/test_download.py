"""Fetching one file, against a real server on the loopback that misbehaves in every way."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamasr.catalogue.download import MOST_BYTES
from streamasr.catalogue.partial_file import Downloaded
from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import DownloadError
from tests.support.fetching import CONTENT, OTHER, PATH, SHA256, fetch, left, ranges, refusal
from tests.support.hubs import FileServer, drop, raw, reply, status, truncate

# What goes well


def test_a_file_comes_whole_and_gets_its_name(url: str, path: Path, policy: Policy) -> None:
    told: list[tuple[str, int, int]] = []
    found = fetch(url, path, policy, progress=lambda *step: told.append(step))
    assert found == Downloaded(path, len(CONTENT), SHA256)
    assert path.read_bytes() == CONTENT
    assert left(path) == {"model.gguf"}
    assert told[0] == ("fetching model.gguf", 0, len(CONTENT))
    assert told[-1] == ("fetching model.gguf", len(CONTENT), len(CONTENT))
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


def test_an_existing_file_is_not_fetched_again(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    path.write_bytes(CONTENT)
    assert fetch(url, path, policy, sha256=SHA256) == Downloaded(path, len(CONTENT), SHA256)
    assert not server.requests


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
    (request,) = server.requests
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["User-Agent"].startswith("streamasr/")


def test_a_compressed_answer_is_unpacked(server: FileServer, path: Path, policy: Policy) -> None:
    packed = gzip.compress(CONTENT)
    headers = {"Content_Encoding": "gzip", "Content_Length": str(len(packed))}
    server.script(PATH, reply(packed, **headers))
    assert fetch(server.url + PATH, path, policy, size=len(CONTENT)).sha256 == SHA256


def test_a_compressed_file_cannot_grow_beyond_its_bound(
    server: FileServer, path: Path, policy: Policy
) -> None:
    server.script(PATH, reply(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip"))
    refusal(server.url + PATH, path, policy, "file_too_large", size=1000)
    server.script(PATH, reply(b"no gzip at all", Content_Encoding="gzip"))
    refusal(server.url + PATH, path, policy, "bad_compression")
    assert not left(path)


# Going on later


def test_the_part_of_an_interrupted_call_is_not_fetched_again(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000))
    once = replace(policy, attempts=1)
    assert "the downloaded part is kept" in refusal(url, path, once, "connection_failed")
    assert left(path) == {"model.gguf.partial", "model.gguf.partial.json"}
    assert fetch(url, path, policy).sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]
    assert left(path) == {"model.gguf"}


def test_ctrl_c_keeps_the_downloaded_part(
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
    refusal(url, path, replace(policy, attempts=1), "connection_failed")
    server.put(PATH, OTHER, etag='"two"')
    fetch(url, path, policy)
    assert path.read_bytes() == OTHER
    assert ranges(server)[1] == "bytes=100000-"


def test_a_file_that_changed_on_a_server_without_if_range_is_begun_anew(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    server.script(PATH, truncate(100_000))
    refusal(url, path, replace(policy, attempts=1), "connection_failed")
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


def test_a_part_without_a_version_is_fetched_again(
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
    assert server.requests[1].headers["If-Range"] == date


def test_a_known_hash_replaces_the_version(server: FileServer, path: Path, policy: Policy) -> None:
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


def test_a_part_from_another_address_is_dropped(
    server: FileServer, path: Path, policy: Policy
) -> None:
    old = server.put("/old", CONTENT)
    server.script("/old", truncate(1000))
    refusal(old, path, replace(policy, attempts=1), "connection_failed")
    assert fetch(server.put(PATH, CONTENT), path, policy).sha256 == SHA256
    assert ranges(server) == [None]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_complete_part_is_finished(
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
def test_a_damaged_note_makes_the_download_start_over(
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
def test_the_file_is_the_same_after_any_failures(
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


# Files that are not what they should be


def test_a_wrong_hash_is_refused_and_nothing_kept(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    wrong = "0" * 64
    said = refusal(url, path, policy, "file_differs", sha256=wrong)
    assert f"its SHA-256 is {SHA256} instead of {wrong}" in said
    assert not left(path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_size_that_is_announced_wrong_is_refused_before_it_comes(
    size: int, url: str, path: Path, policy: Policy
) -> None:
    said = refusal(url, path, policy, "file_differs", size=size)
    assert f"{len(CONTENT)} bytes are announced, it should have {size}." in said
    assert not left(path)


def test_no_more_is_written_than_was_announced(
    server: FileServer, path: Path, policy: Policy
) -> None:
    url = server.put(PATH, CONTENT, has_length=False)
    refusal(url, path, policy, "file_too_large", size=1000)
    refusal(url, path, policy, "file_too_large", limit=200_000)
    assert not left(path)


def test_more_than_the_bound_is_refused_before_it_comes(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    assert f"bytes are announced, more than {MOST_BYTES}" in refusal_of(
        server, path, policy, Content_Length=str(MOST_BYTES + 1)
    )
    said = refusal(url, path, policy, "file_too_large", size=9, limit=8)
    assert "it has 9 bytes, more than 8" in said


def refusal_of(server: FileServer, path: Path, policy: Policy, **headers: str) -> str:
    server.script(PATH, reply(b"x", **headers))
    return refusal(server.url + PATH, path, policy, "file_too_large")


def test_an_invalid_length_is_ignored(server: FileServer, path: Path, policy: Policy) -> None:
    for length in ("-5", "many", "1e3"):
        server.script(PATH, reply(CONTENT, Content_Length=length))
        try:
            assert fetch(server.url + PATH, path, policy, sha256=SHA256).size == len(CONTENT)
        except DownloadError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both ends are fine
        server.scripts.clear()
