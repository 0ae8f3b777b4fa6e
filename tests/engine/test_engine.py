"""The engine with the embedded model, its children killed now and then."""

import contextlib
import json
import os
import queue
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamasr.core.errors import ConfigError, ModelError, WorkerError
from streamasr.core.events import Aligned, Answer, PassAbandoned, PassFailed, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.messages import Final, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Align,
    Order,
    Pass,
    Promote,
    Rank,
    Recognise,
    Release,
    SpreadWords,
)
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import Float32Array, Samples
from streamasr.decoder.placement import Gpu
from streamasr.engine.aligner import AlignerWorker, aligner_worker
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.cpu_fallback import DEATHS_PER_REQUEST
from streamasr.engine.decoder_stage import DecoderStage
from streamasr.engine.encoder import EncoderWorker
from streamasr.engine.engine import LocalEngine, aligner_config
from streamasr.engine.pipeline import PassChannel
from streamasr.engine.ports import OnTrouble
from streamasr.engine.stages import Decode, Encode, PassEncoded, StageAnswer
from streamasr.engine.worker import Timeouts
from streamasr.models.family import Encoded
from streamasr.pipeline.transcribe import FileSettings, Progress, transcribe
from tests.support import children
from tests.support.errors import raises
from tests.support.fakes import FakeSource, talk
from tests.support.goldens import read_clip

FINAL = Pass(1, 1, Rank.FINAL)
PARTIAL = Pass(1, 2, Rank.PARTIAL)
SAMPLES = talk(1, 1.2, 0.8)


@pytest.fixture(scope="module")
def config(bundle: Path) -> EngineConfig:
    return EngineConfig(bundle, bundle / "aligner", Hardware(threads=1))


@pytest.fixture(scope="module")
def engine(config: EngineConfig) -> Iterator[LocalEngine]:
    with LocalEngine(config) as running:
        yield running


def running_on(config: EngineConfig, **hardware: Any) -> EngineConfig:
    """The same engine without an aligner on other hardware."""
    return replace(config, aligner=None, hardware=replace(config.hardware, **hardware))


Answers = queue.SimpleQueue[Answer]


def perform(engine: LocalEngine, *orders: Order) -> list[Answer]:
    """All answers, in the order in which they come."""
    answers = Answers()
    channel = engine.channel(answers.put)
    for order in orders:
        channel.perform(order)
    n_answers = sum(not isinstance(order, AbandonPass) for order in orders)
    received = [answers.get(timeout=60) for _ in range(n_answers)]
    channel.close()
    assert answers.empty()
    return received


class Owner:
    """Gives orders to single stages of an engine, and waits for each answer."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[StageAnswer] = queue.SimpleQueue()

    def hand_over(self, answer: StageAnswer) -> None:
        self.answers.put(answer)

    def encode(self, engine: LocalEngine, samples: Float32Array) -> StageAnswer:
        engine.pipeline.encoding.put(self, Encode(FINAL, samples))
        return self.answers.get(timeout=60)

    def decode(self, engine: LocalEngine, order: Decode) -> StageAnswer:
        decoding_of(engine).put(self, order)
        return self.answers.get(timeout=60)


def decoding_of(engine: LocalEngine) -> DecoderStage:
    decoding = engine.pipeline.decoding
    assert decoding
    return decoding


def embeddings_of(engine: LocalEngine, samples: Float32Array = SAMPLES) -> Float32Array:
    answer = Owner().encode(engine, samples)
    assert isinstance(answer, PassEncoded)
    assert answer.cost > 0
    return answer.encoded.embeddings


def decode(
    engine: LocalEngine, embeddings: Float32Array, forced: tuple[int, ...] = (), **options: Any
) -> Hypothesis:
    order = Decode(FINAL, Encoded(embeddings), SessionOptions(**options), forced)
    recognised = Owner().decode(engine, order)
    assert isinstance(recognised, Recognised)
    return recognised.hypothesis


def recognise(engine: LocalEngine, samples: Float32Array = SAMPLES, **options: Any) -> Hypothesis:
    [recognised] = perform(engine, Recognise(FINAL, samples, SessionOptions(**options)))
    assert isinstance(recognised, Recognised)
    return recognised.hypothesis


def file_settings(config: EngineConfig) -> FileSettings:
    return FileSettings(replace(config.options, partials=False))


def outcome(
    engine: LocalEngine, config: EngineConfig, samples: Float32Array = SAMPLES
) -> list[object]:
    """Finals and words, whatever the order of words of different segments."""
    messages = list(transcribe(engine, FakeSource(samples), file_settings(config)))
    words = sorted((m for m in messages if isinstance(m, Words)), key=lambda m: m.segment)
    return [*(m for m in messages if isinstance(m, Final)), *words]


def test_samples_become_embeddings_and_those_a_hypothesis(engine: LocalEngine) -> None:
    embeddings = embeddings_of(engine)
    assert embeddings.dtype == np.float32
    assert len(embeddings) == 7 * 13  # of as many seconds
    [recognised] = perform(engine, Recognise(FINAL, SAMPLES))
    assert isinstance(recognised, Recognised)
    assert decode(engine, embeddings) == recognised.hypothesis


def test_a_pass_costs_what_its_stages_do_and_waits_for_the_rest(engine: LocalEngine) -> None:
    began = time.perf_counter()
    [recognised] = perform(engine, Recognise(FINAL, SAMPLES))
    seconds = time.perf_counter() - began
    assert isinstance(recognised, Recognised)
    costs = recognised.costs
    assert costs.encode > 0
    assert costs.prefill > 0
    assert costs.total == pytest.approx(costs.encode + costs.prefill + costs.verify + costs.decode)
    assert recognised.waited >= 0
    assert costs.total + recognised.waited <= seconds


def test_embeddings_of_another_model_fail_their_pass(engine: LocalEngine) -> None:
    failed = Owner().decode(engine, Decode(FINAL, Encoded(np.zeros((13, 7), np.float32))))
    assert isinstance(failed, PassFailed)
    assert "not a pair" in failed.message


def test_a_fault_in_the_decoder_is_an_answer_too(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(decoding_of(engine)._decoder, "step", fail)
    [failed] = perform(engine, Recognise(FINAL, SAMPLES))
    assert isinstance(failed, PassFailed)
    assert "by zero" in failed.message


def test_samples_that_are_not_numbers_fail_their_pass(engine: LocalEngine) -> None:
    [failed] = perform(engine, Recognise(FINAL, np.full(16000, np.nan, np.float32)))
    assert isinstance(failed, PassFailed)
    [recognised] = perform(engine, Recognise(FINAL, SAMPLES))
    assert isinstance(recognised, Recognised)


def test_an_abandoned_pass_may_end_early_and_the_next_is_whole(engine: LocalEngine) -> None:
    whole = recognise(engine)
    first, second = perform(
        engine, Recognise(PARTIAL, SAMPLES), AbandonPass(PARTIAL), Recognise(FINAL, SAMPLES)
    )
    assert isinstance(first, PassAbandoned | Recognised)  # it may just have ended
    assert isinstance(second, Recognised)
    assert second.hypothesis == whole


def test_abandoning_what_is_not_in_flight_changes_nothing(engine: LocalEngine) -> None:
    abandon = AbandonPass(PARTIAL)
    [recognised] = perform(engine, abandon, Recognise(FINAL, SAMPLES), abandon)
    assert isinstance(recognised, Recognised)


# Between the stages


class Interception:
    """Holds back what the encoder gives for the passes of an engine, until `go_on`."""

    def __init__(self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decodes: list[Decode] = []
        self._held: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        decoding = decoding_of(engine)
        hand_over, put = PassChannel.hand_over, decoding.put

        def hold(channel: PassChannel, answer: StageAnswer) -> None:
            if isinstance(answer, PassEncoded):
                self._held.put(lambda: hand_over(channel, answer))
            else:
                hand_over(channel, answer)

        def note(owner: PassChannel, order: Decode) -> None:
            self.decodes.append(order)
            put(owner, order)

        monkeypatch.setattr(PassChannel, "hand_over", hold)
        monkeypatch.setattr(decoding, "put", note)

    def wait(self) -> Callable[[], None]:
        """Wait until a pass stands between the stages; what lets it go on."""
        return self._held.get(timeout=60)


@pytest.fixture
def between(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Interception:
    return Interception(engine, monkeypatch)


def test_a_pass_that_is_abandoned_between_the_stages_is_answered_at_once_and_not_decoded(
    engine: LocalEngine, between: Interception
) -> None:
    answers = Answers()
    channel = engine.channel(answers.put)
    channel.perform(Recognise(PARTIAL, SAMPLES))
    go_on = between.wait()
    channel.perform(AbandonPass(PARTIAL))
    assert answers.get_nowait() == PassAbandoned(PARTIAL)
    channel.perform(AbandonPass(PARTIAL))
    channel.perform(Release(1))
    go_on()
    assert between.decodes == []
    assert engine.queue_lengths()["decoder"] == 0
    assert answers.empty()
    channel.close()


def test_a_pass_that_is_abandoned_while_it_is_encoded_is_answered_at_once(
    engine: LocalEngine,
) -> None:
    answers = Answers()
    channel = engine.channel(answers.put)
    with halted(engine.pids["encoder"]):
        channel.perform(Recognise(PARTIAL, SAMPLES))
        channel.perform(AbandonPass(PARTIAL))
        assert answers.get_nowait() == PassAbandoned(PARTIAL)
    channel.perform(Recognise(FINAL, SAMPLES))
    answer = answers.get(timeout=60)
    assert isinstance(answer, Recognised)
    assert answer.of == FINAL
    channel.close()
    assert answers.empty()


def test_a_pass_that_is_promoted_between_the_stages_is_decoded_with_the_finals(
    engine: LocalEngine, between: Interception
) -> None:
    answers = Answers()
    channel = engine.channel(answers.put)
    of = Pass(1, 1, Rank.SPECULATIVE)
    channel.perform(Recognise(of, SAMPLES))
    go_on = between.wait()
    channel.perform(Promote(FINAL))
    go_on()
    [order] = between.decodes
    assert order.of.rank is Rank.FINAL
    assert isinstance(answers.get(timeout=60), Recognised)
    channel.close()


def test_a_channel_that_is_closed_between_the_stages_decodes_nothing(
    engine: LocalEngine, between: Interception
) -> None:
    answers = Answers()
    channel = engine.channel(answers.put)
    channel.perform(Recognise(FINAL, SAMPLES))
    go_on = between.wait()
    channel.close()
    go_on()
    assert between.decodes == []
    assert answers.empty()


def test_options_draft_and_forced_tokens_come_to_the_decoder(
    engine: LocalEngine, between: Interception
) -> None:
    options = SessionOptions(language="English", context="names")
    channel = engine.channel(lambda _: None)
    channel.perform(Recognise(FINAL, SAMPLES, options, forced=(1,), draft=(1, 2)))
    between.wait()()
    [order] = between.decodes
    assert (order.options, order.forced, order.draft) == (options, (1,), (1, 2))
    assert order.encoding > 0
    channel.close()


def test_the_words_of_a_final_lie_in_their_segment(
    engine: LocalEngine, config: EngineConfig
) -> None:
    messages = outcome(engine, config)
    finals = {m.segment: m for m in messages if isinstance(m, Final)}
    assert list(finals) == [1, 2, 3]
    for words in (m for m in messages if isinstance(m, Words)):
        assert words.method == "aligned"
        final = finals[words.segment]
        edges = [edge for word in words.words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert final.start <= edges[0]
        assert edges[-1] <= final.end
        assert all(word.start < word.end for word in words.words)
        assert all(
            word.confidence is not None and 0 <= word.confidence <= 1 for word in words.words
        )


@pytest.mark.parametrize(("seed", "every"), [(1, 1), (2, 2), (3, 3)])
def test_children_that_are_killed_change_nothing(
    engine: LocalEngine, config: EngineConfig, seed: int, every: int
) -> None:
    undisturbed = outcome(engine, config)
    choose = random.Random(seed)
    assert engine.aligner
    deaths = engine.encoder.restarts + engine.aligner.restarts
    # One more death could fall on the same request again, which is then given up.
    workers: list[EncoderWorker | AlignerWorker] = [engine.encoder, engine.aligner]
    victims = workers * (DEATHS_PER_REQUEST - 1)
    choose.shuffle(victims)
    messages = []
    for number, message in enumerate(
        transcribe(engine, FakeSource(SAMPLES), file_settings(config))
    ):
        if not isinstance(message, Progress):
            messages.append(message)
        if number % every == 0 and victims:
            kill(victims.pop().pid)
    words = sorted((m for m in messages if isinstance(m, Words)), key=lambda m: m.segment)
    assert [*(m for m in messages if isinstance(m, Final)), *words] == undisturbed
    assert engine.encoder.restarts + engine.aligner.restarts > deaths


def test_sessions_at_once_give_what_each_gives_alone(
    engine: LocalEngine, config: EngineConfig
) -> None:
    sources = [SAMPLES, talk(0.8), talk(1.5, 0.7), SAMPLES[::-1].copy()]
    alone = [outcome(engine, config, samples) for samples in sources]
    choose = random.Random(4)
    with ThreadPoolExecutor(len(sources)) as pool:
        at_once = [pool.submit(outcome, engine, config, samples) for samples in sources]
        for worker in [engine.encoder, engine.aligner] * (DEATHS_PER_REQUEST - 1):
            assert worker
            while not worker.is_ready:  # else one request could be blamed for all deaths
                wait(at_once, timeout=0.01)
            kill(worker.pid)
            wait(at_once, timeout=choose.random() / 5)
        assert [future.result() for future in at_once] == alone


def test_a_file_does_not_delay_live_sessions(engine: LocalEngine) -> None:
    answers: list[str] = []
    finished = threading.Event()

    def deliver_file(answer: Answer) -> None:
        assert isinstance(answer, Recognised)
        answers.append("file")
        if len(answers) == 5:
            live.perform(Recognise(FINAL, SAMPLES[:16000]))
        if answers.count("file") == 50:
            finished.set()

    file = engine.channel(deliver_file)
    live = engine.channel(lambda _: answers.append("live"))
    for number in range(50):
        file.perform(Recognise(Pass(number, number, Rank.FINAL), SAMPLES[:16000]))
    assert finished.wait(60)
    file.close()
    live.close()
    # In each stage: what was running, and what began while the order was on its way. What had been
    # encoded before is decoded before.
    assert answers[5 : answers.index("live")].count("file") <= 8


def test_a_listener_that_fails_costs_the_others_nothing(
    engine: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Answer) -> None:
        raise ZeroDivisionError

    channel = engine.channel(fail)
    channel.perform(Recognise(FINAL, SAMPLES))
    channel.perform(Align(1, Samples(0), SAMPLES, "", "English"))
    assert recognise(engine)
    perform(engine, Align(1, Samples(0), SAMPLES, "one", "English"))
    assert caplog.text.count("could not be delivered") == 2
    channel.close()


def test_a_closed_channel_receives_nothing(engine: LocalEngine) -> None:
    answers = Answers()
    channel = engine.channel(answers.put)
    for number in range(20):
        channel.perform(Recognise(Pass(number, number, Rank.FINAL), SAMPLES))
        channel.perform(Align(number, Samples(0), SAMPLES, "one two", "English"))
    channel.close()
    n_delivered = answers.qsize()
    channel.close()
    channel.perform(Recognise(FINAL, SAMPLES))
    assert engine.queue_lengths() == {"encoder": 0, "decoder": 0, "aligner": 0}
    recognise(engine)
    assert answers.qsize() == n_delivered


@pytest.mark.parametrize("seed", range(4))
def test_every_pass_is_answered_once(engine: LocalEngine, seed: int) -> None:
    """A pass may be in any stage when it is abandoned or promoted."""
    choose = random.Random(seed)
    answers = Answers()
    channel = engine.channel(answers.put)
    partials = [Pass(number + 2, number, Rank.SPECULATIVE) for number in range(20)]
    for of in partials:
        channel.perform(Recognise(of, SAMPLES[: choose.choice([1600, 16000])]))
    channel.perform(Recognise(FINAL, SAMPLES[:16000]))
    received: list[Answer] = []
    for of in choose.sample(partials, len(partials)):
        with contextlib.suppress(queue.Empty):
            received.append(answers.get(timeout=choose.random() / 20))
        if choose.random() < 0.3:
            channel.perform(Promote(replace(of, rank=Rank.FINAL)))
        channel.perform(AbandonPass(of))
        channel.perform(Release(of.segment))
    while len(received) < len(partials) + 1:
        received.append(answers.get(timeout=60))
    recognise(engine)
    assert answers.empty()
    channel.close()
    answered = Counter(answer.of for answer in received if not isinstance(answer, Aligned))
    assert answered == dict.fromkeys([FINAL, *partials], 1)
    assert any(isinstance(answer, Recognised) and answer.of == FINAL for answer in received)


def test_words_that_are_late_are_spread_and_later_ones_are_not(engine: LocalEngine) -> None:
    # It may still be busy with what was ordered in another test.
    perform(engine, Align(0, Samples(0), SAMPLES, "one two", "English"))
    answers = Answers()
    channel = engine.channel(answers.put)
    with halted(engine.pids["aligner"]):
        for number in range(20):
            channel.perform(Align(number, Samples(0), SAMPLES, "one two", "English"))
        channel.perform(SpreadWords())
        channel.perform(Align(20, Samples(0), SAMPLES, "one two", "English"))
    received = [answers.get(timeout=60) for _ in range(21)]
    channel.close()
    aligned = [answer for answer in received if isinstance(answer, Aligned)]
    assert sorted(answer.segment for answer in aligned) == list(range(21))
    methods = {answer.segment: answer.method for answer in aligned}
    assert methods.pop(0) == methods.pop(20) == "aligned"  # already begun, and ordered afterwards
    assert set(methods.values()) == {"spread"}


def test_words_too_late_for_the_aligner_have_the_times_of_the_family_if_it_gives_any(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.pipeline, "traits", FamilyTraits(can_force=False, word_method="cif"))
    times = ((Samples(0), Samples(100)), (Samples(100), Samples(300)))
    order = Align(7, Samples(16000), SAMPLES, "one two", "English", (3, 7), times)
    answers = Answers()
    channel = engine.channel(answers.put)
    with halted(engine.pids["aligner"]):
        channel.perform(replace(order, segment=6))
        channel.perform(order)
        channel.perform(SpreadWords())
        late = answers.get_nowait()
    asked_for = answers.get(timeout=60)
    channel.close()
    assert isinstance(late, Aligned)
    assert (late.segment, late.method) == (7, "cif")
    assert [(word.text, word.start, word.end) for word in late.words] == [
        ("one", 16000, 16100),
        ("two", 16100, 16300),
    ]
    assert isinstance(asked_for, Aligned)
    assert (asked_for.segment, asked_for.method) == (6, "aligned")


def test_orders_say_language_and_context(engine: LocalEngine) -> None:
    embeddings = embeddings_of(engine, read_clip("espeak_1"))
    free = decode(engine, embeddings)
    assert free.language == "English"
    assert free.ends[0] == 0  # the header
    forced = decode(engine, embeddings, language="Chinese")
    assert forced.language == "Chinese"
    assert forced.ends[0] > 0
    held = decode(engine, embeddings, forced=free.tokens[:4], context="five six seven")
    assert held.tokens[:4] == free.tokens[:4]


@pytest.mark.parametrize(("clip", "spoken"), [("espeak_1", "English"), ("mandarin", "Chinese")])
def test_orders_limit_the_languages(engine: LocalEngine, clip: str, spoken: str) -> None:
    samples = read_clip(clip)
    free = recognise(engine, samples)
    assert free.language == spoken
    assert recognise(engine, samples, languages=("German", "English", "Chinese")) == free
    [other] = {"English", "Chinese"} - {spoken}
    assert recognise(engine, samples, languages=(other, "German")).language != spoken
    assert recognise(engine, samples, languages=(other,)) == recognise(
        engine, samples, language=other
    )


def test_contexts_are_checked_while_sessions_run(engine: LocalEngine) -> None:
    channel = engine.channel(lambda _: None)
    channel.perform(Recognise(FINAL, SAMPLES))
    with raises(ConfigError, "context_too_long"):
        engine.check_options(SessionOptions(context="name " * 5000))
    with raises(ConfigError, "context_too_long"):
        engine.check_options(SessionOptions(hotwords=("name",) * 5000))
    engine.check_options(SessionOptions(context=" Minutes. ", hotwords=("Ada ", "", "Eve")))
    channel.close()


def test_an_engine_tells_how_it_is(config: EngineConfig) -> None:
    troubles: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    engine = LocalEngine(config, on_trouble=lambda *trouble: troubles.put(trouble))
    assert not engine.is_ready
    assert not engine.is_alive
    with engine:
        assert engine.is_ready
        assert engine.is_alive
        assert engine.restarts == {"encoder": 0, "aligner": 0}
        victim = engine.pids["encoder"]
        kill(victim)
        trouble, sentence = troubles.get(timeout=60)
        assert trouble == "worker_died"
        assert sentence.startswith("the encoder process died (signal SIGKILL)")
        assert embeddings_of(engine).size
        assert engine.pids["encoder"] != victim
        assert engine.restarts == {"encoder": 1, "aligner": 0}
        assert engine.is_ready
    assert not engine.is_ready
    assert not engine.is_alive
    assert troubles.empty()
    with raises(WorkerError, "decoder_not_running"):
        engine.check_options(SessionOptions())


def test_a_model_that_vanishes_ends_the_engine(config: EngineConfig, tmp_path: Path) -> None:
    model = copy_of(config.model, tmp_path)
    troubles: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    with LocalEngine(
        with_model(config, model), on_trouble=lambda *trouble: troubles.put(trouble)
    ) as engine:
        shutil.rmtree(model)
        kill(engine.pids["aligner"])
        assert troubles.get(timeout=60)[0] == "worker_died"
        assert troubles.get(timeout=60)[0] == "worker_lost"
        assert engine.is_alive
        assert engine.is_ready
        [aligned] = perform(engine, Align(7, Samples(0), SAMPLES, "one two", "English"))
        assert isinstance(aligned, Aligned)
        assert aligned.method == "spread"
        kill(engine.pids["encoder"])
        assert troubles.get(timeout=60)[0] == "worker_died"
        [failed] = perform(engine, Recognise(FINAL, SAMPLES))
        assert isinstance(failed, PassFailed)
        assert troubles.get(timeout=60)[0] == "worker_lost"
        assert not engine.is_alive


def test_a_hung_child_is_treated_as_dead(config: EngineConfig) -> None:
    alone = replace(config, aligner=None)
    with LocalEngine(alone, timeouts=Timeouts(answer=5)) as engine:
        pid = engine.pids["encoder"]
        assert pid
        os.kill(pid, signal.SIGSTOP)
        assert embeddings_of(engine).size
        assert engine.restarts == {"encoder": 1}


def kill(pid: int | None) -> None:
    assert pid
    with contextlib.suppress(ProcessLookupError):  # it is just being replaced
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def halted(pid: int | None) -> Iterator[None]:
    """A child that gets no further meanwhile."""
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_without_an_aligner_words_are_spread(config: EngineConfig) -> None:
    with LocalEngine(replace(config, aligner=None)) as engine:
        assert engine.aligner is None
        words = [m for m in outcome(engine, config) if isinstance(m, Words)]
    assert {m.method for m in words} == {"spread"}
    assert {word.confidence for m in words for word in m.words} == {None}


def test_an_engine_that_was_never_started_can_be_stopped(config: EngineConfig) -> None:
    LocalEngine(config).stop()


def test_stopping_drops_what_is_being_decoded(config: EngineConfig) -> None:
    answers = Answers()
    with LocalEngine(replace(config, aligner=None)) as engine:
        pid = engine.encoder.pid
        channel = engine.channel(answers.put)
        for number in range(10):
            decoding_of(engine).put(
                Owner(), Decode(FINAL, Encoded(np.ones((300, 192), np.float32)))
            )
            channel.perform(Recognise(Pass(number, number, Rank.FINAL), SAMPLES))
    assert pid
    assert not Path(f"/proc/{pid}").exists()
    n_delivered = answers.qsize()
    channel.perform(Recognise(FINAL, SAMPLES))
    engine.channel(answers.put).perform(Recognise(FINAL, SAMPLES))
    assert answers.qsize() == n_delivered


def with_model(config: EngineConfig, model: Path) -> EngineConfig:
    return replace(config, model=model, aligner=model / "aligner")


def copy_of(model: Path, directory: Path) -> Path:
    ignored = shutil.ignore_patterns("*.py", "__pycache__")
    return Path(shutil.copytree(model, directory / "model", ignore=ignored))


@pytest.mark.parametrize(
    "part",
    ["decoder.gguf", "encoder_frontend.onnx", "encoder_backend.onnx", "aligner/classifier.npy"],
)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_broken_file_of_the_model_is_refused_in_a_sentence(
    config: EngineConfig, tmp_path: Path, part: str, damage: str
) -> None:
    model = copy_of(config.model, tmp_path)
    content = (model / part).read_bytes()
    (model / part).unlink()
    if damage == "cut":
        (model / part).write_bytes(content[: len(content) // 2])
    broken = with_model(config, model)
    if not part.startswith("aligner"):
        broken = replace(broken, aligner=None)
    with pytest.raises(ModelError) as caught, LocalEngine(broken):
        pass
    assert Path(part).name in str(caught.value)
    assert "\n" not in str(caught.value)


# What is not as it was asked to be


@pytest.fixture
def told() -> list[str]:
    return []


def listener(told: list[str]) -> OnTrouble:
    def hear(trouble: str, sentence: str) -> None:
        assert trouble == "degraded"
        told.append(sentence)

    return hear


def test_a_gpu_that_is_not_there_is_told_and_the_cpu_recognises(
    engine: LocalEngine, config: EngineConfig, told: list[str]
) -> None:
    embeddings = embeddings_of(engine)
    with LocalEngine(running_on(config, gpu=3), on_trouble=listener(told)) as other:
        assert decode(other, embeddings) == decode(engine, embeddings)
    [sentence] = told
    assert sentence.startswith("no GPU matches 3: this build of llama.cpp finds none")


def test_a_machine_without_gpu_has_nothing_to_tell(config: EngineConfig, told: list[str]) -> None:
    with LocalEngine(replace(config, aligner=None), on_trouble=listener(told)):
        assert told == []


def test_a_gpu_that_fails_is_told_and_the_cpu_recognises(
    engine: LocalEngine, config: EngineConfig, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(9, "CUDA0", "of a machine that is none", is_integrated=False, free=0, total=0)
    monkeypatch.setattr("streamasr.engine.engine.find_gpus", lambda: [gpu])
    embeddings = embeddings_of(engine)
    wanted = running_on(config, gpu="cuda0")
    with LocalEngine(wanted, on_trouble=listener(told)) as other:
        assert decode(other, embeddings) == decode(engine, embeddings)
    [sentence] = told
    assert sentence.startswith("the GPU CUDA0 (of a machine that is none) cannot be used, so the ")


def test_what_a_child_warns_of_is_told_once(
    engine: LocalEngine, config: EngineConfig, told: list[str]
) -> None:
    wanted = running_on(config, providers=("CUDAExecutionProvider",))
    troubles: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    with LocalEngine(wanted, on_trouble=lambda *trouble: troubles.put(trouble)) as other:
        kind, sentence = troubles.get(timeout=60)
        assert kind == "degraded"
        assert sentence.startswith("encoder: this build of onnxruntime has no CUDAExecutionP")
        kill(other.pids["encoder"])
        np.testing.assert_array_equal(embeddings_of(other), embeddings_of(engine))
    assert [troubles.get(timeout=60)[0] for _ in range(troubles.qsize())] == ["worker_died"]


def test_a_provider_that_kills_the_encoder_is_told_and_the_cpu_recognises(
    engine: LocalEngine, config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamasr.engine.encoder.build_encoder", children.build_encoder_on_cpu)
    troubles: list[tuple[str, str]] = []
    wanted = running_on(config, providers=("CUDAExecutionProvider",))
    with LocalEngine(wanted, on_trouble=lambda *trouble: troubles.append(trouble)) as other:
        np.testing.assert_array_equal(embeddings_of(other), embeddings_of(engine))
        assert other.restarts == {"encoder": 1}
    assert [trouble for trouble, _ in troubles] == ["worker_died", "degraded"]
    assert troubles[1][1] == (
        "encoder: CUDAExecutionProvider cannot be used, so the CPU is: the process died "
        "(signal SIGKILL)."
    )


@pytest.mark.parametrize(
    "options", [{"providers": ("CUDAExecutionProvider",), "gpu_layers": 0}, {"gpu_layers": 5}]
)
def test_a_gpu_that_kills_the_aligner_is_told_and_the_cpu_aligns(
    engine: LocalEngine,
    config: EngineConfig,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr("streamasr.engine.aligner.build_aligner", children.build_aligner_on_cpu)
    troubles: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    order = Align(7, Samples(0), SAMPLES, "one two", "English")
    asked = running_on(config, aligner_gpu=True, **options)
    wanted = aligner_config(asked, config.model / "aligner")
    with aligner_worker(wanted, Timeouts(), lambda *trouble: troubles.put(trouble)) as worker:
        worker.wait_ready()
        assert [worker.submit(order).result(60)] == perform(engine, order)
    told = [troubles.get() for _ in range(troubles.qsize())]
    assert [trouble for trouble, _ in told] == ["worker_died", "degraded"]
    assert "so the CPU is: the process died (signal SIGKILL)" in told[1][1]


def test_an_unknown_provider_ends_the_start(config: EngineConfig) -> None:
    with (
        raises(ModelError, "unknown_provider"),
        LocalEngine(running_on(config, providers=("Abacus",))),
    ):
        pass


def test_an_encoder_of_few_bits_is_warned_of(
    config: EngineConfig, tmp_path: Path, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = copy_of(config.model, tmp_path)
    facts = json.loads((model / "model.json").read_text())
    facts["encoder_bits"] = 4
    (model / "model.json").write_text(json.dumps(facts))
    with LocalEngine(replace(config, model=model, aligner=None), on_trouble=listener(told)):
        pass
    [sentence] = told
    assert "weights of 4 bits" in sentence
    assert sentence in caplog.text


@pytest.mark.parametrize(
    "rate",
    ["abc", "4", True, [4], {}, -1, 1e9, 10**400, float("nan")],
    ids=lambda rate: f"{rate}"[:9],
)
def test_a_script_without_a_number_of_tokens_is_refused_at_once(
    config: EngineConfig, tmp_path: Path, rate: object
) -> None:
    model = copy_of(config.model, tmp_path)
    facts = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**facts, "scripted_tokens_per_second": rate}))
    engine = LocalEngine(replace(config, model=model, aligner=None))
    with raises(ModelError, "script_rate_out_of_range"), engine:
        pass


def test_embeddings_that_are_not_numbers_fail_their_pass_alone(engine: LocalEngine) -> None:
    embeddings = embeddings_of(engine)
    broken = embeddings.copy()
    broken[3, 3] = np.nan
    unlucky, other = Owner(), Owner()
    decoding_of(engine).put(unlucky, Decode(FINAL, Encoded(broken)))
    decoding_of(engine).put(other, Decode(FINAL, Encoded(embeddings)))
    failed, recognised = unlucky.answers.get(timeout=60), other.answers.get(timeout=60)
    assert isinstance(failed, PassFailed)
    assert "not finite" in failed.message
    assert isinstance(recognised, Recognised)


def test_a_context_that_cannot_fit_is_refused_at_the_start(config: EngineConfig) -> None:
    with (
        raises(ConfigError, "context_too_long"),
        LocalEngine(replace(config, aligner=None, options=SessionOptions(context="name " * 5000))),
    ):
        pass


def test_a_context_that_is_not_unicode_is_taken(config: EngineConfig) -> None:
    options = SessionOptions(context="Ada \udcff", words=False)
    odd = replace(config, aligner=None, options=options)
    with LocalEngine(odd) as engine:
        assert all(isinstance(message, Final) for message in outcome(engine, odd))


def test_an_idle_aligner_is_woken_for_those_who_want_words(config: EngineConfig) -> None:
    of, later = Pass(1, 1, Rank.FINAL), Pass(2, 2, Rank.FINAL)
    with LocalEngine(replace(config, aligner_idle_s=300.0)) as engine:
        assert engine.aligner
        perform(engine, Recognise(of, SAMPLES[:16000], SessionOptions(words=False)))
        assert engine.aligner.pid is None
        perform(engine, Recognise(later, SAMPLES[:16000]))
        engine.aligner.wait_ready()
        assert engine.aligner.pid is not None


def test_the_aligner_takes_what_the_session_orders(engine: LocalEngine) -> None:
    for text in ("", "...", "one two", "零 一", "x" * 2000):
        [answer] = perform(engine, Align(7, Samples(16000), SAMPLES, text, "English"))
        assert isinstance(answer, Aligned)
        shown = "".join(word.text for word in answer.words)
        assert shown == ("" if text == "..." else text.replace(" ", ""))
