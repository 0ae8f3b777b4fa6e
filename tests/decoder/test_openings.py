"""Openings: the only beginnings that an answer may have."""

from collections.abc import Sequence

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from streamasr.core.units import Float32Array
from streamasr.decoder.batching import N_PREFIXES, Batcher, greedy
from streamasr.decoder.generate import Generated, Prompt, generate
from streamasr.decoder.openings import Openings
from tests.support.readers import (
    ENDS,
    N_VOCAB,
    FakeReader,
    Model,
    greedy_answer,
    hashing,
    interview,
)

TOKENS = st.integers(0, N_VOCAB - 1)
SEQUENCES = st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=4)


def test_only_continuations_of_a_sequence_can_be_chosen() -> None:
    openings = Openings([(1, 2, 3), (1, 5), (4,)])
    logits = np.array([9, 1, 2, 3, 4, 5, 8], np.float32)
    assert greedy(openings.restrict(logits, ()), 0) == 4
    assert greedy(openings.restrict(logits, (1,)), 1) == 5
    assert greedy(openings.restrict(logits, (1, 2)), 2) == 3
    assert logits[0] == 9


def test_behind_an_opening_every_token_can_be_chosen() -> None:
    openings = Openings([(1, 2, 3), (1, 5), (4,)])
    logits = np.array([9, 1, 2], np.float32)
    for tokens in ((1, 2, 3), (1, 5), (4,), (7,), (1, 5, 6)):
        assert openings.restrict(logits, tokens) is logits
    assert openings.length == 3


def test_without_sequences_every_token_can_be_chosen() -> None:
    openings = Openings([])
    assert openings.length == 0
    assert greedy(openings.restrict(np.array([0, 1], np.float32), ()), 0) == 1


def restricted(model: Model, sequences: Sequence[Sequence[int]]) -> Model:
    """The model's choice, or the smallest allowed token where its choice is ruled out."""

    def follow(tokens: tuple[int, ...]) -> int:
        n_tokens = len(tokens)
        allowed = {s[n_tokens] for s in map(tuple, sequences) if s[:n_tokens] == tokens != s}
        choice = model(tokens)
        return choice if not allowed or choice in allowed else min(allowed)

    return follow


def audio(n_rows: int) -> Float32Array:
    return np.arange(n_rows, dtype=np.float32).reshape(-1, 1).repeat(2, axis=1)


@given(SEQUENCES, st.integers(1, 12), st.lists(TOKENS, max_size=10), st.integers(0, 5))
@example([[7]], 3, [], 0)  # the end of the answer is the only beginning
def test_an_answer_is_the_same_with_any_draft_and_begins_with_an_opening(
    sequences: list[list[int]], n_rows: int, draft: list[int], n_wrong: int
) -> None:
    prompt = Prompt((1, 2), (3, 4), ENDS, Openings(sequences))
    model = restricted(hashing((1, 2), audio(n_rows), (3, 4)), sequences)
    expected = greedy_answer(model, n_rows)
    reader = FakeReader(100_000, N_PREFIXES + 1)
    batcher = Batcher(reader, N_PREFIXES + 1)
    for supposed in ((), draft, expected.tokens, (*draft[:n_wrong], *expected.tokens)):
        assert ask(batcher, prompt, n_rows, supposed) == expected
    complete = [tuple(s) for s in sequences]
    said = (*expected.tokens, 7) if expected.stop == "end" else expected.tokens
    assert any(said[: len(s)] == s[: len(said)] for s in complete)


def ask(batcher: Batcher, prompt: Prompt, n_rows: int, draft: Sequence[int]) -> Generated:
    answer = batcher.begin("a", generate(prompt, audio(n_rows), (), draft))
    while not answer.is_complete:
        batcher.step([answer])
    assert answer.result is not None
    return answer.result


@given(SEQUENCES, st.lists(TOKENS, min_size=1, max_size=6))
def test_forced_tokens_need_not_be_an_opening(
    sequences: list[list[int]], forced: list[int]
) -> None:
    model = restricted(hashing((1,), audio(4), (2,)), sequences)
    generator = generate(Prompt((1,), (2,), ENDS, Openings(sequences)), audio(4), forced)
    answer, questions = interview(generator, model)
    assert answer == greedy_answer(model, 4, forced)
    assert answer.tokens[: len(forced)] == tuple(forced)
    assert all(question.openings is not None for question in questions)
