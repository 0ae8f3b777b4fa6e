r"""Replacements by regular expression, which a user writes and a microphone feeds.

A pattern sees whole words only, `words` of them at most and no more than `MAX_TEXT` characters, so
that a text can be written while it is being spoken. Python's matcher has no time limit; a pattern
is refused when the ways in which it can be tried are too many: `(a+)+` and its like.
"""

import functools
import importlib
import re
import warnings
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

MAX_WORDS: Final = 8
MAX_TEXT: Final = 100
"""Characters that a pattern is tried on."""
_MAX_WAYS: Final = 2_000_000
"""Three repeats without an end, and an option: a tenth of a second at worst."""


class Pattern(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A regular expression for whole words."""

    find: Annotated[str, Meta(min_length=1, max_length=200)]
    write: Annotated[str, Meta(max_length=200)]
    r"""What is written in its place; `\1` is what its first group found."""
    words: Annotated[int, Meta(ge=1, le=MAX_WORDS)] = 1
    """How many words it may reach over; as many are waited for while speech is being typed."""

    def written_for(self, words: str) -> str | None:
        """What is written in place of these words; None where it is not them that it finds."""
        if len(words) > MAX_TEXT or not (match := _compiled(self.find).fullmatch(words)):
            return None
        return match.expand(self.write)


@functools.lru_cache(maxsize=256)
def _compiled(find: str) -> re.Pattern[str]:
    return re.compile(find)


def check_pattern(pattern: Pattern) -> None:
    """Refuse a pattern that cannot be, or that could take for ever.

    Raises:
        ValueError: it is none, it finds nothing at all, or it is too costly.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            expression = re.compile(pattern.find)
            tree = _parser().parse(pattern.find)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise ValueError(f"find is no regular expression: {error}") from error
        try:
            expression.sub(pattern.write, "")
        except (re.error, IndexError, Warning) as error:
            raise ValueError(f"write cannot be filled in: {error}") from error
    if _ways(tree) > _MAX_WAYS:
        raise ValueError("find could take for ever: it has too many repeats")
    if expression.fullmatch(""):
        raise ValueError("find is content with no words at all")


def _parser() -> Any:
    """The parser of `re`, whose name says that it is not for everybody."""
    return importlib.import_module("re._parser")


def _ways(tree: Any, *, is_repeated: bool = False) -> int:
    """In how many ways a text may be tried, at most."""
    ways = 1
    for operation, argument in tree:
        name = str(operation)
        if name in {"GROUPREF", "GROUPREF_EXISTS"}:
            raise ValueError("find refers back to a group")
        repeats = name.endswith("_REPEAT") and argument[1] > 1
        if is_repeated and (name.endswith("_REPEAT") or name == "BRANCH"):
            raise ValueError("find repeats what is itself a repeat or a choice")
        if name.endswith("_REPEAT"):
            ways *= min(argument[1] - argument[0], MAX_TEXT) + 1
        elif name == "BRANCH":
            ways *= len(argument[1])
        for part in _parts(argument):
            ways *= _ways(part, is_repeated=is_repeated or repeats)
    return ways


def _parts(argument: Any) -> list[Any]:
    """The expressions that stand in an operation's argument."""
    if isinstance(argument, _parser().SubPattern):
        return [argument]
    if isinstance(argument, list | tuple):
        return [part for one in argument for part in _parts(one)]
    return []
