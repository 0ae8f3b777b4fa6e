"""Configurations that are sent to child processes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Configuration of the encoder process."""

    bundle: Path
    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    window_s: int | None = None
    """Length of the attention window; None for the model's own."""
    reuse: bool = True
    """Reuse the encoding of a segment's last pass in its next one."""


@dataclass(frozen=True, slots=True)
class PunctuatorConfig:
    """Configuration of the punctuation process."""

    bundle: Path
    threads: int = 1


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """Configuration of the aligner process."""

    bundle: Path
    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    gpu_layers: int = 0
    """See `Hardware`."""
    gpu: str | int | None = None
