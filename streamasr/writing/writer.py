"""From what was recognised to what is written: spoken commands, replacements, spaces; pure.

A text is read token by token, and a token is written as soon as nothing that may follow can change
what becomes of it:

    recognised   Dear all, comma new paragr          the stable beginning of a segment
    written      Dear all,                           "new" may begin a command, and waits

So the text of a segment that is written as it grows is that which its final would have given, and
nothing needs to be taken back but by "scratch that" and "undo that".

Marks of the recogniser's own wait for the word after them: where the speaker says "comma", a comma
before it or after it is not written twice.
"""

from dataclasses import replace
from typing import Final

from streamasr.writing.edits import Edit, smallest_edit
from streamasr.writing.numbers import normalise_text, settled_length
from streamasr.writing.page import Casing, Line, Page
from streamasr.writing.phrases import Found, Phrases, Reading, UndecidedError
from streamasr.writing.rules import ANY, LanguageRules, Layout, Rule, RuleBook, language_code
from streamasr.writing.tokens import CLOSING, PAUSES, SENTENCE_ENDS, Token, joins_words, usual_joins

_COMMAS: Final = frozenset(",，、､،")


class Writer:
    """Writes segment after segment.

    The open segment is given as it grows, to `grow`, or only at its end, to `settle`.
    """

    def __init__(
        self, book: RuleBook | None = None, *, corrects: bool = False, numbers: bool = False
    ) -> None:
        """Begin with an empty page.

        Args:
            book: what may be said; None for no commands at all, only spaces between segments.
            corrects: whether a spoken mark takes back the recogniser's own at the end of the
                segment before. It gives way to it where nothing may be taken back.
            numbers: whether numbers are written in digits.
        """
        self._book = book or RuleBook({ANY: LanguageRules({}, {})})
        self._corrects = corrects
        self._numbers = numbers
        self._languages: dict[str, tuple[Phrases, Layout]] = {}
        self._base = Page()
        self._page = self._base
        self._open_language: str | None = None

    def grow(self, text: str, language: str | None) -> Edit:
        """Take the stable beginning of the open segment, which begins with that of before."""
        self._open_language = self._open_language or language
        return self._turn_to(self._written(text, self._open_language, is_complete=False))

    def settle(self, text: str, language: str | None) -> Edit:
        """Take the final text of the open segment; another one begins."""
        page = self._written(text, self._open_language or language, is_complete=True)
        edit = self._turn_to(page)
        self.drop()
        return edit

    def preview(self, text: str, language: str | None) -> str:
        """All that would be written, if the open segment ended with this text."""
        page = self._written(text, self._open_language or language, is_complete=True)
        return page.text

    def drop(self) -> None:
        """The open segment has no final; what is written of it stays."""
        self._base = self._page = self._page.closed().trimmed()
        self._open_language = None

    def forget(self) -> None:
        """The caret has moved: what was written cannot be taken back, nor joined to."""
        self._base = self._page = Page()
        self._open_language = None

    def _turn_to(self, page: Page) -> Edit:
        """Write what is missing."""
        old, new = self._page.text, page.text
        self._page = page
        if new.startswith(old):
            return Edit(0, new[len(old) :])
        return smallest_edit(old, new)

    def _written(self, text: str, language: str | None, *, is_complete: bool) -> Page:
        if self._numbers:
            text = normalise_text(text if is_complete else _settled(text, language), language)
        code = language_code(language)
        code = code if code in self._book.languages else ANY
        if code not in self._languages:
            rules = self._book.rules(code)
            self._languages[code] = Phrases(rules), rules.layout
        reading = Reading(text, is_complete=is_complete)
        return _Writing(self._base, reading, *self._languages[code], self._corrects).page


class _Writing:
    """One segment, as far as it is decided."""

    def __init__(
        self, page: Page, reading: Reading, phrases: Phrases, layout: Layout, corrects: bool
    ) -> None:
        self.page = page
        self._reading = reading
        self._phrases = phrases
        self._layout = layout
        self._corrects = corrects
        self._index = 0
        self._marks: list[Token] = []
        """The recogniser's, that wait for what follows them."""
        self._follows: Token | None = None
        """The token that was written last, unless a command came between."""
        self._swallows = False
        """Pauses right after a command are its own."""
        try:
            while (token := reading.at(self._index)) is not None:
                self._take(token)
            self._write_marks()
        except UndecidedError:
            pass

    def _take(self, token: Token) -> None:
        if token.kind == "mark":
            if not (self._swallows and token.text in PAUSES):
                self._marks.append(token)
            self._index += 1
            return
        found = self._phrases.find(self._reading, self._index)
        if found is None:
            self._write_marks()
            self._write_token(token, self._cased(token.text))
            self._index += 1
        elif found.rule is None:
            self._write_marks()
            self._write_words(token, found)
        else:
            self._obey(found.rule)
            self._index = found.end
        self._swallows = found is not None and found.rule is not None and _owns_pauses(found.rule)

    def _write_marks(self) -> None:
        """The marks that were waiting are the recogniser's own."""
        for mark in self._marks:
            self._write_token(mark, mark.text)
            if mark.text in PAUSES:
                self.page = replace(self.page, line=replace(self.page.line, ends_in_pause=True))
        self._marks = []

    def _write_token(self, token: Token, text: str) -> None:
        """Write what was recognised, with the spaces that it came with."""
        line = self.page.line
        if self._follows is None:
            joins_left = token.kind == "mark" and not token.space and usual_joins(text)[0]
            space = self._space(text, joins_left=joins_left)
        else:
            space = (self._wide_space(text) or token.space) if token.space else ""
        begins = line.begins_sentence and token.kind == "mark"
        self._type(space + text, Line(text[-1], begins_sentence=begins, casing=line.casing))
        if token.kind == "word":
            self.page = replace(self.page, line=replace(self.page.line, casing=None))
        self._follows = token

    def _write_words(self, token: Token, found: Found) -> None:
        """Write other words in the place of those that were spoken."""
        if found.words:
            self._write_token(token, self._cased(found.words))
        self._index = found.end

    def _obey(self, rule: Rule) -> None:
        self._follows_order(rule)
        match rule.do:
            case "scratch":
                self.page = self.page.scratched()
            case "undo":
                self.page = self.page.undone()
            case "cap" | "all caps" | "no caps":
                self.page = self.page.ordered(rule.do)
            case _:
                self._write_spoken(rule.type or "", rule)
        self._follows = None

    def _follows_order(self, rule: Rule) -> None:
        """Write the marks before an order, but for those that it makes superfluous."""
        if rule.do in ("scratch", "undo"):
            self._marks = []
        elif rule.type and rule.type[0] in PAUSES:
            while self._marks and self._marks[-1].text in PAUSES:
                self._marks.pop()
        elif rule.type and rule.type[0] in CLOSING:
            while self._marks and self._marks[-1].text in _COMMAS:
                self._marks.pop()
        self._write_marks()

    def _write_spoken(self, text: str, rule: Rule) -> None:
        if text and text[0] in PAUSES and self.page.line.ends_in_pause:
            if self._corrects:
                self.page = self.page.shortened()
            if self.page.line.ends_in_pause:
                text = text.lstrip("".join(PAUSES))
        if not text:
            return
        left, right = usual_joins(text)
        if rule.joins is not None:
            left, right = rule.joins in ("left", "both"), rule.joins in ("right", "both")
        body = text.rstrip() or text
        ends_line = "\n" in text
        begins = self.page.line.begins_sentence and body[-1] not in PAUSES
        line = Line(
            text[-1],
            is_joined=right,
            begins_sentence=begins or ends_line or body[-1] in SENTENCE_ENDS,
            casing=self.page.line.casing,
        )
        self._type(self._space(text, joins_left=left) + text, line)

    def _type(self, text: str, line: Line) -> None:
        if text:
            self.page = self.page.typed(text, line)

    def _space(self, text: str, *, joins_left: bool) -> str:
        """What comes between the caret and a text."""
        line = self.page.line
        if not line.last or line.last.isspace():
            return ""
        if line.is_joined:
            return self._layout.space_after.get(line.last, "")
        if wide := self._wide_space(text):
            return wide
        return "" if joins_left or joins_words(line.last, text) else " "

    def _wide_space(self, text: str) -> str:
        """The space that the language wants at a mark."""
        layout = self._layout
        return layout.space_before.get(text[0]) or layout.space_after.get(self.page.line.last, "")

    def _cased(self, word: str) -> str:
        line = self.page.line
        if line.casing is not None:
            return _in_case(word, line.casing)
        if line.begins_sentence and self._layout.capitals and word.islower():
            return _in_case(word, "cap")
        return word


def _settled(text: str, language: str | None) -> str:
    return text[: settled_length(text, language)]


def _owns_pauses(rule: Rule) -> bool:
    """Whether a pause that the recogniser marks after an order belongs to the order."""
    text = rule.type or ""
    return rule.do is not None or text[-1:] in PAUSES or usual_joins(text or " ")[1]


def _in_case(word: str, casing: Casing) -> str:
    match casing:
        case "cap":
            return word[:1].upper() + word[1:]
        case "all caps":
            return word.upper()
        case "no caps":
            return word.lower()
