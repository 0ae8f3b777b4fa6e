"""Scripted output for random weights."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import DecodeError
from streamasr.decoder.generate import Generated, Prompt, generate
from streamasr.decoder.script import Script
from tests.support.errors import raises
from tests.support.readers import Model, interview

END = 3
LOGITS = np.zeros(4000, np.float32)


def speaker(script: Script, n_audio: int) -> Model:
    """A model with no say in it."""
    choose = script.chooser(n_audio, END)
    return lambda tokens: choose(LOGITS, len(tokens))


def say(script: Script, n_audio: int, draft: tuple[int, ...] = ()) -> tuple[Generated, int]:
    """The answer, and how many questions it took."""
    prompt = Prompt((1,), (2,), frozenset((END,)))
    answering = generate(prompt, np.zeros((n_audio, 1), np.float32), (), draft)
    answer, questions = interview(answering, speaker(script, n_audio))
    return answer, len(questions)


@given(st.floats(0, 1.9), st.integers(0, 320))
def test_so_many_tokens_are_said_that_no_guard_cuts(rate: float, n_audio: int) -> None:
    answer, n_questions = say(Script(rate), n_audio)
    assert answer.stop == "end"
    assert len(answer.tokens) == round(rate * n_audio)
    assert n_questions == len(answer.tokens) + 1
    assert all(1000 <= token < 2000 for token in answer.tokens)


@given(st.integers(0, 300), st.integers(1, 20))
def test_all_but_the_newest_stays_when_the_audio_grows(n_audio: int, n_more: int) -> None:
    script = Script(0.3)
    first, _ = say(script, n_audio)
    second, n_questions = say(script, n_audio + n_more, first.tokens)
    n_settled = max(0, len(first.tokens) - 2)
    assert second.tokens[:n_settled] == first.tokens[:n_settled]
    assert say(script, n_audio + n_more) == (second, len(second.tokens) + 1)
    assert n_questions <= len(second.tokens) - n_settled + 1


def test_the_newest_changes() -> None:
    script = Script(0.5)
    answers = {say(script, n_audio)[0].tokens[-1] for n_audio in range(100, 120)}
    assert len(answers) > 10


def test_logits_that_are_not_finite_are_refused_all_the_same() -> None:
    choose = Script(0.5).chooser(10, END)
    with raises(DecodeError, "output_not_finite"):
        choose(np.full(4000, np.nan, np.float32), 0)
