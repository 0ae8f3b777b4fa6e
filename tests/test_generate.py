"""The token loop and its guards, on a model that recites a script."""

from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice, repeat

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamasr.decoder.generate import (
    MAX_PERIOD,
    Generated,
    Prompt,
    find_cycle,
    generate,
    token_budget,
)
from streamasr.decoder.llama import Outputs
from streamasr.units import Float32Array

END, OTHER_END = 90, 91
N_VOCAB = 100
PROMPT = Prompt(before=(1, 2), after=(3, 4), ends=frozenset((END, OTHER_END)))
LONG_AUDIO = 1000  # audio tokens: the budget is far away


class Reciter:
    """A decoder whose most likely next token comes from a script."""

    def __init__(self, script: Iterator[int]) -> None:
        self._script = script
        self.calls: list[tuple[str, object, str]] = []

    def read_tokens(self, tokens: Sequence[int], outputs: Outputs) -> Float32Array:
        self.calls.append(("tokens", tuple(tokens), outputs))
        if outputs == "none":
            return np.empty((0, N_VOCAB), np.float32)
        logits = np.zeros((1, N_VOCAB), np.float32)
        logits[0, next(self._script)] = 1
        return logits

    def read_embeddings(self, embeddings: Float32Array, outputs: Outputs) -> Float32Array:
        self.calls.append(("embeddings", len(embeddings), outputs))
        return np.empty((0, N_VOCAB), np.float32)

    def truncate(self, n_past: int) -> None:
        self.calls.append(("truncate", n_past, ""))


def recite(
    script: Iterator[int], n_audio: int = LONG_AUDIO, forced: Sequence[int] = ()
) -> Generated:
    return generate(Reciter(script), PROMPT, np.zeros((n_audio, 8), np.float32), forced)


def test_the_prompt_is_read_around_the_audio_and_then_token_by_token() -> None:
    reader = Reciter(iter([7, 8, END]))
    answer = generate(reader, PROMPT, np.zeros((5, 8), np.float32))
    assert answer == Generated((7, 8), "end")
    assert reader.calls == [
        ("truncate", 0, ""),
        ("tokens", (1, 2), "none"),
        ("embeddings", 5, "none"),
        ("tokens", (3, 4), "last"),
        ("tokens", (7,), "last"),
        ("tokens", (8,), "last"),
    ]


def test_forced_tokens_are_read_with_the_prompt_and_begin_the_answer() -> None:
    reader = Reciter(iter([9, END]))
    answer = generate(reader, PROMPT, np.zeros((5, 8), np.float32), (7, 8))
    assert answer == Generated((7, 8, 9), "end")
    assert reader.calls[2:] == [
        ("embeddings", 5, "none"),
        ("tokens", (3, 4, 7, 8), "last"),
        ("tokens", (9,), "last"),
    ]


def test_an_answer_may_end_right_after_the_forced_tokens() -> None:
    assert recite(iter([END]), forced=(7, 8)) == Generated((7, 8), "end")


def test_forced_tokens_count_for_the_budget() -> None:
    budget = token_budget(13)
    babble = [10 + n * n % 71 for n in range(budget)]
    answer = recite(iter([*babble[5:], 10]), 13, forced=babble[:5])
    assert answer == Generated(tuple(babble), "budget")


def test_the_budget_cuts_no_forced_tokens() -> None:
    forced = tuple(10 + n * n % 71 for n in range(token_budget(0) + 5))
    assert recite(iter([10]), 0, forced) == Generated(forced, "budget")
    assert recite(iter([END]), 0, forced) == Generated(forced, "end")


@pytest.mark.parametrize("n_forced", [0, 1, 10, 39])
def test_a_cycle_is_found_across_the_forced_tokens_but_cuts_none(n_forced: int) -> None:
    answer = recite(repeat(9), forced=(9,) * n_forced)
    assert answer == Generated((9,) * max(1, n_forced), "cycle")


@pytest.mark.parametrize("end", [END, OTHER_END])
def test_each_end_token_ends_the_answer_and_is_not_part_of_it(end: int) -> None:
    assert recite(iter([5, end])) == Generated((5,), "end")
    assert recite(iter([end])) == Generated((), "end")


@pytest.mark.parametrize("n_audio", [0, 1, 13, 312])
def test_an_answer_without_end_is_cut_at_the_budget(n_audio: int) -> None:
    babble = (10 + n * n % 71 for n in range(10_000))
    answer = recite(babble, n_audio)
    assert answer.stop == "budget"
    assert len(answer.tokens) == token_budget(n_audio)


def test_an_answer_of_exactly_the_budget_that_ends_is_whole() -> None:
    script = [10 + n * n % 71 for n in range(token_budget(13))]
    assert recite(iter([*script, END]), 13) == Generated(tuple(script), "end")


def test_the_budget_grows_with_the_audio() -> None:
    assert token_budget(0) > 0
    assert token_budget(130) - token_budget(0) == 260


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_a_cycle_is_cut_to_its_first_copy(period: int) -> None:
    prefix, copy = [80, 81, 82], list(range(10, 10 + period))
    answer = recite(chain(prefix, cycle(copy)))
    assert answer == Generated((*prefix, *copy), "cycle")


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_repetition_below_the_threshold_is_left_alone(period: int) -> None:
    copy = list(range(10, 10 + period))
    n_copies = max(6, -(-40 // period)) - 1
    script = [80, *copy * n_copies, 81]
    assert recite(iter([*script, END])) == Generated(tuple(script), "end")


def test_repetition_with_a_longer_period_is_left_to_the_budget() -> None:
    answer = recite(cycle(range(10, 10 + MAX_PERIOD + 1)), 100)
    assert answer.stop == "budget"


def test_the_shortest_period_wins() -> None:
    assert recite(repeat(9)) == Generated((9,), "cycle")


def slow_find_cycle(tokens: list[int]) -> int | None:
    """Straight from the definition: at least 6 copies and 40 tokens of the same at the end."""
    for period in range(1, MAX_PERIOD + 1):
        n_copies = next(n for n in range(6, 100) if n * period >= 40)
        copies = [
            tokens[len(tokens) - (k + 1) * period : len(tokens) - k * period]
            for k in range(n_copies)
        ]
        if len(tokens) >= n_copies * period and all(copy == copies[0] for copy in copies):
            return period
    return None


@st.composite
def repetitive(draw: st.DrawFn) -> list[int]:
    """Tokens that often end in a cycle, or nearly."""
    prefix = draw(st.lists(st.integers(0, 2), max_size=10))
    copy = draw(st.lists(st.integers(0, 2), min_size=1, max_size=22))
    length = draw(st.integers(0, 130))
    tokens = prefix + list(islice(cycle(copy), length))
    position = draw(st.integers(0, 200))
    if position < len(tokens):
        tokens[position] = 3
    return tokens


@given(tokens=repetitive())
@example(tokens=[1] * 39)
@example(tokens=[1] * 40)
def test_find_cycle_is_what_its_definition_says(tokens: list[int]) -> None:
    assert find_cycle(tokens) == slow_find_cycle(tokens)


@given(tokens=repetitive())
def test_a_cut_answer_begins_like_the_uncut_one(tokens: list[int]) -> None:
    answer = recite(chain(tokens, repeat(END)))
    assert answer.tokens == tuple(tokens[: len(answer.tokens)])
    assert (answer.stop == "cycle") == any(
        slow_find_cycle(tokens[:n]) for n in range(1, len(tokens) + 1)
    )
