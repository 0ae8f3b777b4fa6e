"""What the engine is given."""

from dataclasses import dataclass, field
from pathlib import Path

from streamasr.engine.cores import Threads, available_cores, share_cores
from streamasr.segmentation.chunker import ChunkerConfig
from streamasr.segmentation.vad import VadConfig


@dataclass(frozen=True, slots=True)
class RecognitionConfig:
    """From samples to words."""

    model: Path
    """A model directory; see `models.bundle`."""
    aligner: Path | None = None
    """The directory of the forced aligner that gives word times; None spreads words evenly."""
    language: str | None = None
    """The model's name of the language to force; None lets it detect that of each segment."""
    context: str = ""
    """Names and terms that may come up; empty for none."""
    hotwords: tuple[str, ...] = ()
    """Words that are likely, one by one."""
    partial_interval_s: float | None = None
    """Seconds of new audio between two partials; None for no partials."""
    words: bool = True
    encoder_window_s: int | None = None
    """Length of the encoder's attention window; None for the model's own. The aligner always keeps
    its own."""
    aligner_idle_s: float | None = None
    """Seconds without work after which the aligner is unloaded; then it is loaded when words are
    first wanted. None loads it at the start, for good."""
    reuse: bool = True
    """Whether a pass over a segment uses what earlier ones found; False computes all of it anew,
    the baseline of measurements."""
    threads: int | None = None
    """Of each stage; None for as many as suit it."""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    gpu_layers: int = -1
    """Layers of the decoder that run on a GPU, if llama.cpp has one; -1 for all, 0 for none."""
    gpu: str | int | None = None
    """Which one, by its place in llama.cpp's list or by name; None leaves it to llama.cpp."""
    aligner_gpu: bool = False
    """Whether the aligner uses the GPU and the providers too, and not the CPU."""
    vad: VadConfig = field(default_factory=VadConfig)
    chunker: ChunkerConfig = field(default_factory=ChunkerConfig)

    @property
    def stage_threads(self) -> Threads:
        """How many threads each stage gets."""
        if self.threads is None:
            return share_cores(available_cores())
        return Threads(self.threads, self.threads, self.threads)
