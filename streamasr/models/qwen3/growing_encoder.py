"""An utterance that grows, encoded again and again at the price of its new samples.

From one update to the next, the raw features are kept, the front end's tokens of complete chunks,
and the chunks of the last update:

    samples --> settled frames --> settled chunks --> closed windows
                + provisional      + the last         + the open one

The first line stays when audio follows, with one exception: the floor of the features lies under
the loudest frame of the whole clip. When it rises, or falls because the clip is shortened, the
chunks whose values it passes over are convolved again, and no others.
"""

from dataclasses import dataclass

import numpy as np

from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.features.growing import GrowingLogMel, RawClip
from streamasr.features.log_mel import normalise
from streamasr.models.family import Update
from streamasr.models.qwen3.encoder import Qwen3Encoder


@dataclass(frozen=True, slots=True)
class GrowingEncoder:
    """The encoder of a family whose utterances do not depend on options."""

    encoder: Qwen3Encoder

    def begin(self, _options: SessionOptions) -> "Utterance":
        """Begin an utterance without samples."""
        return Utterance(self.encoder)


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Output of the front end for one chunk."""

    tokens: Float32Array
    """(n, d_model)."""
    floor: np.float32
    """Floor of the clip at the time."""
    minimum: np.float32
    """Smallest of its raw features."""

    def stands(self, floor: np.float32) -> bool:
        """Tell whether its features are the same under this floor."""
        return bool(floor == self.floor or self.minimum >= max(floor, self.floor))


class Utterance:
    """A clip that grows, with everything that need not be computed again for it."""

    def __init__(self, encoder: Qwen3Encoder) -> None:
        """Begin with no samples."""
        self._encoder = encoder
        self._mel = GrowingLogMel(encoder.n_mels)
        self._settled: list[_Chunk] = []  # complete, from the first one on
        self._answered: list[_Chunk] = []  # those of the last update

    @property
    def n_samples(self) -> int:
        """Number of samples that were appended."""
        return self._mel.n_samples

    def append(self, samples: Float32Array) -> None:
        """Add the samples that follow.

        Args:
            samples: (n,), mono at SAMPLE_RATE, -1..1.

        Raises:
            AudioError: the samples are empty, not one channel, not float32 or not finite.
        """
        self._mel.append(samples)

    def update(self, n_samples: int) -> Update:
        """Encode the first samples as if no others had come: equal to `Qwen3Encoder.encode`.

        Args:
            n_samples: at most the number appended; may be smaller than in the last update.

        Raises:
            AudioError: fewer samples were appended, or none.
        """
        chunks = self._chunks(self._mel.clip(n_samples))
        n_kept = self._count_kept(chunks)
        embeddings = self._attend(chunks[n_kept:])
        self._answered = chunks
        return Update(n_kept * self._encoder.chunk_tokens, embeddings)

    def _chunks(self, clip: RawClip) -> list[_Chunk]:
        """Return all chunks of a clip, convolved where they have changed."""
        n_frames = self._encoder.chunk_frames
        n_settled = len(clip.settled) // n_frames
        chunks = self._settled[:n_settled]
        for index in range(-(-clip.n_frames // n_frames)):
            if index < len(chunks) and chunks[index].stands(clip.floor):
                continue
            chunk = self._convolve(clip.rows(index * n_frames, (index + 1) * n_frames), clip.floor)
            chunks[index : index + 1] = [chunk]
            if index < n_settled:
                self._settled[index : index + 1] = [chunk]
        return chunks

    def _convolve(self, raw: Float32Array, floor: np.float32) -> _Chunk:
        return _Chunk(self._encoder.convolve(normalise(raw, floor)), floor, raw.min())

    def _count_kept(self, chunks: list[_Chunk]) -> int:
        """Count the chunks of the windows, from the first on, that are as in the last update.

        An open window is never among them: its last chunk is another one each time.
        """
        n_same = 0
        for old, new in zip(self._answered, chunks, strict=False):
            if old is not new:
                break
            n_same += 1
        return n_same - n_same % self._encoder.window_chunks

    def _attend(self, chunks: list[_Chunk]) -> Float32Array:
        """Return the embeddings of chunks that begin with a window."""
        if not chunks:
            return np.empty((0, self._encoder.output_dim), np.float32)
        return self._encoder.attend(np.concatenate([chunk.tokens for chunk in chunks]))
