"""From settings and options of the command line to the models that a command runs."""

import argparse
from contextlib import AbstractContextManager
from typing import Any

from streamasr.catalogue.find import Finder
from streamasr.catalogue.steps import Steps
from streamasr.cli.stderr import note
from streamasr.config.sections import Settings
from streamasr.engine.build import engine_config
from streamasr.engine.config import EngineConfig


def finder_of(settings: Settings) -> Finder:
    """Return a finder of models that reports imports on stderr."""
    return Finder(settings.storage.models, settings.models, note, open_steps)


def open_steps() -> AbstractContextManager[Steps]:
    """Open a display of the steps of an import on stderr."""
    from streamasr.cli.console import StepProgress

    return StepProgress()


def model_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of `[model]` that the command line sets."""
    names = {"encoder_window": "encoder_window_s", "model": "name"}
    same = (
        "aligner", "context", "gpu", "gpu_layers", "language", "languages", "providers",
        "punctuation", "threads",
    )  # fmt: skip
    values = {names.get(one, one): getattr(options, one, None) for one in (*names, *same)}
    values["reuse"] = False if getattr(options, "no_reuse", False) else None
    return {name: value for name, value in values.items() if value is not None}


def live_engine(settings: Settings) -> EngineConfig:
    """Return the configuration of the daemon's engine.

    Raises:
        ModelError: there is no such model, or it cannot be used.
        ConfigError: the model does not know a language.
    """
    return engine_config(
        settings.model,
        finder_of(settings),
        words=settings.live.words,
        partials=settings.live.partials,
        aligner_idle_s=settings.model.aligner_idle_s,
        max_segment_s=settings.segmentation.max_segment,
    )
