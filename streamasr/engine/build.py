"""The one way from settings to the configuration of an engine, for the daemon and all commands."""

from pathlib import Path
from typing import Protocol

from streamasr.core.languages import Languages
from streamasr.core.options import SessionOptions
from streamasr.engine.config import EngineConfig, Hardware, HardwareSettings
from streamasr.models.bundle import open_bundle


class ModelSettings(HardwareSettings, Protocol):
    """The keys of `[model]` in the settings that an engine is made of."""

    @property
    def name(self) -> str:
        """Name or path of a recogniser."""

    @property
    def aligner(self) -> str | None:
        """Name or path of a forced aligner; None for one that suits the recogniser."""

    @property
    def punctuation(self) -> str | None:
        """Name or path of a punctuation model; None for one that is installed."""

    @property
    def encoder_window_s(self) -> int:
        """See `EngineConfig.encoder_window_s`."""

    @property
    def reuse(self) -> bool:
        """See `EngineConfig.reuse`."""

    @property
    def language(self) -> str | None:
        """Name or code of the language to force."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Names or codes of the languages to choose among; empty for all."""

    @property
    def context(self) -> str:
        """See `SessionOptions.context`."""

    @property
    def hotwords(self) -> tuple[str, ...]:
        """See `SessionOptions.hotwords`."""


class Finder(Protocol):
    """Finds the directories of models; see `catalogue.find.Finder`."""

    def model(self, name_or_path: str) -> Path:
        """Return the directory of a model given by name or path."""

    def aligner(self, name_or_path: str | None, recogniser: Path) -> Path | None:
        """Return the directory of an aligner, or of one that suits the recogniser."""

    def punctuation(self, name_or_path: str | None, recogniser: Path) -> Path | None:
        """Return the directory of a punctuation model; None for a recogniser without need."""


def engine_config(
    settings: ModelSettings,
    finder: Finder,
    *,
    words: bool = True,
    partials: bool = True,
    aligner_idle_s: float | None = None,
    max_segment_s: float = 24.0,
) -> EngineConfig:
    """Return the configuration of an engine that the settings describe.

    Args:
        settings: the section `[model]`, with what the command line says in its place.
        finder: where models are looked for; it may import one.
        words: whether word times are wanted; otherwise no aligner is loaded.
        partials: whether sessions get partials, unless they ask for none.
        aligner_idle_s: see `EngineConfig`.
        max_segment_s: see `EngineConfig`.

    Raises:
        ModelError: there is no such model, aligner or punctuation model, or it cannot be used.
        ConfigError: the model does not know a language, or cannot be imported for want of room.
    """
    directory = finder.model(settings.name)
    aligner = finder.aligner(settings.aligner, directory) if words else None
    return EngineConfig(
        directory,
        aligner,
        Hardware.of(settings),
        encoder_window_s=settings.encoder_window_s,
        aligner_idle_s=aligner_idle_s,
        reuse=settings.reuse,
        max_segment_s=max_segment_s,
        options=session_options(
            settings, open_bundle(directory).family.languages, words=words, partials=partials
        ),
        punctuation=finder.punctuation(settings.punctuation, directory),
    )


def session_options(
    settings: ModelSettings, languages: Languages, *, words: bool = True, partials: bool = True
) -> SessionOptions:
    """Return the options of sessions that ask for nothing else.

    Args:
        settings: see `engine_config`.
        languages: of the model's family.
        words: see `engine_config`.
        partials: see `engine_config`.

    Raises:
        ConfigError: the model does not know a language.
    """
    return SessionOptions(
        language=languages.resolve(settings.language) if settings.language else None,
        languages=languages.resolve_all(settings.languages),
        context=settings.context,
        hotwords=settings.hotwords,
        partials=partials,
        words=words,
    )
