"""Punctuation models with random weights, whose marks vary from word to word."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights, write_bundle
from tests.tiny.vocabulary import WORDS as TINY_WORDS

KNOWN_TO_JIEBA: Final = "今天 50 t\n天气 40 n\n天 20 n\n很 9 d\n好 9 a\n"


def write_jieba(site: Path, words: str = KNOWN_TO_JIEBA) -> Path:
    """Write the dictionary of a package with the name and the form of jieba; return its path."""
    package = site / "jieba"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('its code is not needed')\n")
    (package / "dict.txt").write_text(words, "utf-8")
    importlib.invalidate_caches()
    return package / "dict.txt"


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
