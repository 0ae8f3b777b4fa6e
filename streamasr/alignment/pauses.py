"""Borders of words, moved to the pauses in the audio; pure.

Recognisers that time their tokens say when a word begins, and some let it last until the next one:

    level      ......######....#####......###...
    words      [   one         ][   two        ]
    moved            [one ]    [two]               and what follows is another word

A pause is a stretch of quiet frames. It is quiet where the level is little above the noise of the
segment, and far below its speech. Speech in loud noise thus has no pauses, and its words stay as
they are. A border moves only to a pause that lies beside it, and never past the middle of a word:
the words stay in order, do not overlap, and none becomes very short.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from streamasr.alignment.repair import MIN_WORD_MS
from streamasr.core.units import SAMPLE_RATE, Float32Array

Span = tuple[int, int]
"""Start and end in samples."""

_FRAME: Final = SAMPLE_RATE // 100  # samples, 10 ms

_SHORTEST: Final = 8  # frames
"""Of a pause between words: the closure of a "t" is shorter."""

_NEAR: Final = 15 * _FRAME
"""Distance of the furthest pause that a border moves to."""

_MIN_WORD: Final = MIN_WORD_MS * SAMPLE_RATE // 1000  # samples

# Levels, in dB
_ABOVE_NOISE: Final = 4.0
_BELOW_SPEECH: Final = 35.0
"""Without noise, the end of a word fades to about this level."""
_LEAST_BELOW_SPEECH: Final = 15.0
"""Speech has weak consonants that are not so far below its vowels."""
_SILENCE: Final = 1e-10
"""Power of frames that do not count as sound."""

_NOISE_QUANTILE: Final = 0.05
_SPEECH_QUANTILE: Final = 0.95


def find_pauses(samples: Float32Array) -> list[Span]:
    """Find the pauses of a segment.

    Args:
        samples: (n,), mono at SAMPLE_RATE.

    Returns:
        Ordered, disjoint spans. Only those at the beginning and at the end can be shorter than
        80 ms.
    """
    n_frames = len(samples) // _FRAME
    if not n_frames:
        return []
    frames = samples[: n_frames * _FRAME].astype(np.float64).reshape(n_frames, _FRAME)
    levels = 10 * np.log10(
        frames.var(axis=1) + _SILENCE
    )  # without the mean: an offset is not sound
    noise, speech = np.quantile(levels, (_NOISE_QUANTILE, _SPEECH_QUANTILE))
    border = max(noise + _ABOVE_NOISE, speech - _BELOW_SPEECH)
    is_quiet = levels < min(border, speech - _LEAST_BELOW_SPEECH)
    return [
        (first * _FRAME, len(samples) if behind == n_frames else behind * _FRAME)
        for first, behind in _runs(is_quiet)
        if behind - first >= _SHORTEST or first == 0 or behind == n_frames
    ]


def _runs(flags: npt.NDArray[np.bool_]) -> Iterator[Span]:
    """Yield the stretches of True: first index, and the index behind the last."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)).tolist()
    yield from zip(edges[::2], edges[1::2], strict=True)


def move_to_pauses(words: Sequence[Span], pauses: Sequence[Span], n_samples: int) -> list[Span]:
    """Move the borders of words to pauses.

    Args:
        words: (n,) ordered, disjoint spans within the segment.
        pauses: of `find_pauses`.
        n_samples: length of the segment.

    Returns:
        (n,) ordered, disjoint spans. Each has 40 ms around the middle of the word, or the whole
        word if that is shorter.
    """
    if not words:
        return []
    cores = [_core(word) for word in words]
    rooms = zip(
        [0, *(end for _, end in cores)], [*(start for start, _ in cores), n_samples], strict=True
    )
    moved = [
        _moved(border, pauses, room) for border, room in zip(_borders(words), rooms, strict=True)
    ]
    return [(start, end) for (_, start), (end, _) in pairwise(moved)]


def _borders(words: Sequence[Span]) -> list[Span]:
    """Return what lies between words, which may be empty, and the two outer borders."""
    between = [(before[1], after[0]) for before, after in pairwise(words)]
    return [(words[0][0], words[0][0]), *between, (words[-1][1], words[-1][1])]


def _core(word: Span) -> Span:
    """Return the part around the middle that a word keeps."""
    start, end = word
    begin = start + max(0, end - start - _MIN_WORD) // 2
    return begin, min(begin + _MIN_WORD, end)


def _moved(border: Span, pauses: Sequence[Span], room: Span) -> Span:
    """Return a border, moved to the pause that fits best, if there is one.

    It is the longest and nearest one: nearer than it is long. No word becomes much longer.

    Args:
        border: end of the word before and start of the word behind.
        pauses: see `find_pauses`.
        room: only the parts of pauses within it count.
    """
    best: Span | None = None
    most = 0
    for start, end in pauses:
        part = max(start, room[0]), min(end, room[1])
        distance = max(0, start - border[1], border[0] - end)
        gain = part[1] - part[0] - distance
        if gain > most and distance <= _NEAR:
            best, most = part, gain
    if best is None:
        return border
    return (
        best[0] if best[0] <= border[0] + _NEAR else border[0],
        best[1] if best[1] >= border[1] - _NEAR else border[1],
    )
