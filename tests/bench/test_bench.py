"""The command that measures, from its arguments to real daemons."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamasr.bench import report
from streamasr.bench.daemon import ScratchDaemon, quoted, settings_for
from streamasr.bench.file import FileResult
from streamasr.bench.latency import Run
from streamasr.bench.machine import SCRIPTED, model_facts, this_machine
from streamasr.bench.plot import check_plot, cost_of_update, edges_of_work, thinned
from streamasr.bench.recording import Recording
from streamasr.bench.soak import memory_growth
from streamasr.bench.speech import load_speech
from streamasr.bench.telemetry import Look, consumption, read_metrics
from streamasr.cli import main
from streamasr.cli.bench import run
from streamasr.config.file import load_config
from streamasr.core.errors import AudioError, ConfigError, ModelError
from streamasr.core.model_facts import ModelFacts
from streamasr.core.processes import Usage, usage
from streamasr.models import tiny
from streamasr.protocols import v1
from streamasr.server.metrics import Metrics, Readings
from tests.support.embedded import EmbeddedModel
from tests.support.errors import raises
from tests.support.fakes import talk, write_wav
from tests.support.processes import wait_gone
from tests.support.punctuation import write_punctuation


def parse(*arguments: str) -> argparse.Namespace:
    return main.parse(["bench", *arguments])


def look(at: float, work: float = 0.0, **used: Usage) -> Look:
    return Look(at, {"encode": work}, 0.0, used)


# Arguments


def test_every_argument_has_a_default() -> None:
    options = parse("latency")
    assert (options.files, options.pace, options.sessions, options.pause) == ([], 1.0, 1, 1.0)
    assert parse("update").seconds == (5.0, 10.0, 20.0, 40.0)
    assert parse("throughput").sessions == (1, 2, 4, 8)
    assert parse("soak").minutes == 30.0


def test_lists_are_divided_by_commas() -> None:
    assert parse("update", "--seconds", "2,7.5").seconds == (2.0, 7.5)
    assert parse("throughput", "--sessions", "3").sessions == (3,)


@pytest.mark.parametrize(
    "arguments",
    [
        ["latency", "--pace", "-1"],
        ["latency", "--pace", "inf"],
        ["latency", "--sessions", "0"],
        ["update", "--seconds", "5,0"],
        ["update", "--seconds", "five"],
        ["update", "--encoder-window", "3"],
        ["throughput", "--sessions", "1,1.5"],
        [],
    ],
)
def test_impossible_arguments_are_refused(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(*arguments)
    assert refused.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_arguments_cost_nothing_to_read() -> None:
    script = """
import sys
before = set(sys.modules)
import streamasr.cli.bench
print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "{'streamasr'}"


# Audio


def test_files_follow_each_other_with_pauses_again_and_again(tmp_path: Path) -> None:
    first = write_wav(tmp_path / "a.wav", np.full(16_000, 0.5, np.float32))
    second = write_wav(tmp_path / "b.wav", np.full(8_000, -0.5, np.float32))
    speech = load_speech([first, second], pause_s=0.5, seconds=6.0)
    assert (len(speech.once), speech.duration) == (40_000, 6.0)
    played = np.frombuffer(speech.pcm(0, speech.n_samples), "<i2")
    assert len(played) == 96_000
    signs = np.sign(np.concatenate([played[:1], played[1:][np.diff(played) != 0]]))
    assert signs.tolist() == [1, 0, -1, 0, 1, 0, -1, 0, 1]


def test_a_last_block_ends_where_the_audio_does(tmp_path: Path) -> None:
    speech = load_speech([write_wav(tmp_path / "a.wav", talk(0.1, pause=0))], pause_s=0.0)
    assert len(speech.pcm(1_500, 9_999)) == 2 * 100


def test_audio_of_silence_is_refused(tmp_path: Path) -> None:
    silence = write_wav(tmp_path / "silence.wav", np.zeros(16_000, np.float32))
    with raises(AudioError, "audio_silent"):
        load_speech([silence], pause_s=1.0)


# What a daemon uses


def test_metrics_are_read_as_the_daemon_writes_them() -> None:
    readings = Readings(
        model=ModelFacts("tiny", "qwen3-asr", ()),
        sessions=lambda: 1,
        connections=lambda: 1,
        lag_s=lambda: 2.5,
        restarts=dict[str, int],
        queues=dict[str, int],
    )
    metrics = Metrics(readings)
    metrics.stage_worked("encode", 0.25)
    metrics.stage_worked("decode", 1.5)
    work, lag = read_metrics(metrics.text().decode())
    assert (work, lag) == ({"encode": 0.25, "decode": 1.5}, 2.5)


def test_consumption_is_what_came_in_between() -> None:
    mib = 2**20
    looks = [
        look(0, 1.0, main=Usage(5.0, 10 * mib, 20 * mib)),
        look(1, 1.5, main=Usage(6.0, 30 * mib, 30 * mib), aligner=Usage(0.5, mib, mib)),
        look(2, 2.0, main=Usage(6.5, 20 * mib, 30 * mib), aligner=Usage(0.75, mib, 2 * mib)),
        look(3, 2.5, main=Usage(7.0, 20 * mib, 30 * mib), aligner=Usage(0.25, mib, mib)),
    ]
    used = consumption(looks)
    assert used.work == {"encode": 1.5}
    assert used.cpu == {"main": 2.0, "aligner": 1.0}  # the last aligner is a new process
    assert used.memory == {"main": 30 * mib, "aligner": mib}
    assert used.peak == {"main": 30 * mib, "aligner": 2 * mib}
    assert list(used.memory) == ["main", "aligner"]


def test_our_own_process_has_time_and_memory() -> None:
    used = usage(os.getpid())
    assert used
    assert used.cpu_s > 0
    assert used.memory > 2**20
    assert used.peak > 2**20


def test_a_process_that_is_gone_has_none() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert usage(process.pid) is None


def test_memory_grows_from_the_second_quarter_to_the_last() -> None:
    looks = [look(at, main=Usage(0.0, memory, 0)) for at, memory in enumerate((1, 100, 105, 110))]
    growth = memory_growth(looks)
    assert (growth.second_quarter, growth.last_quarter) == (100, 110)
    assert growth.share == pytest.approx(0.1)


# Pictures


def test_a_plot_has_a_known_format() -> None:
    with raises(ConfigError, "unknown_format"):
        check_plot(Path("lag.gif"))


def test_without_matplotlib_a_plot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with raises(ConfigError, "package_missing"):
        check_plot(Path("lag.png"))


def test_looks_are_thinned_evenly_with_both_ends() -> None:
    looks = [look(float(at)) for at in range(101)]
    assert [one.at for one in thinned(looks, 4)] == [0, 25, 50, 75, 100]
    assert thinned(looks[:3], 4) == looks[:3]


def test_an_update_costs_its_share_of_the_work() -> None:
    heard = Recording()
    partial = v1.Partial(segment=1, text="", stable=0, start=0, end=1, language=None)
    for at in (0.5, 1.5, 2.0, 2.5):
        heard.note_received(partial, at)
    heard.note_received(v1.Speech(segment=1, start=0), 1.7)
    before, after = look(1.0, 1.0), look(2.0, 1.5)
    assert cost_of_update([heard], before, after, "encode") == pytest.approx(250.0)
    assert cost_of_update([], before, after, "encode") == 0.0
    edges = edges_of_work([heard], [look(at) for at in (0.0, 0.4, 0.8, 1.2, 1.6, 9.0)])
    assert [one.at for one in edges] == [0.0, 0.8, 1.6, 9.0]


# Machine, model, report


def test_the_machine_and_its_software_are_named() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert {"streamasr", "llama-cpp-python", "onnxruntime"} <= set(machine.packages)


def test_a_scripted_model_is_named_as_such(tmp_path: Path) -> None:
    facts = json.loads((tiny.BUNDLE / "model.json").read_text("utf-8"))
    (tmp_path / "model.json").write_text(json.dumps(facts | {SCRIPTED: 4}), "utf-8")
    model = model_facts(tmp_path)
    assert (model.scripted, model.aligner_mib) == (4.0, None)
    setting = report.Setting("update", this_machine(), model, {})
    assert "its text follows a script, 4 tokens" in "\n".join(report.describe(setting))


def test_a_real_model_is_not_named_as_scripted() -> None:
    model = model_facts(tiny.BUNDLE)
    assert model.scripted is None
    assert model.aligner_mib
    assert (model.family, list(model.weights_mib)) == ("qwen3-asr", ["decoder", "encoder"])


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with raises(ModelError, "not_a_bundle"):
        model_facts(tmp_path)


def test_settings_are_what_a_daemon_reads(tmp_path: Path) -> None:
    name = str(tmp_path / 'a "model"')
    path = tmp_path / "config.toml"
    path.write_text(
        settings_for(model=name, threads=3, encoder_window_s=2, n_sessions=9)
        + f"[storage]\ndirectory = {quoted(tmp_path)}\n",
        "utf-8",
    )
    config = load_config(path)
    assert (config.model.name, config.model.threads) == (name, 3)
    assert (config.model.encoder_window_s, config.server.max_sessions) == (2, 10)
    path.write_text(settings_for(model="tiny"), "utf-8")
    assert load_config(path).model.threads is None


def test_an_empty_file_has_no_factor() -> None:
    assert FileResult("a.wav", 0.0, 1.0, 0, {}, {}).rtf is None


# For real


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_wav(tmp_path_factory.mktemp("clips") / "talk.wav", talk(1, 1.5)))


def bench(
    capsys: pytest.CaptureFixture[str], *arguments: str, model: str = tiny.NAME
) -> dict[str, Any]:
    assert run(parse(*arguments, "--model", model, "--threads", "1", "--json")) == 0
    log: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert log["setting"]["model"]["name"] == model
    return log


def test_latency_is_measured_through_the_socket(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, embedded: EmbeddedModel
) -> None:
    picture = tmp_path / "lag.svg"
    log = bench(
        capsys,
        "latency",
        "--seconds",
        "8",
        "--pace",
        "4",
        "--sessions",
        "2",
        "--plot",
        str(picture),
        model=embedded.name,
    )["result"]
    summary, used = log["summary"], log["consumption"]
    assert (summary["sessions"], summary["audio_s"]) == (2, 16.0)
    assert summary["commit"]["n"] > 0
    assert summary["final_after_endpoint"]["n"] >= 2
    assert summary["stability"]["violations"] == 0
    assert {"main", "encoder"} <= set(used["cpu"])
    assert used["work"]["encode"] > 0
    assert "<svg" in picture.read_text("utf-8")


def test_a_table_shows_the_measurement(
    capsys: pytest.CaptureFixture[str], clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(parse("soak", "--minutes", "0.05", "--pace", "0", clip)) in (0, 1)
    shown = capsys.readouterr().out
    for what in ("model tiny", "audio talk.wav", "final after the endpoint", "memory, second"):
        assert what in shown


def test_updates_are_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, embedded: EmbeddedModel
) -> None:
    picture = tmp_path / "update.png"
    arguments = (
        "update",
        "--seconds",
        "1",
        "--final",
        "1",
        "--repeat",
        "1",
        "--plot",
        str(picture),
    )
    log = bench(capsys, *arguments, model=embedded.name)["result"]
    kinds = [row["kind"] for row in log["rows"]]
    assert kinds == ["incremental", "scratch", "final", "final_scratch"]
    assert all(row["cost"]["encode"] > 0 for row in log["rows"])
    assert log["ratios"]["scratch:incremental@1"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_throughput_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("throughput", "--sessions", "1,2", "--seconds", "0", "--repeat", "1")
    log = bench(capsys, *arguments)["result"]
    assert [row["sessions"] for row in log["decoding"]] == [1, 2]
    assert log["live"] == []


def test_a_file_is_measured(
    capsys: pytest.CaptureFixture[str], clip: str, embedded: EmbeddedModel
) -> None:
    [log] = bench(capsys, "file", clip, model=embedded.name)["result"]
    assert (log["file"], log["audio_s"]) == ("talk.wav", pytest.approx(5.5))
    assert log["work"]["encode"] > 0
    assert set(log["cpu"]) >= {"main", "encoder"}
    used = {stage for stage, seconds in log["work"].items() if seconds}
    assert used <= {*embedded.stages}


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_punctuation(tmp_path_factory.mktemp("marks") / "marks"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("file",),
        ("latency", "--seconds", "5", "--pace", "0"),
        ("update", "--seconds", "1", "--final", "3", "--repeat", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_punctuation_is_measured_with_the_rest(
    capsys: pytest.CaptureFixture[str], marks: str, arguments: tuple[str, ...]
) -> None:
    log = bench(capsys, *arguments, "--punctuation", marks, model="tiny-paraformer")
    assert log["setting"]["settings"]["punctuation"] == "marks"
    result = log["result"]
    if arguments[0] == "update":
        assert any(row["cost"]["punctuate"] > 0 for row in result["rows"])
        return
    used = result[0] if arguments[0] == "file" else result["consumption"]
    assert set(used["work"]) == {"encode", "punctuate"}
    assert set(used["cpu"]) == {"main", "encoder", "punctuator"}


def test_a_daemon_for_measurements_leaves_nothing() -> None:
    with ScratchDaemon(settings_for(model="tiny", threads=1)) as daemon:
        processes = dict(daemon.processes)
        assert next(iter(processes)) == "main"
        assert daemon.url.startswith("ws://127.0.0.1:")
    for process in processes.values():
        wait_gone(process)


def test_a_daemon_that_does_not_start_reports_its_log() -> None:
    with raises(ModelError, "daemon_not_started"):
        ScratchDaemon(settings_for(model="nonesuch")).__enter__()


def test_a_run_without_partials_is_drawn(tmp_path: Path) -> None:
    from streamasr.bench.delays import Endpointing
    from streamasr.bench.plot import plot_run

    run = Run([Recording()], [look(0.0), look(1.0)], 0.0)
    plot_run(run, Endpointing(0.3, 0.6, 0.2, 24.0), "nothing", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
