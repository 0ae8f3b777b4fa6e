"""Configuration of an engine, from settings."""

from pathlib import Path
from typing import Any

from streamasr.config.sections import Settings
from streamasr.core.errors import ConfigError
from streamasr.core.options import SessionOptions
from streamasr.engine.build import engine_config
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.cores import Threads, available_cores, share_cores
from streamasr.models import tiny
from tests.support.errors import raises
from tests.support.settings import changed


class FakeFinder:
    """Finds the embedded model by any name, and a directory for every aligner."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.aligners: list[str | None] = []

    def model(self, name_or_path: str) -> Path:
        self.models.append(name_or_path)
        return tiny.BUNDLE

    def aligner(self, name_or_path: str | None, recogniser: Path) -> Path | None:
        assert recogniser == tiny.BUNDLE
        self.aligners.append(name_or_path)
        return Path("/models", name_or_path) if name_or_path else None

    def punctuation(self, name_or_path: str | None, recogniser: Path) -> Path | None:
        assert recogniser == tiny.BUNDLE
        return Path("/models", name_or_path) if name_or_path else None


def config_of(settings: Settings, **others: Any) -> EngineConfig:
    finder = FakeFinder()
    config = engine_config(settings.model, finder, **others)
    assert finder.models == [settings.model.name]
    return config


def test_no_aligner_is_looked_for_without_words() -> None:
    finder = FakeFinder()
    config = engine_config(changed({"model.aligner": "theirs"}).model, finder, words=False)
    assert config.aligner is None
    assert not config.options.words
    assert finder.aligners == []


def test_the_engine_gets_what_was_set() -> None:
    settings = changed(
        {
            "model.name": "mine",
            "model.language": "en",
            "model.languages": ("de", "English"),
            "model.context": "Ada",
            "model.hotwords": ("Grace",),
            "model.threads": 3,
            "model.encoder_window_s": 2,
            "model.gpu_layers": 12,
            "model.gpu": "CUDA0",
            "model.providers": ("CUDAExecutionProvider",),
            "model.aligner": "theirs",
            "model.aligner_gpu": True,
            "model.punctuation": "marks",
            "model.reuse": False,
        }
    )
    config = config_of(settings, aligner_idle_s=60.0, max_segment_s=12.0)
    assert config == EngineConfig(
        tiny.BUNDLE,
        Path("/models/theirs"),
        Hardware(3, ("CUDAExecutionProvider",), 12, "CUDA0", True),
        encoder_window_s=2,
        aligner_idle_s=60.0,
        reuse=False,
        max_segment_s=12.0,
        options=SessionOptions(
            "English", "Ada", languages=("German", "English"), hotwords=("Grace",)
        ),
        punctuation=Path("/models/marks"),
    )


def test_the_engine_gets_no_value_for_what_is_switched_off() -> None:
    config = config_of(changed({"model.language": ""}), partials=False)
    assert not config.options.partials
    assert config.options.language is None
    assert config.hardware.threads is None


def test_threads_that_were_set_are_those_of_each_stage() -> None:
    assert Hardware(threads=3).stage_threads == Threads(3, 3, 3)
    assert Hardware().stage_threads == share_cores(available_cores())


def test_an_unknown_language_is_an_error_of_settings() -> None:
    for setting in ({"model.language": "Klingon"}, {"model.languages": ("en", "Klingon")}):
        with raises(ConfigError, "unknown_language"):
            config_of(changed(setting))
