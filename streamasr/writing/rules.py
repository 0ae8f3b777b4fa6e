r"""Rules for spoken commands and replacements, as data.

`languages/` contains a TOML file for each language. A user's file extends them, with a table
for each language and a table `any` for all languages:

```toml
[en.say]
"smiley" = "🙂"                                     # typed as written here
"period" = { type = ".", before_pause = true }      # replaces the rule of that name
"ellipsis" = false                                  # no longer a command
"forget it" = { do = "scratch" }

[any.replace]
"stream a s r" = "streamasr"                        # replaced everywhere

[[en.pattern]]
find = '(?i)colou?r'                                # a regular expression for whole words
write = "colour"

[fr.layout]
space_before = { "?" = "\u202f" }
```

Phrases are compared without regard to case and to compatibility forms (NFKC).
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

Action: TypeAlias = Literal["scratch", "undo", "cap", "all caps", "no caps", "literal"]
Joins: TypeAlias = Literal["left", "right", "both", "none"]

ANY: Final = "any"
"""Name of the table for all languages."""

_DIALECTS: Final = {"yue": "zh", "cantonese": "zh"}
"""Languages written like another one, and its code."""

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
"""Codes of the languages with rules, by the names that models use."""

_TEXT_OR_FALSE: Final = str | bool

_Text = Annotated[str, Meta(max_length=1000)]
_Words = tuple[Annotated[str, Meta(min_length=1, max_length=50)], ...]


class Rule(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Effect of a phrase: it types a text or executes an action."""

    type: _Text | None = None
    """Text to type in place of the phrase."""
    do: Action | None = None
    """`scratch` deletes the text dictated last; `undo` reverts the last change, also a `scratch`;
    `cap`, `all caps` and `no caps` change the next word; `literal` writes the words of the command
    that follows instead of executing it."""
    joins: Joins | None = None
    """Sides without a space between the text and its neighbours; None for the usual sides of the
    character."""
    before_pause: bool = False
    """Valid only before a mark, another command or the end of the segment."""
    before_command: bool = False
    """Valid only before another command."""
    not_after: _Words = ()
    """Not valid right after these words."""
    not_before: _Words = ()
    """Not valid right before these words."""

    def __post_init__(self) -> None:
        """Check that the rule has exactly one effect, and that its text can be typed."""
        if (self.type is None) == (self.do is None):
            raise ValueError("expected either `type` or `do`")
        if self.type is not None:
            _check_typeable(self.type)


class Layout(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Spacing and capitals of a language."""

    capitals: bool = False
    """Capitalise the first word after a spoken full stop or a new line."""
    space_before: dict[Annotated[str, Meta(min_length=1, max_length=1)], _Text] = {}
    """Mark -> space before the mark, for marks with such a space."""
    space_after: dict[Annotated[str, Meta(min_length=1, max_length=1)], _Text] = {}
    """Mark -> space after the mark, if that is not an ordinary space."""

    def __post_init__(self) -> None:
        """Check that all spaces are white space within a line."""
        for space in (*self.space_before.values(), *self.space_after.values()):
            if space.strip() or not set(space).isdisjoint(
                "\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"
            ):
                raise ValueError(f"{space!r} is not a space within a line")


class _LayoutChange(Layout, kw_only=True, frozen=True, forbid_unknown_fields=True):
    capitals: bool | None = None  # type: ignore[assignment]


class _Table(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Table of one language in a file."""

    say: dict[str, str | bool | Rule] = {}
    replace: dict[str, str | bool] = {}
    pattern: tuple[Pattern, ...] = ()
    layout: _LayoutChange = _LayoutChange()


@dataclass(frozen=True, slots=True)
class LanguageRules:
    """Rules of one language."""

    say: Mapping[tuple[str, ...], Rule]
    """Tokens of the phrase -> its effect."""
    replace: Mapping[tuple[str, ...], str]
    """Tokens of the phrase -> its replacement."""
    patterns: tuple[Pattern, ...] = ()
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True)
class RuleBook:
    """Rules of all languages."""

    languages: Mapping[str, LanguageRules]
    """Rules by code of the language; `any` has those of all other languages."""

    def rules(self, language: str | None) -> LanguageRules:
        """Return the rules of a language, given by name or code, or else those of `any`."""
        return self.languages.get(language_code(language), self.languages[ANY])


def language_code(language: str | None) -> str:
    """Return the code under which the rules of a language are stored: `zh` for `Cantonese`."""
    name = (language or ANY).strip().lower()
    return _DIALECTS.get(name) or _CODES.get(name, name)


@functools.cache
def built_in_rules() -> RuleBook:
    """Return the rules of the package."""
    tables: dict[str, _Table] = {ANY: _Table()}
    for path in sorted(Path(__file__).with_name("languages").glob("*.toml")):
        tables[path.stem] = _convert(read_toml(path), path.name, "")
    return RuleBook({code: _extended(None, table) for code, table in tables.items()})


def load_rules(path: Path | None = None) -> RuleBook:
    """Return the rules of the package, extended by those of a user's file.

    Raises:
        ConfigError: the file cannot be read, or its content is invalid.
    """
    base = built_in_rules()
    if path is None:
        return base
    document = read_toml(path)
    unknown = sorted(set(document) - set(base.languages))
    if unknown:
        known = ", ".join(sorted(base.languages))
        raise ConfigError(
            f"{path}: {unknown[0]}: unknown language; choose one of {known}.",
            code="rule_language_unknown",
        )
    tables = {code: _convert(table, str(path), code) for code, table in document.items()}
    for_all = tables.get(ANY, _Table())
    extended: dict[str, LanguageRules] = {}
    for code, rules in base.languages.items():
        rules = _extended(rules, for_all)  # noqa: PLW2901 - step by step
        own = tables.get(code) if code != ANY else None
        extended[code] = _extended(rules, own) if own else rules
    return RuleBook(extended)


def _convert(table: Any, source: str, code: str) -> _Table:
    """Check and convert the table of a language; errors begin with the place in the file."""
    if not isinstance(table, dict):
        raise ConfigError(f"{source}: {code}: expected a table.", code="rule_invalid")
    parts: dict[str, Any] = {}
    for name, value in table.items():
        place = ".".join(filter(None, (code, name)))
        try:
            parts[name] = _part(name, value)
        except msgspec.ValidationError as error:
            where, what = _place_and_reason(error)
            raise ConfigError(f"{source}: {place}{where}: {what}.", code="rule_invalid") from error
        except ValueError as error:
            raise ConfigError(f"{source}: {place}{error}.", code="rule_invalid") from error
    return _Table(**parts)


def _place_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    """Divide the message of msgspec into the path within the value, and the reason."""
    what, _, where = str(error).partition(" - at `$")
    return where.rstrip("`"), f"{what[0].lower()}{what[1:]}"


def _part(name: str, value: Any) -> Any:
    """Check and convert one of the tables of a language.

    Raises:
        ValueError: the content of the table is invalid; the message begins with the place.
    """
    kinds = {field.name: field.type for field in msgspec.structs.fields(_Table)}
    if name not in kinds:
        raise ValueError(f": unknown table; choose one of {', '.join(kinds)}")
    if name not in {"say", "replace"} or not isinstance(value, dict):
        part = msgspec.convert(value, kinds[name])
        if name == "pattern":
            for number, pattern in enumerate(part):
                _within(f"[{number}]", check_pattern, pattern)
        return part
    kind = str | bool | Rule if name == "say" else _TEXT_OR_FALSE
    return {
        phrase: _within(f".{phrase}", _entry, phrase, entry, kind)
        for phrase, entry in value.items()
    }


def _within(place: str, check: Any, *arguments: Any) -> Any:
    """Call a check; prefix its errors with the place."""
    try:
        return check(*arguments)
    except msgspec.ValidationError as error:
        where, what = _place_and_reason(error)
        raise ValueError(f"{place}{where}: {what}") from error
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
    """Refuse control codes: a terminal would execute an escape sequence."""
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs", "Co"} and char not in "\n\t":
            raise ValueError(f"U+{ord(char):04X} cannot be typed; remove this character")


def _extended(rules: LanguageRules | None, table: _Table) -> LanguageRules:
    """Return the rules after the additions, replacements and removals (false) of a table."""
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
