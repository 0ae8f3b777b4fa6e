"""From what a client asks for to what its session is told; pure."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

from msgspec import UNSET, structs

from streamasr.config.sections import Settings
from streamasr.core.options import SessionOptions
from streamasr.protocols import v1


@dataclass(frozen=True, slots=True)
class RequestedOptions:
    """A client's wishes in its own words; what it leaves open is the operator's choice."""

    language: str | None = None
    context: str = ""
    hotwords: tuple[str, ...] = ()
    partials: bool = True
    words: bool = True

    @classmethod
    def at_start(cls, start: v1.Start) -> Self:
        """What a session begins with."""
        return cls(start.language, start.context, start.hotwords, start.partials, start.words)

    @classmethod
    def restored(cls, wishes: SessionOptions) -> Self:
        """What is left of them after a restart."""
        return cls(wishes.language, wishes.context, (), wishes.partials, wishes.words)

    def changed(self, by: v1.Configure) -> Self:
        """The wishes after a change of some of them."""
        given = {name: getattr(by, name) for name in by.__struct_fields__}
        return replace(self, **{name: v for name, v in given.items() if v is not UNSET})

    def resolve(
        self,
        config: Settings,
        *,
        language_name: Callable[[str], str],
        hotword_context: Callable[[str, tuple[str, ...]], str],
    ) -> SessionOptions:
        """What the session is told.

        Args:
            config: has the operator's choices.
            language_name: the model's name of a language given by name or code; raises ConfigError
                for one that it does not know.
            hotword_context: one text of context and hotwords.
        """
        language = self.language or config.model.language
        context = self.context or config.model.context
        hotwords = self.hotwords or config.model.hotwords
        return SessionOptions(
            language=language_name(language) if language else None,
            context=hotword_context(context, hotwords),
            partials=self.partials and config.live.partials,
            words=self.words and config.live.words,
        )


def resumed_wishes(start: v1.Start) -> v1.Configure:
    """What a client that comes back asks for; what it leaves out stays as it was."""
    given = {
        name: wish
        for name in v1.Configure.__struct_fields__
        if (wish := getattr(start, name)) != getattr(_NO_WISHES, name)
    }
    return structs.replace(v1.Configure(), **given)


_NO_WISHES: Final = v1.Start()
