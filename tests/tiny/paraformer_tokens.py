"""Tokens of the embedded Paraformer: the vocabulary's words, some of them in pieces."""

from __future__ import annotations

from typing import Final

from vocabulary import WORDS

BLANK, START, END = 0, 1, 2
PIECES: Final = {
    "computer": ("compu@@", "ter"),
    "keyboard": ("key@@", "board"),
    "message": ("mess@@", "age"),
    "paragraph": ("para@@", "graph"),
    "sentence": ("sen@@", "tence"),
    "tomorrow": ("tomo@@", "rrow"),
}
"""Words of two tokens. In the released vocabularies, too, `@@` joins a token to the next one."""

TOKENS: Final[list[str]] = [
    "<blank>",
    "<s>",
    "</s>",
    *dict.fromkeys(piece for word in WORDS for piece in PIECES.get(word, (word,))),
    "<unk>",
]
TOKEN_ID: Final = {token: index for index, token in enumerate(TOKENS)}


def tokens_of(word: int) -> list[tuple[int, float]]:
    """Return the tokens of a word, each with the fraction of the word before it."""
    pieces = PIECES.get(WORDS[word], (WORDS[word],))
    letters = [len(piece.removesuffix("@@")) for piece in pieces]
    return [
        (TOKEN_ID[piece], sum(letters[:index]) / sum(letters)) for index, piece in enumerate(pieces)
    ]


def words_of(tokens: list[int]) -> list[str]:
    """Join tokens to words; special tokens are none."""
    words, begun = [], ""
    for token in tokens:
        piece = TOKENS[token]
        if piece.startswith("<"):
            continue
        begun += piece.removesuffix("@@")
        if not piece.endswith("@@"):
            words.append(begun)
            begun = ""
    return words + ([begun] if begun else [])
