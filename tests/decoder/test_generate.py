"""The token loop, its drafts and its guards, on models that recite a script or a hash."""

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
    Question,
    continuation,
    find_cycle,
    generate,
    token_budget,
)
from tests.support.readers import Model, greedy_answer, hashed_prompt, hashing, interview

END, OTHER_END = 90, 91
PROMPT = Prompt(before=(1, 2), after=(3, 4), ends=frozenset((END, OTHER_END)))
LONG_AUDIO = 1000  # audio tokens: the budget is far away


def reciter(script: Iterator[int]) -> Model:
    """Says the tokens of a script, whatever it has read, and then the end."""
    said: list[int] = []

    def follow(tokens: tuple[int, ...]) -> int:
        while len(said) <= len(tokens):
            said.append(next(script, END))
        return said[len(tokens)]

    return follow


def converse(
    script: Iterator[int],
    n_audio: int = LONG_AUDIO,
    forced: Sequence[int] = (),
    draft: Sequence[int] = (),
) -> tuple[Generated, list[Question]]:
    embeddings = np.zeros((n_audio, 8), np.float32)
    return interview(generate(PROMPT, embeddings, forced, draft), reciter(script))


def recite(
    script: Iterator[int], n_audio: int = LONG_AUDIO, forced: Sequence[int] = ()
) -> Generated:
    """The answer to a script that begins with the forced tokens."""
    return converse(chain(forced, script), n_audio, forced)[0]


def asked(questions: Sequence[Question]) -> list[tuple[tuple[int, ...], int]]:
    """Text and number of choices of each."""
    return [(question.content.text, question.n_choices) for question in questions]


def test_the_prompt_is_read_around_the_audio_and_then_token_by_token() -> None:
    answer, questions = converse(iter([7, 8, END]), 5)
    assert answer == Generated((7, 8), "end")
    assert asked(questions) == [((3, 4), 1), ((3, 4, 7), 1), ((3, 4, 7, 8), 1)]
    for question in questions:
        assert question.content.before == (1, 2)
        assert question.content.embeddings.shape == (5, 8)
        assert question.content.n_prompt == 2


def test_forced_tokens_are_read_with_the_prompt_and_begin_the_answer() -> None:
    answer, questions = converse(iter([7, 8, 9, END]), forced=(7, 8))
    assert answer == Generated((7, 8, 9), "end")
    assert asked(questions) == [((3, 4, 7, 8), 1), ((3, 4, 7, 8, 9), 1)]


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


# Drafts


def test_a_right_draft_takes_one_question() -> None:
    answer, questions = converse(iter([7, 8, 9, END]), draft=(7, 8, 9))
    assert answer == Generated((7, 8, 9), "end")
    assert asked(questions) == [((3, 4, 7, 8, 9), 4)]


def test_a_draft_that_is_too_long_is_cut_where_the_answer_ends() -> None:
    answer, questions = converse(iter([7, END]), draft=(7, 8, 9))
    assert answer == Generated((7,), "end")
    assert len(questions) == 1


def test_after_a_draft_it_goes_on_token_by_token() -> None:
    answer, questions = converse(iter([7, 8, 9, 10, END]), draft=(7, 8))
    assert answer == Generated((7, 8, 9, 10), "end")
    assert asked(questions)[1:] == [((3, 4, 7, 8, 9), 1), ((3, 4, 7, 8, 9, 10), 1)]


def test_a_draft_is_resumed_behind_a_token_that_has_changed() -> None:
    answer, questions = converse(
        iter([10, 11, 55, 13, 14, 15, 16, END]), draft=(10, 11, 12, 13, 14, 15, 16)
    )
    assert answer.tokens == (10, 11, 55, 13, 14, 15, 16)
    assert asked(questions) == [
        ((3, 4, 10, 11, 12, 13, 14, 15, 16), 8),
        ((3, 4, 10, 11, 55), 1),
        ((3, 4, 10, 11, 55, 13), 1),
        ((3, 4, 10, 11, 55, 13, 14, 15, 16), 3),  # two tokens agree again
    ]


@pytest.mark.parametrize(
    ("draft", "tokens", "supposed"),
    [
        ((), (), ()),
        ((), (1,), ()),
        ((1, 2, 3), (), (1, 2, 3)),
        ((1, 2, 3), (1, 2), (3,)),
        ((1, 2, 3), (1, 2, 3), ()),
        ((1, 2, 3), (1, 2, 3, 4), ()),
        ((1, 2, 3, 4), (9,), ()),  # one token is too little
        ((1, 2, 3, 4), (9, 2, 3), (4,)),  # one replaced
        ((1, 2, 3, 4), (9, 1, 2), (3, 4)),  # one inserted
        ((1, 2, 3, 4), (2, 3), (4,)),  # one taken out
        ((0, 0, 0, 0, 0, 1, 2, 3), (1, 2), ()),  # too far away
        (tuple(range(50)), (99, 1, 2), tuple(range(3, 11))),  # not too much at once
        ((5, 6, 1, 5, 6, 2), (9, 9, 9, 5, 6), (2,)),  # the nearest place
    ],
)
def test_what_a_draft_supposes(
    draft: tuple[int, ...], tokens: tuple[int, ...], supposed: tuple[int, ...]
) -> None:
    assert continuation(draft, tokens) == supposed


@st.composite
def drafts(draw: st.DrawFn, answer: Sequence[int]) -> list[int]:
    """The answer with some changes, or anything."""
    draft = list(answer)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(draft)))
        draft[place : place + draw(st.integers(0, 2))] = draw(st.lists(st.integers(0, 7)))
    return draft


@given(
    rows=st.lists(st.integers(0, 3), max_size=12),
    forced=st.lists(st.integers(0, 6), max_size=12),
    data=st.data(),
)
def test_the_answer_is_the_same_with_any_draft(
    rows: list[int], forced: list[int], data: st.DataObject
) -> None:
    embeddings = np.array(rows, np.float32).reshape(-1, 1)
    prompt = hashed_prompt()
    model = hashing(prompt.before, embeddings, prompt.after)
    expected = greedy_answer(model, len(rows), forced)
    assert interview(generate(prompt, embeddings, forced), model)[0] == expected
    draft = data.draw(drafts(expected.tokens))
    answer, questions = interview(generate(prompt, embeddings, forced, draft), model)
    assert answer == expected
    n_found = len(expected.tokens) - len(forced)
    if expected.stop == "end":
        assert len(questions) <= n_found + 1
        if tuple(draft[: len(expected.tokens)]) == expected.tokens:
            assert len(questions) == 1


# Cycles


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_a_cycle_is_cut_to_its_first_copy(period: int) -> None:
    prefix, copy = [80, 81, 82], list(range(10, 10 + period))
    answer = recite(chain(prefix, cycle(copy)))
    assert answer == Generated((*prefix, *copy), "cycle")


def test_a_cycle_in_the_draft_is_cut_too() -> None:
    answer, questions = converse(repeat(9), draft=(9,) * 100)
    assert answer == Generated((9,), "cycle")
    assert len(questions) == 1


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


@given(tokens=repetitive(), draft=repetitive())
def test_a_cut_answer_begins_like_the_uncut_one(tokens: list[int], draft: list[int]) -> None:
    answer = recite(chain(tokens, repeat(END)))
    assert answer.tokens == tuple(tokens[: len(answer.tokens)])
    assert (answer.stop == "cycle") == any(
        slow_find_cycle(tokens[:n]) for n in range(1, len(tokens) + 1)
    )
    assert converse(chain(tokens, repeat(END)), draft=draft)[0] == answer
