"""Division of Chinese text into words, for models whose vocabulary consists of words.

Of all divisions into known words the most probable one is taken; a character that begins no known
word is one by itself. Latin letters and digits that stand alone are put together.

Source: `Tokenizer.cut` of jieba 0.42.1 with `HMM=False`, as funasr calls it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import ModelError

_DIVIDED: Final = re.compile(r"[\u4E00-\u9FD5a-zA-Z0-9+#&._%\-]+|.", re.DOTALL)
"""A stretch that is divided, or another character, which is a word by itself."""
_LETTER: Final = re.compile("[a-zA-Z0-9]")


class Segmentation:
    """Words with their frequencies."""

    def __init__(self, frequencies: Mapping[str, int], total: int) -> None:
        """Take a dictionary.

        Args:
            frequencies: of the words, each above 0.
            total: sum of the frequencies that probabilities are fractions of.
        """
        self.frequencies = dict(frequencies)
        self.total = total
        self._longest = max(map(len, self.frequencies), default=1)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a dictionary that `write` has written.

        Raises:
            ModelError: the file is missing or damaged.
        """
        try:
            total, *lines = path.read_text("utf-8").splitlines()
            words = (line.rsplit(" ", 1) for line in lines)
            return cls({word: int(number) for word, number in words}, int(total))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot read {path}: {error}; import the model again.",
                code="dictionary_unreadable",
            ) from error

    def write(self, path: Path) -> None:
        """Write the dictionary: the total, then a line for each word with its frequency."""
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{self.total}\n")
            file.writelines(f"{word} {number}\n" for word, number in self.frequencies.items())

    def add(self, word: str, frequency: int) -> None:
        """Add a word, or give it another frequency; 0 removes it."""
        self.total += frequency
        self._longest = max(self._longest, len(word))
        if frequency:
            self.frequencies[word] = frequency
        else:
            self.frequencies.pop(word, None)

    def divide(self, text: str) -> Iterator[str]:
        """Yield the words of a text without white space."""
        for found in _DIVIDED.finditer(text):
            yield from self._divide(found[0]) if len(found[0]) > 1 else found[0]

    def _divide(self, text: str) -> Iterator[str]:
        letters = ""
        ends = self._most_probable(text)
        begin = 0
        while begin < len(text):
            word = text[begin : ends[begin]]
            begin = ends[begin]
            if len(word) == 1 and _LETTER.match(word):
                letters += word
                continue
            if letters:
                yield letters
                letters = ""
            yield word
        if letters:
            yield letters

    def _most_probable(self, text: str) -> list[int]:
        """Return the end of the word at each position, on the most probable path from there."""
        log_total = math.log(self.total)
        ends = [0] * len(text)
        values = [0.0] * (len(text) + 1)
        for begin in reversed(range(len(text))):
            values[begin], ends[begin] = max(
                (math.log(self.frequencies.get(text[begin:end], 1)) - log_total + values[end], end)
                for end in self._ends(text, begin)
            )
        return ends

    def _ends(self, text: str, begin: int) -> list[int]:
        """Return the ends of the known words at a position; without any, that of its character."""
        last = min(len(text), begin + self._longest)
        ends = range(begin + 1, last + 1)
        return [end for end in ends if text[begin:end] in self.frequencies] or [begin + 1]
