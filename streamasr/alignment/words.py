"""Division of a text into the words that get times.

An aligner's prompt holds only spoken words; readers want the text as it was written. So every word
carries both: `spoken`, letters and digits alone, and `display`, the same place in the text with its
punctuation. Joining the displays, with a space where one followed, gives the text again (runs of
white space become one space).

The division depends on the language:

    Chinese and all others   each ideograph is a word; so is each run between white space
                             and ideographs, without punctuation ("re-run" -> "rerun")
    Japanese                 the words of `nagisa`; where it is not installed, each ideograph
                             and each kana, with the small kana or mark that follows it
    Korean                   white space, each piece divided by `soynlp` with the dictionary of
                             the `qwen-asr` package; where either is missing, white space alone

Source: the forced aligner's processor in transformers, `split_words_for_alignment`, which the tests
compare with.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

Tokenise = Callable[[str], Iterable[str]]

_IDEOGRAPHS: Final = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f"
)
"""The reference's ranges: the unified block, extensions A to E, compatibility."""

_KANA: Final = "\u3005\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_KANA_TAIL: Final = "々ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶー\u3099\u309aｧｨｩｪｫｯｬｭｮｰﾞﾟ"
"""Characters that start no syllable: small kana, long, voicing and iteration marks."""

_IDEOGRAPH: Final = re.compile(f"[{_IDEOGRAPHS}]")
_PIECE: Final = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")
_JAPANESE_PIECE: Final = re.compile(
    rf"[{_IDEOGRAPHS}{_KANA}][{_KANA_TAIL}]*|[^\s{_IDEOGRAPHS}{_KANA}]+"
)


@dataclass(frozen=True, slots=True)
class AlignableWord:
    """One word of a text, as the aligner and as the reader see it."""

    spoken: str
    """Letters, digits and apostrophes only; never empty."""
    display: str
    """As written, with the punctuation that belongs to it; never empty."""
    space_after: bool
    """White space followed in the text; false for the last word."""


@dataclass(frozen=True, slots=True)
class _Core:
    """A word's place in the text, from its first spoken character to its last."""

    spoken: str
    start: int
    end: int


def split_words(text: str, language: str | None = None) -> list[AlignableWord]:
    """Divide a text into the words that get times.

    Args:
        text: of a segment.
        language: an English name ("Japanese") or a code ("ja"); None and unknown ones are
            divided like Chinese.

    Returns:
        The words in order; none for a text without letters and digits. As in the reference, a lone
        apostrophe is a word.
    """
    cores = _find_cores(text, (language or "").lower())
    cuts = [0, *(_cut(text, a.end, b.start) for a, b in pairwise(cores)), len(text)]
    return [
        AlignableWord(
            spoken=core.spoken,
            display=" ".join(text[start:end].split()),
            space_after=end < len(text) and text[end - 1].isspace(),
        )
        for core, (start, end) in zip(cores, pairwise(cuts), strict=False)
    ]


def text_width(text: str) -> int:
    """Return the columns of a text: two for ideographs, kana and hangul, none for marks."""
    return len(text) if text.isascii() else sum(map(_char_width, text))


@cache
def _char_width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _find_cores(text: str, language: str) -> list[_Core]:
    if language in {"japanese", "ja"}:
        cores = _tokenised_cores(text, _nagisa(), _compatible)
        return _cores(text, _JAPANESE_PIECE) if cores is None else cores
    if language in {"korean", "ko"}:
        cores = _tokenised_cores(text, _soynlp(), str)
        return _cores(text, _PIECE) if cores is None else cores
    return _cores(text, _PIECE)


def _cores(text: str, piece: re.Pattern[str]) -> list[_Core]:
    """Return the cores of the pieces that a pattern finds and that hold letters or digits."""
    found = []
    for match in piece.finditer(text):
        kept = [i for i in range(*match.span()) if _is_spoken(text[i])]
        if kept:
            found.append(_Core("".join(text[i] for i in kept), kept[0], kept[-1] + 1))
    return found


def _tokenised_cores(
    text: str, tokenise: Tokenise | None, normalise: Callable[[str], str]
) -> list[_Core] | None:
    """Find a tokeniser's words in the text that it was given.

    Both are followed by their count of spoken characters, which tokenisers do not change as they
    change white space and widths. Words that end inside one character ("½" as "1", "2") are joined.

    Args:
        text: of a segment.
        tokenise: None where its package is missing.
        normalise: the change that the tokeniser makes to each character.

    Returns:
        None without a tokeniser, or where its words do not match the text.
    """
    if tokenise is None:
        return None
    tokens = [_spoken(token) for token in tokenise(text.strip())]
    all_spoken, ends = "".join(tokens), set(accumulate(map(len, tokens)))
    found: list[_Core] = []
    done = seen = 0  # spoken characters in finished words; seen so far
    start: int | None = None
    for i, char in enumerate(text):
        n_spoken = len(_spoken(normalise(char)))
        if n_spoken and start is None:
            start = i
        seen += n_spoken
        if start is not None and seen in ends:
            found.append(_Core(all_spoken[done:seen], start, i + 1))
            done, start = seen, None
    return found if done == seen == len(all_spoken) else None


@cache
def _nagisa() -> Tokenise | None:
    try:
        nagisa = import_module("nagisa")
    except ImportError:
        return None
    return lambda text: nagisa.tagging(text).words


@cache
def _soynlp() -> Tokenise | None:
    """Load the Korean tokeniser; without a dictionary it would split at white space only."""
    dictionary = _korean_dictionary()
    if dictionary is None:
        return None
    try:
        tokenizer = import_module("soynlp.tokenizer")
    except ImportError:
        return None
    lines = dictionary.read_text(encoding="utf-8").splitlines()
    scores = {line.split()[0]: 1.0 for line in lines if line.strip()}
    tokenise: Tokenise = tokenizer.LTokenizer(scores=scores).tokenize
    return tokenise


def _korean_dictionary() -> Path | None:
    """Find the list that ships with `qwen-asr` without importing that package (and torch)."""
    spec = find_spec("qwen_asr")
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(d) / "inference" / "assets" / "korean_dict_jieba.dict" for d in folders or ()]
    return next((path for path in paths if path.is_file()), None)


def _cut(text: str, start: int, end: int) -> int:
    """Return the position between two words at which the display of the second begins.

    Punctuation that touches a word belongs to it; what stands alone belongs to the first, unless it
    opens a bracket or quotation. Without white space between the words, the first opening character
    decides: 《书》，「本」.
    """
    spaces = [i for i in range(start, end) if text[i].isspace()]
    first, last = (spaces[0], spaces[-1] + 1) if spaces else (start, end)
    return next((i for i in range(first, last) if _opens(text[i])), last)


def _opens(char: str) -> bool:
    """Tell whether a character is an opening bracket or quote, inverted mark or currency sign."""
    return char in "¿¡" or unicodedata.category(char) in {"Ps", "Pi", "Sc"}


def _spoken(text: str) -> str:
    return "".join(char for char in text if _is_spoken(char))


def _is_spoken(char: str) -> bool:
    category = unicodedata.category(char)
    return char == "'" or category[0] in "LN" or _IDEOGRAPH.match(char) is not None


def _compatible(char: str) -> str:
    """Return a character as nagisa changes it: full and half width forms become plain."""
    return unicodedata.normalize("NFKC", char)
