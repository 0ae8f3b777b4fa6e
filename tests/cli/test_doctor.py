"""`streamasr doctor`, on this machine as it is and on parts of it that are broken."""

import json
import os
import shutil
import socket
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from streamasr.cli.doctor import run, show
from streamasr.doctor import machine
from streamasr.doctor.finding import Finding, Level
from streamasr.doctor.machine import Native, ask_native, memory_free, probe_native
from streamasr.importing.atomic import atomic_directory
from tests.support.daemons import RunningDaemon, free_port
from tests.support.embedded import EmbeddedModel
from tests.support.punctuation import write_punctuation


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("STREAMASR_CONFIG", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The native libraries are asked in this process; in another one they say the same."""
    if "slow" not in request.node.name:
        monkeypatch.setattr(machine, "ask_native", lambda probe: probe())


@pytest.fixture
def port() -> int:
    return free_port()


def settings(home: Path, port: int, text: str = "") -> Path:
    path = home / "settings.toml"
    path.write_text(f"[server]\nport = {port}\n[microphone]\nenabled = false\n{text}")
    return path


def examined(
    capsys: pytest.CaptureFixture[str], config: Path | None, **given: Any
) -> tuple[int, dict[str, dict[str, Any]]]:
    code = run(Namespace(**{"config": config, "deep": False, "json": True, **given}))
    findings = json.loads(capsys.readouterr().out)["findings"]
    return code, {finding["subject"]: finding for finding in findings}


def test_this_machine_has_no_problem(
    capsys: pytest.CaptureFixture[str], home: Path, port: int, embedded: EmbeddedModel
) -> None:
    path = settings(home, port, f'[model]\nname = "{embedded.name}"\n')
    code, found = examined(capsys, path)
    assert [finding for finding in found.values() if finding["level"] == "problem"] == []
    assert code == 0
    for subject in ("python", "processor", "cores", "llama.cpp", "onnxruntime", "memory", "state"):
        assert found[subject]["level"] == "ok", found[subject]
    assert found["model"]["level"] == "warning"  # an embedded one
    assert ("its own aligner" in found["word times"]["text"]) == bool(embedded.aligner)
    assert found["word times"]["level"] == "ok"
    threads = found["cores"]["text"].partition("threads: ")[2]
    assert ("decoder" in threads) == ("decoder" in found["llama.cpp"]["text"])
    assert ("decoder" in threads) == embedded.has_decoder
    assert ("aligner" in threads) == bool(embedded.aligner)
    assert ("punctuation" in found) == (not embedded.recognition.traits.punctuates)
    assert found["server"]["text"] == f"127.0.0.1:{port} is free; no daemon is running there"
    assert found["configuration"]["text"] == str(home / "settings.toml")


def test_the_model_that_punctuates_is_named(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    marks = write_punctuation(home / "marks")
    outcomes = []
    for line in (f'punctuation = "{marks}"', 'punctuation = "none"', ""):
        path = settings(home, port, f'[model]\nname = "tiny-paraformer"\n{line}\n')
        code, found = examined(capsys, path)
        assert code == 0
        outcomes.append((found["punctuation"]["level"], found["punctuation"]["text"]))
    assert outcomes == [
        ("ok", "by marks"),
        ("ok", "switched off"),
        ("warning", "tiny-paraformer writes none, and no punctuation model is installed"),
    ]
    (marks / "model.onnx").unlink()
    path = settings(home, port, f'[model]\nname = "tiny-paraformer"\npunctuation = "{marks}"\n')
    code, found = examined(capsys, path)
    assert code == 1
    assert "model.onnx does not exist" in found["model"]["text"]


def test_hashes_are_compared_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], home: Path, port: int, bundle: Path
) -> None:
    _, found = examined(capsys, settings(home, port), deep=True)
    assert "5 hashes as noted" in found["model"]["text"]
    ignored = shutil.ignore_patterns("*.py", "__pycache__", "demo*")
    model = Path(shutil.copytree(bundle, home / "model", ignore=ignored))
    with (model / "decoder.gguf").open("r+b") as file:
        file.write(b"XXXX")
    path = settings(home, port, f'[model]\nname = "{model}"\n')
    assert examined(capsys, path)[0] == 0
    code, found = examined(capsys, path, deep=True)
    assert code == 1
    assert "decoder.gguf has changed since it was stored" in found["model"]["text"]


def test_missing_models_and_hardware_are_found(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    model = (
        '[model]\nname = "qwen3-asr-9b"\ngpu = 3\nproviders = ["CUDAExecutionProvider", "Abacus"]'
    )
    code, found = examined(capsys, settings(home, port, model))
    assert code == 1
    assert found["model"]["level"] == "problem"
    assert "qwen3-asr-9b" in found["model"]["text"]
    assert found["llama.cpp"]["level"] == "warning"
    assert found["llama.cpp"]["text"].startswith("no GPU matches 3")
    assert "streamasr doctor" not in found["llama.cpp"]["text"]  # it is what says this
    assert found["onnxruntime"]["level"] in {"problem", "warning"}


def test_a_source_is_not_imported_by_the_examination(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    source = home / "download" / "model.gguf"
    source.parent.mkdir()
    source.write_bytes(b"GGUF")
    code, found = examined(capsys, settings(home, port, f'[model]\nname = "{source}"'))
    assert code == 1
    assert "has not been imported yet" in found["model"]["text"]


def test_settings_that_are_wrong_are_a_problem_and_the_rest_is_examined(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    code, found = examined(capsys, settings(home, port, "[log]\nlevel = 3"))
    assert code == 1
    assert found["configuration"]["level"] == "problem"
    assert "log.level" in found["configuration"]["text"]
    assert "memory" in found


def test_a_person_sees_a_table(capsys: pytest.CaptureFixture[str], home: Path, port: int) -> None:
    options = Namespace(config=settings(home, port), deep=False, json=False)
    assert run(options) == 0
    shown = capsys.readouterr().out
    assert shown.count("\nok ") > 8
    assert "→ `streamasr models pull" in shown
    assert "no problems, 1 warning" in shown


def test_in_a_pipe_no_line_is_wrapped_or_padded(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/a/very/long/path" * 20
    show(
        [Finding("model", Level.WARNING, path, f"remove {path}"), Finding("x", Level.OK, "y")],
        Console(highlight=False),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["warning", "model", path]
    assert lines[1].strip() == f"→ remove {path}"
    assert all(line == line.rstrip() for line in lines)
    assert len(lines) == 4


def test_models_that_cannot_be_written_are_a_problem(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    (home / "file").touch()
    code, found = examined(capsys, settings(home, port, f'[storage]\nmodels = "{home}/file/x"'))
    assert code == 1
    assert found["models"]["level"] == "problem"
    assert "is not a directory" in found["models"]["text"]


def test_a_killed_import_is_found_and_a_running_one_is_not(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    left = home / "models/.a.1234.streamasr-partial"
    left.mkdir(parents=True)
    (left / "decoder.gguf").write_bytes(bytes(2_000_000))
    path = settings(home, port, f'[storage]\nmodels = "{home}/models"')
    _, found = examined(capsys, path)
    assert found["leftovers"]["level"] == "warning"
    assert "left 2.0 MB in" in found["leftovers"]["text"]
    with atomic_directory(home / "models/b"):
        _, found = examined(capsys, path)
        assert "leftovers" not in found
    assert not left.exists()


def test_findings_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\x9b\rc\nd"
    show([Finding(evil, Level.OK, evil, evil)], Console(width=100))
    shown = capsys.readouterr().out
    assert shown.count("a\ufffd[2Jb\ufffd c d") == 3
    assert {letter for letter in shown if not letter.isprintable()} == {"\n"}


def test_markup_in_findings_is_shown_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    show([Finding("a [b]", Level.PROBLEM, "/x/[red]y", "[do] it")], Console(width=100))
    shown = capsys.readouterr().out
    for part in ("a [b]", "/x/[red]y", "[do] it"):
        assert part in shown


# Native libraries


def crash() -> Native:
    os.abort()


def test_native_libraries_are_asked_in_a_slow_but_safe_way() -> None:
    asked = ask_native(probe_native)
    assert asked.gpus == ()
    assert asked.llama_trouble is None
    assert "CPUExecutionProvider" in asked.providers
    assert asked == probe_native()
    assert "crashes the process that loads it" in str(ask_native(crash).llama_trouble)


# The daemon


def test_a_running_daemon_is_recognised(
    capsys: pytest.CaptureFixture[str], home: Path, bundle: Path
) -> None:
    with RunningDaemon(home, "--no-mic") as daemon:
        port = daemon.port
        _, found = examined(capsys, settings(home, port))
    assert found["server"] == {
        "subject": "server",
        "level": "ok",
        "text": f"a daemon answers at 127.0.0.1:{port}",
        "advice": None,
        "code": None,
    }


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """Another program that listens and sends every client away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_send_away, args=(listener,), daemon=True).start()
        yield listener


def _send_away(listener: socket.socket) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.close()
    except OSError:
        pass  # the test is over


def test_a_port_that_another_program_has_is_a_problem(
    capsys: pytest.CaptureFixture[str], home: Path, stranger: socket.socket
) -> None:
    code, found = examined(capsys, settings(home, stranger.getsockname()[1]))
    assert code == 1
    assert "used by another program" in found["server"]["text"]


def test_a_socket_that_is_not_there_is_free(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    path = home / "settings.toml"
    path.write_text(f'[server]\nsocket = "{home}/sock"\n[microphone]\nenabled = false')
    _, found = examined(capsys, path)
    assert found["server"]["text"].startswith(f"{home}/sock is free")


def test_a_state_that_is_a_file_is_a_problem(
    capsys: pytest.CaptureFixture[str], home: Path, port: int
) -> None:
    (home / "state").touch()
    path = settings(home, port, f'[storage]\ndirectory = "{home}/state"')
    code, found = examined(capsys, path)
    assert code == 1
    assert "is not a directory" in found["state"]["text"]


# Memory


def test_memory_is_what_a_container_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:    2000 kB\n")
    assert memory_free(meminfo, tmp_path) == 2000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_free(meminfo, tmp_path) == 2000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000\n")
    assert memory_free(meminfo, tmp_path) == 150_000
    (tmp_path / "memory.current").write_text("2000000\n")
    assert memory_free(meminfo, tmp_path) == 0
    assert memory_free(tmp_path / "none", tmp_path) == 0
