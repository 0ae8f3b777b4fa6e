"""Languages that a model knows, and how people name them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from streamasr.core.errors import ConfigError

_OTHER_TAGS: Final = {"cmn": "zh", "zh-yue": "yue", "tl": "fil"}
"""BCP 47 tags in use beside those of the table: the individual code of a macrolanguage, an extended
language subtag, the base of a standardised variety."""


@dataclass(frozen=True, slots=True)
class Languages:
    """Languages that a model family can be asked for."""

    names: Mapping[str, str]
    """ISO 639 code -> the English name, by which the program calls a language."""

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names.values())

    def resolve(self, name_or_tag: str) -> str:
        """Return the name of a language that is given by name or BCP 47 tag, in any case.

        Of a tag such as `zh-Hans-CN` or `en_US`, script and region are ignored.

        Raises:
            ConfigError: the family does not know the language.
        """
        wanted = name_or_tag.strip().lower()
        by_name = {name.lower(): name for name in self.names.values()}
        if wanted in by_name:
            return by_name[wanted]
        subtags = wanted.replace("_", "-").split("-")
        for n_subtags in (2, 1):
            tag = "-".join(subtags[:n_subtags])
            if name := self.names.get(_OTHER_TAGS.get(tag, tag)):
                return name
        known = ", ".join(f"{name} ({code})" for code, name in self.names.items())
        raise ConfigError(
            f"unknown language {name_or_tag!r}; choose one of: {known}.", code="unknown_language"
        )

    def resolve_all(self, names_or_tags: Iterable[str]) -> tuple[str, ...]:
        """Return the names of several languages, each once, in the order in which they are given.

        Raises:
            ConfigError: the family does not know one of the languages.
        """
        return tuple(dict.fromkeys(map(self.resolve, names_or_tags)))
