"""Search for the phrases of the rules in a text that may still grow."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamasr.writing.rules import LanguageRules, Rule
from streamasr.writing.tokens import PAUSES, Token, find_tokens, is_closed, phrase_tokens, word_key


class UndecidedError(Exception):
    """The decision depends on text that has not arrived yet."""


@dataclass(frozen=True, slots=True)
class Found:
    """Words to be replaced or executed."""

    end: int
    """Index of the first token after the words."""
    rule: Rule | None = None
    """Rule to execute; None for a replacement."""
    words: str = ""
    """Replacement, if there is no rule to execute."""


class TokenSequence:
    """Tokens of a text, whose end may not have arrived yet."""

    def __init__(self, text: str, *, is_complete: bool) -> None:
        self.tokens: Sequence[Token] = list(find_tokens(text))
        if self.tokens and not is_complete and not is_closed(self.tokens[-1], text):
            self.tokens = self.tokens[:-1]
        self._text = text
        self._is_complete = is_complete

    def at(self, index: int) -> Token | None:
        """Return a token; None after the last.

        Raises:
            UndecidedError: the token has not arrived yet.
        """
        if index < len(self.tokens):
            return self.tokens[index]
        if self._is_complete:
            return None
        raise UndecidedError

    def text(self, begin: int, end: int) -> str:
        """Return the text of the tokens [begin, end), with single spaces."""
        return " ".join(self._text[self.tokens[begin].start : self.tokens[end - 1].end].split())


class Phrases:
    """Phrases of one language."""

    def __init__(self, rules: LanguageRules) -> None:
        self._say = rules.say
        self._replace = rules.replace
        self._patterns = rules.patterns
        self._beginnings = {
            keys[:n] for keys in (*rules.say, *rules.replace) for n in range(1, len(keys))
        }
        guards = {word for rule in rules.say.values() for word in rule.not_after + rule.not_before}
        self._guards = {word: phrase_tokens(word) or (word_key(word),) for word in guards}

    def find(self, sequence: TokenSequence, index: int) -> Found | None:
        """Return the longest valid phrase that begins at a token.

        Raises:
            UndecidedError: the decision depends on text that has not arrived yet.
        """
        for keys, end in self._candidates(sequence, index):
            rule = self._say.get(keys)
            if rule and self._is_valid(rule, sequence, index, end):
                return self._literal(sequence, end) if rule.do == "literal" else Found(end, rule)
            if keys in self._replace:
                return Found(end, words=self._replace[keys])
        return self._find_pattern(sequence, index)

    def _candidates(self, sequence: TokenSequence, index: int) -> list[tuple[tuple[str, ...], int]]:
        """Return the phrases that begin here with the index after each, the longest first."""
        found: list[tuple[tuple[str, ...], int]] = []
        keys: tuple[str, ...] = ()
        while not keys or keys in self._beginnings:
            index += bool(keys) and _is_hyphen(sequence, index)
            if (token := sequence.at(index)) is None or token.kind == "mark":
                break
            keys, index = (*keys, token.key), index + 1
            if keys in self._say or keys in self._replace:
                found.append((keys, index))
        return found[::-1]

    def _is_valid(self, rule: Rule, sequence: TokenSequence, begin: int, end: int) -> bool:
        """Return whether the neighbours of a phrase allow it to be a command."""
        if any(_ends_with(sequence, begin, self._guards[word]) for word in rule.not_after):
            return False
        if any(_begins_with(sequence, end, self._guards[word]) for word in rule.not_before):
            return False
        if rule.do in ("cap", "all caps", "no caps"):
            following = sequence.at(end)
            return following is not None and following.kind == "word"
        if rule.before_command or rule.do == "literal":
            return self._is_command(sequence, end)
        return not rule.before_pause or _pauses(sequence, end) or self._is_command(sequence, end)

    def _is_command(self, sequence: TokenSequence, index: int) -> bool:
        """Return whether a phrase begins here that is certainly a command."""
        rules = (self._say.get(keys) for keys, _ in self._candidates(sequence, index))
        return any(rule is not None and rule.do != "literal" for rule in rules)

    def _literal(self, sequence: TokenSequence, index: int) -> Found:
        for keys, end in self._candidates(sequence, index):
            if keys in self._say:
                return Found(end, words=sequence.text(index, end))
        raise AssertionError("`_is_valid` has found a command here")

    def _find_pattern(self, sequence: TokenSequence, index: int) -> Found | None:
        longest = max((pattern.words for pattern in self._patterns), default=0)
        for n_words in range(_count_words(sequence, index, longest), 0, -1):
            words = sequence.text(index, index + n_words)
            for pattern in self._patterns:
                if pattern.words >= n_words:
                    written = pattern.expand(words)
                    if written is not None:
                        return Found(index + n_words, words=written)
        return None


def _count_words(sequence: TokenSequence, index: int, limit: int) -> int:
    """Return the number of consecutive words from here on, up to a limit."""
    for count in range(limit):
        token = sequence.at(index + count)
        if token is None or token.kind == "mark":
            return count
    return limit


def _is_hyphen(sequence: TokenSequence, index: int) -> bool:
    """Return whether the token is a hyphen between two words."""
    token = sequence.at(index)
    if token is None or token.text != "-" or token.space:
        return False
    following = sequence.at(index + 1)
    return following is not None and following.kind == "word" and not following.space


def _pauses(sequence: TokenSequence, index: int) -> bool:
    token = sequence.at(index)
    return token is None or token.text in PAUSES


def _ends_with(sequence: TokenSequence, end: int, keys: tuple[str, ...]) -> bool:
    """Return whether these words come right before a token."""
    before = sequence.tokens[max(0, end - len(keys)) : end]
    return tuple(token.key for token in before if token.kind == "word") == keys


def _begins_with(sequence: TokenSequence, begin: int, keys: tuple[str, ...]) -> bool:
    for offset, key in enumerate(keys):
        token = sequence.at(begin + offset)
        if token is None or token.kind == "mark" or token.key != key:
            return False
    return True
