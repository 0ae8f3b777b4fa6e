"""The chunker with a classifier that calls loud frames voiced, and once with the real one."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from streamasr.core.errors import ConfigError
from streamasr.core.events import (
    AudioLost,
    SegmentationEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
)
from streamasr.core.options import SessionOptions
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples
from streamasr.segmentation.chunker import FRAME, Chunker, Endpoint
from streamasr.segmentation.settings import ChunkerConfig, VadConfig
from streamasr.segmentation.vad import VoiceDetector
from tests.support.errors import raises
from tests.support.examples import examples

DEFAULT = ChunkerConfig()
SHORT = ChunkerConfig(max_segment=2.0, cut_search=0.5)
"""Small enough for many cuts in little audio."""


def is_loud(frame: Float32Array) -> bool:
    return bool(np.abs(frame).max() > 0.25)


def make_audio(*parts: tuple[bool, float], seed: int = 0) -> Float32Array:
    """Noise, no two samples alike, of (loud?, seconds) parts in turn."""
    rng = np.random.default_rng(seed)
    pieces = [
        rng.uniform(-1, 1, to_samples(seconds)) * (0.9 if is_loud else 0.01)
        for is_loud, seconds in parts
    ]
    return np.concatenate([*pieces, np.zeros(0)]).astype(np.float32)


def run_chunker(
    blocks: Iterable[Float32Array], config: ChunkerConfig = DEFAULT
) -> list[SegmentationEvent]:
    chunker = Chunker(config, is_loud)
    events = [event for block in blocks for event in chunker.feed(block)]
    return events + chunker.finish()


def ends(events: Iterable[SegmentationEvent]) -> list[SpeechEnded]:
    return [event for event in events if isinstance(event, SpeechEnded)]


def seconds(ended: SpeechEnded) -> tuple[float, float]:
    return ended.start / SAMPLE_RATE, ended.end / SAMPLE_RATE


def comparable(events: Iterable[SegmentationEvent]) -> list[object]:
    return [
        (event.segment, event.start, event.samples.tobytes())
        if isinstance(event, SpeechContinued)
        else event
        for event in events
    ]


def split(samples: Float32Array, sizes: list[int]) -> list[Float32Array]:
    """Blocks of these sizes, again and again; the last takes the rest."""
    blocks = []
    while len(samples) and sum(sizes) > 0:
        for size in sizes:
            blocks.append(samples[:size])
            samples = samples[size:]
    return [*blocks, samples]


def delivered(events: Iterable[SegmentationEvent], segment: int) -> tuple[int, Float32Array]:
    """Start and samples of all that was delivered of a segment; checks that it has no gap."""
    chunks = [e for e in events if isinstance(e, SpeechContinued) and e.segment == segment]
    for one, next_one in pairwise(chunks):
        assert one.start + len(one.samples) == next_one.start
    return chunks[0].start, np.concatenate([chunk.samples for chunk in chunks])


# What a segment is


def test_silence_has_no_segments() -> None:
    assert run_chunker([make_audio((False, 5))]) == []


def test_nothing_at_all_has_no_segments() -> None:
    assert run_chunker([]) == []


def test_segment_has_pre_roll_and_trailing_silence() -> None:
    events = run_chunker([make_audio((False, 1.2), (True, 1.5), (False, 3))])
    assert [seconds(end) for end in ends(events)] == [(0.9, 2.9)]
    assert ends(events)[0].reason == "silence"


def test_pre_roll_stops_at_the_start_of_the_stream() -> None:
    events = run_chunker([make_audio((False, 0.09), (True, 1.5), (False, 3))])
    assert seconds(ends(events)[0])[0] == 0.0


def test_pre_roll_stops_at_the_previous_segment() -> None:
    config = replace(DEFAULT, pre_roll=1.0)
    events = run_chunker([make_audio((True, 1.5), (False, 0.9), (True, 1.5))], config)
    assert [seconds(end) for end in ends(events)] == [(0.0, 1.7), (1.7, 3.9)]


def test_pause_shorter_than_the_hangover_stays_inside() -> None:
    events = run_chunker([make_audio((True, 0.9), (False, 0.57), (True, 0.9), (False, 1.2))])
    assert len(ends(events)) == 1


def test_pause_as_long_as_the_hangover_ends_the_segment() -> None:
    events = run_chunker([make_audio((True, 0.9), (False, 0.6), (True, 0.9), (False, 1.2))])
    assert [end.reason for end in ends(events)] == ["silence", "silence"]


def test_short_burst_is_dropped_and_counted() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    assert chunker.feed(make_audio((False, 0.9), (True, 0.18), (False, 3))) == []
    assert chunker.dropped_bursts == 1
    assert chunker.dropped_samples == to_samples(0.18)


def test_burst_is_dropped_at_the_end_of_the_stream_too() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    assert chunker.feed(make_audio((True, 0.18))) + chunker.finish() == []
    assert chunker.dropped_bursts == 1


def test_bursts_with_a_gap_between_them_do_not_add_up() -> None:
    bursts = [(True, 0.15), (False, 0.3)] * 5
    assert run_chunker([make_audio(*bursts)]) == []


def test_syllables_with_a_short_gap_add_up() -> None:
    events = run_chunker([make_audio((False, 0.9), (True, 0.12), (False, 0.09), (True, 0.12))])
    assert seconds(ends(events)[0]) == (0.6, 1.23)


def test_speech_is_announced_as_soon_as_it_is_long_enough() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    audio = make_audio((True, 1))
    assert chunker.feed(audio[: 6 * FRAME]) == []
    assert chunker.feed(audio[6 * FRAME : 7 * FRAME])[0] == SpeechStarted(1, to_samples(0))
    assert chunker.is_open


def test_chunks_have_their_length_except_the_last() -> None:
    events = run_chunker([make_audio((True, 1.23))])
    lengths = [len(event.samples) for event in events if isinstance(event, SpeechContinued)]
    assert lengths == [1600] * 12 + [480]


def test_end_of_stream_ends_the_segment() -> None:
    events = run_chunker([make_audio((True, 1), (False, 0.1))])
    assert ends(events)[0].reason == "stop"
    assert seconds(ends(events)[0]) == (0.0, 1.1)


def test_samples_too_few_for_a_frame_are_not_lost_at_the_end() -> None:
    audio = make_audio((True, 1))[: 30 * FRAME + 7]
    assert ends(run_chunker([audio]))[0].end == len(audio)


def test_flush_ends_the_segment_now_and_the_next_follows() -> None:
    audio = make_audio((True, 2))
    chunker = Chunker(DEFAULT, is_loud)
    first = chunker.feed(audio[:10_007]) + chunker.flush()
    second = chunker.feed(audio[10_007:]) + chunker.finish()
    assert ends(first) == [SpeechEnded(1, to_samples(0), to_samples(10_007 / 16_000), "flush")]
    assert [(end.start, end.end) for end in ends(second)] == [(10_007, len(audio))]


def test_second_flush_emits_nothing() -> None:
    chunker = Chunker(replace(DEFAULT, min_speech=0), is_loud)
    chunker.feed(make_audio((True, 1)))
    assert ends(chunker.flush())
    assert chunker.flush() == []


def test_skipped_samples_end_the_segment_and_are_reported() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    chunker.feed(make_audio((False, 1.0), (True, 1.0)))
    *_, ended, lost = chunker.skip(to_samples(5.0), "unplugged")
    assert isinstance(ended, SpeechEnded)
    assert seconds(ended) == pytest.approx((0.7, 2.0), abs=0.03)
    assert lost == AudioLost(to_samples(2.0), to_samples(7.0), "unplugged")
    assert chunker.position == to_samples(7.0)
    events = [*chunker.feed(make_audio((True, 1.0))), *chunker.finish()]
    [ended] = ends(events)
    assert (ended.segment, ended.start) == (2, to_samples(7.0)), "pre-roll into what never came"
    start, samples = delivered(events, 2)
    assert start == to_samples(7.0)
    assert len(samples) == to_samples(1.0)


def test_a_stream_continues_where_it_was() -> None:
    samples = make_audio((False, 1.0), (True, 1.0), (False, 2.0), (True, 1.0), (False, 1.0))
    whole = ends(run_chunker([samples]))
    first = whole[0]
    position = Samples(first.end // FRAME * FRAME)
    chunker = Chunker(DEFAULT, is_loud, position=position, border=first.end, n_segments=1)
    events = [*chunker.feed(samples[position:]), *chunker.finish()]
    assert ends(events) == whole[1:]


def test_flush_in_silence_emits_nothing() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    assert chunker.flush() == []
    chunker.feed(make_audio((False, 1)))
    assert chunker.flush() == []


# Pauses


def pauses(events: Iterable[SegmentationEvent]) -> list[SpeechPaused | SpeechResumed]:
    return [event for event in events if isinstance(event, SpeechPaused | SpeechResumed)]


def test_a_pause_is_announced_with_the_end_that_the_segment_then_has() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    *events, pause = chunker.feed(make_audio((False, 1.2), (True, 1.5), (False, 0.21)))
    assert pause == SpeechPaused(1, to_samples(2.9))
    start, samples = delivered(events, 1)
    assert start + len(samples) == to_samples(2.9)
    *events, end = chunker.feed(make_audio((False, 0.39)))
    assert end == SpeechEnded(1, to_samples(0.9), to_samples(2.9), "silence")
    assert not pauses(events)


def test_resumed_speech_is_announced_before_its_samples() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    chunker.feed(make_audio((True, 1.5), (False, 0.57)))
    first, *rest = chunker.feed(make_audio((True, 0.6)))
    assert first == SpeechResumed(1)
    assert not pauses(rest)
    [again] = pauses(chunker.feed(make_audio((False, 0.3))))
    assert again == SpeechPaused(1, to_samples(1.5 + 0.57 + 0.6 + 0.2))


def test_a_breath_is_not_a_pause() -> None:
    events = run_chunker([make_audio((True, 0.9), (False, 0.18), (True, 0.9))])
    assert not pauses(events)


def test_a_pause_waits_for_all_of_the_trailing_silence() -> None:
    config = replace(DEFAULT, trailing_silence=0.4)
    chunker = Chunker(config, is_loud)
    assert not pauses(chunker.feed(make_audio((True, 1.5), (False, 0.39))))
    assert pauses(chunker.feed(make_audio((False, 0.03)))) == [SpeechPaused(1, to_samples(1.9))]


@pytest.mark.parametrize("field", ["pause", "trailing_silence"])
def test_no_pause_is_announced_that_would_be_the_end(field: str) -> None:
    config = replace(DEFAULT, **{field: 0.6})
    events = run_chunker([make_audio((True, 1.5), (False, 2.0), (True, 0.9), (False, 0.1))], config)
    assert not pauses(events)
    assert len(ends(events)) == 2


def test_flush_in_a_pause_ends_the_segment_where_it_was_announced() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    [pause] = pauses(chunker.feed(make_audio((True, 1.5), (False, 0.5))))
    assert isinstance(pause, SpeechPaused)
    assert chunker.flush()[-1] == SpeechEnded(1, to_samples(0), pause.end, "flush")
    assert not pauses(chunker.feed(make_audio((False, 1), (True, 0.5))))


def test_a_cut_in_a_pause_may_end_the_segment_earlier_than_announced() -> None:
    config = replace(SHORT, max_segment=1.5)
    audio = make_audio((True, 1.2), (False, 5))
    audio[to_samples(1.25) : to_samples(1.35)] = 0
    events = run_chunker([audio], config)
    [pause] = pauses(events)
    [end] = ends(events)
    assert isinstance(pause, SpeechPaused)
    assert (end.reason, end.end, pause.end) == ("length", to_samples(1.3), to_samples(1.4))


def test_a_pause_continues_behind_a_cut_before_it() -> None:
    config = replace(SHORT, max_segment=1.5)
    audio = make_audio((True, 1.23), (False, 5))
    audio[to_samples(1.05) : to_samples(1.15)] *= 1e-6
    events = run_chunker([audio], config)
    first, second = ends(events)
    assert (first.end, first.reason) == (to_samples(1.1), "length")
    assert pauses(events) == [
        SpeechPaused(1, to_samples(1.43)),
        SpeechPaused(2, to_samples(1.43)),
    ]
    assert second == SpeechEnded(2, first.end, to_samples(1.43), "silence")


# Cuts


def test_long_speech_is_cut_at_the_quietest_place() -> None:
    audio = make_audio((True, 40))
    audio[to_samples(21.5) : to_samples(21.6)] *= 0.5
    events = run_chunker([audio])
    assert seconds(ends(events)[0]) == (0.0, 21.55)
    assert ends(events)[0].reason == "length"
    assert ends(events)[1].start == ends(events)[0].end


def test_quiet_place_before_the_search_range_is_not_taken() -> None:
    audio = make_audio((True, 40))
    audio[to_samples(18) : to_samples(18.5)] *= 0.5
    assert ends(run_chunker([audio]))[0].end > to_samples(19)


def test_samples_behind_the_cut_are_delivered_again() -> None:
    audio = make_audio((True, 3))
    events = run_chunker([audio], SHORT)
    first, second = ends(events)
    start, samples = delivered(events, 1)
    assert start + len(samples) > first.end
    start, samples = delivered(events, 2)
    assert start == first.end
    assert samples[: second.end - start].tobytes() == audio[start:].tobytes()


def test_cut_in_a_pause_opens_no_empty_segment() -> None:
    config = replace(SHORT, max_segment=1.5)
    events = run_chunker([make_audio((True, 1.2), (False, 5))], config)
    assert [end.reason for end in ends(events)] == ["length"]
    assert ends(events)[0].end <= to_samples(1.5)


@pytest.mark.parametrize("hangover", [0.6, 1.0])
def test_pre_roll_longer_than_the_cut_search_reaches_into_the_silence_before(
    hangover: float,
) -> None:
    config = replace(DEFAULT, max_segment=1.5, cut_search=0.1, hangover=hangover)
    audio = make_audio((True, 1.0), (False, hangover), (True, 1.0))
    first, second, *_ = ends(run_chunker([audio], config))
    assert first.end <= second.start
    assert second.start <= to_samples(1.0 + hangover - DEFAULT.pre_roll) + FRAME


def test_speech_after_a_cut_in_a_pause_opens_the_next_segment_without_overlap() -> None:
    config = replace(SHORT, max_segment=1.5)
    events = run_chunker([make_audio((True, 1.2), (False, 0.5), (True, 0.6))], config)
    first, second = ends(events)
    assert first.end <= second.start < to_samples(1.7)


# Options of a session


def run_with(options: SessionOptions, *parts: tuple[bool, float]) -> list[SegmentationEvent]:
    chunker = Chunker(DEFAULT, is_loud)
    chunker.configure(Endpoint.of(DEFAULT, options))
    return chunker.feed(make_audio(*parts)) + chunker.finish()


def test_a_session_may_choose_the_silence_that_ends_a_segment() -> None:
    parts = ((True, 1), (False, 0.4), (True, 1), (False, 2))
    assert len(ends(run_with(SessionOptions(), *parts))) == 1
    short = ends(run_with(SessionOptions(endpoint_ms=300), *parts))
    assert [end.reason for end in short] == ["silence", "silence"]
    assert len(ends(run_with(SessionOptions(endpoint_ms=10_000), *parts))) == 1


def test_an_endpoint_shorter_than_a_frame_is_a_frame() -> None:
    events = run_with(SessionOptions(endpoint_ms=0), (True, 1), (False, 1), (True, 1))
    assert len(ends(events)) == 2


def test_a_session_may_leave_the_ends_of_segments_to_its_client() -> None:
    options = SessionOptions(endpoint_by_client=True)
    chunker = Chunker(DEFAULT, is_loud)
    chunker.configure(Endpoint.of(DEFAULT, options))
    events = chunker.feed(make_audio((True, 1), (False, 8), (True, 1), (False, 3)))
    assert not ends(events)
    assert pauses(events), "pauses are still announced, so that the final is prepared"
    events = chunker.flush() + chunker.feed(make_audio((True, 30)))
    assert [end.reason for end in ends(events)] == ["flush", "length"]


def test_a_session_may_choose_the_audio_before_speech() -> None:
    (end,) = ends(run_with(SessionOptions(onset_padding_ms=700), (False, 2), (True, 1), (False, 2)))
    assert end.start == pytest.approx(to_samples(1.3), abs=FRAME)


def test_new_times_hold_from_the_next_segment_on() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    events = chunker.feed(make_audio((True, 1)))
    chunker.configure(Endpoint.of(DEFAULT, SessionOptions(endpoint_by_client=True)))
    events += chunker.feed(make_audio((False, 1), (True, 1), (False, 5)))
    assert [end.reason for end in ends(events)] == ["silence"]
    assert [end.reason for end in ends(chunker.finish())] == ["stop"]


def test_a_pre_roll_that_was_lengthened_begins_at_the_oldest_sample_kept() -> None:
    chunker = Chunker(replace(DEFAULT, pre_roll=0.0), is_loud)
    chunker.feed(make_audio((False, 3)))
    chunker.configure(Endpoint.of(DEFAULT, SessionOptions(onset_padding_ms=2000)))
    (end,) = ends(chunker.feed(make_audio((True, 1), (False, 2))))
    assert end.start <= to_samples(3) <= end.end


# Properties

PARTS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.7, 1.5, 2.5])),
    max_size=8,
)
CONFIGS = st.sampled_from(
    [
        DEFAULT,
        SHORT,
        ChunkerConfig(max_segment=1.0, cut_search=1.0, pre_roll=2.0),
        ChunkerConfig(pre_roll=0, trailing_silence=0, hangover=0.1, min_speech=0, chunk=0.07),
        ChunkerConfig(max_segment=0.5, cut_search=0.1, cut_window=0.1, hangover=1, chunk=1.0),
        ChunkerConfig(pause=0.0, trailing_silence=0.05, hangover=0.3, max_segment=2, cut_search=1),
        ChunkerConfig(pause=0.4, chunk=0.25),
    ]
)


@settings(max_examples=examples(60), deadline=None)
@given(PARTS, CONFIGS, st.lists(st.integers(0, 5000), min_size=1, max_size=6))
def test_block_sizes_do_not_matter(
    parts: list[tuple[bool, float]], config: ChunkerConfig, sizes: list[int]
) -> None:
    audio = make_audio(*parts)
    # Many tiny blocks tell no more than a few, but take long.
    sizes = [size if size > 100 or i == 0 else size + 100 for i, size in enumerate([*sizes, 300])]
    whole = run_chunker([audio], config)
    assert comparable(run_chunker(split(audio, sizes), config)) == comparable(whole)


@settings(max_examples=examples(80), deadline=None)
@given(PARTS, CONFIGS, st.none() | st.integers(0, 80_000))
def test_segments_are_ordered_disjoint_and_complete(
    parts: list[tuple[bool, float]], config: ChunkerConfig, flush_at: int | None
) -> None:
    audio = make_audio(*parts)
    chunker = Chunker(config, is_loud)
    events: list[SegmentationEvent] = []
    if flush_at is not None:
        events += chunker.feed(audio[:flush_at]) + chunker.flush()
    events += chunker.feed(audio[flush_at or 0 :]) + chunker.finish()
    segments = ends(events)

    # Numbered from 1, one after the other, each announced before it is delivered and ended.
    order = [
        (event.segment, type(event))
        for event in events
        if isinstance(event, SpeechStarted | SpeechContinued | SpeechEnded)
    ]
    assert [end.segment for end in segments] == list(range(1, len(segments) + 1))
    assert list(dict.fromkeys(order)) == [
        (end.segment, kind)
        for end in segments
        for kind in (SpeechStarted, SpeechContinued, SpeechEnded)
    ]
    starts = [event for event in events if isinstance(event, SpeechStarted)]
    assert [event.start for event in starts] == [end.start for end in segments]

    # Ordered, disjoint, within the stream, not too long.
    borders = [0, *(border for end in segments for border in (end.start, end.end)), len(audio)]
    assert borders == sorted(borders)
    assert all(0 < end.end - end.start <= to_samples(config.max_segment) for end in segments)

    # Delivered bit for bit.
    for end in segments:
        start, samples = delivered(events, end.segment)
        assert start == end.start
        assert samples[: end.end - start].tobytes() == audio[start : end.end].tobytes()

    # Long enough, unless something was cut off: voiced samples, counted frame by frame.
    grid = [*range(0, len(audio), FRAME)]
    if flush_at is not None:
        middle = min(flush_at, len(audio))
        grid = [*range(0, middle, FRAME), *range(middle, len(audio), FRAME)]
    voiced = np.zeros(len(audio), bool)
    for start, stop in pairwise([*grid, len(audio)]):
        is_whole = stop - start == FRAME
        voiced[start:stop] = is_loud(audio[start:stop]) if is_whole else voiced[max(start - 1, 0)]
    cuts = {end.end for end in segments if end.reason == "length"}
    for end in segments:
        if end.start not in cuts and end.reason != "length":
            assert voiced[end.start : end.end].sum() >= to_samples(config.min_speech)

    # Everything is accounted for: what is voiced lies in a segment or in a dropped burst (or in
    # both, if the pre-roll of a segment reaches a burst).
    outside = np.ones(len(audio), bool)
    for end in segments:
        outside[end.start : end.end] = False
    assert chunker.position == len(audio)
    assert chunker.in_speech == len(audio) - outside.sum()
    assert voiced[outside].sum() <= chunker.dropped_samples


@settings(max_examples=examples(80), deadline=None)
@given(PARTS, CONFIGS, st.none() | st.integers(0, 80_000))
def test_pauses_state_the_end_that_the_segment_then_has(
    parts: list[tuple[bool, float]], config: ChunkerConfig, flush_at: int | None
) -> None:
    audio = make_audio(*parts)
    chunker = Chunker(config, is_loud)
    events = chunker.feed(audio[: flush_at or 0]) + (chunker.flush() if flush_at else [])
    events += chunker.feed(audio[flush_at or 0 :]) + chunker.finish()
    needed = max(config.pause, config.trailing_silence)
    for end in ends(events):
        ours = [e for e in events if not isinstance(e, AudioLost) and e.segment == end.segment]

        # They are over before the next one.
        n_pauses = len(pauses(ours))
        alternating = [SpeechPaused, SpeechResumed] * n_pauses
        assert [type(event) for event in pauses(ours)] == alternating[:n_pauses]

        # All up to the announced end has been delivered by then.
        for i, pause in enumerate(ours):
            if isinstance(pause, SpeechPaused):
                start, samples = delivered(ours[:i], end.segment)
                assert end.start < pause.end <= start + len(samples)
                assert needed < config.hangover

        # Speech that does not come back leaves the segment as announced; none ends unannounced.
        last = pauses(ours)[-1] if n_pauses else None
        if isinstance(last, SpeechPaused):
            assert end.end == last.end or end.reason == "length"
        elif end.reason == "silence":
            assert needed + FRAME / SAMPLE_RATE > config.hangover


def test_memory_does_not_grow_with_the_stream() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    speech, silence = make_audio((True, 60)), make_audio((False, 60))
    sizes = []
    for _ in range(5):
        chunker.feed(speech)
        chunker.feed(silence)
        sizes.append(len(chunker._history._buffer))
    assert sizes[-1] <= 2 * to_samples(DEFAULT.cut_search + DEFAULT.pre_roll + 1)


# Configuration


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pre_roll", -0.1),
        ("hangover", 0.01),
        ("hangover", 0.1),  # shorter than the trailing silence
        ("trailing_silence", 0.7),
        ("pause", -1.0),
        ("min_speech", float("nan")),
        ("max_segment", float("inf")),
        ("max_segment", 3601.0),
        ("max_segment", 4.0),  # shorter than the search range
        ("cut_search", 0.05),
        ("cut_window", 0.0),
        ("chunk", 0.0),
        ("onset_gap", 0.0),
    ],
)
def test_impossible_settings_are_refused_by_name(field: str, value: float) -> None:
    with raises(ConfigError, "value_out_of_range") as caught:
        replace(DEFAULT, **{field: value})
    assert field in str(caught.value)


def test_block_of_another_type_is_refused() -> None:
    chunker = Chunker(DEFAULT, is_loud)
    with pytest.raises(ValueError, match="float32"):
        chunker.feed(np.zeros(480, np.float64))
    with pytest.raises(ValueError, match="float32"):
        chunker.feed(np.zeros((480, 2), np.float32))


# With the real classifier


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6))
def test_block_sizes_do_not_matter_with_the_real_classifier(sizes: list[int]) -> None:
    t = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    audio = (0.1 * voice * (np.sin(2 * np.pi * 1.1 * t) > 0)).astype(np.float32)
    events = []
    for blocks in ([audio], split(audio, [size + 100 for size in sizes])):
        chunker = Chunker(SHORT, VoiceDetector(VadConfig()))
        events.append([event for block in blocks for event in chunker.feed(block)])
        events[-1] += chunker.finish()
    assert ends(events[0])
    assert comparable(events[0]) == comparable(events[1])
