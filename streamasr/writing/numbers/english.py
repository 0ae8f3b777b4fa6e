"""English number words in digits; pure.

`text2num` finds the numbers; this module decides which of them are written in digits:

    percent   five percent                  5%
    money     five dollars and fifty cents  $5.50
    time      three thirty p.m.             3:30 p.m.
    year      nineteen eighty four          1984
    ordinal   the twenty first century      the 21st century
    date      March third                   March 3rd
    row       five five five one two        55512
    decimal   three point one four          3.14
    millions  two million                   2 million
    ten on    forty two                     42

Other numbers stay in words: numbers below ten ("one of them"), "a hundred", fractions, and adjacent
numbers that match none of these forms ("seven eleven").
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from text_to_num import find_numbers  # type: ignore[import-untyped]

from streamasr.writing.numbers.replacement import Replacement

_WORD: Final = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*\.?", re.UNICODE)
_MAX_WORDS: Final = 40
"""Maximum number of words of a number; spoken numbers are shorter."""

_ROUND: Final = {10**6: "million", 10**9: "billion", 10**12: "trillion"}
_BARE: Final = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
_PLURALS: Final = frozenset(f"{word}s" for word in _BARE)
_CURRENCIES: Final = {"dollar": "$", "dollars": "$", "euro": "€", "euros": "€"}
_MERIDIEM: Final = frozenset({"am", "pm", "a.m.", "p.m.", "a.m", "p.m"})
_MONTHS: Final = frozenset(
    {"January", "February", "March", "April", "May", "June", "July", "August", "September"}
    | {"October", "November", "December"}
)
_DECADES: Final = frozenset(
    f"{stem}ies" for stem in ("twent", "thirt", "fort", "fift", "sixt", "sevent", "eight", "ninet")
)

_COMPANIONS: Final = frozenset(
    {"a", "o", "oh", "and", "point", "minus", "negative", "percent", "per", "cent"}
) | {"cents", "vision", "past", *_DECADES, *_CURRENCIES, *_MERIDIEM, *_BARE, *_PLURALS}
"""Words that may belong to a number next to them."""

_CENTURIES: Final = frozenset({17, 18, 19, 20})
_MAX_DIGITS: Final = 15


@dataclass(frozen=True, slots=True)
class _Word:
    """Word of a text, with the interface that `text2num` requires of tokens."""

    written: str
    start: int
    end: int
    is_apart: bool
    """More than white space separates the word from the previous one."""

    def text(self) -> str:
        return self.written.rstrip(".")

    def nt_separated(self, previous: "_Word") -> bool:
        del previous
        return self.is_apart

    def not_a_number_part(self) -> bool:
        return not self.text().replace("-", "").isascii() or any(map(str.isdigit, self.written))


@dataclass(frozen=True, slots=True)
class _Number:
    """Number found in the words [first, end)."""

    first: int
    end: int
    digits: str
    """Number as written by `text2num`."""
    value: float
    is_ordinal: bool
    is_oh: bool = False
    """The letter O, spoken for zero."""

    @property
    def is_digit(self) -> bool:
        return self.digits.isdecimal() and len(self.digits) == 1

    @property
    def is_pair(self) -> bool:
        """Return whether the number has two digits, like each half of a year."""
        return self.digits.isdecimal() and len(self.digits) == 2 and not self.is_ordinal


def find_english_numbers(text: str) -> Iterator[Replacement]:
    """Yield the numbers to write in digits, in order."""
    words, position = _split(text), 0
    for numbers in _group_adjacent(words, _find(words)):
        for replacement in _Run(words, numbers).replacements():
            if replacement.start >= position:  # the cents belong to the dollars
                yield replacement
                position = replacement.end


def may_belong_to_number(words: str) -> bool:
    """Return whether any of the words may be part of a number, or its unit."""
    parts = [word.written.lower() for word in _split(words.replace("-", " "))]
    return any(part in _COMPANIONS or part.title() in _MONTHS for part in parts) or bool(
        _find(_split(words)) or _find(_split(words.replace("-", " ")))
    )


def _split(text: str) -> list[_Word]:
    words: list[_Word] = []
    for match in _WORD.finditer(text):
        written = match[0]
        if written.endswith(".") and written.lower() not in _MERIDIEM:
            written = written[:-1]
        gap = text[words[-1].end : match.start()] if words else ""
        end = match.start() + len(written)
        words.append(_Word(written, match.start(), end, not gap.isspace()))
    return words


def _find(words: Sequence[_Word]) -> list[_Number]:
    found: list[Any] = find_numbers(list(words), "en", 0.0)
    numbers = [
        _Number(one.start, one.end, one.text, one.value, not one.text.replace(".", "").isdecimal())
        for one in found
    ]
    taken = {index for number in numbers for index in range(number.first, number.end)}
    ohs = (n for n, word in enumerate(words) if word.written.lower() in ("oh", "o"))
    numbers += [_Number(n, n + 1, "0", 0, False, True) for n in ohs if n not in taken]
    return _with_millions(words, sorted(numbers, key=lambda number: number.first))


def _with_millions(words: Sequence[_Word], numbers: Sequence[_Number]) -> list[_Number]:
    """Join the numbers of phrases like "two point five million" to one."""
    joined: list[_Number] = []
    for number in numbers:
        name = words[number.first].written.lower()
        last = joined[-1] if joined else None
        is_size = name in _ROUND.values() and number.end - number.first == 1
        if last and is_size and "." in last.digits and last.end == number.first:
            joined[-1] = replace(last, end=number.end, digits=f"{last.digits} {name}")
        else:
            joined.append(number)
    return joined


def _group_adjacent(words: Sequence[_Word], numbers: Sequence[_Number]) -> Iterator[list[_Number]]:
    """Group adjacent numbers."""
    run: list[_Number] = []
    for number in numbers:
        if run and (run[-1].end != number.first or words[number.first].is_apart):
            yield run
            run = []
        run.append(number)
    if run:
        yield run


class _Run:
    """Run of adjacent numbers, with the words around them."""

    def __init__(self, words: Sequence[_Word], numbers: list[_Number]) -> None:
        while numbers and numbers[-1].is_oh:
            numbers = numbers[:-1]
        while numbers and numbers[0].is_oh:
            numbers = numbers[1:]
        self._words = words
        self._numbers = numbers

    def replacements(self) -> Iterator[Replacement]:
        """Yield the replacements for the run; none if the numbers do not match a form."""
        numbers = self._numbers
        if not numbers or any(len(one.digits) > _MAX_DIGITS for one in numbers):
            return
        if len(numbers) > 1 and numbers[0].is_ordinal and self._is_after_month(numbers[0]):
            year = _year(numbers[1:])
            if year:
                yield from self._one(numbers[0])
                yield self._replace(numbers[1].first, numbers[-1].end, year)
            return
        if len(numbers) == 1:
            yield from self._one(numbers[0])
            return
        first, end = numbers[0].first, numbers[-1].end
        if self._following(end) in _MERIDIEM and (clock := _clock(numbers)):
            yield self._replace(first, end, clock)
        elif row := _join_digits(numbers):
            yield self._replace(first, end, row)
        elif (year := _year(numbers)) and self._following(end) != "vision":
            yield self._replace(first, end, year)

    def _one(self, number: _Number) -> Iterator[Replacement]:
        """Yield the replacement of a single number, if it is written in digits."""
        if number.is_oh or number.end - number.first > _MAX_WORDS:
            return
        if number.is_ordinal:
            if self._is_plain_ordinal(number):
                yield self._replace(number.first, number.end, number.digits)
        elif (first := self._beginning(number)) is not None:
            yield from self._cardinal(number, first)

    def _beginning(self, number: _Number) -> int | None:
        """Return the first word, or the article of "a hundred and one"; None for "a hundred"."""
        words = self._words[number.first : number.end]
        if self._following(number.end) in _DECADES or self._preceding(number.first) == "past":
            return None
        if words[0].written.lower() == "point" or words[-1].written.lower() in _PLURALS:
            return None
        if words[0].written.lower() not in _BARE:
            return number.first
        has_article = self._preceding(number.first) == "a" and len(words) > 1
        return number.first - 1 if has_article else None

    def _cardinal(self, number: _Number, first: int) -> Iterator[Replacement]:
        written, after = _amount(self._words, number), self._following(number.end)
        if n_words := self._percent_words(number.end):
            yield self._replace(first, number.end + n_words, f"{written}%")
        elif after in _CURRENCIES:
            yield self._money(number, first, written, _CURRENCIES[after])
        elif after in _MERIDIEM and 1 <= number.value <= 12 and number.digits.isdecimal():
            yield self._replace(first, number.end, written)
        elif number.value >= 10 or not number.digits.isdecimal() or self._is_row(number):
            if self._preceding(first) in ("minus", "negative") and not self._is_sum(first):
                first, written = first - 1, f"-{written}"
            yield self._replace(first, number.end, written)

    def _is_row(self, number: _Number) -> bool:
        """Return whether the number was spoken digit by digit: zero zero seven."""
        return number.end - number.first == len(number.digits) > 1

    def _is_sum(self, index: int) -> bool:
        """Return whether a number comes before the minus that precedes a word."""
        if index < 2:
            return False
        return bool(_find([self._words[index - 2]]))

    def _percent_words(self, end: int) -> int:
        """Return the number of words that mark a percentage: "percent" or "per cent", or none."""
        if self._following(end) == "percent":
            return 1
        return 2 if self._following(end) == "per" and self._following(end + 1) == "cent" else 0

    def _money(self, number: _Number, first: int, written: str, sign: str) -> Replacement:
        end = number.end + 1
        cents = _cents(self._words, end) if number.digits.isdecimal() else None
        if cents is not None and " " not in written:
            return self._replace(first, cents[1], f"{sign}{written}.{cents[0]:02}")
        return self._replace(first, end, f"{sign}{written}")

    def _is_plain_ordinal(self, number: _Number) -> bool:
        last = self._words[number.end - 1].written.lower().rpartition("-")[2]
        if last.endswith("s") or last == "second" or self._preceding(number.first) == "a":
            return self._is_after_month(number) and not last.endswith("s")
        if self._words[number.first].written.lower() in _BARE or number.digits.endswith("s"):
            return False
        return number.value > 10 or self._is_after_month(number)

    def _is_after_month(self, number: _Number) -> bool:
        before = self._words[number.first - 1].written if number.first else ""
        return before in _MONTHS and not self._words[number.first].is_apart and number.value <= 31

    def _preceding(self, index: int) -> str:
        if index == 0 or self._words[index].is_apart:
            return ""
        return self._words[index - 1].written.lower()

    def _following(self, index: int) -> str:
        if index >= len(self._words) or self._words[index].is_apart:
            return ""
        return self._words[index].written.lower()

    def _replace(self, first: int, end: int, text: str) -> Replacement:
        return Replacement(self._words[first].start, self._words[end - 1].end, text)


def _amount(words: Sequence[_Word], number: _Number) -> str:
    """Write a number in digits; a round number keeps its word: 2 million."""
    name = words[number.end - 1].written.lower()
    for size, word in _ROUND.items():
        if name == word and number.end - number.first > 1 and number.value < size * 1000:
            thousandths = round(number.value / size * 1000)
            if thousandths * size == round(number.value * 1000):
                return f"{thousandths / 1000:g} {word}"
    return number.digits


def _cents(words: Sequence[_Word], index: int) -> tuple[int, int] | None:
    """Return the cents after an amount of dollars, and the index after them; None without any."""
    if index < len(words) and words[index].written.lower() == "and":
        index += 1
    found = [one for one in _find(words[index : index + 3]) if one.first == 0]
    if not found or found[0].is_ordinal or not 0 < found[0].value < 100:
        return None
    end = index + found[0].end
    is_joined = not any(word.is_apart for word in words[index : end + 1])
    if end < len(words) and words[end].written.lower() in ("cent", "cents") and is_joined:
        return int(found[0].value), end + 1
    return None


def _clock(numbers: Sequence[_Number]) -> str | None:
    hour, *rest = numbers
    if not (hour.digits.isdecimal() and 1 <= hour.value <= 12):
        return None
    if len(rest) == 1 and rest[0].is_pair and rest[0].value < 60:
        return f"{hour.digits}:{rest[0].digits}"
    if len(rest) == 2 and rest[0].is_oh and rest[1].is_digit:
        return f"{hour.digits}:0{rest[1].digits}"
    return None


def _join_digits(numbers: Sequence[_Number]) -> str | None:
    """Join single digits, as of a telephone number; None for counting, or other numbers."""
    if len(numbers) < 4 or not all(number.is_digit for number in numbers):
        return None
    steps = {b.value - a.value for a, b in pairwise(numbers)}
    if steps in ({1.0}, {-1.0}):
        return None
    return "".join(number.digits for number in numbers)


def _year(numbers: Sequence[_Number]) -> str | None:
    if len(numbers) == 1:
        is_year = numbers[0].digits.isdecimal() and 1000 <= numbers[0].value < 3000
        return numbers[0].digits if is_year else None
    century, *rest = numbers
    if not century.is_pair or int(century.value) not in _CENTURIES:
        return None
    if len(rest) == 1 and rest[0].is_pair and rest[0].value >= 10:
        return century.digits + rest[0].digits
    if len(rest) == 2 and rest[0].is_oh and rest[1].is_digit and rest[1].value:
        return f"{century.digits}0{rest[1].digits}"
    return None
