"""Delays between audio and text, and the stability of text; pure.

A delay is the moment at which a message was received minus the moment at which the audio that it
needs had been sent:

    first partial   the beginning of speech
    partial         the audio that it covers
    commit          the end of the word: when it first was in the stable text, or in the final
    final           the audio with which the endpoint was decided: the hangover behind the speech
    final (text)    the end of the speech itself
    words           the final

Lag is the same for finals, but against the moment at which the audio was spoken: a server that
reads too slowly is not excused by audio that it has not read yet.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from streamasr.alignment import split_words
from streamasr.bench.figures import Spread, Trend, ratio, spread, trend
from streamasr.bench.recording import Recording, SegmentLog
from streamasr.client import v1

_MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Endpointing:
    """Rules by which the server ends segments, in seconds; see `ChunkerConfig`."""

    pre_roll: float
    hangover: float
    trailing_silence: float
    max_segment: float
    has_word_times: bool = True
    """False for a model with random weights: words then count as spread evenly over the speech of
    their segment."""

    def word_times(self, final: v1.Final, words: v1.Words) -> list[tuple[float, float]]:
        """Return start and end of each word, spread evenly if the model has no real times."""
        if self.has_word_times and words.method != "spread":
            return [(word.start, word.end) for word in words.words]
        start, end = final.start + self.pre_roll, final.end - self.trailing_silence
        step = max(0.0, end - start) / max(1, len(words.words))
        return [(start + i * step, start + (i + 1) * step) for i in range(len(words.words))]

    def decided_at(self, final: v1.Final, duration: float) -> float:
        """Return the position of the sample at which the endpoint was decided.

        Args:
            final: of the segment.
            duration: of all audio, the end of a segment that lasts until then.
        """
        match final.reason:
            case "silence":
                return final.end - self.trailing_silence + self.hangover
            case "length":
                return final.start + self.max_segment
            case "stop":
                return duration
            case _:
                return final.end


@dataclass(frozen=True, slots=True)
class LagPoint:
    """Lag of text behind speech at one moment."""

    at: float
    """Seconds since the first sample was spoken."""
    lag: float
    is_final: bool


@dataclass(frozen=True, slots=True)
class Stability:
    """Changes of the text in partials."""

    shown: int = 0
    """Words in all partials."""
    changed: int = 0
    """Words in partials that the next partial, or the final, replaced."""
    final: int = 0
    """Words in finals."""
    violations: int = 0
    """Number of times that stable text changed or shrank, which must be 0."""

    @property
    def flicker(self) -> float | None:
        """Unstable partial word ratio: changed words for each word of a final."""
        return ratio(self.changed, self.final)


@dataclass(slots=True)
class Delays:
    """Every delay of one or several sessions, in seconds."""

    first_partial: list[float] = field(default_factory=list)
    partial: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    final_after_endpoint: list[float] = field(default_factory=list)
    """Delays of segments that silence ended."""
    final_after_speech: list[float] = field(default_factory=list)
    """Delays of the same segments."""
    final_after_cut: list[float] = field(default_factory=list)
    """Delays of segments that were cut."""
    final_after_stop: list[float] = field(default_factory=list)
    """Delays of the segment that was open when the audio ended."""
    words: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one or several sessions."""

    sessions: int
    audio_s: float
    """Seconds of audio of all sessions."""
    segments: int
    partials: int
    gaps: int
    first_partial: Spread | None
    partial: Spread | None
    commit: Spread | None
    final_after_endpoint: Spread | None
    final_after_speech: Spread | None
    final_after_cut: Spread | None
    final_after_stop: Spread | None
    words: Spread | None
    stability: Stability
    flicker: float | None
    lag: Spread | None
    """Lag of finals."""
    lag_slope: Trend | None
    """Seconds of lag that a minute adds, over the finals of all sessions."""
    sender_delay: Spread | None
    """Delay between speaking and sending of audio; caused by the server only if it reads slowly."""
    word_times: str
    """Source of word times; with `spread` the delays of commits are rough."""


def summarise(recordings: Sequence[Recording], rules: Endpointing) -> Summary:
    """Return the figures of sessions that ran at the same time."""
    waits = Delays()
    for recording in recordings:
        _add_delays(waits, recording, rules)
    lags = [point for one in recordings for point in lag_points(one, rules) if point.is_final]
    stability = judge_stability(log for one in recordings for log in one.segments())
    heard = [item.message for one in recordings for item in one.received]
    methods = {message.method for message in heard if isinstance(message, v1.Words)}
    return Summary(
        sessions=len(recordings),
        audio_s=sum(one.duration for one in recordings),
        segments=sum(isinstance(message, v1.Final) for message in heard),
        partials=sum(isinstance(message, v1.Partial) for message in heard),
        gaps=sum(isinstance(message, v1.Gap) for message in heard),
        first_partial=spread(waits.first_partial),
        partial=spread(waits.partial),
        commit=spread(waits.commit),
        final_after_endpoint=spread(waits.final_after_endpoint),
        final_after_speech=spread(waits.final_after_speech),
        final_after_cut=spread(waits.final_after_cut),
        final_after_stop=spread(waits.final_after_stop),
        words=spread(waits.words),
        stability=stability,
        flicker=stability.flicker,
        lag=spread(point.lag for point in lags),
        lag_slope=_per_minute([(point.at, point.lag) for point in lags]),
        sender_delay=spread(late for one in recordings for late in _sender_delays(one)),
        word_times=", ".join(sorted(methods)) or "none",
    )


def delays(recording: Recording, rules: Endpointing) -> Delays:
    """Return every delay of one session."""
    waits = Delays()
    _add_delays(waits, recording, rules)
    return waits


def lag_points(recording: Recording, rules: Endpointing) -> Iterator[LagPoint]:
    """Yield the lag of each partial and final, in the order of their arrival."""
    for one in recording.received:
        match one.message:
            case v1.Partial(end=end):
                position, is_final = end, False
            case v1.Final() as final:
                position, is_final = rules.decided_at(final, recording.duration), True
            case _:
                continue
        since = one.at - recording.began
        yield LagPoint(since, one.at - recording.due_at(position), is_final)


def judge_stability(segments: Iterable[SegmentLog]) -> Stability:
    """Return the stability of the texts of segments.

    Words include their punctuation; in Chinese each character is a word. A word counts as changed
    if it is not part of the common beginning of a text and the next one.

    Source: unstable partial word ratio, Shangguan et al. 2020, "Analyzing the quality and stability
    of a streaming end-to-end on-device speech recognizer".
    """
    shown = changed = final = violations = 0
    for log in segments:
        texts = [(partial.text, partial.language) for _, partial in log.partials]
        if log.final:
            texts.append((log.final[1].text, log.final[1].language))
            final += len(_words_of(*texts[-1]))
        for before, after in pairwise([_words_of(*text) for text in texts]):
            changed += len(before) - _n_common(before, after)
        shown += sum(len(_words_of(p.text, p.language)) for _, p in log.partials)
        violations += count_violations(log)
    return Stability(shown, changed, final, violations)


def count_violations(log: SegmentLog) -> int:
    """Return the number of times that stable text changed or shrank in one segment."""
    n_violations, stable_before = 0, ""
    for _, partial in log.partials:
        stable = partial.text[: partial.stable]
        if not stable.startswith(stable_before) or partial.stable > len(partial.text):
            n_violations += 1
        stable_before = stable
    if log.final and not log.final[1].text.startswith(stable_before):
        n_violations += 1
    return n_violations


def _add_delays(waits: Delays, recording: Recording, rules: Endpointing) -> None:
    previous_end = -1.0
    for log in recording.segments():
        start = _start_of(log)
        if start is not None and start > previous_end:  # a segment after a cut has no onset
            _add_first_partial(waits, log, recording, rules)
        for at, partial in log.partials:
            waits.partial.append(at - recording.sent_at(partial.end))
        if log.final:
            previous_end = log.final[1].end
            _add_final(waits, *log.final, recording, rules)
        if log.final and log.words:
            waits.words.append(log.words[0] - log.final[0])
            waits.commit += _commit_delays(log, recording, rules)


def _start_of(log: SegmentLog) -> float | None:
    if log.final:
        return log.final[1].start
    return log.partials[0][1].start if log.partials else None


def _add_first_partial(
    waits: Delays, log: SegmentLog, recording: Recording, rules: Endpointing
) -> None:
    first = next(((at, partial) for at, partial in log.partials if partial.text), None)
    if first is None:
        return
    at, partial = first
    onset = partial.start + rules.pre_roll
    if log.final and log.words and log.words[1].words:
        onset = rules.word_times(log.final[1], log.words[1])[0][0]
    waits.first_partial.append(at - recording.sent_at(onset))


def _add_final(
    waits: Delays, at: float, final: v1.Final, recording: Recording, rules: Endpointing
) -> None:
    decided = rules.decided_at(final, recording.duration)
    delay = at - recording.sent_at(decided)
    match final.reason:
        case "silence":
            waits.final_after_endpoint.append(delay)
            spoken = final.end - rules.trailing_silence
            waits.final_after_speech.append(at - recording.sent_at(spoken))
        case "length":
            waits.final_after_cut.append(delay)
        case "stop":
            stopped = recording.stopped
            waits.final_after_stop.append(delay if stopped is None else at - stopped)
        case _:
            pass


def _commit_delays(log: SegmentLog, recording: Recording, rules: Endpointing) -> Iterator[float]:
    assert log.final
    assert log.words
    at_final, final = log.final
    cursor = 0
    times = rules.word_times(final, log.words[1])
    for word, (_, end) in zip(log.words[1].words, times, strict=True):
        begin = final.text.find(word.text, cursor)
        if begin < 0:  # with other white space; the next word is found again
            continue
        cursor = begin + len(word.text)
        committed = next((at for at, p in log.partials if p.stable >= cursor), at_final)
        yield committed - recording.sent_at(end)


def _sender_delays(recording: Recording) -> Iterator[float]:
    if recording.pace:
        for position, at in zip(recording.positions, recording.sent, strict=True):
            yield at - recording.due_at(position)


def _words_of(text: str, language: str | None) -> list[str]:
    return [word.display for word in split_words(text, language)]


def _n_common(a: Sequence[str], b: Sequence[str]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _per_minute(points: Sequence[tuple[float, float]]) -> Trend | None:
    return trend([(x / _MINUTE_S, y) for x, y in points])
