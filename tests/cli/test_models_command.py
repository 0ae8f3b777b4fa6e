"""`streamasr models`, with a hub on the loopback and real imports of small checkpoints."""

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from streamasr.catalogue.listing import count_text, spdx
from streamasr.cli.main import main
from streamasr.core.sizes import size_text
from streamasr.models.bundle import open_bundle
from tests.sources.ggml_org import write_ggml_org
from tests.sources.onnx_release import write_onnx_release
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.hubs import COMMIT, Hub, open_hub, stall, status, truncate

NAME = "qwen3-asr-0.6b"
REPOSITORY = "Qwen/Qwen3-ASR-0.6B"
WEIGHTS = f"/cdn/{COMMIT}/model.safetensors"


@dataclass
class Home:
    """Files of a user, and the last output of the command."""

    path: Path
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    @property
    def models(self) -> Path:
        return self.path / "cache/streamasr/models"

    def configure(self, text: str) -> None:
        config = self.path / "config/streamasr/config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text)

    def run(self, *arguments: str) -> int:
        """`streamasr models ...`; its exit code."""
        with pytest.raises(SystemExit) as ended:
            main(["models", *arguments])
        self.out, self.err = self.capsys.readouterr()
        assert "Traceback" not in self.err
        return int(ended.value.code or 0)

    def listed(self) -> dict[str, dict[str, Any]]:
        assert self.run("list", "--json") == 0
        return {row["name"]: row for row in json.loads(self.out)}

    def left(self) -> set[str]:
        """Names among the models, notes and the lock left out."""
        names = {path.name for path in self.models.iterdir()}
        return {name for name in names if "hashes.json" not in name and name != ".lock"}


@pytest.fixture
def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Home:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "STREAMASR_CONFIG", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path, capsys)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "small"
    write_checkpoint(directory)
    return directory


@pytest.fixture
def hub(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model."""
    with open_hub() as hub:
        files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
        hub.publish(REPOSITORY, {**files, "README.md": b"words", "extra.bin": b"other"})
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


# What there is


def test_the_list_shows_embedded_and_known_models(home: Home) -> None:
    assert home.run("list") == 0
    lines = home.out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATE", "ROLE"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["tiny"][1:3] == ["embedded", "recogniser"]
    known = ["known", "recogniser", "0.6B", "-", "30", "Apache-2.0", "-", REPOSITORY]
    assert rows[NAME][1:] == known
    assert rows["qwen3-asr-1.7b-q5_k"][-3:-1] == ["(2.0", "GB)"]
    assert not home.models.exists()


def test_the_list_for_programs_has_all_facts(home: Home) -> None:
    row = home.listed()["qwen3-aligner-0.6b"]
    assert row["state"] == "known"
    assert row["family"] == "qwen3-forced-aligner"
    assert row["languages"][:2] == ["Chinese", "English"]
    assert row["bytes"] is None
    assert row["path"] is None


def test_a_user_adds_models_in_his_settings(home: Home) -> None:
    home.configure('[models.mine]\nrepository = "me/model"\nlanguages = ["English"]')
    row = home.listed()["mine"]
    assert (row["source"], row["languages"], row["state"]) == ("me/model", ["English"], "known")
    home.configure('[models.mine]\nrepository = "me"')
    assert home.run("list") == 78
    assert "models.mine.repository: expected" in home.err


def test_a_broken_model_is_listed_with_its_problem(home: Home) -> None:
    (home.models / "old").mkdir(parents=True)
    assert home.run("list") == 0
    line, problem = (line for line in home.out.splitlines() if line.startswith("old"))
    assert "broken" in line
    assert problem.startswith("old: ")
    assert "has no model.json" in problem


def test_all_facts_about_named_models_are_shown(home: Home) -> None:
    assert home.run("list", NAME, "tiny") == 0
    blocks = home.out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [NAME, "tiny"]
    assert f"  source      {REPOSITORY}" in blocks[0].splitlines()
    assert "Chinese, English, Cantonese" in blocks[0]
    assert "  licence     Apache-2.0" in blocks[0]
    assert home.run("list", "--json", NAME) == 0
    assert [row["name"] for row in json.loads(home.out)] == [NAME]
    assert home.run("list", "qwen3-asr-0.7b") == 78
    assert "did you mean" in home.err


@pytest.mark.parametrize(("columns", "n_shown"), [(200, 9), (80, 7), (48, 4)])
def test_on_a_terminal_the_table_has_the_columns_that_fit(
    columns: int, n_shown: int, home: Home
) -> None:
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "-m", "streamasr", "models", "list"]
    subprocess.run(command, stdout=slave, env=environment, check=True)  # a terminal holds 4 kB
    lines = re.sub(r"\x1b\[[0-9;]*m", "", os.read(master, 65536).decode()).splitlines()
    os.close(slave)
    os.close(master)
    assert len(lines[0].split()) == n_shown
    assert len(lines) == 8 + (n_shown < 9)
    assert (lines[-1] == "more: streamasr models list NAME") == (n_shown < 9)
    assert all(len(line.rstrip()) <= columns for line in lines)


# Getting models


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


# Models of files that are there


def test_files_are_imported_once_under_their_name(home: Home, checkpoint: Path) -> None:
    assert home.run("import", str(checkpoint)) == 0
    assert home.out.startswith(f"small is installed in {home.models / 'small'} (")
    assert home.run("import", str(checkpoint)) == 0
    assert home.out.startswith("small is installed already, in ")
    assert home.run("import", str(checkpoint), "--name", "other", "--decoder", "f16") == 0
    assert home.left() == {"small", "other"}
    assert home.listed()["other"]["precision"] == "fp32/f16"


def test_of_two_imports_of_the_same_files_one_waits_for_the_other(
    home: Home, checkpoint: Path
) -> None:
    command = [sys.executable, "-m", "streamasr", "models", "import", str(checkpoint)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(process.communicate()[0].splitlines()[0] for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert answers[0].startswith("small is installed already")
    assert answers[1].startswith("small is installed in ")


def test_files_that_were_moved_are_the_same_files(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(checkpoint, tmp_path / "old")
    assert home.run("import", str(old), "--name", "mine") == 0
    assert home.run("import", str(checkpoint), "--name", "mine") == 78  # a copy is another source
    new = old.rename(tmp_path / "new")
    assert home.run("import", str(new), "--name", "mine") == 0
    assert home.out.startswith("mine is installed already")
    assert home.listed()["mine"]["source"] == str(new)


def test_encoders_of_few_bits_are_warned_of_the_aligners_too(home: Home, tmp_path: Path) -> None:
    shape = Shape(d_model=64, ffn=256, hidden=256)
    for name, n_classes in (("asr", None), ("aligner", 50)):
        checkpoint = write_checkpoint(tmp_path / name, replace(shape, n_classes=n_classes))
        write_onnx_release(checkpoint, tmp_path / "both", "int4")
    assert home.run("import", str(tmp_path / "both")) == 0
    warnings = [line for line in home.err.splitlines() if "warning" in line]
    assert [re.findall(r"encoder of (\S+) has weights of 4 bits", line) for line in warnings] == [
        ["both"],
        ["both-aligner"],
    ]


def test_a_name_that_is_taken_by_another_model_is_refused(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    (home.models / "mine").mkdir(parents=True)
    assert home.run("import", str(checkpoint), "--name", "mine") == 78
    assert "mine is installed already, from other files; choose another --name" in home.err
    for name in ("tiny", "a/b", "..", ""):
        assert home.run("import", str(checkpoint), f"--name={name}") == (78 if name else 0)
    assert not (tmp_path / "b").exists()


def test_a_model_can_be_written_elsewhere(home: Home, checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "my model"
    assert home.run("import", str(checkpoint), "--output", str(place)) == 0
    assert open_bundle(place).name == "my model"
    assert f"Wrote {place}" in home.out
    assert not home.models.exists()
    assert home.run("import", str(checkpoint), "--output", str(place)) == 78


@pytest.mark.parametrize("content", [None, b"", b"RIFF....WAVE", b"PK\x03\x04broken"])
def test_a_directory_without_a_model_is_reported(
    content: bytes | None, home: Home, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    if content is not None:
        source.write_bytes(content)
    assert home.run("import", str(source)) == 78
    assert home.err.startswith("streamasr: ")
    assert not home.models.exists() or home.left() == set()


# What is there


OFFLINE = """
import socket, sys
from streamasr.cli.main import main
def connect(*_): raise AssertionError("the network is used")
socket.socket.connect = socket.getaddrinfo = connect
for arguments in (["models", "list"], ["models", "path", "small"], ["models", "verify", "small"],
                  ["models", "pull", "small"], ["models", "remove", "small"]):
    try:
        main(arguments)
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
    assert not {"requests", "urllib3"} & {*sys.modules}
"""


def test_installed_models_are_used_without_the_network(home: Home, checkpoint: Path) -> None:
    home.configure('[models.small]\nrepository = "me/small"')
    assert home.run("import", str(checkpoint)) == 0
    command = [sys.executable, "-c", OFFLINE]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # Verifying fails, as these weights are random; that it does not reach out is what counts.
    codes = [line for line in result.stderr.splitlines() if line.isdecimal()]
    assert codes == ["0", "0", "1", "0", "0"]


def test_paths_are_for_scripts(home: Home) -> None:
    assert home.run("path", "tiny") == 0
    assert (Path(home.out.strip()) / "model.json").exists()
    assert home.run("path", NAME) == 78
    assert f"`streamasr models pull {NAME}` gets it" in home.err
    assert home.out == ""


def test_removing_an_unknown_model_is_an_error(home: Home) -> None:
    assert home.run("remove", "mine", "tiny", "../x") == 78
    assert "'mine' is not installed" in home.err
    assert "tiny is embedded and cannot be removed" in home.err
    assert "'../x' cannot be a model's name" in home.err


def test_removing_links_to_files_that_stay_frees_nothing(home: Home, checkpoint: Path) -> None:
    pair = write_ggml_org(checkpoint, home.path / "ggufs")
    assert home.run("import", str(pair), "--name", "linked") == 0
    decoder = home.models / "linked/decoder.gguf"
    made = sum(path.stat().st_size for path in decoder.parent.iterdir() if path != decoder)
    kept = decoder.stat().st_size
    assert decoder.stat().st_nlink == 2
    assert home.run("remove", "linked") == 0
    assert home.out == (
        f"linked is removed, which frees {size_text(made)}; {size_text(kept)} stay, as those files "
        "are in another place too.\n"
    )


def test_the_directory_of_models_can_be_set(home: Home, checkpoint: Path, tmp_path: Path) -> None:
    home.configure(f'[storage]\nmodels = "{tmp_path / "elsewhere"}"')
    assert home.run("import", str(checkpoint)) == 0
    assert (tmp_path / "elsewhere/small/model.json").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["pull"], ["import"], ["fetch"], ["pull", "x", "--encoder", "int4"]]
)
def test_a_wrong_use_ends_with_2(arguments: list[str], home: Home) -> None:
    assert home.run(*arguments) == 2


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (11_900_000, "11.9 MB"), (2 * 10**9, "2.0 GB")],
)
def test_sizes_are_shown_as_people_read_them(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(780_000_000, "0.8B"), (1_700_000_000, "1.7B"), (5_300_000, "5M"), (300_000, "0.3M")],
)
def test_weights_are_counted_as_models_are_named(number: int, text: str) -> None:
    assert count_text(number) == text


def test_licences_are_written_as_spdx_does() -> None:
    assert spdx("apache-2.0") == "Apache-2.0"
    assert spdx("mine") == "mine"
    assert spdx("") == ""
