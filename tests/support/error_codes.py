"""Codes of the package's errors, read from the calls that construct them.

`python -m tests.support.error_codes` prints a Markdown table of all codes by class, and on stderr
the constructions that lack a code.
"""

import ast
import functools
import importlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import streamasr
from streamasr.core import errors
from streamasr.core.errors import StreamASRError

PACKAGE: Final = Path(streamasr.__file__).parent
ROOT: Final = PACKAGE.parent
CODE: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*(_\*)?")
SUBCLASS: Final = re.compile(r"^class \w+\(\w*Error\)", re.MULTILINE)

PASSED_ON: Final = "(that of another error)"


@dataclass(frozen=True, slots=True)
class Raised:
    """Construction of one of our errors."""

    path: Path
    line: int
    error: str
    """Name of the class."""
    codes: tuple[str, ...]
    """Codes that the call states, or that its class does; empty if neither does."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.error}: {', '.join(self.codes) or 'no code'}"


@functools.cache
def find_raised() -> tuple[Raised, ...]:
    """Find every construction of one of our errors, in order of file and line."""
    classes = _error_classes()
    found: list[Raised] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda call: call.lineno):
            kind = classes.get(_last_name(call.func))
            if kind is not None:
                codes = tuple(_codes(call)) or tuple(_code_of(kind))
                found.append(Raised(path.relative_to(ROOT), call.lineno, kind.__name__, codes))
    return tuple(found)


def _error_classes() -> dict[str, type[StreamASRError]]:
    """Import every module that defines errors and return the classes by name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if SUBCLASS.search(path.read_text("utf-8")):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return {kind.__name__: kind for kind in _with_subclasses(StreamASRError)}


def _with_subclasses(kind: type[StreamASRError]) -> Iterator[type[StreamASRError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__.startswith(f"{streamasr.__name__}."):
            yield from _with_subclasses(each)


def _code_of(kind: type[StreamASRError]) -> Iterator[str]:
    """Yield the code of a class that stands for one condition; the general ones do not."""
    owner = next(each for each in kind.__mro__ if "default_code" in vars(each))
    if owner.__module__ != errors.__name__:
        yield str(kind.default_code)


def _last_name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _codes(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg == "code":
            yield from _stated(keyword.value)


def _stated(value: ast.expr) -> Iterator[str]:
    match value:
        case ast.Constant(value=str(code)):
            yield code
        case ast.IfExp(body=one, orelse=other):
            yield from (*_stated(one), *_stated(other))
        case ast.Attribute(value=ast.Name(id="RefusalCode"), attr=member):
            yield member.lower()
        case ast.JoinedStr(values=[ast.Constant(value=str(beginning)), ast.FormattedValue()]):
            yield f"{beginning}*"
        case ast.Attribute(attr="code") | ast.Name(id="code"):  # of an error, or a parameter
            yield PASSED_ON


def table(raised: Iterable[Raised]) -> str:
    """Format the codes as a Markdown table, one row for each class."""
    by_class: defaultdict[str, set[str]] = defaultdict(set)
    for each in raised:
        by_class[each.error].update(code for code in each.codes if code != PASSED_ON)
    rows = ["| error | codes |", "| --- | --- |"]
    for name, codes in sorted(by_class.items()):
        rows.append(f"| `{name}` | {', '.join(f'`{code}`' for code in sorted(codes))} |")
    return "\n".join(rows)


def main() -> None:
    """Print the table, and the constructions without a code."""
    raised = find_raised()
    print(table(raised))
    for each in raised:
        if not each.codes:
            print(each, file=sys.stderr)


if __name__ == "__main__":
    main()
