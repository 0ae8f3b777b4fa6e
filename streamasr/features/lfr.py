"""Low frame rate: each row holds several frames, and there are fewer rows than frames; pure.

    frames    0  1  2  3  4  5  6  7  8  9 ...        window 7, shift 6
    row 0     0  0  0  0  1  2  3                     the first frame fills its left half
    row 1              3  4  5  6  7  8  9

A row is centred on its own frame. Where it reaches beyond an end, the first or the last frame is
repeated, so a clip that grows changes only its last rows.

Source: `apply_lfr` of FunASR, with boundary padding.
"""

import numpy as np

from streamasr.core.units import Float32Array


def row_count(n_frames: int, shift: int) -> int:
    """Return the number of rows that are made of so many frames."""
    return -(-n_frames // shift)


def stack_frames(frames: Float32Array, window: int, shift: int) -> Float32Array:
    """Put several frames into each row.

    Args:
        frames: (n, width).
        window: frames of a row.
        shift: frames from one row to the next.

    Returns:
        (row_count(n, shift), window * width).
    """
    n_frames, width = frames.shape
    n_rows = row_count(n_frames, shift)
    first = shift * np.arange(n_rows)[:, None] - (window - 1) // 2
    places = np.clip(first + np.arange(window), 0, max(0, n_frames - 1))
    rows: Float32Array = frames[places].reshape(n_rows, window * width)
    return rows
