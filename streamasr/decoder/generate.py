"""Token loop: from a prompt with audio in it to the tokens of the answer; pure.

Decoding is greedy: the same audio gives the same text on every run. Where the beginning of the
answer is supposed already, because the last hypothesis had it, it is read along with the prompt:
the model gives at each of its tokens what it would have chosen. The tokens up to the first
difference are its answer, at the price of reading instead of that of decoding token by token.

Speech models under greedy decoding fail in two ways, both by not ending: they fall into a cycle, or
they babble on. Two guards end an answer that audio of this length cannot hold: a budget, and a
detector of cycles of any period up to 20 tokens.

Sources: Stern et al. 2018, "Blockwise parallel decoding for deep autoregressive models"
(verification in one pass); the draft is the utterance's own last hypothesis.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, Literal, TypeAlias

from streamasr.core.units import Float32Array
from streamasr.decoder.content import Content
from streamasr.decoder.openings import Openings

MAX_PERIOD: Final = 20
"""Tokens; longer cycles are left to the budget."""

_MIN_COPIES: Final = 6
_MIN_CYCLE_TOKENS: Final = 40
"""A cycle is one after this many copies and tokens. People do repeat themselves, but 40 tokens of
it are more than 10 s of one word."""

_BUDGET_BASE: Final = 24  # tokens: the header that names the language, and short answers
_BUDGET_PER_AUDIO_TOKEN: Final = 2.0  # 26 tokens a second; fast Chinese in single bytes needs 21

_RESUMED_AFTER: Final = 2
"""Tokens that must agree before a draft is used again behind a difference."""

_LONGEST_SHIFT: Final = 4
"""Tokens that a difference may have inserted or taken out."""

_LONGEST_GUESS: Final = 8
"""Tokens of a draft used at once behind a difference; wrong ones cost about a fifth of a step."""

StopReason = Literal["end", "budget", "cycle"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens around the audio, and how the answer to them may begin and end."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    ends: frozenset[int]
    """Tokens that end the answer."""
    openings: Openings | None = None
    """None lets the answer begin with anything."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer, without its end token, and the reason of its end."""

    tokens: tuple[int, ...]
    stop: StopReason


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Request for the tokens that follow a content, and each of the last tokens in it."""

    content: Content
    n_choices: int
    """Number of tokens that are asked for: the one behind the last row, and those before it."""
    openings: Openings | None = None
    """Restriction of the answer, of which `content` holds the first tokens."""


Answering: TypeAlias = Generator[Question, Sequence[int], Generated]
"""Generator of questions until the answer is complete; each is sent `n_choices` tokens."""


def generate(
    prompt: Prompt, embeddings: Float32Array, forced: Sequence[int] = (), draft: Sequence[int] = ()
) -> Answering:
    """Decode one answer greedily.

    Args:
        prompt: the tokens before and after the audio.
        embeddings: (n_audio_tokens, n_embd) from the encoder.
        forced: tokens that the answer begins with. No guard cuts them.
        draft: tokens that it probably begins with. The answer is the same with any draft.
    """
    budget = token_budget(len(embeddings))
    tokens = list(forced)
    while True:
        supposed = continuation(draft, tokens)[: max(0, budget - len(tokens))]
        text = (*prompt.after, *tokens, *supposed)
        content = Content(prompt.before, embeddings, text, len(prompt.after))
        choices = yield Question(content, len(supposed) + 1, prompt.openings)
        for token, guess in zip_longest(choices, supposed):
            if token in prompt.ends:
                return Generated(tuple(tokens), "end")
            if len(tokens) >= budget:
                return Generated(tuple(tokens), "budget")
            tokens.append(token)
            if period := find_cycle(tokens):
                n_kept = max(_first_copy(tokens, period), len(forced))
                return Generated(tuple(tokens[:n_kept]), "cycle")
            if token != guess:
                break


def continuation(draft: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...]:
    """Return the tokens of a draft that probably follow `tokens`.

    These are all the rest of the draft as long as it agrees; and behind a difference (an inserted
    word, say) some of it again, once the last tokens are found near the place where they should be.
    """
    n_tokens = len(tokens)
    if tuple(draft[:n_tokens]) == tuple(tokens):
        return tuple(draft[n_tokens:])
    last = tuple(tokens[-_RESUMED_AFTER:])
    for shift in sorted(range(-_LONGEST_SHIFT, _LONGEST_SHIFT + 1), key=abs):
        end = n_tokens + shift
        if end >= _RESUMED_AFTER and tuple(draft[end - _RESUMED_AFTER : end]) == last:
            return tuple(draft[end : end + _LONGEST_GUESS])
    return ()


def token_budget(n_audio_tokens: int) -> int:
    """Return the largest number of tokens that an answer to audio of this length may have."""
    return _BUDGET_BASE + round(_BUDGET_PER_AUDIO_TOKEN * n_audio_tokens)


def find_cycle(tokens: Sequence[int]) -> int | None:
    """Return the period of the cycle that `tokens` end in, None if they end in none.

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
    """Return the end of the first copy of the cycle at the end of `tokens`."""
    end = len(tokens)
    while end > period and tokens[end - 1] == tokens[end - 1 - period]:
        end -= 1
    return end
