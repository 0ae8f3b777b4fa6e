"""When the next partial is due: as often as is wished for, as seldom as the machine needs; pure.

What a pass costs is known only afterwards, and its parts grow with different things:

    waiting, encode, prefill    hardly: what the encoder may still change is read each time
    verify                      with the text that is known already
    decode                      with the audio that is new, so with the interval itself

All but decoding is done for the partials alone: it is done again for each of them. With an interval
of t seconds it keeps the machine busy for the share `load` if fixed / t = load. Decoding is not
theirs alone, since what is decoded for a partial is only verified for the next one and the final.
But it keeps the machine from other things, too: together they take no more than `_MOST_BUSY`.

    (fixed + rate * t) / t = _MOST_BUSY        t = fixed / (_MOST_BUSY - rate)

Where decoding alone leaves next to nothing free, partials still come, at a tenth of their share.

Waiting counts like work, because it is the work that others had done: sessions that share a machine
all draw back when it is full, though none knows of the others. It counts twice, because a queue
makes partials old and no more frequent: of four sessions whose passes take 0.4 s each, simulated
with pauses and uneven costs, each shows a partial every 1.9 s that waited for 0.2 s, in place of
one every 1.6 s that waited for 1.0 s.

Each part has a running average of its own, in which the newest pass weighs half.
"""

from dataclasses import astuple, dataclass
from typing import Final

from streamasr.core.events import Costs
from streamasr.core.units import Samples, to_samples, to_seconds

_NEWEST: Final = 0.5
"""Weight of the newest pass in the averages."""

_WAITING: Final = 2.0
"""Weight of a second of waiting, in seconds of work."""

_MOST_BUSY: Final = 0.8
"""Share of the time that partials keep the machine busy, decoding included."""

_LEAST_SHARE: Final = 0.1
"""What is left at least, of the share that partials may have."""

_PROMPT_END: Final = 8
"""Tokens between the audio and the text, about; they are read together with the draft."""

_LEAST_AUDIO_S: Final = 0.1
"""Less new audio than this says nothing about the cost of a second of it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass took, or passes take on average: seconds, and what they went into."""

    encode: float = 0.0
    prefill: float = 0.0
    verify: float = 0.0
    decode: float = 0.0
    waiting: float = 0.0
    """From the order to the answer, while others were served."""
    draft: float = 0.0
    """Tokens that were known or supposed."""
    audio: float = 0.0
    """Seconds of audio that the hypothesis before had not heard."""

    @classmethod
    def of(cls, costs: Costs, waiting: float, n_draft: int, n_new: int) -> "Work":
        """Combine the costs of a pass with the tokens of its draft and its new samples."""
        audio = to_seconds(max(0, n_new))
        return cls(costs.encode, costs.prefill, costs.verify, costs.decode, waiting, n_draft, audio)


class Cadence:
    """The rhythm of the partials of one session."""

    def __init__(self, shortest: Samples, load: float | None) -> None:
        """Begin without knowing what anything costs.

        Args:
            shortest: interval between two partials, on a machine that is fast enough.
            load: share of the time that they may keep the machine busy with what is done for them
                alone; None for no limit.
        """
        self._shortest = shortest
        self._load = load
        self._average: Work | None = None

    @property
    def average(self) -> Work:
        """What a pass takes, as far as is known."""
        return self._average or Work()

    def note(self, work: Work) -> None:
        """Take what a pass over a growing segment took."""
        known = self._average
        self._average = work if known is None else _mix(known, work)

    def note_final(self, work: Work) -> None:
        """Take what a final pass took.

        It may have had far more to read than a partial has, and proves only that a partial takes no
        more. Without it, a machine that was once slow would never be asked for a partial again
        where all segments are shorter than the interval.
        """
        known = self._average
        if known is None:
            return
        mixed = _mix(known, work)
        self._average = Work(
            encode=min(known.encode, work.encode),
            prefill=min(known.prefill, work.prefill),
            verify=mixed.verify,
            decode=mixed.decode,
            waiting=min(known.waiting, work.waiting),
            draft=mixed.draft,
            audio=mixed.audio,
        )

    def interval(self, n_draft: int) -> Samples:
        """New audio after which the next partial is due, if so many tokens are known by now."""
        known = self._average
        if known is None or self._load is None:
            return self._shortest
        more_text = (n_draft + _PROMPT_END) / (known.draft + _PROMPT_END)
        fixed = known.encode + known.prefill + known.verify * more_text + _WAITING * known.waiting
        rate = known.decode / max(known.audio, _LEAST_AUDIO_S)
        free = max(min(self._load, _MOST_BUSY - rate), _LEAST_SHARE * self._load)
        return max(self._shortest, to_samples(fixed / free))


def _mix(known: Work, newest: Work) -> Work:
    pairs = zip(astuple(known), astuple(newest), strict=True)
    return Work(*(old + _NEWEST * (new - old) for old, new in pairs))
