r"""Replacements by regular expressions of users, applied to recognised text.

A pattern is matched to whole words only, at most `words` of them and at most `MAX_TEXT` characters,
so that text can be written while it is being spoken. Python's matcher has no time limit, so a
pattern is refused if the number of ways to try it is too large, for example `(a+)+`.
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
"""Maximum length of the text that a pattern is matched to."""
_MAX_WAYS: Final = 2_000_000
"""Three unlimited repeats and an option: at most a tenth of a second."""


class Pattern(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Regular expression for whole words."""

    find: Annotated[str, Meta(min_length=1, max_length=200)]
    """Expression that must match the words completely."""
    write: Annotated[str, Meta(max_length=200)]
    r"""Replacement; `\1` stands for the match of the first group."""
    words: Annotated[int, Meta(ge=1, le=MAX_WORDS)] = 1
    """Maximum number of words to match; typing waits for this number of words."""

    def expand(self, words: str) -> str | None:
        """Return the replacement of these words; None if the expression does not match them."""
        if len(words) > MAX_TEXT or not (match := _compiled(self.find).fullmatch(words)):
            return None
        return match.expand(self.write)


@functools.lru_cache(maxsize=256)
def _compiled(find: str) -> re.Pattern[str]:
    return re.compile(find)


def check_pattern(pattern: Pattern) -> None:
    """Refuse a pattern that is invalid, or that could take too long.

    Raises:
        ValueError: the expression or the replacement is invalid, the expression matches the empty
            string, or matching it could take too long.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            expression = re.compile(pattern.find)
            tree = _parser().parse(pattern.find)
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise ValueError(f"`find` is not a valid regular expression: {error}") from error
        try:
            expression.sub(pattern.write, "")
        except (re.error, IndexError, Warning) as error:
            raise ValueError(
                f"`write` refers to a group that `find` lacks, or is invalid: {error}"
            ) from error
    if _count_ways(tree) > _MAX_WAYS:
        raise ValueError(
            "`find` has too many repeats and could take too long; use fewer or limit them"
        )
    if expression.fullmatch(""):
        raise ValueError("`find` matches the empty string; it must match at least one word")


def _parser() -> Any:
    """Return the parser of `re`, a private module of the standard library."""
    return importlib.import_module("re._parser")


def _count_ways(tree: Any, *, is_repeated: bool = False) -> int:
    """Return the maximum number of ways in which a text may be tried."""
    ways = 1
    for operation, argument in tree:
        name = str(operation)
        if name in {"GROUPREF", "GROUPREF_EXISTS"}:
            raise ValueError("`find` refers back to a group, which is not supported")
        repeats = name.endswith("_REPEAT") and argument[1] > 1
        if is_repeated and (name.endswith("_REPEAT") or name == "BRANCH"):
            raise ValueError(
                "`find` repeats an expression that is itself a repeat or a choice; simplify it"
            )
        if name.endswith("_REPEAT"):
            ways *= min(argument[1] - argument[0], MAX_TEXT) + 1
        elif name == "BRANCH":
            ways *= len(argument[1])
        for part in _parts(argument):
            ways *= _count_ways(part, is_repeated=is_repeated or repeats)
    return ways


def _parts(argument: Any) -> list[Any]:
    """Return the expressions in an operation's argument."""
    if isinstance(argument, _parser().SubPattern):
        return [argument]
    if isinstance(argument, list | tuple):
        return [part for one in argument for part in _parts(one)]
    return []
