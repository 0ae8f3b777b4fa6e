"""The token loop: from a prompt with audio in it to the tokens of the answer.

Decoding is greedy: the same audio gives the same text, on every run. Speech models under greedy
decoding fail in two ways, both by not ending: they fall into a cycle, or they babble on. Two guards
end what audio of this length cannot hold: a budget, and a detector of cycles of any period up to 20
tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np

from streamasr.decoder.llama import Outputs
from streamasr.units import Float32Array

MAX_PERIOD: Final = 20
"""Tokens; longer cycles are left to the budget."""

_MIN_COPIES: Final = 6
_MIN_CYCLE_TOKENS: Final = 40
"""A cycle is believed after this many copies and tokens. People do repeat themselves, but 40 tokens
of it are more than 10 s of one word."""

_BUDGET_BASE: Final = 24  # tokens: the header that names the language, and short answers
_BUDGET_PER_AUDIO_TOKEN: Final = 2.0  # 26 tokens a second; fast Chinese in single bytes needs 21

StopReason = Literal["end", "budget", "cycle"]


class Reader(Protocol):
    """What the loop needs of a `LlamaContext`."""

    def read_tokens(self, tokens: Sequence[int], outputs: Outputs) -> Float32Array:
        """See `LlamaContext.read_tokens`."""

    def read_embeddings(self, embeddings: Float32Array, outputs: Outputs) -> Float32Array:
        """See `LlamaContext.read_embeddings`."""

    def truncate(self, n_past: int) -> None:
        """See `LlamaContext.truncate`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens around the audio."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    ends: frozenset[int]
    """Tokens that end the answer."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer, without its end token, and why it ended."""

    tokens: tuple[int, ...]
    stop: StopReason


def generate(
    reader: Reader, prompt: Prompt, embeddings: Float32Array, forced: Sequence[int] = ()
) -> Generated:
    """Decode one answer greedily, from scratch.

    Args:
        reader: its present content is forgotten.
        prompt: the tokens before and after the audio.
        embeddings: (n_audio_tokens, n_embd) from the encoder.
        forced: tokens that the answer begins with, read along with the prompt. No guard cuts them.

    Raises:
        DecodeError: llama.cpp refused.
        Aborted: the reader's `abort` was set.
    """
    reader.truncate(0)
    reader.read_tokens(prompt.before, "none")
    reader.read_embeddings(embeddings, "none")
    logits = reader.read_tokens([*prompt.after, *forced], "last")[-1]
    budget = token_budget(len(embeddings))
    tokens = list(forced)
    while True:
        token = int(np.argmax(logits))
        if token in prompt.ends:
            return Generated(tuple(tokens), "end")
        if len(tokens) >= budget:
            return Generated(tuple(tokens), "budget")
        tokens.append(token)
        if period := find_cycle(tokens):
            n_kept = max(_first_copy(tokens, period), len(forced))
            return Generated(tuple(tokens[:n_kept]), "cycle")
        logits = reader.read_tokens([token], "last")[-1]


def token_budget(n_audio_tokens: int) -> int:
    """The most tokens that an answer to audio of this length may have."""
    return _BUDGET_BASE + round(_BUDGET_PER_AUDIO_TOKEN * n_audio_tokens)


def find_cycle(tokens: Sequence[int]) -> int | None:
    """The period of the cycle that `tokens` end in, None if they end in none.

    The shortest period wins, so that "a a a a" has period 1 and not 2.
    """
    for period in range(1, MAX_PERIOD + 1):
        span = period * max(_MIN_COPIES, -(-_MIN_CYCLE_TOKENS // period))
        if len(tokens) < span:
            continue
        tail = tokens[-span:]
        if tail[period:] == tail[:-period]:
            return period
    return None


def _first_copy(tokens: list[int], period: int) -> int:
    """Where the first copy of the cycle at the end of `tokens` ends."""
    end = len(tokens)
    while end > period and tokens[end - 1] == tokens[end - 1 - period]:
        end -= 1
    return end
