"""Clips for property tests: speech, silence, noise and clicks in any order and at any level."""

from functools import cache
from typing import Final

import numpy as np
from hypothesis import strategies as st

from streamasr.core.units import SAMPLE_RATE, Float32Array
from tests.support.goldens import TINY_CLIPS, read_clip
from tests.support.signals import signal, speechlike

SPOKEN: Final = tuple(sorted(path.stem for path in TINY_CLIPS.glob("*.flac")))
KINDS: Final = (*SPOKEN, "noise", "silence", "tone", "speechlike")
LEVELS: Final = (1e-5, 1e-3, 0.1, 1.0)
"""So far apart that the floor, 8 decades of power below the maximum, can lie above speech."""


@cache
def sound(kind: str) -> Float32Array:
    """Return a sound of one kind, (n,)."""
    if kind in SPOKEN:
        return read_clip(kind)
    n_samples = 4 * SAMPLE_RATE
    return speechlike(n_samples) if kind == "speechlike" else signal(kind, n_samples)


@st.composite
def clips(draw: st.DrawFn, longest_s: float) -> Float32Array:
    """Return a strategy of clips: sounds in a row, (n,), up to a length."""
    n_left = draw(st.integers(1, round(longest_s * SAMPLE_RATE)))
    parts = []
    while n_left > 0:
        n_samples = min(n_left, draw(st.integers(1, 4 * SAMPLE_RATE)))
        kind, level = draw(st.sampled_from(KINDS)), draw(st.sampled_from(LEVELS))
        parts.append(np.float32(level) * sound(kind)[:n_samples])
        n_left -= len(parts[-1])
    return np.concatenate(parts)


def cuts(n_samples: int, n_most: int = 8) -> st.SearchStrategy[list[int]]:
    """Return a strategy of block borders, ascending, up to the end; many at hops and chunks."""
    anywhere = st.integers(1, n_samples)
    near_hops = st.builds(
        lambda hop, off: min(max(1, 160 * hop + off), n_samples),
        st.integers(0, n_samples // 160),
        st.integers(-41, 41),
    )
    near_chunks = st.builds(
        lambda chunk, off: min(max(1, SAMPLE_RATE * chunk + off), n_samples),
        st.integers(0, n_samples // SAMPLE_RATE),
        st.integers(-41, 41),
    )
    inner = st.lists(st.one_of(anywhere, near_hops, near_chunks), max_size=n_most, unique=True)
    return inner.map(lambda places: sorted({*places, n_samples}))
