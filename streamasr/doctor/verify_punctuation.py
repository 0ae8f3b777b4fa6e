"""Verification of a punctuation model: check its files, and punctuate a known text."""

import os
import time
from typing import Final

from streamasr.core.errors import StreamASRError
from streamasr.core.orders import Pass, Punctuate, Rank
from streamasr.core.processes import usage
from streamasr.core.punctuation import marked_text
from streamasr.doctor.verification import Check, Report, Speed
from streamasr.doctor.verify import Show, check_files
from streamasr.engine.config import Hardware
from streamasr.engine.punctuator import punctuator_worker
from streamasr.engine.worker import Timeouts
from streamasr.engine.worker_config import PunctuatorConfig
from streamasr.models.bundle import Bundle

TEXT: Final = "今天下午我们去公园看书吧你觉得怎么样 well i think it is a good idea"
"""Two sentences of Chinese, the second a question, and one of English."""


def verify_punctuation(bundle: Bundle, hardware: Hardware, show: Show) -> Report:
    """Check the files of a punctuation model, load it, and punctuate a text.

    Args:
        bundle: the model.
        hardware: processors that the model runs on.
        show: receives a description of each step.
    """
    show("reading the files")
    checks = [check_files(bundle)]
    if checks[0].passed is False:
        return _report(bundle, checks)
    warnings: list[str] = []
    config = PunctuatorConfig(bundle.directory, hardware.stage_threads.aligner)
    worker = punctuator_worker(config, Timeouts(), lambda _, sentence: warnings.append(sentence))
    began = time.perf_counter()
    try:
        show("loading the model")
        worker.start()
        worker.wait_ready()
        loaded = time.perf_counter()
        marks = worker.submit(Punctuate(Pass(1, 1, Rank.FINAL), TEXT, None)).result().marks
        seconds = time.perf_counter() - loaded
        used = {"main": usage(os.getpid()), "punctuator": usage(worker.pid or 0)}
    except StreamASRError as error:
        return _report(bundle, [*checks, Check("loading", False, str(error), error.code)])
    finally:
        worker.stop()
    checks.append(Check("loading", True, f"{loaded - began:.1f} s"))
    checks.append(Check("punctuation", None, marked_text(TEXT, marks.each)))
    return Report(
        bundle.name,
        bundle.family.name,
        str(bundle.directory),
        tuple(checks),
        load_s=round(loaded - began, 3),
        stages={"punctuate": Speed(round(seconds, 4), None)},
        peak_memory={name: each.peak for name, each in used.items() if each},
        warnings=tuple(warnings),
    )


def _report(bundle: Bundle, checks: list[Check]) -> Report:
    return Report(bundle.name, bundle.family.name, str(bundle.directory), tuple(checks))
