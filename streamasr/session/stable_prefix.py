"""Stable beginning of a growing segment's text; pure.

A speech model changes its mind about the newest audio, hardly about earlier audio. So the beginning
of a hypothesis is committed when it has stood long enough:

    hypothesis at 2.0 s   seven two
    hypothesis at 2.5 s   seven two five
    hypothesis at 3.0 s   seven two five one      "seven two" has stood for 1.0 s

A token is committed when it and all tokens before it have been the same in every hypothesis since
one of `lag.audio` ago, which takes at least two of them, and when `lag.tokens` tokens follow it.
From then on every hypothesis begins with it: a family that can be forced is forced to, and for any
other the hypothesis is joined to the stable text (see `joining`).

Agreement is counted on the tokens as the model gives them. A family that cannot be forced commits
whole words only, and only tokens whose times it knows.

Source: local agreement, Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition and
translation by partial hypothesis selection"; the lag behind the newest token and the newest audio
is ours.
"""

from dataclasses import dataclass, field
from itertools import takewhile

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import Samples, to_samples
from streamasr.session.joining import Continuation, TimedText, continue_stable, ends_word


@dataclass(frozen=True, slots=True)
class CommitLag:
    """Distance of what is committed from what is newest."""

    tokens: int = 5
    audio: Samples = to_samples(0.8)  # noqa: RUF009 - an int


@dataclass(slots=True)
class StablePrefix:
    """The committed beginning of one segment's text; it only grows."""

    lag: CommitLag | None
    """None commits nothing before the final."""
    traits: FamilyTraits = field(default_factory=FamilyTraits)
    stable: TimedText = field(default_factory=TimedText)
    """Begins every later hypothesis. Ends and times only of families that cannot be forced."""
    _tokens: tuple[int, ...] = ()
    """Of the newest hypothesis, as the model gave it."""
    _heard_at: tuple[Samples, ...] = ()
    """(n_tokens,), length of the audio of the first hypothesis of those that agree up to here."""

    @property
    def text(self) -> str:
        """Return the stable text."""
        return self.stable.text

    @property
    def forced(self) -> tuple[int, ...]:
        """Return the tokens, header included, that the next answer is to begin with."""
        return self.stable.tokens if self.traits.can_force else ()

    def continued_by(self, hypothesis: Hypothesis) -> Continuation | None:
        """Return what a hypothesis of the model makes of the stable text.

        Returns:
            None if it contradicts tokens that it was forced to begin with.
        """
        if self.forced:
            keeps = hypothesis.text.startswith(self.text)
            return Continuation(hypothesis) if keeps else None
        return continue_stable(self.stable, hypothesis, self.traits.join)

    def receive(self, tokens: tuple[int, ...], continuation: Continuation, heard: Samples) -> None:
        """Take a hypothesis of the first `heard` samples of the segment.

        A suspicious one commits nothing: what it repeats may all be wrong.

        Args:
            tokens: of the hypothesis, as the model gave them.
            continuation: what `continued_by` made of it.
            heard: length of its audio.
        """
        n_same = _common_length(self._tokens, tokens)
        self._heard_at = self._heard_at[:n_same] + (heard,) * (len(tokens) - n_same)
        self._tokens = tokens
        if self.lag is None or continuation.hypothesis.is_suspicious:
            return
        n_settled = self._n_settled(self.lag, heard)
        if self.traits.can_force:
            self._commit(continuation.hypothesis, n_settled)
        elif n_settled > continuation.n_replaced:
            n_new = n_settled - continuation.n_replaced
            self._commit_words(continuation.hypothesis, continuation.n_stable + n_new)

    def _commit(self, hypothesis: Hypothesis, n_tokens: int) -> None:
        if n_tokens > len(self.forced) and len(hypothesis.ends) == len(hypothesis.tokens):
            text = hypothesis.text[: hypothesis.ends[n_tokens - 1]]
            if len(text) >= len(self.text):  # not so only for text that was restored without tokens
                self.stable = TimedText(text, hypothesis.tokens[:n_tokens])

    def _commit_words(self, hypothesis: Hypothesis, n_tokens: int) -> None:
        """Commit up to the last whole word of the first `n_tokens` tokens."""
        tokens, ends, times = hypothesis.tokens, hypothesis.ends, hypothesis.times
        if not len(tokens) == len(ends) == len(times):
            return
        stable = self.stable
        while n_tokens and ends[n_tokens - 1] > len(stable.text):
            if ends_word(hypothesis, n_tokens):
                kept = stable.times if stable.is_timed else ()
                self.stable = TimedText(
                    text=hypothesis.text[: ends[n_tokens - 1]],
                    tokens=tokens[:n_tokens],
                    ends=ends[:n_tokens],
                    times=kept + times[len(kept) : n_tokens],
                )
                return
            n_tokens -= 1

    def _n_settled(self, lag: CommitLag, heard: Samples) -> int:
        # What the newest hypothesis contains first has not been confirmed by any other yet.
        latest = min(heard - lag.audio, heard - 1)
        n_old_enough = sum(1 for _ in takewhile(lambda since: since <= latest, self._heard_at))
        return min(n_old_enough, len(self._tokens) - lag.tokens)


def _common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
