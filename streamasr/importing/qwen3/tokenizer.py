"""Reader for the byte-level BPE tokenizer of a checkpoint or a GGUF, in the form of a GGUF.

Released checkpoints have vocab.json, merges.txt and tokenizer_config.json, those of transformers'
native classes tokenizer.json; both have the same content. GGUFs list the tokens in the order of
their ids. CrispASR's GGUFs omit the token types and some merges, and the old ones also the added
tokens; those of transcribe.cpp give added tokens that are not special the type of normal ones.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final

from gguf import TokenType

from streamasr.core.errors import ModelError
from streamasr.importing.config_file import read_config, read_text
from streamasr.importing.gguf_file import GGUFFile
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER

END_OF_TURN: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"

NEEDED: Final = {
    RECOGNISER: ("<|im_start|>", END_OF_TURN, "<|audio_start|>", "<|audio_end|>", "<asr_text>"),
    ALIGNER: ("<|audio_start|>", "<|audio_end|>", "<timestamp>"),
}
"""Tokens in the prompts of each family."""

_RELEASED: Final = {
    **dict(
        enumerate(
            (
                END_OF_TEXT,
                "<|im_start|>",
                END_OF_TURN,
                "<|object_ref_start|>",
                "<|object_ref_end|>",
                "<|box_start|>",
                "<|box_end|>",
                "<|quad_start|>",
                "<|quad_end|>",
                "<|vision_start|>",
                "<|vision_end|>",
                "<|vision_pad|>",
                "<|image_pad|>",
                "<|video_pad|>",
                "<tool_call>",
                "</tool_call>",
                "<|fim_prefix|>",
                "<|fim_middle|>",
                "<|fim_suffix|>",
                "<|fim_pad|>",
                "<|repo_name|>",
                "<|file_sep|>",
                "<tool_response>",
                "</tool_response>",
                "<think>",
                "</think>",
                "<|audio_start|>",
                "<|audio_end|>",
            ),
            start=151643,
        )
    ),
    151676: "<|audio_pad|>",
    **{151676 + number: f"<blank{number}>" for number in range(1, 28)},
    151704: "<asr_text>",
    151705: "<timestamp>",
}
"""Added tokens, the same in all released models; the ids between them are not used."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """Token that is matched as plain text before byte-level BPE."""

    text: str
    is_special: bool
    """Whether the token is removed from decoded text; others, such as <asr_text>, stay in it."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All tokens by id, and the merges that form them."""

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    """Pairs, "left right", in the order of their priority."""

    def find(self, text: str) -> int | None:
        """Return the id of a token by its text; None for an unknown text."""
        return self.tokens.index(text) if text in self.tokens else None


def vocabulary_of(file: GGUFFile, n_rows: int, needed: Iterable[str] = ()) -> Vocabulary:
    """Read the tokenizer of a GGUF.

    Args:
        file: a GGUF with a byte-level BPE, with or without token types.
        n_rows: rows of the embedding table; rows without a token get a filler.
        needed: tokens that the model's prompt requires.

    Raises:
        ModelError: the tokenizer is missing, invalid or not byte-level BPE, has more tokens than
            the table has rows, or lacks a needed token.
    """
    if (model := file.text("tokenizer.ggml.model")) != "gpt2":
        raise ModelError(
            f"{file.path}: the tokenizer is {model!r}; only byte-level BPE ('gpt2') is supported",
            code="tokenizer_type",
        )
    stored = file.texts("tokenizer.ggml.tokens")
    if len(stored) > n_rows:
        raise ModelError(
            f"{file.path}: the vocabulary has {len(stored)} tokens, but only {n_rows} embeddings",
            code="vocabulary_too_large",
        )
    fillers = [_filler(number) for number in range(len(stored), n_rows)]
    tokens = _restored([*stored, *fillers])
    if any("\ufffd" in token for token in tokens):
        raise ModelError(
            f"{file.path}: the vocabulary has tokens that are not UTF-8", code="vocabulary_not_text"
        )
    stated = file.metadata.get("tokenizer.ggml.token_type")
    if stated is None or tokens[: len(stored)] != stored:
        types = _derived_types(tokens)
    else:
        types = _stated_types(stated, file.path) + [TokenType.UNUSED] * len(fillers)
        types = _with_added_types(tokens, types)
    merges = _with_lost_merges(tokens, types, file.texts("tokenizer.ggml.merges"))
    vocabulary = _checked(tokens, types, merges, file.path)
    for text in needed:
        if vocabulary.find(text) is None:
            raise ModelError(
                f"{file.path}: the vocabulary has no token {text}, as in some old conversions; use "
                "a newer conversion of the same model, or its original safetensors",
                code="prompt_token_missing",
            )
    return vocabulary


def _filler(number: int) -> str:
    return f"[PAD{number}]"


def _restored(tokens: list[str]) -> list[str]:
    """Insert the released added tokens that an old conversion has lost.

    The conversion used only vocab.json, which ends before them.
    """
    lost = {n: text for n, text in _RELEASED.items() if tokens[n : n + 1] == [_filler(n)]}
    if min(_RELEASED) not in lost:
        return tokens
    known = set(tokens)
    return [
        lost[number] if number in lost and lost[number] not in known else token
        for number, token in enumerate(tokens)
    ]


def _with_lost_merges(
    tokens: Sequence[str], types: Sequence[TokenType], merges: list[str]
) -> list[str]:
    """Restore the merges that CrispASR's converter mistakes for comments: those that begin with #.

    The merges follow from the tokens. Every token except single bytes is the result of one merge,
    and its id is its rank: the merge is the last step in forming it from tokens of lower rank.
    """
    kinds = enumerate(zip(tokens, types, strict=False))
    ranks = {token: rank for rank, (token, kind) in kinds if kind == TokenType.NORMAL}
    pairs = {merge.replace(" ", "", 1): merge for merge in merges}
    lost = [token for token in ranks if len(token) > 1 and token not in pairs]
    is_explained = 0 < len(lost) <= _MAX_LOST and all(
        token.startswith("#") and len(token) <= _MAX_LOST_LENGTH for token in lost
    )
    order = [ranks.get(text, -1) for text in pairs]
    if not is_explained or order != sorted(order) or -1 in order:
        return merges
    for token in lost:
        parts = _last_step(token, ranks)
        if len(parts) != _SIDES or any(part not in ranks for part in parts):
            return merges
        pairs[token] = " ".join(parts)
    return sorted(pairs.values(), key=lambda merge: ranks[merge.replace(" ", "", 1)])


_MAX_LOST: Final = 200  # 96 in the released vocabulary, with up to 64 characters
_MAX_LOST_LENGTH: Final = 200
_SIDES: Final = 2  # of a merge


def _last_step(token: str, ranks: Mapping[str, int]) -> list[str]:
    """Merge a token's bytes, lowest rank first, and return the parts before the last merge."""
    parts = [*token]
    while True:
        merged = [left + right for left, right in pairwise(parts)]
        best = min(merged, key=lambda text: ranks.get(text, ranks[token]), default=token)
        if ranks.get(best, ranks[token]) >= ranks[token]:
            return parts
        position = merged.index(best)
        parts[position : position + 2] = [best]


def _stated_types(stated: Any, path: Path) -> list[TokenType]:
    try:
        return [TokenType(number) for number in stated]
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: tokenizer.ggml.token_type must be a list of token types ({error})",
            code="token_types_invalid",
        ) from error


def _with_added_types(tokens: Sequence[str], types: Sequence[TokenType]) -> list[TokenType]:
    """Correct the types of added tokens and of fillers that are stated to be normal.

    llama.cpp would not find such a token in a prompt, but encode its letters.
    """
    derived = _derived_types(tokens)
    pairs = zip(types, derived, strict=False)
    corrected = [own if stated == TokenType.NORMAL else stated for stated, own in pairs]
    return [*corrected, *types[len(corrected) :]]


def _derived_types(tokens: Sequence[str]) -> list[TokenType]:
    """Derive the types: added tokens follow all others, and special ones look like <|this|>."""
    first_added = tokens.index(END_OF_TEXT) if END_OF_TEXT in tokens else len(tokens)
    types = []
    for number, token in enumerate(tokens):
        if token in (_filler(number), f"<|unused_{number}|>"):
            types.append(TokenType.UNUSED)
        elif number < first_added:
            types.append(TokenType.NORMAL)
        elif token.startswith("<|") and token.endswith("|>"):
            types.append(TokenType.CONTROL)
        else:
            types.append(TokenType.USER_DEFINED)
    return types


def read_vocabulary(directory: Path, n_rows: int) -> Vocabulary:
    """Read the tokenizer of a checkpoint.

    Args:
        directory: the checkpoint.
        n_rows: rows of the embedding table; rows without a token get a filler.

    Raises:
        ModelError: the files are missing, invalid or not byte-level BPE, or have more tokens than
            the table has rows.
    """
    if (directory / "tokenizer.json").is_file():
        normal, merges, added = _read_tokenizer_json(directory / "tokenizer.json")
    else:
        normal, merges, added = _read_separate_files(directory)
    return _checked(*_fill(normal, added, n_rows, directory), merges, directory)


def _checked(
    tokens: Sequence[str], types: Sequence[TokenType], merges: Sequence[str], path: Path
) -> Vocabulary:
    """Refuse a vocabulary for which llama.cpp would abort the whole process, or fail.

    Raises:
        ModelError: a token occurs twice or has no type, or a merge is not one of two tokens.
    """
    if len(types) != len(tokens):
        raise ModelError(
            f"{path}: the vocabulary has {len(tokens)} tokens, but {len(types)} types",
            code="token_types_invalid",
        )
    if len(set(tokens)) < len(tokens):  # llama.cpp looks tokens up by text
        repeated = next(text for text, count in Counter(tokens).items() if count > 1)
        raise ModelError(f"{path}: token {repeated!r} has two ids", code="token_duplicate")
    if not merges:
        raise ModelError(
            f"{path}: the tokenizer has no merges, so it cannot encode any text",
            code="merges_missing",
        )
    for merge in merges:
        if merge.find(" ", 1) in (-1, len(merge) - 1):
            raise ModelError(
                f"{path}: {merge!r} is not a merge of two tokens", code="merge_invalid"
            )
    try:
        "".join(chain(tokens, merges)).encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"{path}: the tokenizer has tokens or merges that are not valid text ({error.reason})",
            code="vocabulary_not_text",
        ) from error
    return Vocabulary(tuple(tokens), tuple(types), tuple(merges))


_Parts = tuple[Mapping[str, int], tuple[str, ...], Mapping[int, AddedToken]]


def _read_tokenizer_json(path: Path) -> _Parts:
    config = read_config(path)
    model = config.section("model")
    if model.get("type") != "BPE":
        raise ModelError(
            f"{path}: the tokenizer is {model.get('type')!s:.40}; only byte-level BPE is supported",
            code="tokenizer_type",
        )
    try:
        merges = tuple(_merge(pair) for pair in model.get("merges"))
        added = dict(_added_token(entry["id"], entry) for entry in config.get("added_tokens") or ())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: the merges or added tokens are invalid ({error!r:.100})",
            code="merges_invalid",
        ) from error
    return model.section("vocab").integers(), merges, added


def _read_separate_files(directory: Path) -> _Parts:
    path = directory / "tokenizer_config.json"
    entries = read_config(path).get("added_tokens_decoder") or {}
    try:
        added = dict(_added_token(int(number), entry) for number, entry in entries.items())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: added_tokens_decoder is invalid ({error!r:.100})", code="added_tokens_invalid"
        ) from error
    normal = read_config(directory / "vocab.json").integers()
    return normal, _read_merges(directory / "merges.txt"), added


def _added_token(number: Any, entry: Mapping[str, Any]) -> tuple[int, AddedToken]:
    text = entry["content"]
    if not isinstance(number, int) or number < 0 or not isinstance(text, str):
        raise ValueError(f"{number!r}: {text!r}")
    return number, AddedToken(text, bool(entry.get("special")))


def _merge(pair: str | Iterable[str]) -> str:
    """Return a merge as one string; newer files store pairs."""
    if isinstance(pair, str):
        return pair
    left, right = pair
    return f"{left} {right}"


def _read_merges(path: Path) -> tuple[str, ...]:
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    is_header = lines[0].startswith("#version")
    return tuple(line for line in lines[is_header:] if line)


def _fill(
    normal: Mapping[str, int], added: Mapping[int, AddedToken], n_rows: int, directory: Path
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Place every token at its id; an id in both mappings is an added token."""
    tokens = [_filler(number) for number in range(n_rows)]
    types = [TokenType.UNUSED] * n_rows
    last = max([*normal.values(), *added, -1])
    if last >= n_rows:
        raise ModelError(
            f"{directory}: the vocabulary has a token with the id {last}, but only {n_rows} "
            "embeddings",
            code="vocabulary_too_large",
        )
    for text, number in normal.items():
        tokens[number], types[number] = text, TokenType.NORMAL
    for number, token in added.items():
        tokens[number] = token.text
        types[number] = TokenType.CONTROL if token.is_special else TokenType.USER_DEFINED
    return tuple(tokens), tuple(types)
