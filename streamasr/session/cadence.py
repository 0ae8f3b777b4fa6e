"""Interval between partials: short if the machine is fast, longer if it is not; pure.

The cost of a pass is known only afterwards, and its parts grow with different things:

    waiting, encode, prefill    hardly: all that the encoder may still change is read each time
    punctuate                   hardly: from the last decided sentence on
    verify                      with the text that is known already
    decode                      with the new audio, so with the interval itself

All parts but decoding are spent on partials only: they are repeated for each of them. With an
interval of t seconds they keep the machine busy for the share `load` if fixed / t = load. Decoding
is not spent on partials only, since the text that is decoded for one is merely verified for the
next one and for the final. But it takes the machine's time, too: all parts together take at most
`_MOST_BUSY`.

    (fixed + rate * t) / t = _MOST_BUSY        t = fixed / (_MOST_BUSY - rate)

Where decoding alone leaves almost nothing free, partials get a tenth of their share.

Waiting counts like work, because it is the work for other sessions: sessions that share a machine
all reduce their partials when it is full, though none knows of the others. Waiting counts twice,
because a queue makes partials older and not more frequent: of four sessions whose passes take 0.4 s
each, simulated with pauses and uneven costs, each shows a partial every 1.9 s that waited for
0.2 s, instead of one every 1.6 s that waited for 1.0 s.

Each part has its own running average, in which the newest pass weighs half.
"""

from dataclasses import asdict, astuple, dataclass, replace
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
"""Part of their share that partials get at least."""

_PROMPT_END: Final = 8
"""Tokens between the audio and the text, roughly; they are read together with the draft."""

_LEAST_AUDIO_S: Final = 0.1
"""With less new audio than this, the cost of a second of it cannot be estimated."""


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one pass, or of passes on average, with the amounts that they depend on."""

    encode: float = 0.0
    prefill: float = 0.0
    verify: float = 0.0
    decode: float = 0.0
    punctuate: float = 0.0
    waiting: float = 0.0
    """Between order and answer, while other sessions were served."""
    draft: float = 0.0
    """Tokens that were forced or drafted."""
    audio: float = 0.0
    """Seconds of audio that are new since the hypothesis before."""

    @classmethod
    def of(cls, costs: Costs, waiting: float, n_draft: int, n_new: int) -> "Work":
        """Combine the costs of a pass with the tokens of its draft and its new samples."""
        audio = to_seconds(max(0, n_new))
        return cls(**asdict(costs), waiting=waiting, draft=n_draft, audio=audio)

    def with_marks(self, costs: Costs, waiting: float) -> "Work":
        """Return this work with that of finding the marks of its text."""
        return replace(
            self, punctuate=self.punctuate + costs.punctuate, waiting=self.waiting + waiting
        )


class Cadence:
    """The rhythm of the partials of one session."""

    def __init__(self, shortest: Samples, load: float | None) -> None:
        """Begin without known costs.

        Args:
            shortest: interval between two partials, on a machine that is fast enough.
            load: share of the time that partials may keep the machine busy with work that is done
                for them only; None for no limit.
        """
        self._shortest = shortest
        self._load = load
        self._average: Work | None = None

    @property
    def average(self) -> Work:
        """Return the average work of a pass; zeros while none is known."""
        return self._average or Work()

    def note(self, work: Work) -> None:
        """Take the work of a pass over a growing segment."""
        known = self._average
        self._average = work if known is None else _mix(known, work)

    def note_final(self, work: Work) -> None:
        """Take the work of a final pass.

        A final pass may read far more than a partial, so it is only an upper bound for one. Without
        it, a machine that was slow once would never be asked for a partial again if all segments
        are shorter than the interval.
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
            punctuate=min(known.punctuate, work.punctuate),
            waiting=min(known.waiting, work.waiting),
            draft=mixed.draft,
            audio=mixed.audio,
        )

    def interval(self, n_draft: int) -> Samples:
        """Return the new audio after which the next partial is due, with `n_draft` known tokens."""
        known = self._average
        if known is None or self._load is None:
            return self._shortest
        more_text = (n_draft + _PROMPT_END) / (known.draft + _PROMPT_END)
        once = known.encode + known.prefill + known.punctuate + _WAITING * known.waiting
        fixed = once + known.verify * more_text
        rate = known.decode / max(known.audio, _LEAST_AUDIO_S)
        free = max(min(self._load, _MOST_BUSY - rate), _LEAST_SHARE * self._load)
        return max(self._shortest, to_samples(fixed / free))


def _mix(known: Work, newest: Work) -> Work:
    pairs = zip(astuple(known), astuple(newest), strict=True)
    return Work(*(old + _NEWEST * (new - old) for old, new in pairs))
