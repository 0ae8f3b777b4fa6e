"""The path that files and live audio share: how much it takes before it has answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.events import Answer
from streamasr.core.options import SessionOptions
from streamasr.core.units import Samples, to_samples
from streamasr.host.intake import SLICE
from streamasr.pipeline.stream import Beginning, Stream, StreamSettings
from streamasr.segmentation.chunker import FRAME
from streamasr.segmentation.settings import ChunkerConfig
from tests.support.fakes import PatientEngine, talk
from tests.support.signals import speechlike

PAUSES = np.concatenate([talk(1.5, 2.0), talk(0.5, pause=3.0)])
NO_PAUSE = speechlike(to_samples(40.0))


class Listener:
    """A stream that is fed as long as it has room, by one who knows of no other rule."""

    def __init__(self, config: ChunkerConfig, options: SessionOptions, max_lag: Samples) -> None:
        self.engine = PatientEngine()
        self.max_lag = max_lag
        self._answers: list[Answer] = []
        settings = StreamSettings(chunker=config)
        deliver = self._answers.append
        self.stream = Stream(self.engine, settings, options, deliver, Beginning())

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Feed what it takes; the rest."""
        while len(samples) and self.stream.has_room(self.max_lag):
            self.stream.feed(samples[:SLICE])
            samples = samples[SLICE:]
        return samples

    def answer(self) -> None:
        """Do all that was asked for, and what is asked for because of it."""
        self.engine.answer()
        while self._answers:
            self.stream.receive(self._answers.pop(0))
            self.engine.answer()


@st.composite
def configs(draw: st.DrawFn) -> ChunkerConfig:
    longest = draw(st.floats(1.0, 30.0))
    return ChunkerConfig(
        max_segment=longest,
        cut_search=draw(st.floats(0.2, min(longest, 5.0))),
        hangover=draw(st.floats(0.2, 60.0)),
        pause=draw(st.floats(0.0, 2.0)),
    )


@given(configs(), st.booleans(), st.floats(0.0, 40.0).map(to_samples))
def test_no_setting_stalls_a_stream(
    config: ChunkerConfig, partials: bool, max_lag: Samples
) -> None:
    listener = Listener(config, SessionOptions(partials=partials), max_lag)
    samples = PAUSES
    while len(samples := listener.feed(samples)):
        listener.answer()
        assert listener.stream.has_room(max_lag), "it waits for what nobody will say"
    assert listener.stream.position == len(PAUSES)


@pytest.mark.parametrize("partials", [True, False])
@pytest.mark.parametrize(("max_segment", "max_lag_s"), [(6.0, 0.0), (6.0, 20.0), (30.0, 2.0)])
def test_no_more_is_kept_than_the_lag_and_the_longest_segment(
    max_segment: float, max_lag_s: float, partials: bool
) -> None:
    config, max_lag = ChunkerConfig(max_segment=max_segment), to_samples(max_lag_s)
    listener = Listener(config, SessionOptions(partials=partials), max_lag)
    rest = listener.feed(NO_PAUSE)
    assert rest.size, "it takes without end"
    n_kept = listener.stream.position - listener.stream.settled_until
    assert max_lag <= n_kept <= max_lag + to_samples(max_segment) + SLICE + FRAME
