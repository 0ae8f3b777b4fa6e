"""Checker for the project's prose: docstrings, comments, names, messages, documents, web page.

`python -m tests.support.prose [PATH...]` prints every offence with file, line and rule. The rules
find the worst patterns only; the guide in `streamasr/README.md` says what good prose looks like.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

DOCSTRING: Final = frozenset({"docstring"})
SENTENCES: Final = frozenset({"docstring", "comment", "string", "text"})
EVERYWHERE: Final = SENTENCES | {"name"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive prose of one kind."""

    kind: str
    """docstring, comment, string, name (with spaces for underscores) or text (a document)."""
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Offence:
    """Place where a rule is broken."""

    path: Path
    line: int
    rule: str
    excerpt: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.excerpt}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Pattern that must not occur in some kinds of prose."""

    name: str
    pattern: re.Pattern[str]
    kinds: frozenset[str]


def _rule(name: str, pattern: str, kinds: frozenset[str], flags: int = re.IGNORECASE) -> Rule:
    return Rule(name, re.compile(pattern.replace(" ", r"\s+"), flags), kinds)


COMPARED: Final = "longer|more|less|fewer|later|earlier|better|worse|greater|larger|smaller|shorter"

RULES: Final = (
    _rule("say who: 'whoever'", r"\b(whoever|whomever|whosoever)\b", EVERYWHERE),
    _rule("say which: 'whichever'", r"\bwhichever\b", EVERYWHERE),
    _rule("name the subject: 'nobody'", r"\bnobody\b", EVERYWHERE),
    _rule(
        "write 'is not an X': 'is no X'",
        rf"(?<!\bthere\s)\b(is|are|was|were|be) no (?!(?:{COMPARED})\b)[a-z]",
        EVERYWHERE,
    ),
    _rule(
        "complete the clause: 'it is.'",
        r"(?<!\bas\s)(?<!\bas\sif\s)\b(it|there|they|that|nobody|anybody|somebody|none|one|others) "
        r"(is|are|was|were|has|have|had|does|do|did|can|could|will|would)[.;](?=\s|$)",
        SENTENCES,
    ),
    _rule(
        "begin with a verb or a noun phrase",
        r"\A(What|Whether|Where|Who|How|Why|When|Which|Whose|Whatever|Wherever|Whenever"
        r"|(One|Those|The one|Somebody|Someone|Anybody|Something) (that|who|which)"
        r"|Nobody|Nothing|It|They|That|Those|These|So|As)\b",
        DOCSTRING,
        re.NOFLAG,
    ),
    _rule(
        "components receive, report, guarantee, execute, flush, close",
        r"\b(hears|obeys|obeyed|promises|tells|owns? up|owned up|(say|says|said) goodbye)\b",
        DOCSTRING | {"comment"},
    ),
    _rule(
        "use the field's term, not a metaphor",
        r"\b(houses?|wishes|patience|retreats?|(?<!in\sa\s)hurry|complaints?|goodbyes?)\b",
        EVERYWHERE - {"string"},
    ),
)

RAISES: Final = "give the whole condition: 'Raises:' entry of fewer than four words"

CODE_FENCE: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PROSE_SUFFIXES: Final = frozenset({".md", ".js", ".html", ".css", ".service", ".socket"})
COMMENTED_SUFFIXES: Final = frozenset({".toml", ".yaml", ".yml", ".sh"})
COMMENTED_NAMES: Final = frozenset({"Makefile", "run"})
UNCHECKED: Final = (
    "tests/support/prose.py",  # states the patterns
    "tests/test_prose.py",  # breaks them on purpose
)
SCANNED: Final = ("streamasr", "tests", "clients", "systemd", ".ci")


def find_offences(paths: Iterable[Path] = ()) -> list[Offence]:
    """Check files and folders; without any, the whole project.

    Returns:
        Offences in order of file and line, paths relative to the project.
    """
    chosen = list(paths) or [*(ROOT / name for name in SCANNED), *_top_level()]
    return [offence for path in _files(chosen) for offence in _check(path)]


def _top_level() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), ROOT / "Makefile", ROOT / "pyproject.toml"]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            where = file.resolve().relative_to(ROOT).as_posix()
            if file.is_file() and where not in UNCHECKED and "__pycache__" not in where:
                yield file


def _check(path: Path) -> Iterator[Offence]:
    where = path.resolve().relative_to(ROOT)
    offences = [
        Offence(where, line, rule, excerpt)
        for piece in pieces_of(path)
        for line, rule, excerpt in offences_in(piece)
    ]
    yield from sorted(offences, key=lambda offence: (offence.line, offence.rule))


def offences_in(piece: Piece) -> Iterator[tuple[int, str, str]]:
    """Apply every rule to a piece: line, rule and an excerpt of each offence."""
    for rule in RULES:
        if piece.kind in rule.kinds:
            for match in rule.pattern.finditer(piece.text):
                line = piece.line + piece.text.count("\n", 0, match.start())
                yield line, rule.name, _excerpt(piece.text, *match.span())
    if piece.kind == "docstring":
        yield from _short_conditions(piece)


def _excerpt(text: str, start: int, end: int) -> str:
    around = text[max(0, start - 30) : end + 30]
    return f"...{' '.join(around.split())}..."


def _short_conditions(piece: Piece) -> Iterator[tuple[int, str, str]]:
    """Find the entries of a `Raises:` section that do not give a whole condition."""
    lines = piece.text.splitlines()
    heads = [i for i, line in enumerate(lines) if line.strip() == "Raises:"]
    for head in heads:
        margin = len(lines[head]) - len(lines[head].lstrip())
        entries: list[tuple[int, str]] = []
        for i, line in enumerate(lines[head + 1 :], head + 1):
            indent = len(line) - len(line.lstrip())
            if not line.strip() or indent <= margin:
                break
            if indent <= margin + 4:
                entries.append((i, line.strip()))
            else:
                entries[-1] = (entries[-1][0], f"{entries[-1][1]} {line.strip()}")
        for i, entry in entries:
            condition = entry.partition(":")[2]
            if len(condition.split()) < 4:
                yield piece.line + i, RAISES, entry


def pieces_of(path: Path) -> Iterator[Piece]:
    """Read the prose of a file; nothing for a file of another kind."""
    if path.suffix == ".py":
        yield from _pieces_of_python(path)
    elif path.suffix in PROSE_SUFFIXES:
        text = path.read_text("utf-8")
        if path.suffix == ".md":
            text = CODE_FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
        yield Piece("text", 1, text)
    elif path.suffix in COMMENTED_SUFFIXES or path.name in COMMENTED_NAMES:
        lines = enumerate(path.read_text("utf-8").splitlines(), 1)
        comments = ((number, line.partition("#")) for number, line in lines)
        yield from _joined((number, text) for number, (_, mark, text) in comments if mark)


def _pieces_of_python(path: Path) -> Iterator[Piece]:
    source = path.read_text("utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = ((t.start[0], t.string.lstrip("#")) for t in tokens if t.type == tokenize.COMMENT)
    yield from _joined(comments)
    has_messages = "tests" not in path.resolve().relative_to(ROOT).parts
    read: set[int] = set()  # strings that are documentation; their statement comes first
    for node in ast.walk(ast.parse(source)):
        for piece, constant in _documentation(node):
            if id(constant) not in read:
                read.add(id(constant))
                yield piece
        for name in _defined_names(node):
            yield Piece("name", node.lineno, _words(name))  # type: ignore[attr-defined]
        match node:
            case ast.Constant(value=str(text)) if has_messages and id(node) not in read:
                yield Piece("string", node.lineno, text)


def _documentation(node: ast.AST) -> Iterator[tuple[Piece, ast.Constant]]:
    """Find the docstring of a module, class or function; the one of an attribute is a comment."""
    is_documented = isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    )
    match node.body[0] if is_documented and node.body else node:  # type: ignore[attr-defined]
        case ast.Expr(value=ast.Constant(value=str(text)) as constant):
            kind = "docstring" if is_documented else "comment"
            yield Piece(kind, constant.lineno, text), constant


def _defined_names(node: ast.AST) -> Iterator[str]:
    match node:
        case (
            ast.ClassDef(name=name)
            | ast.FunctionDef(name=name)
            | ast.AsyncFunctionDef(name=name)
            | ast.arg(arg=name)
            | ast.Name(id=name, ctx=ast.Store())
            | ast.Attribute(attr=name, ctx=ast.Store())
        ):
            yield name


def _words(name: str) -> str:
    """Divide a name into words: `HouseOf_two` gives "house of two"."""
    return re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", name).strip().lower()


def _joined(comments: Iterable[tuple[int, str]]) -> Iterator[Piece]:
    """Join comments on consecutive lines."""
    block: list[str] = []
    first = 0
    for line, text in comments:
        if block and line == first + len(block):
            block.append(text)
            continue
        if block:
            yield Piece("comment", first, "\n".join(block))
        block, first = [text], line
    if block:
        yield Piece("comment", first, "\n".join(block))


def main() -> None:
    """Print the offences in the given files and folders, and their number."""
    offences = find_offences(Path(name) for name in sys.argv[1:])
    for offence in offences:
        print(offence)
    sys.exit(f"{len(offences)} offences" if offences else 0)


if __name__ == "__main__":
    main()
