"""Tests of spoken commands, in complete segments and in growing ones."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.writing import Writer, load_rules
from streamasr.writing.edits import Edit, graphemes
from streamasr.writing.rules import RuleBook
from tests.support.examples import examples

BOOK = load_rules()

WORDS = [
    *["hello", "world", "iPhone", "comma", "period", "question", "mark", "new", "line", "scratch"],
    *["paragraph", "that", "undo", "cap", "all", "caps", "literal", "open", "close", "quote", "a"],
    *["dot", "e-mail", "3.14", "don't", "colon", ",", ".", "?", "!", "-", "“", "”", "…", "point"],
    *[
        "你好",
        "，",
        "。",
        "逗号",
        "句号",
        "换行",
        "删除上一句",
        "撤销上一步",
        "neue",
        "zeile",
        "groß",
    ],
    *["virgule", "🙂", "é", "e\u0301", "\u0301", "👩\u200d👩\u200d👧", "か\u3099", "new-line"],
]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=14).flatmap(
    lambda words: st.lists(
        st.sampled_from(["", " ", " ", " ", "  "]), min_size=len(words), max_size=len(words)
    ).map(lambda gaps: "".join(w + g for w, g in zip(words, gaps, strict=True)))
)
SEGMENTS = st.lists(st.one_of(TEXTS, st.text(max_size=30)), max_size=5)
LANGUAGES = st.sampled_from(["English", "Chinese", "de", "French", "Japanese", None, "Klingon"])


def apply(screen: str, edit: Edit) -> str:
    kept = graphemes(screen)
    return "".join(kept[: len(kept) - edit.delete]) + edit.text


def written(
    *segments: str, language: str | None = "English", book: RuleBook | None = BOOK, **how: bool
) -> str:
    """Return the text on the screen after the finals of some segments."""
    writer, screen = Writer(book, **how), ""
    for text in segments:
        screen = apply(screen, writer.settle(text, language))
    return screen


def grown(segment: str, cuts: list[int], writer: Writer, language: str | None) -> list[Edit]:
    """Return the edits for a segment that grows to these lengths, and for its final."""
    edits = [writer.grow(segment[:cut], language) for cut in sorted(cuts)]
    return [*edits, writer.settle(segment, language)]


def without_removals(book: RuleBook) -> RuleBook:
    """Remove the commands that delete text from the rules."""
    return RuleBook(
        {
            code: replace(
                rules,
                say={k: r for k, r in rules.say.items() if r.do not in ("scratch", "undo")},
            )
            for code, rules in book.languages.items()
        }
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("dear all comma new paragraph how are you question mark", "dear all,\n\nHow are you?"),
        (
            "Dear all, comma, new paragraph. How are you? Question mark.",
            "Dear all,\n\nHow are you?",
        ),
        ("Hello world. Full stop. next one", "Hello world. Next one"),
        ("It ends here period", "It ends here."),
        ("It ends here, period. And", "It ends here. And"),
        ("this is a long period of time", "this is a long period of time"),
        ("that period was hard", "that period was hard"),
        ("what is a question mark", "what is a question mark"),
        ("He said open quote hello close quote, and left.", "He said “hello”, and left."),
        ("open parenthesis see below close parenthesis comma", "(see below),"),
        ("foo at sign example", "foo@example"),
        ("snake underscore case", "snake_case"),
        ("my friend cap john", "my friend John"),
        ("put a cap on it", "put a cap on it"),
        ("the all caps nasa logo", "the NASA logo"),
        ("no caps IBM", "ibm"),
        ("write literal comma here", "write comma here"),
        ("a literal translation", "a literal translation"),
        ("dot dot dot", "…"),
        ("new-line yes", "\nYes"),
        ("new line iPhone", "\niPhone"),
        ("comma comma", ",,"),
        ("well-known e-mail, 3.14 and don't!", "well-known e-mail, 3.14 and don't!"),
    ],
)
def test_english_commands_are_executed(said: str, expected: str) -> None:
    assert written(said) == expected


@pytest.mark.parametrize(
    ("language", "said", "expected"),
    [
        ("German", "das ist gut Komma oder Fragezeichen neue Zeile ja", "das ist gut, oder?\nJa"),
        ("German", "er sagte Anführungszeichen auf nein Anführungszeichen zu", "er sagte „nein“"),
        ("German", "der Punkt ist wichtig", "der Punkt ist wichtig"),
        ("French", "ça va point d'interrogation", "ça va ?"),
        ("French", "ouvrez les guillemets oui fermez les guillemets", "« oui »"),
        ("French", "un point-virgule", "un ;"),
        ("Spanish", "abrir interrogación qué cerrar interrogación", "¿qué?"),
        ("Spanish", "uno punto y aparte dos", "uno.\nDos"),
        ("Italian", "ciao virgola a capo come stai punto interrogativo", "ciao,\nCome stai?"),
        ("Portuguese", "olá vírgula novo parágrafo tudo bem", "olá,\n\nTudo bem"),
        (
            "Russian",
            "привет запятая новая строка как дела вопросительный знак",
            "привет,\nКак дела?",
        ),
        ("Chinese", "今天很好逗号我们走吧句号换行好", "今天很好，我们走吧。\n好"),
        ("Cantonese", "今日好逗號走啦句號", "今日好，走啦。"),
        ("Chinese", "不要用逗号", "不要用逗号"),
        ("Japanese", "今日は読点晴れです句点改行はい", "今日は、晴れです。\nはい"),
        ("Korean", "안녕하세요 쉼표 여러분 마침표 줄 바꿈 네", "안녕하세요, 여러분.\n네"),
    ],
)
def test_each_language_has_its_own_commands(language: str, said: str, expected: str) -> None:
    assert written(said, language=language) == expected


@pytest.mark.parametrize(
    ("language", "segments", "expected"),
    [
        ("English", ("One.", "Two."), "One. Two."),
        ("English", ("one", ", two"), "one, two"),
        ("English", ("open bracket", "one", "close bracket"), "[one]"),
        ("English", ("one", "new line", "two"), "one\nTwo"),
        ("English", ("my name is cap", "john"), "my name is cap john"),
        ("Chinese", ("你好。", "世界"), "你好。世界"),
        ("Chinese", ("我用", "iPhone"), "我用 iPhone"),
        ("Chinese", ("你好，", "iPhone"), "你好，iPhone"),
        ("Japanese", ("今日は。", "はい"), "今日は。はい"),
        ("Korean", ("네.", "아니요."), "네. 아니요."),
        ("English", ("", "  ", "one", "", "two"), "one two"),
    ],
)
def test_segments_are_joined_as_their_language_joins_words(
    language: str, segments: tuple[str, ...], expected: str
) -> None:
    assert written(*segments, language=language) == expected


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (("One two.", "Three.", "Scratch that.", "four"), "One two. four"),
        (("One.", "Two.", "scratch that", "scratch that"), ""),
        (("One.", "two scratch that three"), "One. three"),
        (("One.", "Two.", "scratch that scratch that"), ""),
        (("One.", "Two.", "scratch that", "undo that"), "One. Two."),
        (("One.", "Two.", "scratch that", "undo that", "undo that"), "One."),
        (("One.", "Two.", "undo that"), "One."),
        (("one", "new line", "scratch that", "two"), "one two"),
        (("scratch that", "undo that", "one"), "one"),
    ],
)
def test_the_last_dictation_can_be_deleted(segments: tuple[str, ...], expected: str) -> None:
    assert written(*segments) == expected


def test_at_most_a_hundred_pieces_can_be_deleted() -> None:
    assert written(*["one"] * 130, *["scratch that"] * 130) == " ".join(["one"] * 30)


def test_a_spoken_mark_is_not_written_after_that_of_the_previous_segment() -> None:
    assert written("Are you.", "question mark", "yes") == "Are you. yes"


def test_a_spoken_mark_replaces_that_of_the_previous_segment_on_request() -> None:
    assert written("Are you.", "question mark", "yes", corrects=True) == "Are you? Yes"
    assert written("Are you.", "question mark", "undo that", corrects=True) == "Are you"


def test_text_is_not_joined_to_forgotten_text() -> None:
    writer = Writer(BOOK)
    writer.settle("one", "English")
    writer.forget()
    assert writer.settle("scratch that two", "English") == Edit(0, "two")


def test_the_written_part_of_a_dropped_segment_stays() -> None:
    writer = Writer(BOOK)
    assert writer.grow("one two thr", "English") == Edit(0, "one two")
    writer.drop()
    assert writer.settle("four", "English") == Edit(0, " four")


def test_the_beginning_of_a_command_waits() -> None:
    writer = Writer(BOOK)
    growing = ["hel", "hello ", "hello new ", "hello new l", "hello new line", "hello new line w"]
    assert [writer.grow(text, "English").text for text in growing] == [
        "",
        "hello",
        "",
        "",
        "",
        "\n",
    ]


def test_a_number_waits_until_it_is_over() -> None:
    writer = Writer(BOOK, numbers=True)
    growing = ["I have twenty ", "I have twenty three ", "I have twenty three percent of "]
    assert [writer.grow(text, "English").text for text in growing] == ["I have", "", " 23% of"]
    assert writer.settle("I have twenty three percent of it comma", "English").text == " it,"


def test_a_preview_changes_nothing() -> None:
    writer = Writer(BOOK)
    writer.grow("one two", "English")
    assert writer.preview("one two comma", "English") == "one two,"
    assert writer.settle("one two", "English") == Edit(0, " two")


@settings(max_examples=examples(100), deadline=None)
@given(SEGMENTS, LANGUAGES, st.booleans(), st.data())
def test_growing_text_ends_like_its_final(
    segments: list[str], language: str | None, numbers: bool, data: st.DataObject
) -> None:
    writer, screen = Writer(BOOK, numbers=numbers), ""
    for text in segments:
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
        for edit in grown(text, cuts, writer, language):
            screen = apply(screen, edit)
    assert screen == written(*segments, language=language, numbers=numbers)


@settings(max_examples=examples(100), deadline=None)
@given(SEGMENTS, LANGUAGES, st.booleans(), st.data())
def test_text_is_deleted_only_by_command(
    segments: list[str], language: str | None, numbers: bool, data: st.DataObject
) -> None:
    writer = Writer(without_removals(BOOK), numbers=numbers)
    for text in segments:
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
        assert not any(edit.delete for edit in grown(text, cuts, writer, language))


@given(SEGMENTS, LANGUAGES)
def test_without_commands_only_spaces_change(segments: list[str], language: str | None) -> None:
    def bare(text: str) -> str:
        return "".join(c for c in text if not c.isspace() and c.isprintable())

    assert bare(written(*segments, language=language, book=None)) == bare("".join(segments))


@given(st.lists(st.sampled_from(["one", "two.", "scratch that", "undo that"]), max_size=12))
def test_undoing_everything_leaves_nothing(segments: list[str]) -> None:
    assert written(*segments, *["undo that"] * len(segments)) == ""


def test_a_very_long_text_of_commands_is_written() -> None:
    text = "period " * 5000 + "new cap literal " * 5000
    assert written(text)
