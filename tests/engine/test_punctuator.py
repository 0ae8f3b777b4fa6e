"""The punctuation process: its answers, its deaths, and engines with and without it."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamasr.core.errors import ModelError
from streamasr.core.events import Punctuated
from streamasr.core.messages import Final, Partial, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import AbandonPass, Pass, Punctuate, Rank
from streamasr.core.punctuation import Mark, Marks, marked_text
from streamasr.core.transcript import join_words
from streamasr.core.units import Float32Array
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine
from streamasr.engine.worker import Timeouts
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.onnx import OnnxOptions
from streamasr.pipeline.transcribe import FileSettings, transcribe
from tests.support import toy_family
from tests.support.errors import raises
from tests.support.fakes import FakeSource, talk
from tests.support.marking import unmarked
from tests.support.punctuation import write_punctuation
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with toy_family.registered():
        yield toy_family.write_bundle(tmp_path_factory.mktemp("toy") / "loudness")


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A punctuation model with random weights that knows the words of the toy family."""
    words = [*toy_family.WORDS["English"], *toy_family.WORDS["Chinese"]]
    return write_punctuation(tmp_path_factory.mktemp("punc") / "marks", words)


@pytest.fixture(scope="module")
def engine(model: Path, marks: Path) -> Iterator[LocalEngine]:
    config = EngineConfig(model, hardware=Hardware(threads=1), punctuation=marks)
    with LocalEngine(config) as engine:
        yield engine


@pytest.fixture(scope="module")
def speech() -> Float32Array:
    samples = talk(7.0, 4.0)
    return samples * np.geomspace(0.05, 4, len(samples), dtype=np.float32)


def finals(
    engine: LocalEngine, speech: Float32Array, settings: FileSettings | None = None
) -> list[Final]:
    messages = transcribe(engine, FakeSource(speech), settings or FileSettings())
    return [message for message in messages if isinstance(message, Final)]


def alone(marks: Path) -> CTPunctuator:
    return CTPunctuator.from_bundle(open_bundle(marks), OnnxOptions(threads=1))


def marked(marks: Path, plain: str) -> str:
    """The text of a segment that is punctuated at once."""
    found = alone(marks).punctuate(plain)
    return marked_text(plain, [*found.each[:-1], Mark(found.each[-1].end, found.closing)])


def ask(engine: LocalEngine, text: str, language: str | None = None) -> Marks:
    answers: list[object] = []
    channel = engine.channel(answers.append)
    of = Pass(1, 1, Rank.FINAL)
    channel.perform(Punctuate(of, text, language))
    wait_until(lambda: bool(answers))
    channel.close()
    [answer] = answers
    assert isinstance(answer, Punctuated)
    assert answer.of == of
    return answer.marks


def test_texts_of_a_family_without_punctuation_get_it(
    engine: LocalEngine, model: Path, marks: Path, speech: Float32Array
) -> None:
    with LocalEngine(EngineConfig(model)) as without:
        plain = finals(without, speech)
    found = finals(engine, speech)
    assert [final.text for final in found] == [marked(marks, final.text) for final in plain]
    assert any(unmarked(final.text) != final.text.lower() for final in found)


def test_partials_words_and_finals_keep_in_step(engine: LocalEngine, speech: Float32Array) -> None:
    settings = FileSettings(SessionOptions(partials=True), partial_interval_s=0.5)
    stable: dict[int, str] = {}
    texts: dict[int, str] = {}
    for message in transcribe(engine, FakeSource(speech), settings):
        match message:
            case Partial(segment=segment, text=text, stable=n_stable):
                assert text.startswith(stable.get(segment, ""))
                stable[segment] = text[:n_stable]
            case Final(segment=segment, text=text):
                assert text.startswith(stable[segment])
                texts[segment] = text
            case Words(segment=segment, words=words):
                assert join_words(words) == texts[segment]
            case _:
                pass
    assert len(texts) == 2


def test_a_session_that_wants_no_punctuation_gets_none(
    engine: LocalEngine, speech: Float32Array
) -> None:
    found = finals(engine, speech, FileSettings(SessionOptions(punctuation=False)))
    assert all(unmarked(final.text) == final.text for final in found)


def test_its_process_is_known_by_name(engine: LocalEngine) -> None:
    assert list(engine.pids) == ["encoder", "punctuator"]
    assert engine.restarts.keys() == engine.pids.keys()
    assert engine.queue_lengths() == {"encoder": 0, "punctuator": 0}
    title = Path(f"/proc/{engine.pids['punctuator']}/cmdline").read_text().rstrip("\0 ")
    assert title == "streamasr: punctuator"


def test_a_language_that_it_does_not_know_is_not_punctuated(engine: LocalEngine) -> None:
    assert ask(engine, "loud soft", "German") == Marks()
    assert len(ask(engine, "loud soft", "English").each) == 2
    assert len(ask(engine, "响 轻", None).each) == 2


def test_an_abandoned_order_is_answered_once(engine: LocalEngine) -> None:
    answers: list[object] = []
    channel = engine.channel(answers.append)
    of = Pass(1, 1, Rank.PARTIAL)
    channel.perform(Punctuate(of, "loud", None))
    channel.perform(AbandonPass(of))
    wait_until(lambda: bool(answers))
    assert len(ask(engine, "loud").each) == 1  # what was asked before is done
    assert len(answers) == 1
    channel.close()


def test_a_dead_process_costs_no_mark(model: Path, marks: Path, speech: Float32Array) -> None:
    troubles: list[str] = []
    config = EngineConfig(model, punctuation=marks)
    with LocalEngine(config, on_trouble=lambda kind, _: troubles.append(kind)) as engine:
        before = finals(engine, speech)
        os.kill(engine.pids["punctuator"] or 0, signal.SIGKILL)
        assert finals(engine, speech) == before
        assert engine.restarts["punctuator"] == 1
    assert troubles == ["worker_died"]


def test_a_process_that_hangs_is_replaced(model: Path, marks: Path, speech: Float32Array) -> None:
    config = EngineConfig(model, punctuation=marks)
    with LocalEngine(config, timeouts=Timeouts(answer=2.0)) as engine:
        before = finals(engine, speech)
        os.kill(engine.pids["punctuator"] or 0, signal.SIGSTOP)
        assert finals(engine, speech) == before
        assert engine.restarts["punctuator"] == 1


def test_a_model_that_is_gone_costs_the_marks_and_no_text(
    model: Path, marks: Path, tmp_path: Path, speech: Float32Array
) -> None:
    copy = Path(shutil.copytree(marks, tmp_path / "copy"))
    troubles: list[str] = []
    config = EngineConfig(model, punctuation=copy)
    with LocalEngine(config, on_trouble=lambda kind, _: troubles.append(kind)) as engine:
        shutil.rmtree(copy)
        os.kill(engine.pids["punctuator"] or 0, signal.SIGKILL)
        found = finals(engine, speech)
        assert engine.is_alive
    assert len(found) == 2
    assert all(final.text for final in found)
    assert all(unmarked(final.text) == final.text.lower() for final in found)
    assert troubles == ["worker_died", "worker_lost"]


def test_a_broken_model_ends_the_start(model: Path, marks: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(marks, tmp_path / "copy"))
    (copy / "model.onnx").write_bytes(b"nonsense")
    with raises(ModelError, "graph_unloadable"), LocalEngine(EngineConfig(model, punctuation=copy)):
        pass


def test_a_model_of_another_role_is_refused(model: Path, bundle: Path, marks: Path) -> None:
    with raises(ModelError, "wrong_model_role"):
        LocalEngine(EngineConfig(model, punctuation=bundle))
    with raises(ModelError, "wrong_model_role"):
        LocalEngine(EngineConfig(marks))


def test_a_family_that_punctuates_needs_no_process(bundle: Path, marks: Path) -> None:
    engine = LocalEngine(EngineConfig(bundle, punctuation=marks))
    assert engine.punctuator is None
    assert not engine.traits.asks_for_marks
