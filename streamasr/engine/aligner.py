"""Aligner process: a segment and its text in, words with times out.

It exists while speech comes in, and runs at low priority: words may come late, partials and finals
may not.
"""

import contextlib
import os
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

from streamasr.alignment import repair_times, split_words, word_confidence
from streamasr.alignment.spread import time_words
from streamasr.core.events import Aligned
from streamasr.core.orders import Align
from streamasr.core.units import SAMPLE_RATE
from streamasr.decoder.placement import ON_CPU, open_where_it_works, place
from streamasr.engine.child import Built
from streamasr.engine.cpu_fallback import CpuFallback
from streamasr.engine.on_demand import OnDemand
from streamasr.engine.ports import OnTrouble
from streamasr.engine.worker import Timeouts, Worker
from streamasr.engine.worker_config import AlignerConfig
from streamasr.models.bundle import read_bundle
from streamasr.models.family import Aligner, LoadAligner, Role
from streamasr.models.onnx import CPU, OnnxOptions, accelerators

AlignerWorker: TypeAlias = OnDemand[Align, Aligned]

NICENESS: Final = 10
"""Of 19: it takes a tenth of the time of a busy recogniser (at 0 nearly a fifth), keeps up with one
speaker at that, and uses all idle time."""

_SLOWNESS: Final = 10
"""Factor by which an answer may therefore take longer than those of other workers."""

_SAMPLES_PER_MS = SAMPLE_RATE // 1000


def aligner_worker(
    config: AlignerConfig, timeouts: Timeouts, on_trouble: OnTrouble, idle_s: float | None = None
) -> AlignerWorker:
    """Make the parent's end of aligner processes; `start` it.

    Raises:
        ModelError: the directory is not an aligner's, or a file of it is missing. Broken files are
            found when they are loaded.
    """
    bundle = read_bundle(config.bundle, Role.ALIGNER)
    bundle.check_files()
    alignment = bundle.family.alignment
    assert alignment is not None, "follows from the role"
    build = partial(build_aligner, alignment.load, bundle.warning)
    timeouts = replace(timeouts, answer=_SLOWNESS * timeouts.answer)
    fallback = aligner_fallback(config)  # one for all workers: a crash changes later ones, too
    make = partial(Worker, "aligner", build, config, timeouts, on_trouble, fallback=fallback)
    return OnDemand(make, idle_s)


def build_aligner(
    load: LoadAligner, warning: str | None, config: AlignerConfig
) -> Built[Align, Aligned]:
    """Load the aligner of a bundle, in the child.

    Args:
        load: of the model's family.
        warning: about the model, for the parent.
        config: of the process.
    """
    give_way()
    from streamasr.decoder.native import find_gpus

    warnings = [warning] if warning else []
    options = OnnxOptions(config.providers, config.threads, warn=warnings.append)
    placement = ON_CPU
    if config.gpu_layers:
        placement, why = place(config.gpu_layers, config.gpu, find_gpus())
        warnings += [why] if why else []
    aligner = open_where_it_works(
        placement,
        lambda placement: load(config.bundle, options, config.threads, placement),
        warnings.append,
    )
    answer = partial(align, aligner)
    return Built(answer, tuple(dict.fromkeys(warnings)))


def aligner_fallback(config: AlignerConfig) -> CpuFallback[AlignerConfig] | None:
    """Return the fallback to the CPU; None for an aligner that runs there already."""
    avoided = accelerators(config.providers)
    if config.gpu_layers:
        avoided.append("the GPU")
    if not avoided:
        return None
    on_cpu = replace(config, providers=(CPU,), gpu_layers=0, gpu=None)
    return CpuFallback(on_cpu, " or ".join(avoided))


def give_way() -> None:
    """Lower the priority of this process, as far as the system allows.

    Linux has priorities of threads only, and numpy has started some. Later threads inherit the
    priority.
    """
    for name in os.listdir("/proc/self/task"):  # noqa: PTH208 - numbers, not paths
        thread = int(name)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
        with contextlib.suppress(OSError):
            # A thread that wakes up does not interrupt a computing one.
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def align(aligner: Aligner, order: Align) -> Aligned:
    """Time the words of one final."""
    words = split_words(order.text, order.language)
    if not words:
        return Aligned(order.segment, (), "aligned")
    answer = aligner.align(order.samples, [word.spoken for word in words])
    spans = repair_times(answer.milliseconds, len(order.samples) // _SAMPLES_PER_MS)
    p = answer.probabilities
    confidences = [word_confidence(*pair) for pair in zip(p[::2], p[1::2], strict=True)]
    return Aligned(order.segment, time_words(words, spans, confidences, order.start), "aligned")
