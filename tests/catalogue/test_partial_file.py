"""The part of a file during its download, and errors of the disk."""

import resource
import threading
from dataclasses import replace
from pathlib import Path

from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import ConfigError, DownloadError
from tests.support.errors import raises
from tests.support.fetching import CONTENT, PATH, SHA256, fetch, left, refusal
from tests.support.hubs import FileServer, reply, status


def test_a_file_that_has_no_room_is_refused_before_it_comes(
    server: FileServer, path: Path, policy: Policy
) -> None:
    server.script(PATH, reply(b"x", Content_Length=str(1 << 50)))
    with raises(ConfigError, "disk_full"):
        fetch(server.url + PATH, path, policy, limit=1 << 60)
    assert not left(path)


def test_a_full_disk_is_reported_and_the_part_is_kept(url: str, path: Path, policy: Policy) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with raises(ConfigError, "file_not_written"):
            fetch(url, path, policy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.with_name("model.gguf.partial").stat().st_size > 0
    assert fetch(url, path, policy).sha256 == SHA256


def test_places_that_cannot_be_written_are_reported(
    url: str, tmp_path: Path, policy: Policy
) -> None:
    with raises(ConfigError, "file_not_written"):
        fetch(url, tmp_path / "none" / "a", policy)
    (tmp_path / "a.partial").mkdir()
    with raises(ConfigError, "file_not_written"):
        fetch(url, tmp_path / "a", policy)


def test_a_link_in_place_of_the_part_is_not_followed(
    url: str, tmp_path: Path, policy: Policy
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.partial").symlink_to(victim)
    with raises(ConfigError, "file_not_written"):
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
    with raises(DownloadError, "download_locked"):
        fetch(url, path, policy)
    may_go_on.set()
    first.join()
    assert path.read_bytes() == CONTENT


def test_no_descriptor_is_left_open(
    server: FileServer, url: str, path: Path, policy: Policy
) -> None:
    before = n_open()
    for answer, code in ((404, "not_found"), (503, "server_error")):
        server.script(PATH, status(answer))
        refusal(url, path, replace(policy, attempts=1), code)
    fetch(url, path, policy)
    assert n_open() <= before + 3  # the server's ends close by themselves


def n_open() -> int:
    return len([*Path("/proc/self/fd").iterdir()])
