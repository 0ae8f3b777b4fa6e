"""Which phrases of the rules stand in a text, and where it takes more of it to know."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamasr.writing.rules import LanguageRules, Rule
from streamasr.writing.tokens import PAUSES, Token, find_tokens, is_closed, phrase_tokens, word_key


class UndecidedError(Exception):
    """What comes next decides; it has not come."""


@dataclass(frozen=True, slots=True)
class Found:
    """Words that stand for something else."""

    end: int
    """The first token after them."""
    rule: Rule | None = None
    """What they order."""
    words: str = ""
    """Without a rule, the words that they are written as."""


class Reading:
    """A text as a sequence of tokens, the end of which may be still to come."""

    def __init__(self, text: str, *, is_complete: bool) -> None:
        self.tokens: Sequence[Token] = list(find_tokens(text))
        if self.tokens and not is_complete and not is_closed(self.tokens[-1], text):
            self.tokens = self.tokens[:-1]
        self._text = text
        self._is_complete = is_complete

    def at(self, index: int) -> Token | None:
        """A token; None after the last.

        Raises:
            UndecidedError: it is not known yet.
        """
        if index < len(self.tokens):
            return self.tokens[index]
        if self._is_complete:
            return None
        raise UndecidedError

    def text(self, begin: int, end: int) -> str:
        """The text of some tokens, spaces between them single."""
        return " ".join(self._text[self.tokens[begin].start : self.tokens[end - 1].end].split())


class Phrases:
    """The phrases of one language."""

    def __init__(self, rules: LanguageRules) -> None:
        self._say = rules.say
        self._replace = rules.replace
        self._patterns = rules.patterns
        self._beginnings = {
            keys[:n] for keys in (*rules.say, *rules.replace) for n in range(1, len(keys))
        }
        guards = {word for rule in rules.say.values() for word in rule.not_after + rule.not_before}
        self._guards = {word: phrase_tokens(word) or (word_key(word),) for word in guards}

    def find(self, reading: Reading, index: int) -> Found | None:
        """The longest phrase that begins at a token and counts there.

        Raises:
            UndecidedError: what comes next decides.
        """
        for keys, end in self._candidates(reading, index):
            rule = self._say.get(keys)
            if rule and self._counts(rule, reading, index, end):
                return self._literal(reading, end) if rule.do == "literal" else Found(end, rule)
            if keys in self._replace:
                return Found(end, words=self._replace[keys])
        return self._find_pattern(reading, index)

    def _candidates(self, reading: Reading, index: int) -> list[tuple[tuple[str, ...], int]]:
        """Phrases that begin here, the longest first."""
        found: list[tuple[tuple[str, ...], int]] = []
        keys: tuple[str, ...] = ()
        while not keys or keys in self._beginnings:
            index += bool(keys) and _is_hyphen(reading, index)
            if (token := reading.at(index)) is None or token.kind == "mark":
                break
            keys, index = (*keys, token.key), index + 1
            if keys in self._say or keys in self._replace:
                found.append((keys, index))
        return found[::-1]

    def _counts(self, rule: Rule, reading: Reading, begin: int, end: int) -> bool:
        """Whether the neighbours of a phrase let it be an order."""
        if any(_ends_with(reading, begin, self._guards[word]) for word in rule.not_after):
            return False
        if any(_begins_with(reading, end, self._guards[word]) for word in rule.not_before):
            return False
        if rule.do in ("cap", "all caps", "no caps"):
            following = reading.at(end)
            return following is not None and following.kind == "word"
        if rule.before_command or rule.do == "literal":
            return self._is_command(reading, end)
        return not rule.before_pause or _pauses(reading, end) or self._is_command(reading, end)

    def _is_command(self, reading: Reading, index: int) -> bool:
        """Whether a phrase begins here that is surely an order."""
        rules = (self._say.get(keys) for keys, _ in self._candidates(reading, index))
        return any(rule is not None and rule.do != "literal" for rule in rules)

    def _literal(self, reading: Reading, index: int) -> Found:
        for keys, end in self._candidates(reading, index):
            if keys in self._say:
                return Found(end, words=reading.text(index, end))
        raise AssertionError("`_counts` has seen it")

    def _find_pattern(self, reading: Reading, index: int) -> Found | None:
        longest = max((pattern.words for pattern in self._patterns), default=0)
        for n_words in range(_count_words(reading, index, longest), 0, -1):
            words = reading.text(index, index + n_words)
            for pattern in self._patterns:
                if pattern.words >= n_words:
                    written = pattern.written_for(words)
                    if written is not None:
                        return Found(index + n_words, words=written)
        return None


def _count_words(reading: Reading, index: int, limit: int) -> int:
    """How many words follow each other from here on, up to a limit."""
    for count in range(limit):
        token = reading.at(index + count)
        if token is None or token.kind == "mark":
            return count
    return limit


def _is_hyphen(reading: Reading, index: int) -> bool:
    """Whether a hyphen stands here, between two words."""
    token = reading.at(index)
    if token is None or token.text != "-" or token.space:
        return False
    following = reading.at(index + 1)
    return following is not None and following.kind == "word" and not following.space


def _pauses(reading: Reading, index: int) -> bool:
    token = reading.at(index)
    return token is None or token.text in PAUSES


def _ends_with(reading: Reading, end: int, keys: tuple[str, ...]) -> bool:
    """Whether these words stand right before a token."""
    before = reading.tokens[max(0, end - len(keys)) : end]
    return tuple(token.key for token in before if token.kind == "word") == keys


def _begins_with(reading: Reading, begin: int, keys: tuple[str, ...]) -> bool:
    for offset, key in enumerate(keys):
        token = reading.at(begin + offset)
        if token is None or token.kind == "mark" or token.key != key:
            return False
    return True
