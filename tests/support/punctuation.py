"""Punctuation models with random weights, whose marks vary from word to word."""

from collections.abc import Sequence
from pathlib import Path

from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights, write_bundle
from tests.tiny.vocabulary import WORDS as TINY_WORDS


def write_punctuation(folder: Path, words: Sequence[str] = TINY_WORDS, *, seed: int = 4) -> Path:
    """Write a model that knows some words; every word may have any mark or none.

    Args:
        folder: the model directory to make.
        words: by default those of the embedded models.
        seed: of the random numbers.
    """
    known = list(dict.fromkeys([*WORDS[:-1], *words, WORDS[-1]]))
    weights = random_weights(Shape(), len(known), len(MARKS), seed, rare=(0,))
    return write_bundle(folder, weights, words=known)
