"""Borders of speech segments in a stream of samples; pure.

The chunker asks a classifier for each 30 ms frame whether it is voiced, and draws borders with
hysteresis:

```
silence  -- voiced frame -----------------------> onset
onset    -- `min_speech` voiced in all ---------> open     SpeechStarted
onset    -- `onset_gap` without a voiced frame -> silence  (the burst is dropped)
open     -- `pause` without a voiced frame -----> paused   SpeechPaused
paused   -- voiced frame -----------------------> open     SpeechResumed
paused   -- `hangover` without a voiced frame --> silence  SpeechEnded "silence"
open     -- `max_segment` reached --------------> open     SpeechEnded "length", SpeechStarted
open     -- flush(), skip(), finish() ----------> silence  SpeechEnded "flush", "stop"
```

A paused segment is open, too: it may still be cut or flushed. `SpeechPaused` states where the
segment ends if no speech follows, once all audio up to there has been delivered. If only the client
ends segments, the transition of `hangover` does not exist.

A segment starts `pre_roll` before its first voiced frame and ends `trailing_silence` behind its
last one, or where the stream, the previous segment or the cut sets a limit.

A segment that grows too long is cut in the middle of the quietest `cut_window` of the last
`cut_search` before `max_segment`. The next segment starts right there: what was already delivered
behind the cut is delivered again as its beginning. If nothing behind the cut is voiced, the speaker
just paused, and the next speech opens the next segment as usual. `min_speech` judges bursts out of
silence; what follows a cut is known to be speech and exempt.

All decisions are made at frame ends, and a segment is delivered in chunks of a fixed length (only
the last one before a pause or an end is shorter), so that the events depend on the samples alone
and not on the sizes of the blocks in which they arrive.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

import numpy as np

from streamasr.core.events import (
    AudioLost,
    SegmentationEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
)
from streamasr.core.messages import EndReason
from streamasr.core.options import SessionOptions
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples
from streamasr.segmentation.history import SampleHistory
from streamasr.segmentation.settings import FRAME_SECONDS, LONGEST_S, ChunkerConfig

FRAME: Final = to_samples(FRAME_SECONDS)
"""Samples in a frame."""

CUT_HOP: Final = SAMPLE_RATE // 100
"""Grid of the search for the quietest place, samples, 10 ms."""

FrameClassifier: TypeAlias = Callable[[Float32Array], bool]
"""Classifies a frame, (FRAME,), as voiced or not. Frames arrive in order and without gaps; the
classifier may keep state."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Times around the borders of a segment that a client may choose; all in samples."""

    pre_roll: Samples
    hangover: Samples | None
    """None: only the client ends a segment, or its greatest length."""
    trailing_silence: Samples
    pause: Samples

    @classmethod
    def of(cls, config: ChunkerConfig, options: SessionOptions | None = None) -> Self:
        """Combine the operator's settings with what a client asked for.

        Args:
            config: settings of the operator, which hold where the client has no wish.
            options: options of the session; None for the operator's settings alone.
        """
        options = options or SessionOptions()
        pre_roll, hangover = to_samples(config.pre_roll), to_samples(config.hangover)
        if options.onset_padding_ms is not None:
            pre_roll = _milliseconds(options.onset_padding_ms)
        if options.endpoint_ms is not None:
            hangover = Samples(max(FRAME, _milliseconds(options.endpoint_ms)))
        trailing = Samples(min(hangover, to_samples(config.trailing_silence)))
        pause = Samples(max(to_samples(config.pause), trailing))
        return cls(pre_roll, None if options.endpoint_by_client else hangover, trailing, pause)


def _milliseconds(duration: int) -> Samples:
    return to_samples(min(max(duration, 0), 1000 * LONGEST_S) / 1000)


class Chunker:
    """Cuts a stream of samples into segments of speech, and delivers them in chunks.

    Memory is bounded: the chunker keeps the audio that a coming segment or cut may still need, at
    most about the onset with its pre-roll or `cut_search`, the longer of the two.
    """

    def __init__(
        self,
        config: ChunkerConfig,
        is_voiced: FrameClassifier,
        *,
        position: Samples = Samples(0),  # noqa: B008 - an int
        border: Samples = Samples(0),  # noqa: B008 - an int
        n_segments: int = 0,
    ) -> None:
        """Begin a stream, or continue one.

        Args:
            config: settings of the cuts.
            is_voiced: classifier of frames.
            position: position of the first sample that will be fed.
            border: position before which no segment starts.
            n_segments: number of segments before this position.
        """
        self._is_voiced = is_voiced
        self._endpoint = self._next_endpoint = Endpoint.of(config)
        self._min_speech = to_samples(config.min_speech)
        self._onset_gap = to_samples(config.onset_gap)
        self._max_segment = to_samples(config.max_segment)
        self._cut_search = to_samples(config.cut_search)
        self._cut_window = to_samples(config.cut_window)
        self._chunk = to_samples(config.chunk)

        self._history = SampleHistory(
            2 * (self._cut_search + self._endpoint.pre_roll + SAMPLE_RATE), position
        )
        self._partial_frame: Float32Array = np.zeros(0, np.float32)
        self._events: list[SegmentationEvent] = []
        self._segment = n_segments  # number of the newest segment
        self._start: Samples | None = None  # of the open segment
        self._delivered = position  # of the open segment, up to here
        self._onset: Samples | None = None  # first voiced sample of what may become one
        self._onset_voiced = 0
        self._voiced_end = position  # end of the newest voiced frame
        self._is_paused = False  # and `SpeechPaused` was emitted
        self._border = max(border, position)  # end of the previous segment
        self._in_speech = 0
        self._dropped_bursts = 0
        self._dropped_samples = 0

    @property
    def position(self) -> Samples:
        """Position of the next sample."""
        return Samples(self._history.end + len(self._partial_frame))

    @property
    def needed_from(self) -> Samples:
        """Position of the oldest sample that a coming segment may still contain."""
        return self._history.start

    @property
    def is_open(self) -> bool:
        """True while a segment is open: it was announced and has not ended."""
        return self._start is not None

    @property
    def in_speech(self) -> Samples:
        """Total length of the segments that have ended; all other samples were silence."""
        return Samples(self._in_speech)

    @property
    def dropped_bursts(self) -> int:
        """Number of voiced bursts that were too short to be speech."""
        return self._dropped_bursts

    @property
    def dropped_samples(self) -> Samples:
        """Length of the voiced frames of those bursts; a later pre-roll may still contain them."""
        return Samples(self._dropped_samples)

    def feed(self, block: Float32Array) -> list[SegmentationEvent]:
        """Take the next samples.

        Args:
            block: (n,) float32, mono at SAMPLE_RATE, -1..1; any n, also 0.

        Returns:
            Events that these samples caused, in order.

        Raises:
            ValueError: the block has another dtype or shape.
        """
        if block.dtype != np.float32 or block.ndim != 1:
            raise ValueError(f"a block is float32 (n,), not {block.dtype} {block.shape}")
        samples = (
            np.concatenate((self._partial_frame, block)) if len(self._partial_frame) else block
        )
        n_whole = len(samples) - len(samples) % FRAME
        for i in range(0, n_whole, FRAME):
            frame = samples[i : i + FRAME]
            self._judge(frame, self._is_voiced(frame))
        self._partial_frame = samples[n_whole:].copy()
        return self._take_events()

    def configure(self, endpoint: Endpoint) -> None:
        """Use other times around the borders, from the next segment on."""
        self._next_endpoint = endpoint
        self._adopt_endpoint()

    def flush(self) -> list[SegmentationEvent]:
        """End the open segment now, because the client asked for it."""
        self._end_now("flush")
        return self._take_events()

    def finish(self) -> list[SegmentationEvent]:
        """End the open segment, because the stream has ended."""
        self._end_now("stop")
        return self._take_events()

    def skip(self, n_samples: Samples, reason: str) -> list[SegmentationEvent]:
        """Skip samples that will never come; an open segment ends where they begin."""
        self._end_now("flush")
        start = self._history.end
        self._history.skip(n_samples)
        self._border = self._voiced_end = self._history.end
        self._events.append(AudioLost(start, self._history.end, reason))
        return self._take_events()

    def _take_events(self) -> list[SegmentationEvent]:
        events, self._events = self._events, []
        return events

    def _judge(self, frame: Float32Array, is_voiced: bool) -> None:
        """Advance the state by one frame (or by the shorter rest of a stream)."""
        start = self._history.end
        self._history.append(frame)
        if is_voiced:
            self._voiced_end = self._history.end
            if self._start is None:
                self._extend_onset(start, len(frame))
            elif self._is_paused:
                self._is_paused = False
                self._events.append(SpeechResumed(self._segment))
        if self._start is not None:
            self._extend_segment()
        elif self._onset is not None and self._silence() >= self._onset_gap:
            self._drop_onset()
        self._forget()

    def _adopt_endpoint(self) -> None:
        """Take over new times between two segments, when nothing was measured with the old ones."""
        if self._start is None and self._onset is None:
            self._endpoint = self._next_endpoint

    def _silence(self) -> int:
        return self._history.end - self._voiced_end

    def _extend_onset(self, start: Samples, n_voiced: int) -> None:
        if self._onset is None:
            self._onset = start
        self._onset_voiced += n_voiced
        if self._onset_voiced >= self._min_speech:
            # The pre-roll may have been lengthened after older samples were forgotten.
            earliest = max(self._border, self._history.start)
            self._open(Samples(max(self._onset - self._endpoint.pre_roll, earliest)))

    def _drop_onset(self) -> None:
        self._dropped_bursts += 1
        self._dropped_samples += self._onset_voiced
        self._onset, self._onset_voiced = None, 0
        self._adopt_endpoint()

    def _open(self, start: Samples) -> None:
        self._segment += 1
        self._start = self._delivered = start
        self._onset, self._onset_voiced = None, 0
        self._events.append(SpeechStarted(self._segment, start))

    def _extend_segment(self) -> None:
        self._deliver_chunks()
        while self._start is not None and self._history.end - self._start >= self._max_segment:
            self._cut(self._start)
        if self._start is None:
            return
        if self._has_ended_in_silence():
            self._close(self._speech_end(), "silence")
        elif self._silence() >= self._endpoint.pause and not self._is_paused:
            self._announce_pause(self._speech_end())

    def _has_ended_in_silence(self) -> bool:
        hangover = self._endpoint.hangover
        return hangover is not None and self._silence() >= hangover

    def _deliver_chunks(self) -> None:
        while self._history.end - self._delivered >= self._chunk:
            self._deliver(Samples(self._delivered + self._chunk))

    def _deliver(self, end: Samples) -> None:
        samples = self._history.copy(self._delivered, end)
        self._events.append(SpeechContinued(self._segment, self._delivered, samples))
        self._delivered = end

    def _announce_pause(self, end: Samples) -> None:
        self._is_paused = True
        if self._delivered < end:
            self._deliver(end)
        self._events.append(SpeechPaused(self._segment, end))

    def _speech_end(self) -> Samples:
        return Samples(min(self._voiced_end + self._endpoint.trailing_silence, self._history.end))

    def _cut(self, start: Samples) -> None:
        limit = start + self._max_segment
        cut = self._quietest(limit - self._cut_search, limit)
        if cut < self._voiced_end:
            self._close(cut, "length")
            self._open(cut)
            self._deliver_chunks()
        else:  # the speaker pauses: the next speech opens the next segment
            self._close(Samples(min(cut, self._speech_end())), "length")

    def _quietest(self, start: int, end: int) -> Samples:
        """Return the middle of the quietest `cut_window` in [start, end); of equals, the last."""
        samples = self._history.copy(start, end).astype(np.float64)
        energy = np.concatenate(([0.0], np.cumsum(samples * samples)))
        windows = energy[self._cut_window :: CUT_HOP]
        windows = windows - energy[: len(energy) - self._cut_window : CUT_HOP]
        last_quietest = len(windows) - 1 - int(np.argmin(windows[::-1]))
        return Samples(start + last_quietest * CUT_HOP + self._cut_window // 2)

    def _close(self, end: Samples, reason: EndReason) -> None:
        assert self._start is not None
        if self._delivered < end:
            self._deliver(end)
        self._events.append(SpeechEnded(self._segment, self._start, end, reason))
        self._in_speech += end - self._start
        self._border, self._start, self._is_paused = end, None, False
        self._adopt_endpoint()

    def _end_now(self, reason: EndReason) -> None:
        rest, self._partial_frame = self._partial_frame, np.zeros(0, np.float32)
        if len(rest):  # too short to be judged, so it goes with the frame before it
            self._judge(rest, self._follows_voice())
        if self._start is not None:
            self._close(self._speech_end(), reason)
        if self._onset is not None:
            self._drop_onset()
        self._forget()

    def _follows_voice(self) -> bool:
        return self._border < self._voiced_end == self._history.end

    def _forget(self) -> None:
        """Keep only the audio that may still be needed."""
        needed = self._history.end if self._onset is None else self._onset
        needed = Samples(max(needed - self._endpoint.pre_roll, self._border))
        if self._start is not None:
            # A cut searches this far back; and after a cut in a pause, or the end of a long
            # hangover, the pre-roll of the next segment may begin inside this one's silence.
            reach = max(self._cut_search, self._endpoint.pre_roll) + FRAME
            oldest = max(self._start, self._history.end - reach)
            needed = Samples(min(self._delivered, oldest))
        self._history.forget_before(needed)
