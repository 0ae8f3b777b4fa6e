"""Dictionary of ct-punc models whose vocabulary consists of words.

    jieba_usr_dict       beside the weights: word, or word and frequency, or word, frequency and tag
    dict.txt of `jieba`  the dictionary that it is added to: word, frequency, tag

Source: `Tokenizer.load_userdict`, `add_word` and `suggest_freq` of jieba 0.42.1.
"""

import importlib.util
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.models.ct_punc.segmentation import Segmentation

USER_DICTIONARY: Final = "jieba_usr_dict"

DICTIONARY_BYTES: Final = 1 << 26
"""Upper bound for the size of both dictionaries together, as they are published."""

_MOST_BYTES: Final = 1 << 28
_LINE: Final = re.compile(r"(.+?)( [0-9]+)?( [a-z]+)?")


def find_dictionary(folder: Path) -> Path | None:
    """Return the dictionary of a model; None for a model whose vocabulary consists of characters.

    Raises:
        ModelError: the dictionary that it is added to is not installed.
    """
    path = folder / USER_DICTIONARY
    if not path.is_file():
        return None
    _base_dictionary(path)
    return path


def read_segmentation(path: Path) -> Segmentation:
    """Read the dictionary of a model, and the one that it is added to.

    Raises:
        ModelError: a dictionary is missing or damaged.
    """
    entries = (line.split(" ")[:2] for line in _lines(_base_dictionary(path)))
    try:
        frequencies = [(word, int(number)) for word, number in entries]
    except ValueError as error:
        raise ModelError(
            f"the dictionary of jieba is damaged: {error}; install jieba again.",
            code="dictionary_invalid",
        ) from error
    total = sum(number for _, number in frequencies)
    found = Segmentation({word: number for word, number in frequencies if number}, total)
    beginnings = {part for word, _ in frequencies for part in _beginnings(word)}
    for line in _lines(path):
        if (match := _LINE.fullmatch(line)) is not None:
            word, number = match[1], match[2]
            found.add(word, int(number) if number else _suggested(found, beginnings, word))
            beginnings.update(_beginnings(word))
    return found


def _suggested(segmentation: Segmentation, beginnings: Collection[str], word: str) -> int:
    """Return a frequency with which a word is not divided.

    Args:
        segmentation: the dictionary so far.
        beginnings: of the words that were ever in it.
        word: that is not in it, or is to get another frequency.
    """

    def known(part: str) -> int:
        return segmentation.frequencies.get(part, 0 if part in beginnings else 1)

    share, total = 1.0, float(segmentation.total)
    for part in segmentation.divide(word):
        share *= known(part) / total
    return max(int(share * segmentation.total) + 1, known(word))


def _beginnings(word: str) -> Iterator[str]:
    return (word[:n] for n in range(1, len(word) + 1))


def _base_dictionary(path: Path) -> Path:
    spec = importlib.util.find_spec("jieba")
    if spec is None or spec.origin is None:
        raise ModelError(
            f"{path} says that this model reads words as jieba divides them, and jieba is not "
            "installed; run `pip install 'streamasr[words]'`, and import or pull the model again. "
            "It is needed for that only.",
            code="package_missing",
        )
    return Path(spec.origin).with_name("dict.txt")


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(
                f"{path} is larger than any dictionary; download it again.",
                code="dictionary_invalid",
            )
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read {path}: {error}; download it again.", code="dictionary_invalid"
        ) from error
    return [line.strip() for line in lines if line.strip()]
