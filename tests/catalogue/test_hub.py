"""Requests to a model hub, and checks of its answers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.hub import (
    HubFile,
    Snapshot,
    check_file_name,
    choose_files,
    find_endpoint,
    find_token,
    is_document,
    read_snapshot,
)
from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import ConfigError, DownloadError
from tests.support.errors import raises
from tests.support.hubs import COMMIT, Hub, open_hub, raw, reply, status

REPOSITORY = "Qwen/Qwen3-ASR-0.6B"
LISTING = f"/api/models/{REPOSITORY}/revision/main"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with open_hub() as hub:
        yield hub


@pytest.fixture
def policy() -> Policy:
    return Policy(attempts=2, sleep=lambda _: None)


def snapshot_of(*names: str) -> Snapshot:
    files = tuple(HubFile(name, 1, None) for name in names)
    return Snapshot("https://hub.example", REPOSITORY, COMMIT, files)


def chosen(names: list[str], *patterns: str) -> set[str]:
    return {file.name for file in choose_files(snapshot_of(*names), patterns)}


# Which files there are


def test_a_listing_names_commit_sizes_and_hashes(hub: Hub, tmp_path: Path, policy: Policy) -> None:
    weights = bytes(1000)
    hub.publish(REPOSITORY, {"config.json": b"{}", "model.safetensors": weights})
    snapshot = read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)
    sha256 = hashlib.sha256(weights).hexdigest()
    assert snapshot.commit == COMMIT
    assert snapshot.files == (
        HubFile("config.json", 2, None),
        HubFile("model.safetensors", 1000, sha256),
    )
    assert snapshot.url(HubFile("a b/c#d.gguf", 1, None)) == (
        f"{hub.url}/{REPOSITORY}/resolve/{COMMIT}/a%20b/c%23d.gguf"
    )
    assert not [*tmp_path.iterdir()]


def test_a_revision_with_a_slash_stays_one_part_of_the_address(
    hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    with raises(DownloadError, "not_found"):
        read_snapshot(hub.url, REPOSITORY, "refs/pr/1", tmp_path, policy=policy)
    assert hub.server.requests[0].target.endswith("/revision/refs%2Fpr%2F1?blobs=true")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>Log in</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"sha": "main", "siblings": []}',
        b'{"sha": "../..", "siblings": []}',
        b'{"sha": "0123456789", "siblings": [{"rfilename": ""}]}',
        b'{"sha": "0123456789", "siblings": [{"rfilename": 1}]}',
        b'{"sha": "0123456789", "siblings": [{"rfilename": "a", "size": -1}]}',
        b'{"sha": "0123456789", "siblings": [{"rfilename": "a", "lfs": {"sha256": "x"}}]}',
        b"\xff\xfe{}",
        b"[" * 100_000,
    ],
)
def test_an_answer_of_another_server_is_reported(
    answer: bytes, hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    hub.server.script(LISTING, *[reply(answer, Content_Length=str(len(answer)))] * 3)
    with raises(DownloadError, "not_a_hub") as said:
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)
    assert "\n" not in str(said.value)
    assert not [*tmp_path.iterdir()]


def test_a_web_page_in_place_of_a_listing_is_named(
    hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    hub.server.script(LISTING, reply(b"<html>Log in", Content_Type="text/html"))
    with raises(DownloadError, "not_a_hub"):
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)


def test_errors_of_a_listing_are_about_the_repository(
    hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    with pytest.raises(DownloadError) as said:
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)
    assert str(said.value) == (
        f"{REPOSITORY} cannot be fetched: 127.0.0.1 has no such repository, or no such revision of "
        "it (404 Not Found)."
    )
    with pytest.raises(DownloadError) as said:
        read_snapshot("http://hub.invalid", REPOSITORY, "main", tmp_path, policy=policy)
    assert str(said.value) == (
        f"{REPOSITORY} cannot be fetched: hub.invalid was not found (no network?); name a mirror "
        "with --endpoint, a proxy with HTTPS_PROXY."
    )


def test_a_listing_without_end_is_not_read_to_its_end(
    hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    hub.server.script(LISTING, reply(b" " * (1 << 24) + b"{}"))
    with raises(DownloadError, "file_too_large"):
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)


def test_a_hub_that_hesitates_is_asked_again(hub: Hub, tmp_path: Path, policy: Policy) -> None:
    hub.publish(REPOSITORY, {})
    hub.server.script(LISTING, status(503))
    assert read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy).files == ()
    hub.server.script(LISTING, raw(b""), raw(b""))
    with raises(DownloadError, "connection_failed"):
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)


def test_a_listing_of_an_interrupted_call_is_asked_for_anew(
    hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    hub.publish(REPOSITORY, {})
    (tmp_path / ".listing.json.partial").write_bytes(b"{" * 10_000)
    (tmp_path / ".listing.json").write_bytes(b"{")
    assert read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy).files == ()


def test_the_token_opens_a_gated_repository(hub: Hub, tmp_path: Path, policy: Policy) -> None:
    hub.publish(REPOSITORY, {})
    with open_session(hub.url, "sesame") as session:
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, session=session, policy=policy)
    assert hub.server.requests[0].headers["Authorization"] == "Bearer sesame"
    hub.server.script(LISTING, status(401))
    with raises(DownloadError, "access_denied"):
        read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy)


# Which of them make a model


def test_of_a_checkpoint_weights_settings_and_tokenizer_are_taken() -> None:
    names = ["config.json", "generation_config.json", "preprocessor_config.json", "vocab.json"]
    names += ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    names += ["model.safetensors.index.json", "merges.txt", "tokenizer_config.json", "README.md"]
    others = [".gitattributes", "pytorch_model.bin", "assets/a.png", "onnx/model.safetensors"]
    others += ["config.json.bak", "extra.gguf", "training_args.bin"]
    assert chosen(names + others) == {*names}


def test_of_a_repository_of_ggufs_the_one_model_is_taken() -> None:
    pair = ["Qwen3-ASR-Q8_0.gguf", "mmproj-Qwen3-ASR-Q8_0.gguf"]
    assert chosen([*pair, ".gitattributes", "LICENSE"]) == {*pair, "LICENSE"}
    assert chosen(["only.gguf"]) == {"only.gguf"}


def test_one_of_several_models_must_be_chosen() -> None:
    several = ["a-Q4_K.gguf", "a-Q8_0.gguf", "mmproj-a.gguf"]
    with raises(DownloadError, "several_models") as caught:
        chosen(several)
    assert "among a-Q4_K.gguf, a-Q8_0.gguf, mmproj" in str(caught.value)
    assert chosen(several, "*Q8_0.gguf", "mmproj*") == {"a-Q8_0.gguf", "mmproj-a.gguf"}
    assert chosen(["onnx/a.onnx", "README.md"], "onnx/*") == {"onnx/a.onnx", "README.md"}


def test_a_requested_file_that_is_missing_is_reported() -> None:
    with raises(DownloadError, "not_found") as caught:
        chosen(["a.gguf"], "a.gguf", "*.onnx")
    assert "'*.onnx' at commit 0123456789ab" in str(caught.value)


@pytest.mark.parametrize("names", [[], ["README.md"], ["config.json"], ["sub/a.safetensors"]])
def test_a_repository_without_a_model_is_reported(names: list[str]) -> None:
    with raises(DownloadError, "repository_without_model"):
        chosen(names)


def test_a_repository_of_endless_files_is_refused() -> None:
    names = [f"{number}.safetensors" for number in range(1001)]
    with raises(DownloadError, "too_many_files"):
        chosen(names)


@pytest.mark.parametrize(
    "name",
    [
        "../a.safetensors",
        "/etc/a.safetensors",
        "a/../../b.safetensors",
        "a//b.safetensors",
        "./a.safetensors",
        "a\\..\\b.safetensors",
        "C:a.safetensors",
        "a\n.safetensors",
        "a\x1b[2J.safetensors",
        "a\0.safetensors",
        "",
        "/",
        "..",
        ".",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with raises(DownloadError, "unsafe_file_name"):
        check_file_name(REPOSITORY, name)
    with raises(DownloadError, "unsafe_file_name"):
        chosen([name, "good.safetensors"], "*")


def test_a_name_without_end_is_refused() -> None:
    with raises(DownloadError, "file_name_too_long"):
        check_file_name(REPOSITORY, "a" * 300)


a_part = st.sampled_from(["..", ".", "a", "b.gguf", "/", "//", "\\", "", ".hidden", "~", "c:"])


@given(st.lists(a_part, max_size=6).map("/".join) | st.text(max_size=12))
def test_no_name_that_is_accepted_leads_out_of_its_directory(name: str) -> None:
    try:
        check_file_name(REPOSITORY, name)
    except DownloadError:
        return
    base = Path("/base")
    assert (base / name).resolve().is_relative_to(base)
    assert (base / name) != base
    assert str(base / name) == f"/base/{name}"


def test_documents_describe_and_change_nothing() -> None:
    assert is_document("README.md")
    assert is_document("LICENSE.txt")
    assert not is_document("config.json")


# Where the hub is, and what opens it


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_the_option_goes_before_the_environment_and_that_before_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_endpoint("https://set.example/") == "https://set.example"
    monkeypatch.setenv("HF_ENDPOINT", " https://mirror.example/hub/ ")
    assert find_endpoint("https://set.example") == "https://mirror.example/hub"
    assert find_endpoint("https://set.example", "http://mine:80") == "http://mine:80"


@pytest.mark.parametrize("address", ["mirror.example", "ftp://a", "https://a b", "https://u:p@a"])
def test_an_invalid_endpoint_is_reported_with_its_origin(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(ConfigError, "invalid_url") as caught:
        find_endpoint("https://set.example", address)
    assert str(caught.value).startswith("--endpoint: ")
    monkeypatch.setenv("HF_ENDPOINT", address)
    with raises(ConfigError, "invalid_url") as caught:
        find_endpoint("https://set.example")
    assert str(caught.value).startswith("HF_ENDPOINT: ")


def test_the_error_of_an_endpoint_says_how_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "notaurl")
    with pytest.raises(ConfigError) as caught:
        find_endpoint("https://set.example")
    assert str(caught.value) == (
        "HF_ENDPOINT: 'notaurl' is not an address that begins with https:// or http://."
    )


def test_a_token_is_read_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token() is None
    monkeypatch.setenv("HF_TOKEN", " hf_abc\n")
    assert find_token() == "hf_abc"
    monkeypatch.setenv("HF_TOKEN", "two words\r\nX: y")
    with raises(ConfigError, "token_malformed") as caught:
        find_token()
    assert "words" not in str(caught.value)


def test_a_snapshot_with_two_files_of_one_name_has_one(
    hub: Hub, tmp_path: Path, policy: Policy
) -> None:
    twice: list[dict[str, Any]] = [{"rfilename": "a", "size": 1}, {"rfilename": "a", "size": 2}]
    hub.publish(REPOSITORY, {}, siblings=twice)
    (file,) = read_snapshot(hub.url, REPOSITORY, "main", tmp_path, policy=policy).files
    assert file == HubFile("a", 2, None)
