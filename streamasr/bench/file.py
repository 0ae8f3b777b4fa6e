"""Time that the transcription of a file takes, by stage."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamasr.audio.file import open_audio
from streamasr.bench.figures import ratio
from streamasr.core.events import Answer, Punctuated, Recognised
from streamasr.core.messages import Final
from streamasr.core.orders import Order
from streamasr.core.processes import usage
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import to_seconds
from streamasr.engine.engine import LocalEngine
from streamasr.engine.ports import Channel, ChannelSource
from streamasr.pipeline.transcribe import FileSettings, Progress, transcribe


@dataclass(frozen=True, slots=True)
class FileResult:
    """Time that one file took."""

    file: str
    audio_s: float
    wall_s: float
    segments: int
    work: Mapping[str, float]
    """Seconds of work of each stage; of the aligner only its `cpu` is known."""
    cpu: Mapping[str, float]
    """Seconds of processor time by process, over all threads."""

    @property
    def rtf(self) -> float | None:
        """Real-time factor: seconds for each second of audio."""
        return ratio(self.wall_s, self.audio_s)


@dataclass(slots=True)
class Metered:
    """Recogniser that adds up the costs of its answers."""

    recogniser: ChannelSource
    work: dict[str, float] = field(default_factory=dict)

    @property
    def traits(self) -> FamilyTraits:
        """See `ChannelSource.traits`."""
        return self.recogniser.traits

    def channel(self, deliver: Callable[[Answer], None]) -> Channel:
        """See `ChannelSource.channel`."""

        def note(answer: Answer) -> None:
            for stage, seconds in costs_of(answer).items():
                self.work[stage] = self.work.get(stage, 0.0) + seconds
            deliver(answer)

        return self.recogniser.channel(note)


def costs_of(answer: Answer | Order) -> dict[str, float]:
    """Return the seconds of each stage that an answer took."""
    return answer.costs.of_stages() if isinstance(answer, Recognised | Punctuated) else {}


def measure_file(engine: LocalEngine, settings: FileSettings, path: Path) -> FileResult:
    """Transcribe a file from beginning to end.

    Raises:
        AudioError: the file cannot be read.
    """
    metered = Metered(engine)
    before = _cpu(engine)
    began = time.perf_counter()
    n_samples = n_finals = 0
    with open_audio(path) as source:
        for message in transcribe(metered, source, settings):
            if isinstance(message, Progress):
                n_samples = message.read
            n_finals += isinstance(message, Final)
    wall = time.perf_counter() - began
    after = _cpu(engine)
    return FileResult(
        file=path.name,
        audio_s=to_seconds(n_samples),
        wall_s=wall,
        segments=n_finals,
        work=metered.work,
        cpu={name: after[name] - before.get(name, 0.0) for name in after},
    )


def _cpu(engine: LocalEngine) -> dict[str, float]:
    main = {"main": time.process_time()}
    children = {name: usage(process) for name, process in engine.pids.items() if process}
    return main | {name: used.cpu_s for name, used in children.items() if used}
