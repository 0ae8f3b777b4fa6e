"""Punctuation process: the text of a pass in, its marks out.

Partials and finals wait for it, so it is there as long as the engine is, at normal priority. A text
that it cannot punctuate stays as it is.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

from streamasr.core.orders import Punctuate
from streamasr.core.punctuation import Marks
from streamasr.engine.child import Built
from streamasr.engine.ports import OnTrouble
from streamasr.engine.worker import Timeouts, Worker
from streamasr.engine.worker_config import PunctuatorConfig
from streamasr.models.bundle import read_bundle
from streamasr.models.family import LoadPunctuator, Punctuator, Role
from streamasr.models.onnx import OnnxOptions


@dataclass(frozen=True, slots=True)
class FoundMarks:
    """Punctuation of one text."""

    marks: Marks
    cost: float
    """Seconds that the model worked on it."""


_ANSWER_S: Final = 15.0
"""A text waits so long for a process that hangs; a large model takes a tenth of a second."""

PunctuatorWorker: TypeAlias = Worker[PunctuatorConfig, Punctuate, FoundMarks]


def punctuator_worker(
    config: PunctuatorConfig, timeouts: Timeouts, on_trouble: OnTrouble
) -> PunctuatorWorker:
    """Make the parent's end of the punctuation process; `start` it.

    Raises:
        ModelError: the directory is not a punctuation model's, or a file of it is missing. Broken
            files are found when they are loaded.
    """
    bundle = read_bundle(config.bundle, Role.PUNCTUATION)
    bundle.check_files()
    punctuation = bundle.family.punctuation
    assert punctuation is not None, "follows from the role"
    build = partial(build_punctuator, punctuation.load)
    timeouts = replace(timeouts, answer=min(timeouts.answer, _ANSWER_S))
    return Worker("punctuator", build, config, timeouts, on_trouble)


def build_punctuator(
    load: LoadPunctuator, config: PunctuatorConfig
) -> Built[Punctuate, FoundMarks]:
    """Load the model of a bundle, in the child.

    Args:
        load: of the model's family.
        config: of the process.
    """
    warnings: list[str] = []
    bundle = read_bundle(config.bundle, Role.PUNCTUATION)
    punctuator = load(bundle, OnnxOptions(threads=config.threads, warn=warnings.append))
    answer = partial(punctuate, punctuator, frozenset(bundle.family.languages))
    return Built(answer, tuple(warnings))


def punctuate(punctuator: Punctuator, languages: frozenset[str], order: Punctuate) -> FoundMarks:
    """Punctuate one text; none in a language that the model does not know."""
    if order.language is not None and order.language not in languages:
        return FoundMarks(Marks(), 0.0)
    began = time.perf_counter()
    marks = punctuator.punctuate(order.text)
    return FoundMarks(marks, time.perf_counter() - began)
