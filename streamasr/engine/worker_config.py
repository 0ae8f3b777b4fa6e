"""What crosses into a child process, whole."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The encoder process."""

    bundle: Path
    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    window_s: int | None = None
    """Length of the attention window; None for the model's own."""
    reuse: bool = True
    """Whether what is known of a segment from its last pass is used in the next one."""


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """The aligner process."""

    bundle: Path
    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    gpu_layers: int = 0
    """See `Hardware`."""
    gpu: str | int | None = None
