"""`streamasr models pull`, from a hub on the loopback."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streamasr.catalogue.known import built_in
from streamasr.core.sizes import size_text
from streamasr.models.bundle import open_bundle
from tests.sources import ct_punc
from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights
from tests.sources.ggml_org import write_ggml_org
from tests.sources.paraformer import original as paraformer
from tests.sources.paraformer.gguf_files import write_crispasr as write_paraformer
from tests.sources.paraformer.gguf_files import write_funasr
from tests.sources.paraformer.onnx_export import write_sherpa_export
from tests.sources.paraformer.weights import Sizes, Weights
from tests.support.hubs import COMMIT, Hub, stall, status, truncate
from tests.support.model_homes import NAME, REPOSITORY, WEIGHTS, Home
from tests.support.punctuation import write_jieba

PARAFORMER = Weights(replace(Sizes(), head=None))
BICIF = Weights(replace(Sizes(), head="cnn_blstm"))
PUNCTUATION = random_weights(Shape(), len(WORDS), len(MARKS), 2)


def write_large_punctuation(to: Path) -> Path:
    """Write a punctuation model whose vocabulary consists of words."""
    folder = ct_punc.write_original(to, PUNCTUATION, Shape())
    (folder / "jieba_usr_dict").write_text("很好 30\n公园\n", "utf-8")
    return folder


PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "paraformer-zh": lambda to: paraformer.write_original(PARAFORMER, to),
    "paraformer-zh-q8_0": lambda to: write_paraformer(
        PARAFORMER, to / "paraformer-zh-q8_0.gguf", "q8_0"
    ),
    "paraformer-zh-funasr": lambda to: write_funasr(PARAFORMER, to / "paraformer-q8.gguf", "q8"),
    "paraformer-zh-sherpa": lambda to: write_sherpa_export(BICIF, to, ("int8",)),
    "paraformer-zh-2024": lambda to: write_sherpa_export(PARAFORMER, to, ("int8",)),
    "ct-punc": lambda to: ct_punc.write_sherpa_folder(to, PUNCTUATION, Shape()),
    "ct-punc-large": write_large_punctuation,
}
"""Writers of small models with the file names of those in known.toml."""


def test_a_model_is_pulled_imported_and_used_without_the_network(home: Home, hub: Hub) -> None:
    assert home.run("pull", NAME) == 0
    assert home.out.startswith(f"{NAME} is installed in {home.models / NAME} (")
    settings = home.path / "config/streamasr/config.toml"
    assert home.out.endswith(f'set model.name = "{NAME}" in {settings}.\n')
    assert home.left() == {NAME}
    bundle = open_bundle(home.models / NAME)
    assert bundle.name == NAME
    assert bundle.source["repository"] == REPOSITORY
    assert bundle.source["commit"] == COMMIT
    assert bundle.licence == "Apache-2.0"
    assert bundle.precision["encoder"] == "fp32"
    n_asked = len(hub.server.requests)
    row = home.listed()[NAME]
    assert (row["state"], row["family"], row["source"]) == ("installed", "qwen3-asr", REPOSITORY)
    assert row["bytes"] > 100_000
    assert home.run("path", NAME) == 0
    assert home.out == f"{home.models / NAME}\n"
    assert home.run("pull", NAME) == 0
    assert home.out == f"{NAME} is installed already, in {home.models / NAME}.\n"
    assert home.run("remove", NAME) == 0
    assert home.out.startswith(f"{NAME} is removed, which frees ")
    assert home.left() == set()
    assert len(hub.server.requests) == n_asked


def test_precisions_and_kept_downloads_are_as_requested(home: Home, hub: Hub) -> None:
    precisions = ["--encoder", "fp16", "--decoder", "f16", "--keep-download"]
    assert home.run("pull", NAME, *precisions) == 0
    kept = home.models / ".downloads" / NAME
    assert f"The downloaded files are kept in {kept}." in home.out
    assert (kept / "model.safetensors").exists()
    assert not (kept / "extra.bin").exists()
    assert home.listed()[NAME]["precision"] == "fp16/f16"
    assert home.listed()[NAME]["kept_bytes"] > 100_000
    assert home.run("list") == 0
    assert f"{NAME}: its downloaded files are kept, " in home.out
    assert home.run("remove", NAME) == 0
    assert home.left() == set()


def test_an_interrupted_pull_continues_where_it_stopped(home: Home, hub: Hub) -> None:
    home.configure("[download]\nattempts = 1")
    hub.server.script(WEIGHTS, truncate(100_000))
    assert home.run("pull", NAME) == 1
    assert "the downloaded part is kept, and the same command continues from there" in home.err
    assert home.run("pull", NAME) == 0
    assert hub.server.requests_for(WEIGHTS)[-1].headers["Range"] == "bytes=100000-"


def test_a_partial_download_can_be_removed(home: Home, hub: Hub) -> None:
    home.configure("[download]\nattempts = 1")
    hub.server.script(WEIGHTS, truncate(100_000))
    home.run("pull", NAME)
    row = home.listed()[NAME]
    assert row["state"] == "partial"
    assert 100_000 < row["bytes"] < 200_000
    assert home.run("remove", NAME) == 0
    size = size_text(row["bytes"])
    assert home.out == f"The download of {NAME} is removed, which frees {size}.\n"
    assert home.left() == set()
    assert home.listed()[NAME]["state"] == "known"


def test_a_wrong_file_is_refused_and_nothing_installed(home: Home, hub: Hub) -> None:
    served = hub.server.files[WEIGHTS]
    served.content = served.content[:-1] + b"x"
    assert home.run("pull", NAME) == 1
    assert "instead of" in home.err
    assert not (home.models / NAME).exists()


def test_a_changed_model_must_be_accepted(home: Home, hub: Hub) -> None:
    assert home.run("pull", NAME) == 0
    assert home.run("remove", NAME) == 0
    listing = f"/api/models/{REPOSITORY}/revision/main"
    answer = json.loads(hub.server.files[listing].content)
    answer["siblings"] = [one for one in answer["siblings"] if one["rfilename"] != "vocab.json"]
    answer["siblings"].append({"rfilename": "added_tokens.json", "size": 2})
    hub.server.put(f"/cdn/{COMMIT}/added_tokens.json", b"{}")
    hub.server.put(f"/{REPOSITORY}/resolve/{COMMIT}/added_tokens.json", b"{}")
    hub.server.put(listing, json.dumps(answer).encode())
    assert home.run("pull", NAME) == 78
    assert "added_tokens.json is new" in home.err
    assert home.run("pull", NAME, "--accept-changed") == 0


def test_a_misspelt_name_is_reported_before_any_download(home: Home, hub: Hub) -> None:
    assert home.run("pull", NAME, "qwen3-asr-0.7b") == 78
    assert "unknown model 'qwen3-asr-0.7b'; did you mean" in home.err
    assert not hub.server.requests


def test_one_failure_does_not_stop_other_downloads(home: Home, hub: Hub) -> None:
    assert home.run("pull", "qwen3-asr-1.7b", NAME, "tiny") == 1
    assert "Qwen/Qwen3-ASR-1.7B cannot be fetched: 127.0.0.1 has no such repository" in home.err
    assert home.left() == {NAME}
    assert f"{NAME} is installed in" in home.out
    assert "tiny is embedded; it need not be downloaded." in home.out


def test_the_endpoint_of_the_option_is_asked(
    home: Home, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert home.run("pull", NAME, "--endpoint", f"{hub.url}/") == 0
    assert home.run("pull", "qwen3-asr-1.7b", "--endpoint", "hub") == 78
    assert "--endpoint: 'hub' is not an address" in home.err


def test_the_error_for_a_gated_repository_names_the_token(
    home: Home, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    hub.server.script(f"/api/models/{REPOSITORY}/revision/main", status(401))
    assert home.run("pull", NAME) == 1
    assert "HF_TOKEN" in home.err
    assert "hf_sesame" not in home.err + home.out
    assert hub.server.requests[0].headers["Authorization"] == "Bearer hf_sesame"


def test_a_zip_from_elsewhere_is_pulled_too(home: Home, hub: Hub, checkpoint: Path) -> None:
    archive = home.path / "release.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in checkpoint.iterdir():
            file.write(path, f"Model/{path.name}")
    url = hub.server.put("/release.zip", archive.read_bytes())
    home.configure(f'[models.zipped]\nurl = "{url}"')
    assert home.run("pull", "zipped") == 0
    assert home.listed()["zipped"]["source"] == url
    assert home.left() == {"zipped"}


def test_of_a_repository_of_ggufs_the_named_pair_is_pulled(
    home: Home, hub: Hub, checkpoint: Path
) -> None:
    pair = write_ggml_org(checkpoint, home.path / "ggufs", "f16", "f16")
    text, projector = sorted(path.name for path in pair.iterdir())
    names = {text: "Qwen3-ASR-0.6B-Q8_0.gguf", projector: "mmproj-Qwen3-ASR-0.6B-Q8_0.gguf"}
    files = {names[path.name]: path.read_bytes() for path in pair.iterdir()}
    others = {"Qwen3-ASR-0.6B-BF16.gguf": b"other", "mmproj-Qwen3-ASR-0.6B-BF16.gguf": b"other"}
    hub.publish("ggml-org/Qwen3-ASR-0.6B-GGUF", files | others)
    assert home.run("pull", "qwen3-asr-0.6b-q8_0") == 0
    row = home.listed()["qwen3-asr-0.6b-q8_0"]
    assert (row["state"], row["source"]) == ("installed", "ggml-org/Qwen3-ASR-0.6B-GGUF")
    assert len(row["languages"]) == 30
    decoder = (home.models / "qwen3-asr-0.6b-q8_0/decoder.gguf").read_bytes()
    assert decoder == files["Qwen3-ASR-0.6B-Q8_0.gguf"]
    assert home.left() == {"qwen3-asr-0.6b-q8_0"}


def pull_without_jieba(home: Home, hub: Hub, name: str) -> bool:
    """Pull a model whose import needs jieba; return whether the error says so."""
    folder = PUBLISHED[name](home.path / "published before")
    repository = built_in()[name].repository
    assert repository
    hub.publish(repository, {path.name: path.read_bytes() for path in folder.iterdir()})
    assert home.run("pull", name) == 78
    return "`pip install 'streamasr[words]'`" in home.err


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_known_model_of_funasr_is_pulled_and_loads(
    home: Home, hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(home.path / "site"))
    if name == "ct-punc-large":
        assert pull_without_jieba(home, hub, name)
        write_jieba(home.path / "site")
    written = PUBLISHED[name](home.path / "published")
    folder = written if written.is_dir() else written.parent
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    known = built_in()[name]
    assert known.repository
    # Not all of a repository is downloaded.
    hub.publish(known.repository, {"other.gguf": b"x", "model.onnx": b"x", **files})
    assert home.run("pull", name) == 0
    row = home.listed()[name]
    assert (row["state"], row["family"]) == ("installed", known.family)
    assert (row["licence"], row["source"]) == ("FunASR Model License", known.repository)
    assert row["languages"] == ["Chinese", "English"]
    asked = {request.path.rpartition("/")[2] for request in hub.server.requests}
    assert asked & {"other.gguf", "extra.bin"} == set()
    home.run("verify", name, "--json")  # random weights do not recognise the clip
    passed = {each["name"]: each["passed"] for each in json.loads(home.out)["checks"]}
    assert passed["files"]
    assert passed["loading"]
    assert home.run("list", name) == 0
    for line in (f"family      {known.family}", "licence     FunASR Model License"):
        assert line in home.out


def test_files_without_a_model_are_reported(home: Home, hub: Hub) -> None:
    hub.publish("me/broken", {"config.json": b"{}", "model.safetensors": b"not at all"})
    home.configure('[models.broken]\nrepository = "me/broken"')
    assert home.run("pull", "broken") == 78
    assert home.err.splitlines()[-1].startswith("streamasr: ")
    assert not (home.models / "broken").exists()


def test_hashes_of_files_without_a_model_are_not_kept_for_the_next_time(
    home: Home, hub: Hub, checkpoint: Path
) -> None:
    log_in = hub.server.put("/model.gguf", b"Accept our terms, then go on")
    home.configure(f'[models.mine]\nurl = "{log_in}"')
    assert home.run("pull", "mine") == 78
    release = write_ggml_org(checkpoint, home.path / "ggufs")
    with zipfile.ZipFile(home.path / "real.zip", "w") as file:
        for path in release.iterdir():
            file.write(path, path.name)
    hub.server.put("/model.gguf", (home.path / "real.zip").read_bytes())
    assert home.run("pull", "mine") == 0
    assert home.run("remove", "mine") == 0
    hub.server.put("/model.gguf", b"something else")
    assert home.run("pull", "mine") == 78
    assert "--accept-changed" in home.err


def test_a_broken_model_must_be_removed_before_it_is_pulled(home: Home, hub: Hub) -> None:
    (home.models / NAME).mkdir(parents=True)
    assert home.run("pull", NAME) == 78
    assert f"`streamasr models remove {NAME}`" in home.err
    assert home.run("remove", NAME) == 0
    assert home.run("pull", NAME) == 0


def test_two_processes_do_not_pull_the_same_model(home: Home, hub: Hub) -> None:
    place = home.models / ".downloads" / NAME
    place.mkdir(parents=True)
    fd = os.open(place, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert home.run("pull", NAME) == 1
        assert f"{NAME} is being fetched by another process." in home.err
        assert home.run("remove", NAME) == 1
        assert place.is_dir()
    finally:
        os.close(fd)
    assert home.run("pull", NAME) == 0


def test_a_killed_pull_continues_where_it_stopped(home: Home, hub: Hub) -> None:
    hub.server.script(WEIGHTS, stall(200_000))
    command = [sys.executable, "-m", "streamasr", "models", "pull", NAME]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        partial = home.models / ".downloads" / NAME / "model.safetensors.partial"
        while not partial.exists() or partial.stat().st_size < 200_000:
            assert process.poll() is None
            os.sched_yield()
        process.kill()
    assert home.run("pull", NAME) == 0
    assert hub.server.requests_for(WEIGHTS)[-1].headers["Range"] == "bytes=200000-"


def test_a_stopped_pull_says_that_it_can_continue(home: Home, hub: Hub) -> None:
    hub.server.script(WEIGHTS, stall(200_000))
    command = [sys.executable, "-m", "streamasr", "models", "pull", NAME]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        partial = home.models / ".downloads" / NAME / "model.safetensors.partial"
        while not partial.exists() or partial.stat().st_size < 200_000:
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        "streamasr: stopped; the downloaded files are kept, and the same command continues from "
        "there."
    )
    assert "Traceback" not in said


def test_a_pull_without_a_network_leaves_nothing_and_names_no_interface(home: Home) -> None:
    assert home.run("pull", NAME, "--endpoint", "https://hub.invalid") == 1
    assert home.err.splitlines()[-1] == (
        f"streamasr: {REPOSITORY} cannot be fetched: hub.invalid was not found (no network?); "
        "name a mirror with --endpoint, a proxy with HTTPS_PROXY."
    )
    assert home.left() == set()
