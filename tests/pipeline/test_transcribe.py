"""The path of a file, with an engine that answers whatever it is told to."""

import random
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self, cast

import numpy as np
import pytest

from streamasr.core.errors import AudioError
from streamasr.core.messages import Final, Message, Partial, Speech, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import AbandonPass, Order, Promote, Rank, Recognise, Release
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples, to_seconds
from streamasr.engine.engine import LocalEngine
from streamasr.engine.ports import Deliver
from streamasr.pipeline.transcribe import MAX_UNFINISHED, FileSettings, Progress, transcribe
from tests.support.fakes import FakeEngine, FakeSource, PatientEngine, talk


def run(
    source: FakeSource, engine: FakeEngine | None = None, begin: float = 0.0, **options: Any
) -> list[Message | Progress]:
    settings = FileSettings(SessionOptions(**{"partials": False, **options}))
    return list(
        transcribe(cast("LocalEngine", engine or FakeEngine()), source, settings, begin=begin)
    )


def only(messages: list[Message | Progress], kind: type[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def lasting(messages: list[Message | Progress]) -> list[Message | Progress]:
    return [message for message in messages if not isinstance(message, Progress)]


def test_each_burst_becomes_a_final_with_words() -> None:
    messages = run(FakeSource(talk(1, 2, 1.5)))
    finals, words = only(messages, Final), only(messages, Words)
    assert [final.segment for final in finals] == [1, 2, 3]
    assert [(w.segment, w.method) for w in words] == [(1, "spread"), (2, "spread"), (3, "spread")]
    for final in finals:
        assert final.text == f"{final.end - final.start} samples"
    assert [word.confidence for word in words[0].words] == [None, None]


def test_progress_follows_every_block_and_reaches_the_end() -> None:
    samples = talk(1, 2)
    progress = only(run(FakeSource(samples, block=5000)), Progress)
    for positions in ([p.read for p in progress], [p.done for p in progress]):
        assert positions == sorted(positions)
        assert positions[-1] == len(samples)
    assert {p.read for p in progress} >= set(range(5000, len(samples), 5000))
    assert all(p.done <= p.read for p in progress)


@pytest.mark.parametrize("block", [100, 5000, 1_000_000])
def test_any_blocks_give_the_same_finals_and_words(block: int) -> None:
    samples = talk(1, 2, 1.5)
    messages, expected = run(FakeSource(samples, block=block)), run(FakeSource(samples))
    for kind in (Speech, Final, Words):
        assert only(messages, kind) == only(expected, kind)


def test_no_audio_gives_no_messages() -> None:
    assert run(FakeSource(np.empty(0, np.float32))) == []


@pytest.mark.parametrize("n_samples", [1, 3, 479, 480, 481])
def test_a_moment_of_audio_gives_no_text(n_samples: int) -> None:
    assert lasting(run(FakeSource(np.full(n_samples, 0.1, np.float32)))) == []


HESITATION = np.zeros(SAMPLE_RATE * 2 // 5, np.float32)
"""A pause inside a segment."""


def test_each_segment_takes_one_pass_without_partials() -> None:
    engine = FakeEngine()
    hesitant = np.concatenate([talk(1, 2)[: -SAMPLE_RATE * 4 // 5], HESITATION, talk(1.5)])
    messages = run(FakeSource(hesitant), engine)
    segments = [final.segment for final in only(messages, Final)]
    assert [order.of.segment for order in engine.orders if isinstance(order, Recognise)] == segments
    assert [order.segment for order in engine.orders if isinstance(order, Release)] == segments
    assert not any(isinstance(order, AbandonPass | Promote) for order in engine.orders)


def test_no_final_is_prepared_for_those_who_watch_a_file() -> None:
    engine = FakeEngine()
    run(FakeSource(talk(1, 2)), engine, partials=True)
    ranks = {order.of.rank for order in engine.orders if isinstance(order, Recognise)}
    assert ranks == {Rank.PARTIAL, Rank.FINAL}


def test_no_words_where_none_are_wanted() -> None:
    messages = run(FakeSource(talk(1)), words=False)
    assert only(messages, Final)
    assert not only(messages, Words)


def test_partials_come_while_a_segment_is_open_at_their_interval() -> None:
    messages = run(FakeSource(talk(3), block=1000), partials=True)
    kinds = [type(message) for message in lasting(messages)]
    n_partials = len(only(messages, Partial))
    assert kinds == [Speech, *[Partial] * n_partials, Final, Words]
    ends = [partial.end for partial in only(messages, Partial)]
    assert n_partials >= 6
    assert all(later - sooner >= to_samples(0.5) for sooner, later in pairwise(ends))


def test_times_count_from_the_beginning_of_the_file() -> None:
    early = lasting(run(FakeSource(talk(1, 2)), partials=True))
    late = lasting(run(FakeSource(talk(1, 2)), partials=True, begin=100.0))
    assert len(early) == len(late)
    for message, moved in zip(early, late, strict=True):
        if isinstance(message, Words) and isinstance(moved, Words):
            pairs = list(zip(message.words, moved.words, strict=True))
        else:
            pairs = [(cast("Any", message), cast("Any", moved))]
        assert all(b.start - a.start == to_samples(100) for a, b in pairs)


def test_a_broken_source_keeps_what_came_before() -> None:
    samples = talk(1, 2)[: -SAMPLE_RATE // 2]  # it breaks before the hangover is over
    received: list[Message | Progress] = []
    source = FakeSource(samples, breaks="the disk is gone")
    engine = cast("LocalEngine", FakeEngine())
    with pytest.raises(AudioError, match=r"^the disk is gone$"):  # noqa: PT012
        for message in transcribe(engine, source, FileSettings()):
            received.append(message)  # noqa: PERF402 - a list() would be lost
    finals = only(received, Final)
    assert [final.reason for final in finals] == ["silence", "stop"]
    assert [words.segment for words in only(received, Words)] == [1, 2]


class ShuffledEngine(FakeEngine):
    """Answers on a thread of its own, in another order than it was asked."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._waiting: list[tuple[Order, Deliver]] = []
        self._changed = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify()
        self._thread.join()

    def perform(self, order: Order, deliver: Deliver) -> None:
        with self._changed:
            self._waiting.append((order, deliver))
            self._changed.notify()

    def _answer(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_over)
                if self._is_over:
                    return
                chosen = self._waiting.pop(self._random.randrange(len(self._waiting)))
            super().perform(*chosen)


@pytest.mark.parametrize("seed", range(5))
def test_late_answers_in_any_order_change_only_when_words_come(seed: int) -> None:
    samples = talk(1, 2, 1.5, 0.8, 1.2)
    undisturbed = run(FakeSource(samples))
    with ShuffledEngine(seed) as engine:
        messages = run(FakeSource(samples), engine)
    assert only(messages, Final) == only(undisturbed, Final)
    key = lambda words: words.segment  # noqa: E731
    assert sorted(only(messages, Words), key=key) == only(undisturbed, Words)


def test_reading_waits_for_a_slow_engine() -> None:
    source, engine = FakeSource(talk(*[1] * 12)), PatientEngine()
    messages = transcribe(cast("LocalEngine", engine), source, FileSettings())
    n_speech = 0
    while n_speech < MAX_UNFINISHED:
        n_speech += isinstance(next(messages), Speech)
    # The fourth segment has begun; the reader must stop at its end, with 8 more to come.
    while engine.n_waiting < MAX_UNFINISHED:
        next(messages)
    seconds = to_seconds(source.n_delivered)
    assert seconds < 1 + 2 * MAX_UNFINISHED + 1


class LongSource(FakeSource):
    """Minutes of talk that are never in memory as a whole."""

    def __init__(self, minutes: float) -> None:
        super().__init__(talk(5, 8, pause=0.8))
        self._n_rounds = round(minutes * 60 / (len(self._samples) / SAMPLE_RATE))

    def blocks(self) -> Iterator[Float32Array]:
        for _ in range(self._n_rounds):
            yield from super().blocks()


def peak_memory(source: FakeSource) -> int:
    settings = FileSettings()
    engine = ForgetfulEngine()
    tracemalloc.start()
    for _ in transcribe(cast("LocalEngine", engine), source, settings):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


class ForgetfulEngine(FakeEngine):
    def perform(self, order: Order, deliver: Deliver) -> None:
        super().perform(order, deliver)
        self.orders.clear()


def test_memory_does_not_grow_with_the_length_of_the_file() -> None:
    short, long = peak_memory(LongSource(0.5)), peak_memory(LongSource(2))
    assert long < 1.2 * short
    assert long < 8 * 2**20
