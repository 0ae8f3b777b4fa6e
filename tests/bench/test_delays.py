"""From what was said and heard, and when, to figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.bench.delays import (
    Endpointing,
    count_violations,
    delays,
    judge_stability,
    lag_points,
    summarise,
)
from streamasr.bench.figures import median, ratio, spread, trend
from streamasr.bench.recording import Recording, SegmentLog
from streamasr.protocols import v1

RULES = Endpointing(pre_roll=0.3, hangover=0.6, trailing_silence=0.2, max_segment=24.0)
BEGAN = 100.0


def recording(
    *heard: tuple[float, v1.ServerMessage], duration: float = 30.0, late: float = 0.0
) -> Recording:
    """Audio in blocks of 0.1 s at the pace of speech from 100 on; messages at times since then."""
    made = Recording(began=BEGAN)
    for number in range(1, round(duration * 10) + 1):
        made.note_sent(number / 10, BEGAN + number / 10 + late)
    made.stopped = BEGAN + duration + late
    for at, message in heard:
        made.note_received(message, BEGAN + at)
    return made


def partial(
    text: str, end: float, stable: int = 0, segment: int = 1, start: float = 1
) -> v1.Partial:
    return v1.Partial(
        segment=segment, text=text, stable=stable, start=start, end=end, language="English"
    )


def final(
    text: str, end: float, reason: str = "silence", segment: int = 1, start: float = 1
) -> v1.Final:
    return v1.Final(
        seq=segment,
        segment=segment,
        text=text,
        language="English",
        start=start,
        end=end,
        reason=reason,
    )


def words(*timed: tuple[str, float, float], method: str = "aligned", segment: int = 1) -> v1.Words:
    made = tuple(v1.Word(text=text, start=start, end=end, score=1.0) for text, start, end in timed)
    return v1.Words(seq=90 + segment, segment=segment, words=made, method=method)


def log(*texts: tuple[str, int], last: str | None = None) -> SegmentLog:
    """A segment of partials, each a text and how much of it is stable, and a final."""
    partials = tuple((0.0, partial(text, 1.0, stable)) for text, stable in texts)
    return SegmentLog(1, partials, None if last is None else (9.0, final(last, 2.0)), None)


# Figures


def test_a_spread_tells_its_percentiles() -> None:
    figures = spread(range(101))
    assert figures
    assert (figures.n, figures.p50, figures.p95, figures.p99, figures.worst) == (
        101,
        50,
        95,
        99,
        100,
    )


def test_nothing_has_no_spread() -> None:
    assert spread([]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_percentiles_are_ordered_and_among_the_values(values: list[float]) -> None:
    figures = spread(values)
    assert figures
    assert min(values) <= figures.p50 <= figures.p95 <= figures.p99 <= figures.worst == max(values)


@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(3, 30))
def test_a_line_has_its_slope_and_no_error(slope: int, offset: int, n: int) -> None:
    line = trend([(x, slope * x + offset) for x in range(n)])
    assert line
    assert line.slope == pytest.approx(slope, abs=1e-9)
    assert line.error == pytest.approx(0, abs=1e-6)


def test_the_error_of_a_slope_is_that_of_least_squares() -> None:
    xs = np.arange(40.0)
    ys = 0.1 * xs + np.random.RandomState(1).normal(size=40)
    covariance = np.polyfit(xs, ys, 1, cov=True)[1]
    line = trend(list(zip(xs.tolist(), ys.tolist(), strict=True)))
    assert line
    assert line.error == pytest.approx(float(np.sqrt(covariance[0, 0])))


@pytest.mark.parametrize("points", [[], [(0.0, 1.0)], [(0.0, 1.0), (1.0, 1.0)], [(2.0, 1.0)] * 5])
def test_too_little_has_no_trend(points: list[tuple[float, float]]) -> None:
    assert trend(points) is None


def test_a_ratio_to_zero_does_not_exist() -> None:
    assert (ratio(1, 0), ratio(3, 2), median([])) == (None, 1.5, 0.0)


# When audio was sent


def test_audio_was_sent_with_the_block_that_it_ends_in() -> None:
    made = recording(duration=1.0)
    assert made.sent_at(0.3) == pytest.approx(BEGAN + 0.3)
    assert made.sent_at(0.31) == pytest.approx(BEGAN + 0.4)
    assert made.sent_at(0.0) == pytest.approx(BEGAN + 0.1)


def test_audio_that_never_came_counts_from_the_end() -> None:
    assert recording(duration=1.0).sent_at(1.3) == BEGAN + 1.0


def test_lag_counts_from_when_audio_was_spoken_not_from_when_it_could_be_sent() -> None:
    made = recording((5.0, partial("a", 2.0)), late=2.0)
    assert [round(point.lag, 6) for point in lag_points(made, RULES)] == [3.0]
    assert delays(made, RULES).partial == [pytest.approx(1.0)]


# Delays


def test_a_final_after_silence_waits_for_the_hangover_alone() -> None:
    waits = delays(recording((4.65, final("hello", end=4.2))), RULES)
    assert waits.final_after_endpoint == [pytest.approx(0.05)]  # 4.2 - 0.2 + 0.6
    assert waits.final_after_speech == [pytest.approx(0.65)]


def test_a_final_after_a_cut_waits_for_the_longest_segment() -> None:
    waits = delays(recording((25.4, final("hello", end=22.0, reason="length"))), RULES)
    assert waits.final_after_cut == [pytest.approx(0.4)]
    assert not waits.final_after_endpoint


def test_the_last_final_waits_for_the_end_of_the_audio() -> None:
    waits = delays(recording((5.3, final("hello", end=5.0, reason="stop")), duration=5.0), RULES)
    assert waits.final_after_stop == [pytest.approx(0.3)]


def test_the_first_partial_with_text_counts_from_the_first_word() -> None:
    waits = delays(
        recording(
            (1.5, partial("", 1.4)),
            (2.0, partial("hello", 1.9)),
            (5.0, final("hello", 4.0)),
            (5.1, words(("hello", 1.4, 1.8))),
        ),
        RULES,
    )
    assert waits.first_partial == [pytest.approx(0.6)]
    assert waits.words == [pytest.approx(0.1)]


def test_without_word_times_speech_begins_behind_the_pre_roll() -> None:
    waits = delays(recording((2.0, partial("hello", 1.9))), RULES)
    assert waits.first_partial == [pytest.approx(0.7)]  # 1 + 0.3


def test_a_segment_after_a_cut_has_no_onset() -> None:
    made = recording(
        (2.0, partial("a", 1.9)),
        (9.0, final("a", 5.0, reason="length")),
        (9.5, partial("b", 6.0, segment=2, start=5.0)),
        (12.0, final("b", 8.0, segment=2, start=5.0)),
    )
    assert len(delays(made, RULES).first_partial) == 1


def test_a_word_is_committed_when_all_of_it_is_stable() -> None:
    made = recording(
        (2.0, partial("one two", 1.9, stable=2)),
        (2.5, partial("one two", 2.4, stable=3)),
        (3.0, partial("one two three", 2.9, stable=7)),
        (5.0, final("one two three.", 4.0)),
        (5.1, words(("one", 1.3, 1.5), ("two", 1.6, 1.8), ("three.", 2.0, 2.5))),
    )
    assert delays(made, RULES).commit == [pytest.approx(wait) for wait in (1.0, 1.2, 2.5)]


def test_words_of_random_weights_are_spread_over_the_speech() -> None:
    rules = Endpointing(0.3, 0.6, 0.2, 24.0, has_word_times=False)
    made = recording(
        (3.5, final("one two", 3.2)), (3.6, words(("one", 0.0, 0.1), ("two", 0.0, 0.1)))
    )
    # 1.3 to 3.0, so the words end at 2.15 and 3.0; audio goes in blocks of 0.1 s.
    assert delays(made, rules).commit == [pytest.approx(1.3), pytest.approx(0.5)]


def test_a_word_that_the_text_lacks_is_left_out() -> None:
    made = recording((5.0, final("one", 4.0)), (5.1, words(("two", 1, 2), ("one", 2, 3))))
    assert len(delays(made, RULES).commit) == 1


# Stability


def test_words_that_are_only_added_do_not_count_as_changed() -> None:
    stability = judge_stability([log(("one", 0), ("one two", 0), last="one two three")])
    assert (stability.shown, stability.changed, stability.final) == (3, 0, 3)


def test_all_words_behind_a_change_have_changed() -> None:
    stability = judge_stability([log(("one to three", 0), last="one two three")])
    assert (stability.changed, stability.flicker) == (2, 2 / 3)


def test_words_that_vanish_have_changed() -> None:
    assert judge_stability([log(("one two", 0), last="one")]).changed == 1


def test_chinese_words_are_characters() -> None:
    one = partial("一二", 1.0)
    segment = SegmentLog(1, ((0.0, one),), (1.0, final("一三四", 2.0)), None)
    stability = judge_stability([segment])
    assert (stability.changed, stability.final) == (1, 3)


def test_without_a_final_there_is_no_flicker() -> None:
    assert judge_stability([log(("one", 0))]).flicker is None


@pytest.mark.parametrize(
    ("segment", "n"),
    [
        (log(("one", 0), ("two", 0), last="three"), 0),
        (log(("one", 3), ("one two", 3), last="one two"), 0),
        (log(("one", 3), ("One two", 3), last="One two"), 1),  # promised anew, and kept
        (log(("one two", 7), ("one two", 3), last="one two"), 1),  # it shrank
        (log(("one two", 7), last="one too"), 1),
        (log(("one", 9), last="one"), 1),  # more than there is
    ],
)
def test_a_change_of_stable_text_is_counted(segment: SegmentLog, n: int) -> None:
    assert count_violations(segment) == n


@given(st.lists(st.text("ab ", max_size=6), max_size=6), st.data())
def test_texts_that_only_grow_are_stable(pieces: list[str], data: st.DataObject) -> None:
    text, stable, shown = "", 0, []
    for piece in pieces:
        text += piece
        stable = data.draw(st.integers(stable, len(text)))
        shown.append((text, stable))
    assert count_violations(log(*shown, last=text)) == 0


# Together


def test_sessions_are_summed_up() -> None:
    made = recording(
        (2.0, partial("one", 1.9, stable=3)),
        (4.7, final("one", 4.2)),
        (4.8, words(("one", 1.4, 1.6))),
        (9.0, v1.Gap(seq=3, start=5, end=6, reason="x")),
    )
    summary = summarise([made, made], RULES)
    assert (summary.sessions, summary.audio_s) == (2, 60.0)
    assert (summary.segments, summary.partials, summary.gaps) == (2, 2, 2)
    assert summary.word_times == "aligned"
    assert summary.flicker == 0
    assert summary.lag_slope is None  # two finals


def test_lag_that_grows_has_a_slope_in_seconds_a_minute() -> None:
    finals = [(t + 0.4 + 0.01 * t, final("x", float(t), segment=t)) for t in range(2, 25)]
    summary = summarise([recording(*finals)], RULES)
    assert summary.lag_slope
    assert summary.lag_slope.slope == pytest.approx(0.6, rel=0.02)


def test_a_session_without_messages_has_no_figures() -> None:
    summary = summarise([recording()], RULES)
    assert (summary.final_after_endpoint, summary.flicker, summary.word_times) == (
        None,
        None,
        "none",
    )
