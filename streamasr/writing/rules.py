r"""What speakers say to have something written or done, as data.

`languages/` has a TOML file for each language; a user's own file adds to them, with a table for
each language, and one called `any` that holds in all of them:

```toml
[en.say]
"smiley" = "🙂"                                     # typed as it stands
"period" = { type = ".", before_pause = true }      # replaces the rule of that name
"ellipsis" = false                                  # no longer a command
"forget it" = { do = "scratch" }

[any.replace]
"stream a s r" = "streamasr"                        # words, wherever they come

[[en.pattern]]
find = '(?i)colou?r'                                # a regular expression for whole words
write = "colour"

[fr.layout]
space_before = { "?" = "\u202f" }
```

Phrases are compared without regard to case, and to what Unicode calls compatibility.
"""

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from streamasr.core.errors import ConfigError
from streamasr.core.toml_file import read_toml
from streamasr.writing.patterns import Pattern, check_pattern
from streamasr.writing.tokens import phrase_tokens

Order: TypeAlias = Literal["scratch", "undo", "cap", "all caps", "no caps", "literal"]
Joins: TypeAlias = Literal["left", "right", "both", "none"]

ANY: Final = "any"
"""Name of the table that holds in every language."""

_DIALECTS: Final = {"yue": "zh", "cantonese": "zh"}
"""Those that are written as another language is."""

_CODES: Final = {
    "chinese": "zh",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
}
"""The names that models have for the languages that we have rules for."""

_TEXT_OR_FALSE: Final = str | bool

_Text = Annotated[str, Meta(max_length=1000)]
_Words = tuple[Annotated[str, Meta(min_length=1, max_length=50)], ...]


class Rule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a phrase does: it types something, or it does something."""

    type: _Text | None = None
    """What is typed in its place."""
    do: Order | None = None
    """`scratch` takes back what was dictated last; `undo` reverts the last change, also a
    `scratch`; `cap`, `all caps` and `no caps` change the next word; `literal` makes words of a
    command that follows."""
    joins: Joins | None = None
    """On which sides no space comes between it and its neighbours; left out, as is usual for the
    character."""
    before_pause: bool = False
    """It counts only where a mark, another command or the segment's end follows."""
    before_command: bool = False
    """It counts only where another command follows."""
    not_after: _Words = ()
    """It does not count right after these words."""
    not_before: _Words = ()
    """It does not count right before these words."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if (self.type is None) == (self.do is None):
            raise ValueError("expected either `type` or `do`")
        if self.type is not None:
            _check_typeable(self.type)


class Layout(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How a language sets its text."""

    capitals: bool = False
    """Whether the first word is capitalised after a spoken full stop or a new line."""
    space_before: dict[Annotated[str, Meta(min_length=1, max_length=1)], _Text] = {}
    """Mark -> the space in front of it, where it is not none."""
    space_after: dict[Annotated[str, Meta(min_length=1, max_length=1)], _Text] = {}
    """Mark -> the space after it, where it is not an ordinary one."""

    def __post_init__(self) -> None:
        """Refuse spaces that are none."""
        for space in (*self.space_before.values(), *self.space_after.values()):
            if space.strip() or not set(space).isdisjoint(
                "\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"
            ):
                raise ValueError(f"{space!r} is no space within a line")


class _LayoutChange(Layout, kw_only=True, frozen=True, forbid_unknown_fields=True):
    capitals: bool | None = None  # type: ignore[assignment]


class _Table(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One language of a file."""

    say: dict[str, str | bool | Rule] = {}
    replace: dict[str, str | bool] = {}
    pattern: tuple[Pattern, ...] = ()
    layout: _LayoutChange = _LayoutChange()


@dataclass(frozen=True, slots=True)
class LanguageRules:
    """What holds in one language."""

    say: Mapping[tuple[str, ...], Rule]
    """Tokens of the phrase -> what it does."""
    replace: Mapping[tuple[str, ...], str]
    patterns: tuple[Pattern, ...] = ()
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True)
class RuleBook:
    """The rules of all languages."""

    languages: Mapping[str, LanguageRules]
    """By their codes; `any` has those of all others."""

    def rules(self, language: str | None) -> LanguageRules:
        """The rules for a language given by name or code; those for any where it has none."""
        return self.languages.get(language_code(language), self.languages[ANY])


def language_code(language: str | None) -> str:
    """The code that a language's rules have: of `Cantonese` that of Chinese."""
    name = (language or ANY).strip().lower()
    return _DIALECTS.get(name) or _CODES.get(name, name)


@functools.cache
def built_in_rules() -> RuleBook:
    """Those that come with the package."""
    tables: dict[str, _Table] = {ANY: _Table()}
    for path in sorted(Path(__file__).with_name("languages").glob("*.toml")):
        tables[path.stem] = _convert(read_toml(path), path.name, "")
    return RuleBook({code: _extended(None, table) for code, table in tables.items()})


def load_rules(path: Path | None = None) -> RuleBook:
    """The rules that come with the package, and those of a user's file.

    Raises:
        ConfigError: the file cannot be read, or something in it cannot be.
    """
    base = built_in_rules()
    if path is None:
        return base
    document = read_toml(path)
    unknown = sorted(set(document) - set(base.languages))
    if unknown:
        known = ", ".join(sorted(base.languages))
        raise ConfigError(f"{path}: {unknown[0]}: no rules have this language; known are {known}.")
    tables = {code: _convert(table, str(path), code) for code, table in document.items()}
    everywhere = tables.get(ANY, _Table())
    extended: dict[str, LanguageRules] = {}
    for code, rules in base.languages.items():
        rules = _extended(rules, everywhere)  # noqa: PLW2901 - step by step
        own = tables.get(code) if code != ANY else None
        extended[code] = _extended(rules, own) if own else rules
    return RuleBook(extended)


def _convert(table: Any, source: str, code: str) -> _Table:
    """Check one language; complaints begin with where they belong."""
    if not isinstance(table, dict):
        raise ConfigError(f"{source}: {code}: expected a table.")
    parts: dict[str, Any] = {}
    for name, value in table.items():
        place = ".".join(filter(None, (code, name)))
        try:
            parts[name] = _part(name, value)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$")
            what = f"{what[0].lower()}{what[1:]}"
            raise ConfigError(f"{source}: {place}{where.rstrip('`')}: {what}.") from error
        except ValueError as error:
            raise ConfigError(f"{source}: {place}{error}.") from error
    return _Table(**parts)


def _part(name: str, value: Any) -> Any:
    """One of the tables of a language.

    Raises:
        ValueError: something in it cannot be; the message begins with where.
    """
    kinds = {field.name: field.type for field in msgspec.structs.fields(_Table)}
    if name not in kinds:
        raise ValueError(f": no such table; there are {', '.join(kinds)}")
    if name not in {"say", "replace"} or not isinstance(value, dict):
        part = msgspec.convert(value, kinds[name])
        if name == "pattern":
            for number, pattern in enumerate(part):
                _within(f"[{number}]", check_pattern, pattern)
        return part
    kind = str | bool | Rule if name == "say" else _TEXT_OR_FALSE
    return {
        phrase: _within(f".{phrase}", _entry, phrase, one, kind) for phrase, one in value.items()
    }


def _within(place: str, check: Any, *arguments: Any) -> Any:
    """Check something, and say of what is wrong where it is."""
    try:
        return check(*arguments)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        what = f"{what[0].lower()}{what[1:]}"
        raise ValueError(f"{place}{where.rstrip('`')}: {what}") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _entry(phrase: str, value: Any, kind: Any) -> str | bool | Rule:
    if not phrase_tokens(phrase):
        raise ValueError("expected words")
    takes_table = kind is not _TEXT_OR_FALSE
    if not (value is False or isinstance(value, str) or (takes_table and isinstance(value, dict))):
        raise ValueError(f"expected a text{', a table' if takes_table else ''} or false")
    entry: str | bool | Rule = msgspec.convert(value, kind)
    if isinstance(entry, str):
        if len(entry) > 1000:
            raise ValueError("expected at most 1000 characters")
        _check_typeable(entry)
    return entry


def _check_typeable(text: str) -> None:
    """Refuse what is no text: an escape sequence, typed into a terminal, is an order."""
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs", "Co"} and char not in "\n\t":
            raise ValueError(f"U+{ord(char):04X} cannot be typed")


def _extended(rules: LanguageRules | None, table: _Table) -> LanguageRules:
    """Rules with those of a table added, replaced, or removed where it says false."""
    base = rules or LanguageRules({}, {})
    say, replace = dict(base.say), dict(base.replace)
    for phrase, entry in table.say.items():
        tokens = phrase_tokens(phrase)
        say.pop(tokens, None)
        if isinstance(entry, str):
            say[tokens] = Rule(type=entry)
        elif isinstance(entry, Rule):
            say[tokens] = entry
    for phrase, text in table.replace.items():
        tokens = phrase_tokens(phrase)
        replace.pop(tokens, None)
        if isinstance(text, str):
            replace[tokens] = text
    change = table.layout
    layout = Layout(
        capitals=base.layout.capitals if change.capitals is None else change.capitals,
        space_before={**base.layout.space_before, **change.space_before},
        space_after={**base.layout.space_after, **change.space_after},
    )
    return LanguageRules(say, replace, (*table.pattern, *base.patterns), layout)
