"""Borders of words move to pauses, and never spoil the order of words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.alignment.pauses import Span, find_pauses, move_to_pauses
from streamasr.alignment.repair import MIN_WORD_MS
from streamasr.core.units import SAMPLE_RATE, Float32Array

MS = SAMPLE_RATE // 1000  # samples
SHORTEST = 80  # of a pause, ms
NEAR = 150  # ms
MIN_WORD = MIN_WORD_MS * MS


def audio(*parts: tuple[float, float], noise_db: float = -90, seed: int = 0) -> Float32Array:
    """Return noise that is loud and quiet.

    Args:
        parts: milliseconds and level in dB of each.
        noise_db: level of the background.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    levels = [np.full(round(ms * MS), 10 ** (db / 20)) for ms, db in parts]
    level = np.concatenate([*levels, np.zeros(0)])
    speech = rng.standard_normal(len(level)) * level
    noise = rng.standard_normal(len(level)) * 10 ** (noise_db / 20)
    return np.asarray(speech + noise, np.float32)


def in_ms(spans: list[Span]) -> list[tuple[float, float]]:
    return [(start / MS, end / MS) for start, end in spans]


def moved(*words: tuple[int, int], pauses: list[tuple[int, int]], ms: int = 1000) -> list[Span]:
    """Move words, everything in milliseconds."""
    spans, gaps = ([(start * MS, end * MS) for start, end in each] for each in (words, pauses))
    found = move_to_pauses(spans, gaps, ms * MS)
    return [(start // MS, end // MS) for start, end in found]


# Pauses


def test_pauses_are_the_quiet_stretches() -> None:
    samples = audio((50, -90), (300, -20), (200, -90), (300, -25), (160, -90))
    assert in_ms(find_pauses(samples)) == [(0, 50), (350, 550), (850, 1010)]


def test_a_closure_within_a_word_is_not_a_pause() -> None:
    assert find_pauses(audio((300, -20), (SHORTEST - 20, -90), (300, -20))) == []
    assert len(find_pauses(audio((300, -20), (SHORTEST, -90), (300, -20)))) == 1


def test_the_last_pause_reaches_to_the_end() -> None:
    samples = audio((300, -20), (107.5, -90))
    assert in_ms(find_pauses(samples)) == [(300, 407.5)]


@pytest.mark.parametrize("gain_db", [-60, -30, 0, 10])
def test_quiet_speech_has_the_same_pauses(gain_db: float) -> None:
    samples = audio((100, -70), (300, -20), (200, -70), (300, -20)) * 10 ** (gain_db / 20)
    assert in_ms(find_pauses(samples.astype(np.float32))) == [(0, 100), (400, 600)]


@pytest.mark.parametrize("noise_db", [-90, -60, -45])
def test_noise_does_not_hide_pauses(noise_db: float) -> None:
    parts = (200, -120), (300, -20), (200, -120), (300, -25), (200, -120)
    found = find_pauses(audio(*parts, noise_db=noise_db))
    assert in_ms(found) == [(0, 200), (500, 700), (1000, 1200)]


def test_an_offset_is_not_sound() -> None:
    samples = audio((100, -90), (300, -20), (200, -90)) + np.float32(0.3)
    assert in_ms(find_pauses(samples)) == [(0, 100), (400, 600)]


def test_weak_consonants_are_not_pauses() -> None:
    samples = audio((300, -20), (120, -42), (300, -20), (120, -80))
    assert in_ms(find_pauses(samples)) == [(720, 840)]


@pytest.mark.parametrize("db", [-120, -30])
def test_silence_and_steady_noise_have_no_pauses(db: float) -> None:
    assert find_pauses(audio((1000, db), noise_db=-120)) == []
    assert find_pauses(np.zeros(SAMPLE_RATE, np.float32)) == []


@pytest.mark.parametrize("n_samples", [0, 1, 159, 160, 161])
def test_any_length_is_allowed(n_samples: int) -> None:
    assert find_pauses(np.ones(n_samples, np.float32)) == []


@given(
    parts=st.lists(st.tuples(st.integers(1, 300), st.integers(-100, 0)), max_size=12),
    noise_db=st.integers(-120, 0),
)
def test_pauses_are_in_order_and_within_the_audio(
    parts: list[tuple[int, int]], noise_db: int
) -> None:
    samples = audio(*parts, noise_db=noise_db)
    found = find_pauses(samples)
    edges = [edge for span in found for edge in span]
    assert edges == sorted(set(edges))
    assert all(0 <= edge <= len(samples) for edge in edges)
    for start, end in found:
        assert end - start >= SHORTEST * MS or start == 0 or end == len(samples)


# Words


def test_a_word_ends_where_the_pause_begins() -> None:
    found = moved((100, 500), (500, 900), pauses=[(0, 100), (340, 450), (800, 1000)])
    assert found == [(100, 340), (450, 800)]


def test_a_border_in_the_sound_beside_a_pause_moves_to_the_pause() -> None:
    late = moved((0, 500), (500, 900), pauses=[(300, 420)])
    assert late == [(0, 300), (420, 900)]
    early = moved((0, 300), (300, 900), pauses=[(380, 500)])
    assert early == [(0, 380), (500, 900)]


def test_the_first_start_and_the_last_end_move_both_ways() -> None:
    assert moved((100, 900), pauses=[(0, 70), (940, 1000)]) == [(70, 940)]
    assert moved((0, 1000), pauses=[(0, 200), (700, 1000)]) == [(200, 700)]


def test_characters_without_a_pause_between_them_stay() -> None:
    words = (100, 250), (250, 400), (400, 600)
    assert moved(*words, pauses=[(0, 100), (700, 1000)]) == [*words[:-1], (400, 700)]
    assert moved(*words, pauses=[]) == list(words)


def test_a_pause_that_is_further_away_than_it_is_long_moves_nothing() -> None:
    assert moved((0, 500), (500, 1000), pauses=[(610, 700)]) == [(0, 500), (500, 1000)]
    assert moved((0, 500), (500, 1000), pauses=[(580, 700)]) == [(0, 580), (700, 1000)]


def test_the_longer_of_two_pauses_counts() -> None:
    found = moved((0, 500), (500, 1000), pauses=[(350, 430), (520, 700)])
    assert found == [(0, 520), (700, 1000)]


def test_a_word_in_a_pause_keeps_its_middle() -> None:
    assert moved((400, 600), pauses=[(0, 1000)]) == [(480, 520)]
    assert moved((400, 420), pauses=[(0, 1000)]) == [(400, 420)]


def test_no_words_have_no_borders() -> None:
    assert move_to_pauses([], [(0, 100)], 1000) == []


@st.composite
def spans(draw: st.DrawFn, n_samples: int) -> list[Span]:
    edges = sorted(draw(st.lists(st.integers(0, n_samples), max_size=16)))
    return list(zip(edges[::2], edges[1::2], strict=False))


@given(data=st.data(), n_samples=st.integers(0, 3 * SAMPLE_RATE))
def test_words_stay_in_order_and_keep_a_length(data: st.DataObject, n_samples: int) -> None:
    words = data.draw(spans(n_samples))
    pauses = [(a, b) for a, b in data.draw(spans(n_samples)) if a < b]
    found = move_to_pauses(words, pauses, n_samples)
    assert len(found) == len(words)
    edges = [0, *(edge for span in found for edge in span), n_samples]
    assert edges == sorted(edges)
    for (start, end), (old_start, old_end) in zip(found, words, strict=True):
        assert end - start >= min(MIN_WORD, old_end - old_start)
        assert start <= (old_start + old_end) / 2 <= end
        assert start >= old_start - NEAR * MS
        assert end <= old_end + NEAR * MS
    moved_edges = [
        (new, old)
        for pair in zip(found, words, strict=True)
        for new, old in zip(*pair, strict=True)
    ]
    assert all(
        new == old or any(start <= new <= end for start, end in pauses) for new, old in moved_edges
    )


def test_a_pause_in_a_gap_does_not_lengthen_the_word_behind_it() -> None:
    found = moved((0, 200), (800, 1000), pauses=[(250, 500)])
    assert found == [(0, 250), (800, 1000)]
