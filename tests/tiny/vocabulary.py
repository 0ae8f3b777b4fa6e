"""Vocabulary of the embedded model, and generators of sentences."""
# ruff: noqa: SIM905 - words in one line are easier to read than a column of strings

from __future__ import annotations

from random import Random

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = [*DIGITS, *TEENS, *TENS, "hundred", "thousand"]
DIRECTIONS = "up down left right forward back north south east west".split()
PUNCTUATION = [["comma"], ["period"], ["question", "mark"], ["new", "line"]]
VERBS = (
    "stop start open close delete undo save copy paste select cancel insert find send play go"
).split()
NOUNS = (
    "word sentence paragraph page file window message number music weather coffee water "
    "house computer keyboard"
).split()
OTHERS = "yes no and the my is all new next last hello please thank you good morning".split()
MORE = "line comma period question mark today tomorrow again".split()

ENGLISH: list[str] = list(dict.fromkeys([*NUMBERS, *DIRECTIONS, *VERBS, *NOUNS, *OTHERS, *MORE]))
CHINESE: list[str] = list("零一二三四五六七八九十")
WORDS: list[str] = [*ENGLISH, *CHINESE]
WORD_ID: dict[str, int] = {word: index for index, word in enumerate(WORDS)}


def language_of(words: list[str]) -> str:
    """Return the language in the model's spelling; `None` without words."""
    if not words:
        return "None"
    return "Chinese" if words[0] in CHINESE else "English"


def to_text(words: list[str]) -> str:
    """Join words like the model: English words with spaces, Chinese characters without."""
    return ("" if language_of(words) == "Chinese" else " ").join(words)


def spoken_number(rng: Random) -> list[str]:
    """Return the words of a random number between 10 and 999,999."""
    words: list[str] = []
    if rng.random() < 0.35:
        words += [rng.choice(DIGITS[1:] + TEENS + TENS), "thousand"]
    if rng.random() < 0.5:
        words += [rng.choice(DIGITS[1:]), "hundred"]
        if rng.random() < 0.5:
            words.append("and")
    if rng.random() < 0.3:
        return [*words, rng.choice(TEENS)]
    return [*words, rng.choice(TENS), rng.choice(DIGITS[1:])]


def command(rng: Random) -> list[str]:
    """Return the words of a random command for an editor."""
    noun = rng.choice(NOUNS)
    return rng.choice(
        [
            [rng.choice(VERBS), "the", rng.choice(["next", "last", "new"]), noun],
            [rng.choice(VERBS), "all", "and", rng.choice(VERBS)],
            [rng.choice(VERBS), "my", noun, "please"],
            ["my", noun, "is", rng.choice(NOUNS)],
            ["go", rng.choice(DIRECTIONS), "and", rng.choice(VERBS), "the", noun],
            ["hello", "my", rng.choice(NOUNS)],
            ["thank", "you"],
            ["good", "morning"],
            ["the", noun, "is", rng.choice(["good", "new", "up", "down", "back"])],
            ["find", "the", noun, "again", "tomorrow"],
            rng.choice(PUNCTUATION),
        ]
    )


def sentence(rng: Random, n_words: int) -> list[str]:
    """Return a random sentence: numbers, commands and random words, cut to `n_words`."""
    words: list[str] = []
    shape = rng.random()
    while len(words) < n_words:
        part = rng.random()
        if shape < 0.6 or part < 0.3:
            words.append(rng.choice(ENGLISH))
        elif part < 0.55:
            words += spoken_number(rng)
        elif part < 0.65:
            words += [rng.choice(DIGITS) for _ in range(4)]
        else:
            words += command(rng)
    return words[:n_words]


def chinese_sentence(rng: Random, n_words: int) -> list[str]:
    """Return a random string of Mandarin numerals."""
    return [rng.choice(CHINESE) for _ in range(n_words)]
