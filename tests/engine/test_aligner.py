"""The aligner's process: when it is there, how it gives way, what is known of it beforehand."""

import asyncio
import os
import queue
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamasr import client
from streamasr.core.errors import ModelError, WorkerError
from streamasr.core.events import Aligned, Answer
from streamasr.core.orders import Align, Pass, Rank, Recognise
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.engine.aligner import (
    NICENESS,
    AlignerWorker,
    aligner_worker,
    build_aligner,
    give_way,
)
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine, aligner_config
from streamasr.engine.worker import Timeouts, Worker
from streamasr.engine.worker_config import AlignerConfig
from streamasr.models import tiny
from streamasr.models.qwen3.family import load_aligner
from streamasr.protocols import v1
from tests.support import children
from tests.support.daemons import RunningDaemon
from tests.support.errors import raises
from tests.support.fakes import pcm, talk
from tests.support.processes import wait_gone

TIMEOUT_S = 60
SAMPLES = talk(1)
ORDER = Align(1, Samples(0), SAMPLES, "hello", "English")


@pytest.fixture
def directory(bundle: Path) -> Path:
    return bundle / "aligner"


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    """An aligner's bundle that a test may break."""
    return Path(shutil.copytree(directory, tmp_path / "model" / "aligner"))


def worker_of(directory: Path, idle_s: float | None) -> AlignerWorker:
    return aligner_worker(AlignerConfig(directory), Timeouts(), lambda *_: None, idle_s)


def ask(worker: AlignerWorker) -> tuple[Word, ...]:
    return worker.submit(ORDER).result(TIMEOUT_S).words


# Whether it gives way


def test_the_process_and_its_threads_give_way() -> None:
    with Worker("polite", children.build_polite, None) as worker:
        found = worker.submit(children.priorities).result(TIMEOUT_S)
    assert found == {(NICENESS, os.SCHED_BATCH)}
    assert os.nice(0) < NICENESS


def test_a_system_that_refuses_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    give_way()


# What is known beforehand


@pytest.mark.parametrize(
    "name",
    [
        "model.json",
        "decoder.gguf",
        "classifier.npy",
        "encoder_frontend.onnx",
        "encoder_backend.onnx",
    ],
)
def test_a_file_that_is_missing_is_known_before_it_is_needed(copy: Path, name: str) -> None:
    worker_of(copy, 1)
    (copy / name).unlink()
    with pytest.raises(ModelError) as caught:
        worker_of(copy, 1)
    assert caught.value.code in {"model_file_missing", "not_a_bundle"}
    assert name in str(caught.value)


def test_a_recogniser_is_refused_as_an_aligner(bundle: Path) -> None:
    with raises(ModelError, "wrong_model_role"):
        worker_of(bundle, 1)


# Where it runs


def test_it_runs_on_the_cpu_unless_it_is_asked_for_otherwise(bundle: Path) -> None:
    hardware = Hardware(providers=("CUDAExecutionProvider",), gpu_layers=4, gpu="CUDA0")
    directory = bundle / "aligner"
    asked = EngineConfig(bundle, directory, hardware)
    expected = AlignerConfig(directory, hardware.stage_threads.aligner)
    assert aligner_config(asked, directory) == expected
    asked = replace(asked, hardware=replace(hardware, aligner_gpu=True))
    config = aligner_config(asked, directory)
    assert (config.providers, config.gpu_layers, config.gpu) == (hardware.providers, 4, "CUDA0")


def test_a_gpu_that_it_cannot_have_is_warned_of_and_its_words_are_the_same(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamasr.engine.aligner.give_way", lambda: None)  # these are the tests
    plain = build_aligner(load_aligner, None, AlignerConfig(directory))
    assert plain.warnings == ()
    config = AlignerConfig(directory, 1, ("CUDAExecutionProvider",), gpu_layers=-1, gpu=3)
    elsewhere = build_aligner(load_aligner, None, config)
    assert [warning[:16] for warning in elsewhere.warnings] == [
        "no GPU matches 3",
        "this build of on",
    ]
    assert elsewhere.answer(ORDER) == plain.answer(ORDER)


# When it is there


def test_it_gives_the_same_words_after_it_was_unloaded(directory: Path) -> None:
    with worker_of(directory, 0) as worker:
        first = ask(worker)
        assert first
        assert ask(worker) == first
        assert worker.restarts == 0


async def dictate(url: str) -> list[v1.Words]:
    """Say something; its words."""
    async with asyncio.timeout(4 * TIMEOUT_S), client.connect(url) as stream:
        await stream.send(pcm(SAMPLES))
        await stream.stop()
        return [event async for event in stream if isinstance(event, v1.Words)]


async def test_a_daemon_without_speech_has_no_aligner(tmp_path: Path) -> None:
    settings = "[model]\naligner_idle_s = 1\n"
    with RunningDaemon(tmp_path, "--no-mic", settings=settings) as daemon:
        daemon.wait_for("is loaded")
        assert set(daemon.children()) == {"encoder"}
        for _ in range(2):
            [words] = await dictate(daemon.url)
            assert words.method == "aligned"
            gone = daemon.children()["aligner"]
            daemon.wait_for("aligner ends after 1 s without work")
            wait_gone(gone)
        assert daemon.stop() == 0


def test_a_daemon_does_not_start_without_a_file_of_it(copy: Path, tmp_path: Path) -> None:
    embedded = [path for path in tiny.BUNDLE.iterdir() if path.is_file() and path.suffix != ".py"]
    for path in embedded:
        shutil.copy(path, copy.parent)
    (copy / "decoder.gguf").unlink()
    daemon = RunningDaemon(tmp_path, "--no-mic", "--model", str(copy.parent))
    with pytest.raises(AssertionError, match=r"decoder\.gguf does not exist"), daemon:
        pass
    assert daemon.process.wait(TIMEOUT_S) == 78
    assert len(daemon.log) == 1


@pytest.fixture
def engine(bundle: Path) -> Iterator[LocalEngine]:
    with LocalEngine(
        EngineConfig(bundle, bundle / "aligner", Hardware(threads=1), aligner_idle_s=3600)
    ) as running:
        yield running


Answers = queue.SimpleQueue[Answer]


def test_an_engine_is_ready_without_it_and_wakes_it_when_somebody_speaks(
    engine: LocalEngine,
) -> None:
    assert engine.aligner
    assert engine.is_ready
    assert engine.pids["aligner"] is None
    answers = Answers()
    channel = engine.channel(answers.put)
    channel.perform(Recognise(Pass(1, 1, Rank.PARTIAL), SAMPLES))
    engine.aligner.wait_ready()
    pid = engine.pids["aligner"]
    assert pid is not None
    answers.get(timeout=TIMEOUT_S)
    channel.perform(ORDER)
    aligned = answers.get(timeout=TIMEOUT_S)
    assert isinstance(aligned, Aligned)
    assert aligned.method == "aligned"
    assert engine.pids["aligner"] == pid
    engine.stop()
    wait_gone(pid)


def test_words_are_spread_where_it_cannot_be_loaded_and_that_is_said_once(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ignored = shutil.ignore_patterns("*.py", "__pycache__")
    model = Path(shutil.copytree(bundle, tmp_path / "model", ignore=ignored))
    classifier = model / "aligner" / "classifier.npy"
    classifier.write_bytes(bytes(classifier.stat().st_size))
    config = EngineConfig(model, model / "aligner", Hardware(threads=1))
    troubles: list[tuple[str, str]] = []
    with LocalEngine(
        replace(config, aligner_idle_s=1), on_trouble=lambda *told: troubles.append(told)
    ) as engine:
        answers = Answers()
        channel = engine.channel(answers.put)
        for _ in range(3):
            channel.perform(ORDER)
            answer = answers.get(timeout=TIMEOUT_S)
            assert isinstance(answer, Aligned)
            assert (answer.method, len(answer.words)) == ("spread", 1)
        assert engine.is_ready
    [(code, sentence)] = troubles
    assert code == "worker_lost"
    assert "classifier.npy" in sentence
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1
    with raises(ModelError, "classifier_unreadable"), LocalEngine(config):
        pass


def test_orders_to_an_aligner_that_was_stopped_fail(directory: Path) -> None:
    worker = worker_of(directory, 1)
    worker.start()
    worker.stop()
    with pytest.raises(WorkerError):
        ask(worker)
