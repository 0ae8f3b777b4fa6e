"""What of a growing segment's text is settled while it is still being spoken; pure.

A speech model changes its mind about what it has just heard, hardly about what came earlier. So the
beginning of a hypothesis is committed when it has stood long enough:

    hypothesis at 2.0 s   seven two
    hypothesis at 2.5 s   seven two five
    hypothesis at 3.0 s   seven two five one      "seven two" has stood for 1.0 s

A token is committed when it and all before it have been the same in every hypothesis since one of
`lag.seconds` of audio ago, which takes at least two of them, and when `lag.tokens` follow it. From
then on the decoder is forced to begin with it, so that the promise needs no luck.

Source: local agreement, Liu et al. 2020, "Low-latency sequence-to-sequence speech recognition and
translation by partial hypothesis selection"; the lag behind the newest token and the newest audio
is ours.
"""

from dataclasses import dataclass
from itertools import takewhile

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.units import Samples, to_samples


@dataclass(frozen=True, slots=True)
class CommitLag:
    """How far what is committed stays behind what is newest."""

    tokens: int = 5
    audio: Samples = to_samples(0.8)  # noqa: RUF009 - an int


@dataclass(slots=True)
class StablePrefix:
    """The committed beginning of one segment's text; it only grows."""

    lag: CommitLag | None
    """None commits nothing before the final."""
    text: str = ""
    """Begins every later hypothesis."""
    forced: tuple[int, ...] = ()
    """The tokens that it takes to keep that promise, header included."""
    _tokens: tuple[int, ...] = ()
    """Of the newest hypothesis."""
    _heard_at: tuple[Samples, ...] = ()
    """(n_tokens,), how much audio the first hypothesis had of those that agree up to here."""

    def receive(self, hypothesis: Hypothesis, heard: Samples) -> None:
        """Take a hypothesis for the first `heard` samples of the segment.

        One that a guard had to end commits nothing: what it repeats may all be wrong.
        """
        tokens = hypothesis.tokens
        n_same = _common_length(self._tokens, tokens)
        self._heard_at = self._heard_at[:n_same] + (heard,) * (len(tokens) - n_same)
        self._tokens = tokens
        if self.lag is None or hypothesis.is_suspicious:
            return
        n_committed = self._n_settled(self.lag, heard)
        if n_committed > len(self.forced) and len(hypothesis.ends) == len(tokens):
            self.forced = tokens[:n_committed]
            self.text = hypothesis.text[: hypothesis.ends[n_committed - 1]]

    def _n_settled(self, lag: CommitLag, heard: Samples) -> int:
        # What was heard first at the newest hypothesis has been agreed on by nobody yet.
        latest = min(heard - lag.audio, heard - 1)
        n_old_enough = sum(1 for _ in takewhile(lambda since: since <= latest, self._heard_at))
        return min(n_old_enough, len(self._tokens) - lag.tokens)


def _common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
