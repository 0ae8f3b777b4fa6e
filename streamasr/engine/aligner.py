"""The aligner process: a segment and its text in, words with times out.

It is there while somebody speaks, and gives way to the recogniser: words may come late, partials
and finals may not.
"""

import contextlib
import os
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from streamasr.alignment import repair_times, split_words, word_score
from streamasr.alignment.spread import time_words
from streamasr.core.events import Aligned
from streamasr.core.orders import Align
from streamasr.core.units import SAMPLE_RATE
from streamasr.decoder.placement import ON_CPU, open_where_it_works, place
from streamasr.engine.cpu_fallback import CpuFallback
from streamasr.engine.on_demand import OnDemand
from streamasr.engine.worker import Built, OnTrouble, Timeouts, Worker
from streamasr.engine.worker_config import AlignerConfig
from streamasr.models.bundle import read_bundle
from streamasr.models.family import Role
from streamasr.models.onnx import CPU, accelerators
from streamasr.models.qwen3.aligner import ForcedAligner

AlignerWorker: TypeAlias = OnDemand[Align, Aligned]

NICENESS: Final = 10
"""Of 19: it takes a tenth of what a busy recogniser would have (at 0 nearly a fifth), keeps up with
one speaker at that, and has all that is free."""

_SLOWNESS: Final = 10
"""So many times as long as others may an answer therefore take."""

_SAMPLES_PER_MS = SAMPLE_RATE // 1000


def aligner_worker(
    config: AlignerConfig, timeouts: Timeouts, on_trouble: OnTrouble, idle_s: float | None = None
) -> AlignerWorker:
    """The parent's end of aligner processes; `start` it.

    Raises:
        ModelError: a file of the model is missing. Whether they can be loaded is found out when
            they are needed.
    """
    read_bundle(config.bundle, Role.ALIGNER).check_files()
    timeouts = replace(timeouts, answer=_SLOWNESS * timeouts.answer)
    retreat = aligner_retreat(config)  # of all that come: what one died of the next ones do without
    hire = partial(Worker, "aligner", build_aligner, config, timeouts, on_trouble, retreat=retreat)
    return OnDemand(hire, idle_s)


def build_aligner(config: AlignerConfig) -> Built[Align, Aligned]:
    """In the child: load the aligner of a bundle."""
    give_way()
    from streamasr.decoder.library import find_gpus
    from streamasr.models.onnx import OnnxOptions

    of_the_model = read_bundle(config.bundle, Role.ALIGNER).warning
    warnings = [of_the_model] if of_the_model else []
    options = OnnxOptions(config.providers, config.threads, warn=warnings.append)
    placement = ON_CPU
    if config.gpu_layers:
        placement, why = place(config.gpu_layers, config.gpu, find_gpus())
        warnings += [why] if why else []
    aligner = open_where_it_works(
        placement,
        lambda placement: ForcedAligner(config.bundle, options, config.threads, placement),
        warnings.append,
    )
    answer = partial(align, aligner)
    return Built(answer, tuple(dict.fromkeys(warnings)))


def aligner_retreat(config: AlignerConfig) -> CpuFallback[AlignerConfig] | None:
    """To the CPU with all of it; None for an aligner that runs there already."""
    avoided = accelerators(config.providers)
    if config.gpu_layers:
        avoided.append("the GPU")
    if not avoided:
        return None
    on_cpu = replace(config, providers=(CPU,), gpu_layers=0, gpu=None)
    return CpuFallback(on_cpu, " or ".join(avoided))


def give_way() -> None:
    """Let this process run where others leave time, as far as the system allows.

    Linux knows priorities of threads alone, and numpy has started some. Those that come later
    inherit them.
    """
    for name in os.listdir("/proc/self/task"):  # noqa: PTH208 - numbers, not paths
        thread = int(name)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
        with contextlib.suppress(OSError):
            # It interrupts nobody who is computing when it wakes up.
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


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
