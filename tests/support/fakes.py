"""Stand-ins at the borders of the program: synthetic audio, an engine without models."""

import asyncio
import wave
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamasr.core.errors import AudioError
from streamasr.core.events import Answer, Costs, PassAbandoned, Punctuated, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.orders import (
    AbandonPass,
    Align,
    Order,
    Pass,
    Promote,
    Punctuate,
    Recognise,
    Release,
    SpreadWords,
)
from streamasr.core.punctuation import Marks
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.engine.pipeline import spread
from streamasr.engine.ports import Deliver
from tests.support.signals import speechlike


def talk(*bursts: float, pause: float = 1.0) -> Float32Array:
    """Return sounds that the VAD takes for speech, of these lengths in seconds, between pauses."""
    silence = np.zeros(round(pause * SAMPLE_RATE), np.float32)
    parts = [silence]
    for seconds in bursts:
        # Pauses inside a sound are far below the hangover, so that each sound is one segment.
        parts += [speechlike(round(seconds * SAMPLE_RATE)), silence]
    return np.concatenate(parts)


def write_wav(path: Path, samples: Float32Array) -> Path:
    """Write a 16-bit mono file at SAMPLE_RATE."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm(samples))
    return path


def pcm(samples: Float32Array) -> bytes:
    """Return raw 16-bit little-endian samples."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


class FakeSource:
    """Audio source that reads blocks from memory, and may fail at their end."""

    def __init__(
        self, samples: Float32Array, *, block: int = 8000, breaks: str | None = None
    ) -> None:
        self._samples = samples
        self._block = block
        self._breaks = breaks
        self.n_delivered = 0

    @property
    def duration(self) -> float | None:
        return len(self._samples) / SAMPLE_RATE

    def blocks(self) -> Iterator[Float32Array]:
        for start in range(0, len(self._samples), self._block):
            block = self._samples[start : start + self._block]
            self.n_delivered += len(block)
            yield block
        if self._breaks:
            raise AudioError(self._breaks)


class FakeChannel:
    """Channel that passes orders on to its engine."""

    def __init__(self, engine: "FakeEngine", deliver: Deliver) -> None:
        self._engine = engine
        self._deliver = deliver
        self.is_closed = False

    def perform(self, order: Order) -> None:
        """See `Channel.perform`."""
        if not self.is_closed:
            self._engine.perform(order, self._hand_over)

    def close(self) -> None:
        """See `Channel.close`."""
        self.is_closed = True

    def _hand_over(self, answer: Answer) -> None:
        if not self.is_closed:
            self._deliver(answer)


class FakeEngine:
    """Engine that answers every order at once; its text is the length of the audio."""

    traits = FamilyTraits()

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.channels: list[FakeChannel] = []

    def channel(self, deliver: Deliver) -> FakeChannel:
        """See `Engine.channel`."""
        self.channels.append(FakeChannel(self, deliver))
        return self.channels[-1]

    def perform(self, order: Order, deliver: Deliver) -> None:
        """Answer an order of any channel."""
        self.orders.append(order)
        match order:
            case Recognise():
                text = f"{len(order.samples)} samples"
                costs = Costs(encode=0.001, decode=0.001)
                deliver(Recognised(order.of, Hypothesis(text, "English", (1,)), costs))
            case Punctuate():
                deliver(Punctuated(order.of, Marks()))
            case Align():
                deliver(spread(order))
            case AbandonPass() | Promote() | Release() | SpreadWords():
                pass


class PatientEngine(FakeEngine):
    """Engine that answers when a test asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[tuple[Order, Deliver]] = deque()

    @property
    def n_waiting(self) -> int:
        """Return the number of orders that have not been executed."""
        return len(self._waiting)

    def perform(self, order: Order, deliver: Deliver) -> None:
        """Keep an order; one that abandons a pass is executed at once."""
        match order:
            case AbandonPass(of=of):
                super().perform(order, deliver)
                if self._take_back(of, deliver):
                    deliver(PassAbandoned(of))
            case _:
                self._waiting.append((order, deliver))

    def answer(self) -> None:
        """Execute all orders that wait."""
        while self._waiting:
            super().perform(*self._waiting.popleft())

    async def answer_until(self, task: "asyncio.Task[Any]") -> None:
        """Execute the orders that come until a task is done."""
        while not task.done():
            self.answer()
            await asyncio.sleep(0)
        await task

    def _take_back(self, of: Pass, deliver: Deliver) -> bool:
        for entry in self._waiting:
            order, owner = entry
            if isinstance(order, Recognise) and order.of == of and owner == deliver:
                self._waiting.remove(entry)
                return True
        return False
