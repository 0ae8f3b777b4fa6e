"""Settings for tests: values of each, and files that hold them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from streamasr.catalogue.known import KnownModel
from streamasr.config.file import load_config
from streamasr.config.listing import settings
from streamasr.config.sections import Settings
from streamasr.core.errors import ConfigError

TOKEN = "correct-horse-battery"

a_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
a_name = a_text.filter(bool)
a_path = a_name.filter(lambda text: "\0" not in text).map(lambda text: Path("/", text[:20]))
a_time = st.floats(0.001, 1e9) | st.integers(1, 10**9).map(float)


def times(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


A_HASH = "0123456789abcdef" * 4

a_known_model = st.builds(
    KnownModel,
    repository=st.sampled_from(["Qwen/Qwen3-ASR-0.6B", "a/b"]),
    revision=st.sampled_from(["main", "refs/pr/1", "0a1b"]),
    files=st.lists(a_name, max_size=2).map(tuple),
    title=a_text,
    family=st.sampled_from([None, "qwen3-asr", "qwen3-forced-aligner"]),
    languages=st.lists(a_text, max_size=2).map(tuple),
    licence=a_text,
) | st.builds(
    KnownModel,
    url=st.sampled_from(["https://h.example/a.zip", "http://h.example:80/b?c=d"]),
    sha256=st.none() | st.just(A_HASH),
    size=st.none() | st.integers(1, 1 << 40),
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model.name": a_name.filter(lambda text: "/" not in text and "\0" not in text),
    "model.language": st.none() | a_text,
    "model.languages": st.lists(a_name, max_size=3).map(tuple),
    "model.context": a_text,
    "model.hotwords": st.lists(a_name, max_size=3).map(tuple),
    "model.threads": st.none() | st.integers(1, 512),
    "model.providers": st.lists(a_name, min_size=1, max_size=3).map(tuple),
    "model.gpu_layers": st.integers(-1, 10_000),
    "model.gpu": st.none() | st.integers(0, 100) | a_name,
    "model.aligner": st.none() | a_name.filter(lambda text: "/" not in text and "\0" not in text),
    "model.punctuation": st.none()
    | a_name.filter(lambda text: "/" not in text and "\0" not in text),
    "model.aligner_gpu": st.booleans(),
    "model.encoder_window_s": st.sampled_from([1, 2, 4, 8]),
    "model.aligner_idle_s": st.floats(1, 1e9),
    "model.reuse": st.booleans(),
    "server.host": st.sampled_from(["127.0.0.1", "127.8.8.8", "::1", "LocalHost"]),
    "server.port": st.integers(0, 65535),
    "server.socket": st.none() | a_path,
    "server.token_file": st.none(),  # must exist; see the tests of tokens
    "server.allow_origin": st.lists(
        st.sampled_from(["https://notes.example", "http://localhost:3000", "moz-extension://a-b"]),
        max_size=3,
    ).map(tuple),
    "server.max_sessions": st.integers(1, 10_000),
    "server.resume_s": a_time | st.just(0.0),
    "server.max_lag_s": a_time,
    "server.stop_timeout_s": a_time,
    "microphone.enabled": st.booleans(),
    "microphone.device": st.none() | st.integers(0, 100) | a_name,
    "microphone.input": st.none() | a_path,
    "microphone.speed": st.floats(0.001, 1000),
    "live.partials": st.booleans(),
    "live.partial_interval_s": a_time,
    "live.commit": st.sampled_from(["agreement", "endpoint"]),
    "live.commit_lag_tokens": st.integers(0, 1000),
    "live.commit_lag_s": a_time | st.just(0.0),
    "live.words": st.booleans(),
    "segmentation.pre_roll_s": times(0, 5),
    "segmentation.hangover_s": times(0.5, 5),
    "segmentation.trailing_silence_s": times(0, 0.5),
    "segmentation.pause_s": times(0, 5),
    "segmentation.min_speech_s": times(0, 5),
    "segmentation.onset_gap_s": times(0.03, 5),
    "segmentation.max_segment_s": times(10, 1000),
    "segmentation.cut_search_s": times(1, 10),
    "segmentation.cut_window_s": times(0.03, 1),
    "segmentation.chunk_s": times(0.03, 5),
    "vad.aggressiveness": st.integers(0, 3),
    "vad.noise_db": times(-100, 0),
    "vad.max_gain_db": times(0, 60),
    "vad.minimum_db": times(-100, 0),
    "vad.floor_window_s": times(0.5, 60),
    "dictation.push_to_talk": st.none() | st.just(True),  # false, hold is refused
    "dictation.hold": st.booleans(),
    "dictation.pre_roll_s": times(0, 10),
    "dictation.longest_s": a_time,
    "dictation.sound": st.booleans(),
    "dictation.device": st.none() | st.integers(0, 100) | a_name,
    "dictation.language": st.none() | a_text,
    "dictation.context": a_text,
    "dictation.mode": st.sampled_from(["stable", "final", "live"]),
    "dictation.commands": st.booleans(),
    "dictation.itn": st.booleans(),
    "dictation.rules": st.none() | a_path,
    "dictation.output": st.none() | st.sampled_from(["wtype", "stdout"]),  # live cannot be pasted
    "dictation.keyboard": st.none() | a_name,
    "dictation.newline": a_name,
    "dictation.paste_key": a_name,
    "storage.directory": a_path,
    "storage.spool": st.booleans(),
    "storage.history_days": st.integers(0, 36_500),
    "storage.models": a_path,
    "download.endpoint": st.sampled_from(["https://hf.example", "http://127.0.0.1:8000/mirror"]),
    "download.timeout_s": times(1, 3600),
    "download.attempts": st.integers(1, 100),
    "log.level": st.sampled_from(["debug", "info", "warning", "error"]),
}
"""(section, key) -> allowed values."""


@st.composite
def configs(draw: st.DrawFn) -> Settings:
    """Return a strategy of settings, any number of which are at their default."""
    some = {path: draw(VALUES[path]) for path in draw(st.sets(st.sampled_from([*VALUES])))}
    names = st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,9}", fullmatch=True).filter("tiny".__ne__)
    models = draw(st.dictionaries(names, a_known_model, max_size=2))
    return msgspec.structs.replace(changed(some), models=models)


def changed(values: dict[str, Any]) -> Settings:
    """Return the default settings with changes: path -> value."""
    config = Settings()
    for one in settings():
        if one.path in values:
            section = msgspec.structs.replace(
                getattr(config, one.section), **{one.name: values[one.path]}
            )
            config = msgspec.structs.replace(config, **{one.section: section})
    return config


def write_token(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def load(path: Path, text: str, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    path.write_text(text, "utf-8")
    return load_config(path, overrides)


def error_of(path: Path, text: str, overrides: dict[str, dict[str, Any]] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, text, overrides)
    return str(caught.value)


def two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Use temporary files as the settings of the user and of the system; yield their paths."""
    monkeypatch.delenv("STREAMASR_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", f"{tmp_path / 'site'}:{tmp_path / 'other'}")
    for name in ("user", "site"):
        (tmp_path / name / "streamasr").mkdir(parents=True)
    return tmp_path / "user/streamasr/config.toml", tmp_path / "site/streamasr/config.toml"
