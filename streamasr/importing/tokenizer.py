"""A checkpoint's byte-level BPE tokenizer, as a GGUF stores one.

Released checkpoints carry vocab.json, merges.txt and tokenizer_config.json, those of
transformers' native classes tokenizer.json; both say the same things.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gguf import TokenType

from streamasr.errors import ModelError
from streamasr.importing.config_file import read_config

END_OF_TURN: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is matched as plain text before byte-level BPE starts."""

    text: str
    is_special: bool
    """Special tokens vanish from decoded text; others, such as <asr_text>, stay in it."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All tokens by id, and how they are put together."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    """Pairs, "left right", the earlier the sooner merged."""

    def find(self, text: str) -> int | None:
        """Return the id of a token by its text, None where there is none."""
        return self.tokens.index(text) if text in self.tokens else None


def read_vocabulary(directory: Path, n_rows: int) -> Vocabulary:
    """Read the tokenizer of a checkpoint.

    Args:
        directory: the checkpoint.
        n_rows: rows of the embedding table; rows without a token get a filler.

    Raises:
        ModelError: the files are missing, broken, not byte-level BPE, or do not fit the table.
    """
    if (directory / "tokenizer.json").is_file():
        normal, merges, added = _read_tokenizer_json(directory / "tokenizer.json")
    else:
        normal, merges, added = _read_separate_files(directory)
    return Vocabulary(*_fill(normal, added, n_rows, directory), merges)


_Parts = tuple[Mapping[str, int], tuple[str, ...], Mapping[int, AddedToken]]


def _read_tokenizer_json(path: Path) -> _Parts:
    config = read_config(path)
    model = config.section("model")
    if model.get("type") != "BPE":
        raise ModelError(f"{path}: the tokenizer is not byte-pair encoding")
    try:
        merges = tuple(_merge(pair) for pair in model.get("merges"))
        added = dict(_added_token(entry["id"], entry) for entry in config.get("added_tokens") or ())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: merges or added tokens are not as expected") from error
    return model.section("vocab").integers(), merges, added


def _read_separate_files(directory: Path) -> _Parts:
    path = directory / "tokenizer_config.json"
    entries = read_config(path).get("added_tokens_decoder") or {}
    try:
        added = dict(_added_token(int(number), entry) for number, entry in entries.items())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: added_tokens_decoder is not as expected") from error
    normal = read_config(directory / "vocab.json").integers()
    return normal, _read_merges(directory / "merges.txt"), added


def _added_token(number: int, entry: Mapping[str, Any]) -> tuple[int, AddedToken]:
    return number, AddedToken(entry["content"], bool(entry.get("special")))


def _merge(pair: str | tuple[str, str]) -> str:
    """Newer files write a merge as a pair, older ones as one text."""
    return pair if isinstance(pair, str) else " ".join(pair)


def _read_merges(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
    is_header = lines[0].startswith("#version")
    return tuple(line for line in lines[is_header:] if line)


def _fill(
    normal: Mapping[str, int], added: Mapping[int, AddedToken], n_rows: int, directory: Path
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Put every token at its id; an id that is in both mappings is an added token."""
    tokens = [f"[PAD{number}]" for number in range(n_rows)]
    types = [TokenType.UNUSED] * n_rows
    last = max([*normal.values(), *added, -1])
    if last >= n_rows:
        raise ModelError(f"{directory}: token {last} has no row among {n_rows} embeddings")
    for text, number in normal.items():
        tokens[number], types[number] = text, TokenType.NORMAL
    for number, token in added.items():
        tokens[number] = token.text
        types[number] = TokenType.CONTROL if token.is_special else TokenType.USER_DEFINED
    # llama.cpp looks tokens up by text, and aborts the whole process on a repeated one.
    if len(set(tokens)) < n_rows:
        repeated = next(text for text in tokens if tokens.count(text) > 1)
        raise ModelError(f"{directory}: token {repeated!r} has two ids")
    return tuple(tokens), tuple(types)
