"""Many answers in one context: whatever is kept, given up or interrupted, they are the same."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamasr.core.errors import DecodeError
from streamasr.core.units import Float32Array
from streamasr.decoder.batching import N_PREFIXES, Answer, Batcher, greedy
from streamasr.decoder.generate import Generated, Prompt, generate
from streamasr.decoder.llama import Aborted, NoRoomError
from tests.support.errors import raises
from tests.support.readers import (
    ENDS,
    N_VOCAB,
    FakeReader,
    Item,
    greedy_answer,
    hashing,
    interview,
    items_of,
)

AFTER: Final = (5, 6)
BEFORES: Final = ((), (1,), (1, 2, 3), (1, 2, 4), (1, 2, 3, 4, 5, 6))
KEYS: Final = "abcd"
PROMPT: Final = Prompt((1, 2, 3), AFTER, ENDS)
MANY: Final = 100_000  # cells: nothing is ever given up
MAX_STEPS: Final = 4000


def audio(values: Sequence[float]) -> Float32Array:
    """Embeddings, (n, 2)."""
    return np.array(values, np.float32).reshape(-1, 1).repeat(2, axis=1)


def truth(prompt: Prompt, embeddings: Float32Array, forced: Sequence[int] = ()) -> Generated:
    model = hashing(prompt.before, embeddings, prompt.after)
    return greedy_answer(model, len(embeddings), forced)


def finish(batcher: Batcher, *answers: Answer[Any], n_steps: int = 10_000) -> list[Any]:
    """Let all answers be completed, and give their results."""
    for _ in range(n_steps):
        waiting = [answer for answer in answers if not answer.is_complete]
        if not waiting:
            return [answer.error or answer.result for answer in answers]
        batcher.step(waiting)
    pytest.fail("the answers are never completed")


def batcher_of(n_ctx: int = MANY, n_free: int = 4, **options: Any) -> tuple[Batcher, FakeReader]:
    reader = FakeReader(n_ctx, N_PREFIXES + n_free)
    return Batcher(reader, N_PREFIXES + n_free, **options), reader


class Batching(RuleBasedStateMachine):
    """Any history of answers, of what they are about, and of what goes wrong."""

    @initialize(
        n_ctx=st.sampled_from([12, 20, 40, 60, 100, 400]),
        n_free=st.integers(1, 4),
        reuse=st.booleans(),
        max_rows=st.sampled_from([1, 3, 8, 64]),
    )
    def open(self, n_ctx: int, n_free: int, reuse: bool, max_rows: int) -> None:
        self.batcher, self.reader = batcher_of(n_ctx, n_free, reuse=reuse, max_rows=max_rows)
        self.audio: dict[str, list[float]] = {key: [] for key in KEYS}
        self.tokens: dict[str, tuple[int, ...]] = dict.fromkeys(KEYS, ())  # the last answer's
        self.expected: dict[Answer[Generated], Generated] = {}
        self.under_way: dict[str, Answer[Generated]] = {}
        self.may_fail = False

    @rule(
        key=st.sampled_from(KEYS),
        before=st.sampled_from(BEFORES),
        change=st.sampled_from(["none", "grow", "shrink", "replace", "new"]),
        draft=st.sampled_from(["none", "last", "right", "wrong"]),
        data=st.data(),
    )
    def begin(
        self,
        key: str,
        before: tuple[int, ...],
        change: str,
        draft: str,
        data: st.DataObject,
    ) -> None:
        """Ask about the audio of a key, changed; what is under way for it is dropped."""
        embeddings = audio(self.changed(key, change, data))
        prompt = Prompt(before, AFTER, ENDS)
        forced = self.tokens[key][: data.draw(st.integers(0, 6))]
        expected = truth(prompt, embeddings, forced)
        supposed = {
            "none": (),
            "last": self.tokens[key],
            "right": expected.tokens,
            "wrong": data.draw(st.lists(st.integers(0, N_VOCAB - 1), max_size=12)),
        }[draft]
        generator = generate(prompt, embeddings, forced, supposed)
        self.under_way[key] = answer = self.batcher.begin(key, generator)
        self.expected[answer] = expected

    def changed(self, key: str, change: str, data: st.DataObject) -> list[float]:
        values = self.audio[key]
        more = data.draw(st.lists(st.integers(0, 3).map(float), max_size=12))
        match change:
            case "grow":
                values = [*values, *more]
            case "shrink":
                values = values[: len(more)]
            case "replace":
                values = [*values[: len(more)], 9.0, *values[len(more) + 1 :]]
            case "new":
                values = more
        self.audio[key] = values
        return values

    @precondition(lambda self: self.under_way)
    @rule(
        keys=st.permutations(KEYS),
        n_keys=st.integers(1, len(KEYS)),
        faults=st.lists(st.sampled_from([Aborted, DecodeError, NoRoomError, None]), max_size=2),
        n_steps=st.integers(1, 8),
    )
    def step(
        self,
        keys: Sequence[str],
        n_keys: int,
        faults: Sequence[Callable[[str], Exception] | None],
        n_steps: int,
    ) -> None:
        """Go on with some answers, the most urgent first."""
        self.reader.faults = [fault("as planned") if fault else None for fault in faults]
        for _ in range(n_steps):
            answers = [self.under_way[key] for key in keys if key in self.under_way][:n_keys]
            if answers:
                self.step_once(answers)
        self.reader.faults = []

    def step_once(self, answers: Sequence[Answer[Generated]]) -> None:
        try:
            served = self.batcher.step(answers)
        except Aborted:
            served = []
        assert {answer for answer, _ in served} <= set(answers)
        for answer in answers:
            if answer.is_complete:
                self.check(answer)

    def check(self, answer: Answer[Generated]) -> None:
        """See that a complete answer is right, or has failed for a good reason."""
        del self.under_way[str(answer.key)]
        expected = self.expected.pop(answer)
        if answer.error is None:
            assert answer.result == expected
            self.tokens[str(answer.key)] = expected.tokens
        elif "as planned" not in str(answer.error):
            assert "do not fit" in str(answer.error)
            assert len(answer.question.content) > self.reader.n_ctx

    @precondition(lambda self: self.reader.n_used)
    @rule(key=st.sampled_from(KEYS))
    def release(self, key: str) -> None:
        """Free a key, which does no harm to an unfinished answer."""
        self.batcher.release(key)

    @precondition(lambda self: self.under_way)
    @rule(keys=st.permutations(KEYS))
    def finish(self, keys: Sequence[str]) -> None:
        """All answers come to an end, those of keys that come first first."""
        for _ in range(MAX_STEPS):
            answers = [self.under_way[key] for key in keys if key in self.under_way]
            if not answers:
                return
            self.step_once(answers)
        pytest.fail("the answers are never completed")

    @invariant()
    def free_cells_are_free(self) -> None:
        """Compare the batcher's count of free cells with the reader's."""
        if hasattr(self, "reader"):
            assert self.batcher.n_free_cells <= self.reader.n_ctx - self.reader.n_used

    def teardown(self) -> None:
        """Leave nothing under way."""
        if hasattr(self, "reader"):
            self.finish(KEYS)


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=150, stateful_step_count=25)


# What is read


class Expected:
    """Content of one sequence, and the rows that it has to read if nothing is evicted."""

    def __init__(self) -> None:
        self.held: list[Item] = []

    def n_rows(self, prompt: Prompt, embeddings: Float32Array, draft: Sequence[int]) -> int:
        """For an answer, from the first difference on."""
        model = hashing(prompt.before, embeddings, prompt.after)
        _, questions = interview(generate(prompt, embeddings, (), draft), model)
        n_rows = 0
        for question in questions:
            items = items_of(question.content)
            n_rows += len(items) - min(n_common(self.held, items), len(items) - question.n_choices)
            self.held = items
        return n_rows


def n_common(a: Sequence[Item], b: Sequence[Item]) -> int:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return sum(1 for _ in pairs)


@given(st.data())
def test_what_is_read_begins_with_the_first_difference(data: st.DataObject) -> None:
    batcher, reader = batcher_of(max_rows=data.draw(st.integers(1, 9)))
    expected, draft = Expected(), ()
    values: list[float] = []
    for _ in range(data.draw(st.integers(1, 6))):
        values = values[: data.draw(st.integers(0, len(values)))]
        values += data.draw(st.lists(st.integers(0, 2).map(float), min_size=1, max_size=12))
        embeddings = audio(values)
        n_before = reader.n_rows
        [result] = finish(batcher, batcher.begin("a", generate(PROMPT, embeddings, (), draft)))
        assert reader.n_rows - n_before == expected.n_rows(PROMPT, embeddings, draft)
        draft = result.tokens


def test_a_right_draft_costs_one_reading_of_it() -> None:
    values = [1.0, 2.0, 3.0] * 10
    answer = truth(PROMPT, audio(values))
    assert len(answer.tokens) > 3
    batcher, reader = batcher_of()
    [result] = finish(
        batcher, batcher.begin("a", generate(PROMPT, audio(values), (), answer.tokens))
    )
    assert result == answer
    assert [sum(batch.values()) for batch in reader.batches] == [3, 30, 2 + len(answer.tokens)]


def test_what_is_asked_again_costs_the_reading_of_the_answer() -> None:
    embeddings = audio([1.0, 2.0, 3.0] * 10)
    batcher, reader = batcher_of()
    [first] = finish(batcher, batcher.begin("a", generate(PROMPT, embeddings)))
    n_before = reader.n_rows
    draft = first.tokens
    [second] = finish(batcher, batcher.begin("a", generate(PROMPT, embeddings.copy(), (), draft)))
    assert second == first
    assert reader.n_rows - n_before == 1 + len(first.tokens)


def test_the_constant_prefix_is_read_once_for_all() -> None:
    batcher, reader = batcher_of(n_free=6)
    for n, key in enumerate("abcdef"):
        n_before = reader.n_rows
        embeddings = audio([n, 1.0])
        finish(batcher, batcher.begin(key, generate(PROMPT, embeddings)))
        n_read = len(embeddings) + len(AFTER) + len(truth(PROMPT, embeddings).tokens)
        assert reader.n_rows - n_before == n_read + (3 if n == 0 else 0)
    assert batcher.n_free_cells == reader.n_ctx - reader.n_used


def test_a_context_that_comes_back_is_not_read_again() -> None:
    other = Prompt((1, 2, 4), AFTER, ENDS)
    embeddings = audio([1.0])
    batcher, reader = batcher_of()
    finish(batcher, batcher.begin("b", generate(other, embeddings)))
    finish(batcher, batcher.begin("a", generate(PROMPT, embeddings)))
    n_before = len(reader.batches)
    finish(batcher, batcher.begin("a", generate(other, embeddings)))
    assert reader.batches[n_before] == {max(reader.batches[n_before]): 1}  # the audio


def test_without_reuse_everything_is_read_again() -> None:
    embeddings = audio([1.0, 2.0])
    batcher, reader = batcher_of(reuse=False)
    for _ in range(3):
        n_before = reader.n_rows
        [result] = finish(batcher, batcher.begin("a", generate(PROMPT, embeddings)))
        assert reader.n_rows - n_before == 3 + 2 + len(AFTER) + len(result.tokens)


def test_without_reuse_promised_text_is_read_token_by_token() -> None:
    values = [1.0, 2.0, 3.0] * 10
    answer = truth(PROMPT, audio(values))
    batcher, reader = batcher_of(reuse=False)
    [result] = finish(batcher, batcher.begin("a", generate(PROMPT, audio(values), answer.tokens)))
    assert result == answer
    n_rows = [sum(batch.values()) for batch in reader.batches]
    assert n_rows == [3, 30, len(AFTER), *[1] * len(answer.tokens)]


def test_prompts_go_first_and_then_all_decode_together() -> None:
    batcher, reader = batcher_of()
    contents = {key: audio([n, n + 1.0]) for n, key in enumerate("abc", 20)}
    expected = {key: truth(PROMPT, embeddings) for key, embeddings in contents.items()}
    answers = [batcher.begin(key, generate(PROMPT, rows)) for key, rows in contents.items()]
    assert finish(batcher, *answers) == list(expected.values())
    assert all(len(answer.tokens) > 0 for answer in expected.values())
    assert len(reader.batches) == 3 + max(len(answer.tokens) for answer in expected.values())


# Eviction


@pytest.mark.parametrize("n_ctx", [35, 45, 60])
def test_answers_that_do_not_fit_together_are_found_one_after_the_other(n_ctx: int) -> None:
    """If each took the cells that another has just filled, none would ever be complete."""
    contents = {key: audio([n] * 6) for n, key in enumerate("abcd")}
    expected = [truth(PROMPT, embeddings) for embeddings in contents.values()]
    batcher, reader = batcher_of(n_ctx, max_rows=2)
    answers = [batcher.begin(key, generate(PROMPT, rows)) for key, rows in contents.items()]
    n_longest = max(3 + 6 + 2 + len(answer.tokens) for answer in expected)
    assert n_longest <= n_ctx < 4 * n_longest
    assert finish(batcher, *answers) == expected
    n_needed = sum(3 + 6 + 2 + len(answer.tokens) for answer in expected)
    assert reader.n_rows <= 2 * n_needed


def test_more_answers_than_sequences_are_found_too() -> None:
    contents = {key: audio([n, n]) for n, key in enumerate(range(9))}
    batcher, _ = batcher_of(n_free=2)
    answers = [batcher.begin(key, generate(PROMPT, rows)) for key, rows in contents.items()]
    assert finish(batcher, *answers) == [truth(PROMPT, rows) for rows in contents.values()]


def test_what_fits_nowhere_fails_and_nothing_else_does() -> None:
    batcher, _ = batcher_of(n_ctx=20)
    long, short = audio([1.0] * 30), audio([2.0])
    answers = [
        batcher.begin(key, generate(PROMPT, rows)) for key, rows in {"a": long, "b": short}.items()
    ]
    [failure, result] = finish(batcher, *answers)
    assert isinstance(failure, DecodeError)
    assert failure.code == "context_full"
    assert "35 positions" in str(failure)
    assert result == truth(PROMPT, short)
    assert finish(batcher, batcher.begin("a", generate(PROMPT, short))) == [result]


def test_a_prefix_does_not_stand_in_the_way_of_who_has_read_it_itself() -> None:
    longest = audio([1.0] * 60)
    expected = truth(PROMPT, longest)
    batcher, _ = batcher_of(n_ctx=3 + len(longest) + len(AFTER) + len(expected.tokens))
    finish(batcher, *(batcher.begin(key, generate(PROMPT, audio([7.0]))) for key in "ab"))
    assert finish(batcher, batcher.begin("b", generate(PROMPT, longest))) == [expected]


# What goes wrong


def test_an_abort_loses_nothing_but_the_batch() -> None:
    embeddings = audio([1.0, 2.0])
    batcher, reader = batcher_of(max_rows=2)
    answer = batcher.begin("a", generate(PROMPT, embeddings))
    n_aborts = 0
    while not answer.is_complete:
        reader.faults = [Aborted()]
        with pytest.raises(Aborted):
            batcher.step([answer])
        n_aborts += 1
        batcher.step([answer])
    assert answer.result == truth(PROMPT, embeddings)
    assert len(reader.batches) == n_aborts
    assert reader.n_rows == 3 + 2 + 2 + len(answer.result.tokens)


def test_a_batch_that_is_refused_is_read_one_by_one() -> None:
    contents = [audio([n]) for n in range(3)]
    batcher, reader = batcher_of()
    answers = [batcher.begin(n, generate(PROMPT, rows)) for n, rows in enumerate(contents)]
    # In a batch and alone: the second is at fault.
    reader.faults = [DecodeError("all"), None, DecodeError("broken"), None]
    served = batcher.step(answers)
    assert [answer for answer, _ in served] == answers
    results = finish(batcher, *answers)
    assert str(results[1]) == "broken"
    assert [results[0], results[2]] == [truth(PROMPT, contents[n]) for n in (0, 2)]


def test_a_choice_that_fails_is_the_fault_of_one() -> None:
    def refuse(_logits: Float32Array, _n_before: int) -> int:
        raise DecodeError("not finite")

    rows = audio([1.0])
    batcher, _ = batcher_of()
    answers = [
        batcher.begin("a", generate(PROMPT, rows), refuse),
        batcher.begin("b", generate(PROMPT, rows)),
    ]
    failure, result = finish(batcher, *answers)
    assert str(failure) == "not finite"
    assert result == truth(PROMPT, rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_choice_among_numbers_that_are_not_finite_is_refused(value: float) -> None:
    assert greedy(np.array([0, 2, 1], np.float32), 0) == 1
    with raises(DecodeError, "output_not_finite"):
        greedy(np.array([0, value, 1], np.float32), 0)


@given(st.lists(st.integers(0, 6), max_size=4), st.lists(st.integers(0, 6), max_size=9))
def test_a_choice_is_told_how_many_tokens_the_answer_has(
    forced: list[int], draft: list[int]
) -> None:
    """The number includes every token that the choice would be appended to."""
    noted: list[tuple[int, int]] = []

    def choose(logits: Float32Array, n_before: int) -> int:
        noted.append((n_before, greedy(logits, n_before)))
        return noted[-1][1]

    rows = audio([1.0, 2.0])
    batcher, _ = batcher_of(max_rows=3)
    [result] = finish(batcher, batcher.begin("a", generate(PROMPT, rows, forced, draft), choose))
    assert result == truth(PROMPT, rows, forced)
    assert noted[0][0] == len(forced)
    chosen = {}
    for n_before, token in noted:
        assert n_before <= len(forced) + len(draft) + len(result.tokens)
        chosen[n_before] = token  # what was chosen last at each place
    tokens = [chosen[n] for n in range(len(forced), len(result.tokens))]
    assert tuple(tokens) == result.tokens[len(forced) :]


# What it costs


def test_the_seconds_of_a_batch_are_shared_by_rows() -> None:
    batcher, _ = batcher_of()
    contents = {key: audio([1.0] * n) for key, n in {"a": 5, "b": 15}.items()}
    answers = [batcher.begin(key, generate(PROMPT, rows)) for key, rows in contents.items()]
    batcher.step(answers)
    [(first, short), (second, long)] = batcher.step(answers)
    assert [first, second] == answers
    assert long == pytest.approx(3 * short)
    for answer in answers:
        cost = answer.cost
        assert cost.prefill > 0
        assert cost.total == pytest.approx(cost.prefill)


def test_costs_say_what_they_are_for() -> None:
    rows = audio([1.0, 2.0, 3.0])
    expected = truth(PROMPT, rows)
    assert len(expected.tokens) > 1
    for draft, has_verified in ((expected.tokens, True), ((), False)):
        batcher, _ = batcher_of()
        answer = batcher.begin("a", generate(PROMPT, rows, (), draft))
        seconds = 0.0
        while not answer.is_complete:
            seconds += sum(share for _, share in batcher.step([answer]))
        assert answer.cost.total == pytest.approx(seconds)
        assert answer.cost.prefill > 0
        assert (answer.cost.verify > 0) == has_verified
        assert (answer.cost.decode > 0) != has_verified


def test_answers_that_take_turns_do_not_take_the_cells_of_each_other_for_ever() -> None:
    """The caller continues them one by one, and they do not fit together."""
    contents = {key: audio([n] * 30) for n, key in enumerate(range(6))}
    expected = [truth(PROMPT, embeddings) for embeddings in contents.values()]
    n_needed = [3 + 30 + 2 + len(answer.tokens) for answer in expected]
    batcher, reader = batcher_of(n_ctx=2 * max(n_needed), n_free=8, max_rows=4)
    answers = [batcher.begin(key, generate(PROMPT, rows)) for key, rows in contents.items()]
    for _ in range(1000):
        for answer in answers:
            for _ in range(5):
                if not answer.is_complete:
                    batcher.step([answer])
    assert [answer.result for answer in answers] == expected
    assert reader.n_rows <= 4 * sum(n_needed)
