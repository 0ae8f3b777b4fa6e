"""What the engine gets of the settings."""

from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError
from streamasr.engine.config import RecognitionConfig
from streamasr.engine.cores import Threads, available_cores, share_cores
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.segmentation.chunker import ChunkerConfig
from streamasr.segmentation.vad import VadConfig
from tests.support.settings import changed


def find_path(name: str) -> Path:
    return Path("/models", name)


def find_aligner(name: str | None, recogniser: Path) -> Path | None:
    assert recogniser == Path("/models/mine")
    return Path("/models", name) if name else None


def no_aligner(_name: str | None, _recogniser: Path) -> None:
    return None


def test_no_aligner_is_looked_for_where_nobody_wants_words() -> None:
    config = changed({"live.words": False, "model.aligner": "theirs"})
    recognition = config.recognition(find_path, find_aligner, LANGUAGES.resolve)
    assert (recognition.words, recognition.aligner) == (False, None)


def test_the_engine_gets_what_was_set() -> None:
    config = changed(
        {
            "model.name": "mine",
            "model.language": "en",
            "model.context": "Ada",
            "model.hotwords": ("Grace",),
            "model.threads": 3,
            "model.encoder_window_s": 2,
            "model.aligner_idle_s": 60.0,
            "model.gpu_layers": 12,
            "model.gpu": "CUDA0",
            "model.providers": ("CUDAExecutionProvider",),
            "model.aligner": "theirs",
            "model.aligner_gpu": True,
            "model.reuse": False,
            "live.partial_interval_s": 0.7,
            "live.commit_lag_tokens": 2,
            "live.commit_lag_s": 0.1,
        }
    )
    recognition = config.recognition(find_path, find_aligner, LANGUAGES.resolve)
    assert recognition.model == Path("/models/mine")
    assert recognition.language == "English"
    assert (recognition.context, recognition.hotwords) == ("Ada", ("Grace",))
    assert (recognition.threads, recognition.words) == (3, True)
    assert recognition.aligner == Path("/models/theirs")
    assert (recognition.gpu_layers, recognition.gpu) == (12, "CUDA0")
    assert recognition.providers == ("CUDAExecutionProvider",)
    assert recognition.aligner_gpu
    assert recognition.partial_interval_s == 0.7
    assert (recognition.encoder_window_s, recognition.aligner_idle_s) == (2, 60)
    assert not recognition.reuse
    assert (recognition.vad, recognition.chunker) == (VadConfig(), ChunkerConfig())


def test_the_engine_gets_no_number_for_what_is_switched_off() -> None:
    config = changed({"live.partials": False, "live.commit": "endpoint", "model.language": ""})
    recognition = config.recognition(Path, no_aligner, LANGUAGES.resolve)
    assert recognition.partial_interval_s is None
    assert recognition.language is None
    assert recognition.threads is None


def test_threads_that_were_set_are_those_of_each_stage() -> None:
    assert RecognitionConfig(Path(), threads=3).stage_threads == Threads(3, 3, 3)
    assert RecognitionConfig(Path()).stage_threads == share_cores(available_cores())


def test_an_unknown_language_is_an_error_of_settings() -> None:
    with pytest.raises(ConfigError, match="Klingon"):
        changed({"model.language": "Klingon"}).recognition(Path, no_aligner, LANGUAGES.resolve)
