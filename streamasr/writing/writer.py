"""Conversion of recognised text to written text: spoken commands, replacements, spaces; pure.

A text is processed token by token. A token is written as soon as no text that may follow can change
its processing:

    recognised   Dear all, comma new paragr          the stable beginning of a segment
    written      Dear all,                           "new" may begin a command, so it waits

So the text of a segment written as it grows equals the text of its final, and text is deleted only
by "scratch that" and "undo that".

Punctuation of the recogniser waits for the next word, so that a spoken "comma" does not give a
second comma beside that of the recogniser.
"""

from dataclasses import replace
from typing import Final

from streamasr.writing.edits import Edit, smallest_edit
from streamasr.writing.numbers import normalise_text, settled_length
from streamasr.writing.phrases import Found, Phrases, TokenSequence, UndecidedError
from streamasr.writing.rules import ANY, LanguageRules, Layout, Rule, RuleBook, language_code
from streamasr.writing.tokens import CLOSING, PAUSES, SENTENCE_ENDS, Token, joins_words, usual_joins
from streamasr.writing.written_text import CaretContext, Casing, WrittenText

_COMMAS: Final = frozenset(",，、､،")


class Writer:
    """Writer of consecutive segments.

    The text of the open segment is passed to `grow` as it grows, or only at its end to `settle`.
    """

    def __init__(
        self, book: RuleBook | None = None, *, corrects: bool = False, numbers: bool = False
    ) -> None:
        """Begin without any text.

        Args:
            book: rules for commands and replacements; None for only spaces between segments.
            corrects: whether a spoken mark replaces the recogniser's mark at the end of the
                previous segment. Otherwise, if such a mark exists, the spoken one is not written.
            numbers: whether numbers are written in digits.
        """
        self._book = book or RuleBook({ANY: LanguageRules({}, {})})
        self._corrects = corrects
        self._numbers = numbers
        self._languages: dict[str, tuple[Phrases, Layout]] = {}
        self._base = WrittenText()
        self._current = self._base
        self._open_language: str | None = None

    def grow(self, text: str, language: str | None) -> Edit:
        """Extend the open segment to a stable prefix, which begins with the previous one."""
        self._open_language = self._open_language or language
        return self._change_to(self._process(text, self._open_language, is_complete=False))

    def settle(self, text: str, language: str | None) -> Edit:
        """Write the final text of the open segment, and close the segment."""
        edit = self._change_to(
            self._process(text, self._open_language or language, is_complete=True)
        )
        self.drop()
        return edit

    def preview(self, text: str, language: str | None) -> str:
        """Return all that would be written if the open segment ended with this text."""
        return self._process(text, self._open_language or language, is_complete=True).text

    def drop(self) -> None:
        """Close the open segment without a final; its text written so far stays."""
        self._base = self._current = self._current.closed().trimmed()
        self._open_language = None

    def forget(self) -> None:
        """Forget the text written so far, because the caret was moved away from it."""
        self._base = self._current = WrittenText()
        self._open_language = None

    def _change_to(self, target: WrittenText) -> Edit:
        """Make a text the current one; return the edit that leads to it."""
        old, new = self._current.text, target.text
        self._current = target
        if new.startswith(old):
            return Edit(0, new[len(old) :])
        return smallest_edit(old, new)

    def _process(self, text: str, language: str | None, *, is_complete: bool) -> WrittenText:
        if self._numbers:
            text = normalise_text(text if is_complete else _settled(text, language), language)
        code = language_code(language)
        code = code if code in self._book.languages else ANY
        if code not in self._languages:
            rules = self._book.rules(code)
            self._languages[code] = Phrases(rules), rules.layout
        sequence = TokenSequence(text, is_complete=is_complete)
        return _SegmentWriter(self._base, sequence, *self._languages[code], self._corrects).written


class _SegmentWriter:
    """Writer of one segment, as far as its text is decided."""

    def __init__(
        self,
        written: WrittenText,
        sequence: TokenSequence,
        phrases: Phrases,
        layout: Layout,
        corrects: bool,
    ) -> None:
        self.written = written
        self._sequence = sequence
        self._phrases = phrases
        self._layout = layout
        self._corrects = corrects
        self._index = 0
        self._marks: list[Token] = []
        """Marks of the recogniser that wait for the next token."""
        self._previous: Token | None = None
        """Token written last; None after a command."""
        self._skips_pauses = False
        """Pause marks are skipped, because they come right after a command."""
        try:
            while (token := sequence.at(self._index)) is not None:
                self._take(token)
            self._write_marks()
        except UndecidedError:
            pass

    def _take(self, token: Token) -> None:
        if token.kind == "mark":
            if not (self._skips_pauses and token.text in PAUSES):
                self._marks.append(token)
            self._index += 1
            return
        found = self._phrases.find(self._sequence, self._index)
        if found is None:
            self._write_marks()
            self._write_token(token, self._cased(token.text))
            self._index += 1
        elif found.rule is None:
            self._write_marks()
            self._write_words(token, found)
        else:
            self._execute(found.rule)
            self._index = found.end
        self._skips_pauses = (
            found is not None and found.rule is not None and _owns_pauses(found.rule)
        )

    def _write_marks(self) -> None:
        """Write the waiting marks of the recogniser."""
        for mark in self._marks:
            self._write_token(mark, mark.text)
            if mark.text in PAUSES:
                self.written = replace(
                    self.written, context=replace(self.written.context, ends_in_pause=True)
                )
        self._marks = []

    def _write_token(self, token: Token, text: str) -> None:
        """Write a recognised token, with the space before it."""
        context = self.written.context
        if self._previous is None:
            joins_left = token.kind == "mark" and not token.space and usual_joins(text)[0]
            space = self._space(text, joins_left=joins_left)
        else:
            space = (self._special_space(text) or token.space) if token.space else ""
        begins = context.begins_sentence and token.kind == "mark"
        self._type(
            space + text, CaretContext(text[-1], begins_sentence=begins, casing=context.casing)
        )
        if token.kind == "word":
            self.written = replace(self.written, context=replace(self.written.context, casing=None))
        self._previous = token

    def _write_words(self, token: Token, found: Found) -> None:
        """Write the replacement of the words that were spoken."""
        if found.words:
            self._write_token(token, self._cased(found.words))
        self._index = found.end

    def _execute(self, rule: Rule) -> None:
        self._write_marks_before(rule)
        match rule.do:
            case "scratch":
                self.written = self.written.without_last_piece()
            case "undo":
                self.written = self.written.without_last_change()
            case "cap" | "all caps" | "no caps":
                self.written = self.written.with_casing(rule.do)
            case _:
                self._write_spoken(rule.type or "", rule)
        self._previous = None

    def _write_marks_before(self, rule: Rule) -> None:
        """Write the marks before a command, except those that it makes superfluous."""
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
        if text and text[0] in PAUSES and self.written.context.ends_in_pause:
            if self._corrects:
                self.written = self.written.without_last_character()
            if self.written.context.ends_in_pause:
                text = text.lstrip("".join(PAUSES))
        if not text:
            return
        left, right = usual_joins(text)
        if rule.joins is not None:
            left, right = rule.joins in ("left", "both"), rule.joins in ("right", "both")
        body = text.rstrip() or text
        ends_line = "\n" in text
        begins = self.written.context.begins_sentence and body[-1] not in PAUSES
        context = CaretContext(
            text[-1],
            is_joined=right,
            begins_sentence=begins or ends_line or body[-1] in SENTENCE_ENDS,
            casing=self.written.context.casing,
        )
        self._type(self._space(text, joins_left=left) + text, context)

    def _type(self, text: str, context: CaretContext) -> None:
        if text:
            self.written = self.written.with_text(text, context)

    def _space(self, text: str, *, joins_left: bool) -> str:
        """Return the space between the caret and a text."""
        context = self.written.context
        if not context.last or context.last.isspace():
            return ""
        if context.is_joined:
            return self._layout.space_after.get(context.last, "")
        if special := self._special_space(text):
            return special
        return "" if joins_left or joins_words(context.last, text) else " "

    def _special_space(self, text: str) -> str:
        """Return the special space of the language at a mark; empty for none."""
        layout = self._layout
        return layout.space_before.get(text[0]) or layout.space_after.get(
            self.written.context.last, ""
        )

    def _cased(self, word: str) -> str:
        context = self.written.context
        if context.casing is not None:
            return _in_case(word, context.casing)
        if context.begins_sentence and self._layout.capitals and word.islower():
            return _in_case(word, "cap")
        return word


def _settled(text: str, language: str | None) -> str:
    return text[: settled_length(text, language)]


def _owns_pauses(rule: Rule) -> bool:
    """Return whether a pause mark after a command belongs to the command."""
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
