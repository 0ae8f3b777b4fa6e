"""From the options that a client asks for to those that its session gets; pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypedDict

from streamasr.core.errors import ConfigError
from streamasr.core.options import SessionOptions


class OptionsChange(TypedDict, total=False):
    """A change of some of a client's options; keys that are absent leave theirs as it is."""

    language: str | None
    languages: tuple[str, ...]
    context: str
    hotwords: tuple[str, ...]
    channel: int | None
    partials: bool
    words: bool
    endpoint_ms: int | None
    endpoint_by_client: bool
    onset_padding_ms: int | None
    itn: bool
    punctuation: bool


@dataclass(frozen=True, slots=True)
class OperatorDefaults:
    """The operator's options, for what a client leaves open."""

    language: str | None = None
    languages: tuple[str, ...] = ()
    context: str = ""
    hotwords: tuple[str, ...] = ()
    partials: bool = True
    """False: no client gets partials."""
    words: bool = True
    """False: no client gets words."""


@dataclass(frozen=True, slots=True)
class RequestedOptions:
    """Options as a client names them; empty ones are left to the operator.

    The fields have the meaning of those of `SessionOptions`; languages are names or codes.
    """

    language: str | None = None
    languages: tuple[str, ...] = ()
    context: str = ""
    hotwords: tuple[str, ...] = ()
    channel: int | None = None
    partials: bool = True
    words: bool = True
    endpoint_ms: int | None = None
    endpoint_by_client: bool = False
    onset_padding_ms: int | None = None
    itn: bool = False
    punctuation: bool = True

    @classmethod
    def restored(cls, options: SessionOptions) -> Self:
        """Return the request that a session resumed after a restart goes on with."""
        is_only_one = options.languages == (options.language,)
        return cls(
            language=None if is_only_one else options.language,
            languages=options.languages,
            context=options.context,
            hotwords=options.hotwords,
            channel=options.channel,
            partials=options.partials,
            words=options.words,
            endpoint_ms=options.endpoint_ms,
            endpoint_by_client=options.endpoint_by_client,
            onset_padding_ms=options.onset_padding_ms,
            itn=options.itn,
            punctuation=options.punctuation,
        )

    def changed(self, change: OptionsChange) -> Self:
        """Return the request after a change of some options."""
        return replace(self, **change)

    def resolve(
        self, defaults: OperatorDefaults, language_name: Callable[[str], str]
    ) -> SessionOptions:
        """Return the options of the session.

        Args:
            defaults: the operator's choices.
            language_name: returns the model's name of a language given by name or code; raises
                ConfigError for a language that the model does not know.

        Raises:
            ConfigError: the model does not know a language, or `language` is not among
                `languages`.
        """
        language, languages = self._languages(defaults, language_name)
        return SessionOptions(
            language=language,
            languages=languages,
            context=self.context or defaults.context,
            hotwords=self.hotwords or defaults.hotwords,
            channel=self.channel,
            partials=self.partials and defaults.partials,
            words=self.words and defaults.words,
            endpoint_ms=self.endpoint_ms,
            endpoint_by_client=self.endpoint_by_client,
            onset_padding_ms=self.onset_padding_ms,
            itn=self.itn,
            punctuation=self.punctuation,
        )

    def _languages(
        self, defaults: OperatorDefaults, language_name: Callable[[str], str]
    ) -> tuple[str | None, tuple[str, ...]]:
        """Return the language to force, if any, and those that the model may choose among."""
        source = self if self.language or self.languages else defaults
        language = language_name(source.language) if source.language else None
        languages = tuple(dict.fromkeys(map(language_name, source.languages)))
        if languages and language is None and len(languages) == 1:
            language = languages[0]
        if languages and language is not None and language not in languages:
            allowed = ", ".join(languages)
            raise ConfigError(
                f"language {language} is not one of the allowed languages ({allowed}); "
                "leave one of the two out.",
                code="language_not_allowed",
            )
        return language, languages
