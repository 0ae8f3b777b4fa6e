"""Configuration of an engine: which models it loads, and what it runs them on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from streamasr.core.options import SessionOptions
from streamasr.engine.cores import Threads, available_cores, share_cores


class HardwareSettings(Protocol):
    """The keys of `[model]` in the settings that say what the models run on."""

    @property
    def threads(self) -> int | None:
        """See `Hardware.threads`."""

    @property
    def providers(self) -> tuple[str, ...]:
        """See `Hardware.providers`."""

    @property
    def gpu_layers(self) -> int:
        """See `Hardware.gpu_layers`."""

    @property
    def gpu(self) -> str | int | None:
        """See `Hardware.gpu`."""

    @property
    def aligner_gpu(self) -> bool:
        """See `Hardware.aligner_gpu`."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Processors that the models run on."""

    threads: int | None = None
    """Threads of each stage; None for as many as suit it."""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """Execution providers of onnxruntime, in order of preference."""
    gpu_layers: int = -1
    """Layers of the decoder that run on a GPU, if llama.cpp has one; -1 for all, 0 for none."""
    gpu: str | int | None = None
    """That GPU, by its place in llama.cpp's list or by name; None leaves it to llama.cpp."""
    aligner_gpu: bool = False
    """Whether the aligner uses the GPU and the providers too, and not the CPU."""

    @classmethod
    def of(cls, settings: HardwareSettings) -> Self:
        """Return the hardware that the settings name."""
        return cls(
            settings.threads,
            settings.providers,
            settings.gpu_layers,
            settings.gpu,
            settings.aligner_gpu,
        )

    @property
    def stage_threads(self) -> Threads:
        """Threads of each stage."""
        if self.threads is None:
            return share_cores(available_cores())
        return Threads(self.threads, self.threads, self.threads)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Models that an engine loads, and how it runs them."""

    model: Path
    """A model directory; see `models.bundle`."""
    aligner: Path | None = None
    """The directory of the forced aligner that gives word times; None spreads words evenly."""
    hardware: Hardware = Hardware()
    encoder_window_s: int | None = None
    """Length of the encoder's attention window; None for the model's own. The aligner always keeps
    its own."""
    aligner_idle_s: float | None = None
    """Seconds without work after which the aligner is unloaded; then it is loaded when words are
    first wanted. None loads it at the start, for good."""
    reuse: bool = True
    """Whether a pass over a segment uses what earlier ones found; False computes all of it anew,
    the baseline of measurements."""
    max_segment_s: float = 24.0
    """Length of the longest segment, which the memory of the decoder is made for."""
    options: SessionOptions = SessionOptions()  # noqa: RUF009 - frozen
    """Options of sessions that ask for nothing else; the engine refuses to start with a context
    that it has no room for."""
    punctuation: Path | None = None
    """The directory of the model that punctuates, for a family that does not; None leaves the texts
    of such a family as they are."""
