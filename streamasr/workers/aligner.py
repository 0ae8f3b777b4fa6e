"""The aligner process: a segment and its text in, words with times out."""

from collections.abc import Callable

from streamasr.alignment import repair_times, split_words, word_score
from streamasr.config import AlignerConfig
from streamasr.events import Align, Aligned
from streamasr.models.forced_aligner import ForcedAligner
from streamasr.transcript import time_words
from streamasr.units import SAMPLE_RATE
from streamasr.workers.process import OnTrouble, Patience, Worker

AlignerWorker = Worker[AlignerConfig, Align, Aligned]

_SAMPLES_PER_MS = SAMPLE_RATE // 1000


def aligner_worker(
    config: AlignerConfig, patience: Patience, on_trouble: OnTrouble
) -> AlignerWorker:
    """The parent's end of an aligner process; `start` it."""
    return Worker("aligner", build_aligner, config, patience, on_trouble)


def build_aligner(config: AlignerConfig) -> Callable[[Align], Aligned]:
    """In the child: load the aligner of a bundle."""
    from streamasr.models.onnx import OnnxOptions

    options = OnnxOptions(providers=config.providers, threads=config.threads)
    aligner = ForcedAligner(config.bundle, options, config.threads)
    return lambda order: align(aligner, order)


def align(aligner: ForcedAligner, order: Align) -> Aligned:
    """Time the words of one final."""
    words = split_words(order.text, order.language)
    if not words:
        return Aligned(order.segment, (), "aligned")
    answer = aligner.align(order.samples, [word.spoken for word in words])
    spans = repair_times(answer.milliseconds, len(order.samples) // _SAMPLES_PER_MS)
    p = answer.probabilities
    scores = [word_score(*pair) for pair in zip(p[::2], p[1::2], strict=True)]
    return Aligned(order.segment, time_words(words, spans, scores, order.start), "aligned")
