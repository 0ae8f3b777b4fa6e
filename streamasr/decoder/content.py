"""Contents of the decoder's sequences, and how much two of them share; pure.

Caches are addressed by content: the rows that a sequence has read are compared with those that it
is to read next, and only those that differ are read again. No message states the changes, so that
none can state them wrongly.
"""

from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """A prompt with audio in it and the beginning of its answer."""

    before: tuple[int, ...]
    """Tokens before the audio."""
    embeddings: Float32Array
    """(n_audio_tokens, n_embd)."""
    text: tuple[int, ...]
    """Tokens after it: the rest of the prompt, and the answer so far."""
    n_prompt: int = 0
    """Number of tokens in `text` that belong to the prompt."""

    def __len__(self) -> int:
        """Return the number of positions."""
        return self.text_begin + len(self.text)

    @property
    def audio_begin(self) -> int:
        """Position of the first embedding."""
        return len(self.before)

    @property
    def text_begin(self) -> int:
        """Position of the first token after the audio."""
        return len(self.before) + len(self.embeddings)

    def rows(self, begin: int, limit: int) -> IntArray | Float32Array:
        """Return rows from position `begin` on, at most `limit`, tokens or embeddings only."""
        if begin < self.audio_begin:
            return np.asarray(self.before[begin : begin + limit], dtype=np.int32)
        if begin < self.text_begin:
            begin -= self.audio_begin
            return self.embeddings[begin : begin + limit]
        begin -= self.text_begin
        return np.asarray(self.text[begin : begin + limit], dtype=np.int32)


def common_length(a: Content, b: Content) -> int:
    """Return the number of positions that two contents share at their beginning."""
    if a.before != b.before:
        return _common_tokens(a.before, b.before)
    n_rows = _common_rows(a.embeddings, b.embeddings)
    if n_rows < max(len(a.embeddings), len(b.embeddings)):
        return len(a.before) + n_rows
    return a.text_begin + _common_tokens(a.text, b.text)


def _common_tokens(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _common_rows(a: Float32Array, b: Float32Array) -> int:
    if a is b:
        return len(a)
    length = min(len(a), len(b))
    if a.shape[1:] != b.shape[1:]:
        return 0
    differs = (a[:length] != b[:length]).any(axis=1)
    return int(np.argmax(differs)) if differs.any() else length
