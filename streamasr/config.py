"""What can be set, in one frozen value that is read once and crosses into the children whole."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from streamasr.segmentation.chunker import ChunkerConfig
from streamasr.segmentation.vad import VadConfig

MAX_THREADS: Final = 8
"""More threads than this make small matrices slower, not faster."""


def default_threads() -> int:
    """The processors that this process may use, at most `MAX_THREADS`."""
    return max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The encoder process."""

    bundle: Path
    threads: int = field(default_factory=default_threads)
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """The aligner process."""

    bundle: Path
    threads: int = field(default_factory=default_threads)
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


@dataclass(frozen=True, slots=True)
class RecognitionConfig:
    """From samples to words."""

    model: Path
    """A model directory, as `streamasr export` writes it."""
    language: str | None = None
    """The model's name of the language to force; None lets it detect that of each segment."""
    context: str = ""
    """Names and terms that may come up; empty for none."""
    partial_interval_s: float | None = None
    """Seconds of new audio between two partials; None for no partials."""
    words: bool = True
    threads: int = field(default_factory=default_threads)
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    vad: VadConfig = field(default_factory=VadConfig)
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)
