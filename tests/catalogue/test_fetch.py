"""From the name of a model to its files, and what must not change from one time to the next."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.fetch import Fetched, Web, fetch_model
from streamasr.catalogue.hashes import BOOK, Noted, NotedFile, check_same, note, read_noted
from streamasr.catalogue.known import KnownModel
from streamasr.catalogue.places import (
    download_place,
    fetched_bytes,
    forget_download,
    list_downloads,
    sole_download,
)
from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import ConfigError, DownloadError, ModelError
from tests.support.errors import raises
from tests.support.hubs import COMMIT, Hub, open_hub, truncate

MODEL = KnownModel(repository="Qwen/Qwen3-ASR-0.6B")
FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---",
    "config.json": b'{"a": 1}',
    "model.safetensors": bytes(300_000),
    "pytorch_model.bin": b"never fetched",
}
WANTED = {"README.md", "config.json", "model.safetensors"}
LATER = "f" * 40


@pytest.fixture
def hub() -> Iterator[Hub]:
    with open_hub() as hub:
        hub.publish("Qwen/Qwen3-ASR-0.6B", FILES)
        yield hub


@pytest.fixture
def web(hub: Hub) -> Iterator[Web]:
    with open_session(hub.url) as session:
        yield Web(hub.url, session, Policy(attempts=2, sleep=lambda _: None))


def fetch(models: Path, web: Web, model: KnownModel = MODEL, **options: bool) -> Fetched:
    """Fetch what turns out to be a model."""
    fetched = fetch_model("mine", model, models, web, **options)
    if fetched.noted is not None:
        note(models, "mine", fetched.noted)
    return fetched


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_repository_becomes_a_directory_with_the_files_of_a_model(
    tmp_path: Path, web: Web
) -> None:
    fetched = fetch(tmp_path, web)
    assert fetched.path == download_place(tmp_path, "mine") == tmp_path / ".downloads" / "mine"
    assert {path.name for path in fetched.path.iterdir()} == WANTED
    assert all((fetched.path / name).read_bytes() == FILES[name] for name in WANTED)
    assert fetched.provenance == {
        "name": "mine",
        "repository": "Qwen/Qwen3-ASR-0.6B",
        "revision": "main",
        "commit": COMMIT,
    }


def test_files_in_folders_stay_there(hub: Hub, tmp_path: Path, web: Web) -> None:
    hub.publish("a/b", {"onnx/int8/model.onnx": b"graph"})
    fetched = fetch(tmp_path, web, KnownModel(repository="a/b", files=("onnx/*",)))
    assert (fetched.path / "onnx/int8/model.onnx").read_bytes() == b"graph"


def test_existing_files_are_not_fetched_again(hub: Hub, tmp_path: Path, web: Web) -> None:
    hub.server.script(f"/cdn/{COMMIT}/model.safetensors", truncate(200_000), truncate(0))
    with raises(DownloadError, "connection_failed"):
        fetch(tmp_path, web)
    fetch(tmp_path, web)
    requests = hub.server.requests_for(f"/cdn/{COMMIT}/model.safetensors")
    assert [each.headers.get("Range") for each in requests][-1] == "bytes=200000-"
    fetch(tmp_path, web)
    assert len(hub.server.requests_for(f"/cdn/{COMMIT}/model.safetensors")) == len(requests)


def test_files_of_an_earlier_commit_are_removed(hub: Hub, tmp_path: Path, web: Web) -> None:
    place = download_place(tmp_path, "mine")
    (place / "old/deep").mkdir(parents=True)
    (place / "old/deep/model-00001.safetensors").write_bytes(b"stale")
    (place / "other.safetensors.partial").write_bytes(b"stale")
    (place / "link").symlink_to(tmp_path)
    fetch(tmp_path, web)
    assert {path.name for path in place.rglob("*")} == WANTED
    assert tmp_path.is_dir()


def test_a_file_with_the_wrong_hash_is_refused(hub: Hub, tmp_path: Path, web: Web) -> None:
    hub.server.put(f"/cdn/{COMMIT}/model.safetensors", bytes(299_999) + b"x")
    with raises(DownloadError, "file_differs"):
        fetch(tmp_path, web)
    assert read_noted(tmp_path, "mine") is None


# What was fetched the first time


def test_the_first_download_is_noted(tmp_path: Path, web: Web) -> None:
    fetch(tmp_path, web)
    files = {name: NotedFile(len(FILES[name]), sha256(FILES[name])) for name in WANTED}
    del files["README.md"]
    noted = Noted(source="Qwen/Qwen3-ASR-0.6B", commit=COMMIT, files=files)
    assert read_noted(tmp_path, "mine") == noted
    assert read_noted(tmp_path, "other") is None
    book = json.loads((tmp_path / BOOK).read_text())
    assert book["models"]["mine"]["files"]["config.json"]["size"] == 8


def test_a_later_commit_with_the_same_files_is_the_same_model(
    hub: Hub, tmp_path: Path, web: Web
) -> None:
    fetch(tmp_path, web)
    hub.publish("Qwen/Qwen3-ASR-0.6B", {**FILES, "README.md": b"new words"}, commit=LATER)
    assert fetch(tmp_path, web).provenance["commit"] == LATER
    noted = read_noted(tmp_path, "mine")
    assert noted is not None
    assert noted.commit == LATER


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model.safetensors": b"x" * 300_000}, r"model.safetensors has SHA-256 \w+, it had"),
        ({"config.json": b'{"a": 12}'}, "config.json has 9 bytes, it had 8"),
        ({"vocab.json": b"{}"}, "vocab.json is new"),
    ],
)
def test_a_changed_model_is_refused_before_it_is_fetched_until_it_is_accepted(
    change: dict[str, bytes], sentence: str, hub: Hub, tmp_path: Path, web: Web
) -> None:
    fetch(tmp_path, web)
    forget_download(tmp_path, "mine")
    hub.publish("Qwen/Qwen3-ASR-0.6B", {**FILES, **change}, commit=LATER)
    n_asked = len(hub.server.requests)
    with raises(ModelError, "download_changed") as caught:
        fetch(tmp_path, web)
    assert re.search(sentence, str(caught.value))
    assert "`streamasr models pull mine --accept-changed`" in str(caught.value)
    assert len(hub.server.requests) == n_asked + 1
    fetch(tmp_path, web, accept_changed=True)
    fetch(tmp_path, web)


def test_a_changed_small_file_that_announces_no_hash_is_noticed_when_it_has_come(
    hub: Hub, tmp_path: Path, web: Web
) -> None:
    fetch(tmp_path, web)
    hub.publish("Qwen/Qwen3-ASR-0.6B", {**FILES, "config.json": b'{"a": 2}'}, commit=LATER)
    with raises(ModelError, "download_changed") as caught:
        fetch(tmp_path, web)
    assert "config.json has SHA-256" in str(caught.value)
    noted = read_noted(tmp_path, "mine")
    assert noted is not None
    assert noted.commit == COMMIT


def test_a_changed_source_of_a_name_is_detected(hub: Hub, tmp_path: Path, web: Web) -> None:
    fetch(tmp_path, web)
    hub.publish("fork/model", FILES)
    with raises(ModelError, "download_changed") as caught:
        fetch(tmp_path, web, KnownModel(repository="fork/model"))
    assert "came from Qwen/Qwen3-ASR-0.6B and now comes from fork/model" in str(caught.value)


def test_the_suggested_command_repeats_the_options(hub: Hub, tmp_path: Path, web: Web) -> None:
    fetch(tmp_path, web)
    hub.publish("fork/model", FILES)
    mirror = replace(web, again="--endpoint https://mirror.example")
    with raises(ModelError, "download_changed") as caught:
        fetch(tmp_path, mirror, KnownModel(repository="fork/model"))
    again = "`streamasr models pull mine --endpoint https://mirror.example --accept-changed`"
    assert again in str(caught.value)


def test_the_progress_numbers_the_files(hub: Hub, tmp_path: Path, web: Web) -> None:
    told: list[str] = []
    web = replace(web, progress=lambda what, *_: told.append(what))
    fetch(tmp_path, web)
    assert [*dict.fromkeys(told)] == [
        "asking for Qwen/Qwen3-ASR-0.6B",
        "fetching README.md (file 1 of 3)",
        "fetching config.json (file 2 of 3)",
        "fetching model.safetensors (file 3 of 3)",
    ]
    told.clear()
    fetch(tmp_path, web)
    assert told[-1] == "checking earlier downloads"


def test_many_differences_are_summed_up() -> None:
    noted = Noted(source="a/b", files={f"{n}.bin": NotedFile(1, "0" * 64) for n in range(5)})
    with raises(ModelError, "download_changed") as caught:
        check_same("mine", noted, "a/b", {})
    assert re.search(r"0\.bin is missing; .*; and 2 more\. If that", str(caught.value))


@given(
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 2), st.sampled_from("xy"))),
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 2), st.sampled_from("xy"))),
)
def test_only_what_is_equal_is_the_same(
    then: dict[str, tuple[int, str]], now: dict[str, tuple[int, str]]
) -> None:
    noted = Noted(source="s", files={name: NotedFile(*file) for name, file in then.items()})
    if then == now:
        check_same("mine", noted, "s", now)
    else:
        with raises(ModelError, "download_changed"):
            check_same("mine", noted, "s", now)
    check_same("mine", noted, "s", dict.fromkeys(then, (None, None)))


# One file in place of a repository


def test_a_file_with_a_known_hash_is_checked_and_not_noted(
    hub: Hub, tmp_path: Path, web: Web
) -> None:
    url = hub.server.put("/model.zip", b"PK\x03\x04...")
    model = KnownModel(url=url, sha256=sha256(b"PK\x03\x04..."), size=7)
    fetched = fetch(tmp_path, web, model)
    assert fetched.path == tmp_path / ".downloads/mine/model.zip"
    assert fetched.provenance == {"name": "mine", "url": url}
    assert read_noted(tmp_path, "mine") is None
    wrong = KnownModel(url=url, sha256="0" * 64, size=7)
    with raises(DownloadError, "file_differs"):
        fetch(tmp_path, web, wrong)


def test_a_file_without_a_known_hash_must_be_the_same_the_next_time(
    hub: Hub, tmp_path: Path, web: Web
) -> None:
    model = KnownModel(url=hub.server.put("/model.gguf", b"GGUF one"))
    fetch(tmp_path, web, model)
    fetch(tmp_path, web, model)
    assert len(hub.server.requests_for("/model.gguf")) == 1  # it is still there, and right
    forget_download(tmp_path, "mine")
    for changed, sentence in ((b"longer than it was", "18 bytes, it had 8"), (b"GGUF two", "SHA")):
        hub.server.put("/model.gguf", changed)
        with raises(ModelError, "download_changed") as caught:
            fetch(tmp_path, web, model)
        assert sentence in str(caught.value)
        assert "--accept-changed" in str(caught.value)
    fetch(tmp_path, web, model, accept_changed=True)
    noted = read_noted(tmp_path, "mine")
    assert noted is not None
    assert noted.files["model.gguf"].sha256 == sha256(b"GGUF two")


# The notes themselves


def test_notes_of_several_models_are_kept_apart(tmp_path: Path) -> None:
    some = {name: Noted(source=name, files={}) for name in ("a", "b")}
    for name, noted in some.items():
        note(tmp_path, name, noted)
    assert {name: read_noted(tmp_path, name) for name in some} == some
    assert {path.name for path in tmp_path.iterdir()} == {BOOK, f".{BOOK}.lock"}


def test_notes_that_are_written_at_once_are_all_kept(tmp_path: Path) -> None:
    writers = [
        threading.Thread(target=note, args=[tmp_path, f"m{n}", Noted(source="s", files={})])
        for n in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert all(read_noted(tmp_path, f"m{n}") for n in range(8))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=30) | st.sampled_from([b"[]", b'{"models": 1}', b'{"version": 2}']))
def test_damaged_records_are_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / BOOK).write_bytes(content)
    try:
        assert read_noted(tmp_path, "mine") is None
        assert content.strip()[:1] == b"{"
    except ConfigError as error:
        assert BOOK in str(error)  # noqa: PT017 - both ends are fine


def test_places_that_cannot_be_written_are_reported(tmp_path: Path, web: Web) -> None:
    (tmp_path / "models").write_bytes(b"")
    with raises(ConfigError, "directory_not_made"):
        fetch(tmp_path / "models", web)
    with raises(ConfigError, "models_not_writable"):
        note(tmp_path / "models", "a", Noted(source="s", files={}))


def test_a_download_without_bytes_leaves_nothing(tmp_path: Path) -> None:
    with raises(DownloadError, "download"), sole_download(tmp_path, "a"):
        raise DownloadError("no network")
    assert not [*tmp_path.iterdir()]
    with sole_download(tmp_path, "a"):
        (download_place(tmp_path, "a") / "x.partial").write_bytes(b"123")
        with sole_download(tmp_path, "b"):
            assert list_downloads(tmp_path) == ["a"]
    assert list_downloads(tmp_path) == ["a"]
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["a"]
    assert fetched_bytes(tmp_path, "a") == 3
    assert fetched_bytes(tmp_path, "b") == 0


def test_one_process_at_a_time_fetches_a_model(tmp_path: Path) -> None:
    with sole_download(tmp_path, "a"):
        with (
            raises(DownloadError, "download_locked"),
            sole_download(tmp_path, "a"),
        ):
            pass
        assert download_place(tmp_path, "a").is_dir()


def test_forgetting_leaves_other_downloads(tmp_path: Path) -> None:
    for name in ("a", "b"):
        download_place(tmp_path, name).mkdir(parents=True)
    forget_download(tmp_path, "a")
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["b"]
    forget_download(tmp_path, "b")
    forget_download(tmp_path, "none")
    assert not [*tmp_path.iterdir()]
