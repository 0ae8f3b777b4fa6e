"""Scripted output for models with random weights, used by benchmarks.

Models with random weights stand in for the released ones where speed and memory are measured: both
depend on shapes alone, but for the number of tokens, which gibberish leaves to chance. So a decoder
computes everything, and then its choices are replaced by a script: a number of tokens for each
second of audio, the newest of which change from hypothesis to hypothesis as those of speech do.
"""

from dataclasses import dataclass
from typing import Final

from streamasr.core.units import Float32Array
from streamasr.decoder.batching import Choose, greedy

_N_CHANGING: Final = 2  # tokens
_PRIME: Final = 131  # so that those of two hypotheses differ


@dataclass(frozen=True, slots=True)
class Script:
    """Number of tokens in an answer."""

    per_embedding: float
    """Tokens for each embedding of the encoder."""

    def chooser(self, n_audio_tokens: int, end: int) -> Choose:
        """Return a choice of tokens for so much audio, whatever the logits are."""
        n_tokens = round(n_audio_tokens * self.per_embedding)

        def choose(logits: Float32Array, n_before: int) -> int:
            greedy(logits, n_before)  # so that it takes its time, too
            if n_before >= n_tokens:
                return end
            is_settled = n_before < n_tokens - _N_CHANGING
            seed = n_before if is_settled else n_before + _PRIME * n_audio_tokens
            n_ordinary = len(logits) // 4  # the second quarter of any vocabulary is plain text
            return n_ordinary + seed * seed % n_ordinary

        return choose
