"""Rules as data: those of the package, and those that a user adds, replaces or removes."""

import time
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError
from streamasr.writing import Writer, load_rules
from streamasr.writing.patterns import Pattern, check_pattern
from streamasr.writing.rules import language_code

LANGUAGES = ["any", "de", "en", "es", "fr", "it", "ja", "ko", "pt", "ru", "zh"]


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def written(path: Path | None, *segments: str, language: str = "English") -> str:
    writer = Writer(load_rules(path))
    return "".join(writer.settle(text, language).text for text in segments)


def test_the_package_has_rules_for_ten_languages() -> None:
    assert sorted(load_rules().languages) == LANGUAGES


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "any"])
def test_every_language_can_write_a_line_and_take_back(code: str) -> None:
    rules = load_rules().rules(code).say.values()
    assert {"\n", "\n\n"} <= {rule.type for rule in rules}
    assert {"scratch", "undo", "literal"} <= {rule.do for rule in rules}
    assert {rule.type for rule in rules} & {",", "，", "、"}


@pytest.mark.parametrize(
    ("language", "code"),
    [("English", "en"), ("EN", "en"), ("Cantonese", "zh"), ("yue", "zh"), (None, "any")],
)
def test_languages_are_known_by_name_and_code(language: str | None, code: str) -> None:
    assert language_code(language) == code


def test_a_user_adds_replaces_and_removes(rules_file: Path) -> None:
    rules_file.write_text(
        """
        [en.say]
        "smiley" = "🙂"
        "comma" = "、"
        "Question Mark" = false
        "arrow" = { type = "→", joins = "both" }

        [any.replace]
        "stream a s r" = "streamasr"

        [[en.pattern]]
        find = '(?i)gee (pee|p) ([tu])'
        write = 'GP\\2'
        words = 3
        """,
        "utf-8",
    )
    said = "smiley comma question mark a arrow b stream A S R gee pee u"
    assert written(rules_file, said) == "🙂、question mark a→b streamasr GPu"
    assert written(rules_file, "stream a s r", language="German") == "streamasr"
    assert written(rules_file, "smiley comma", language="German") == "smiley comma"


def test_french_spaces_are_as_the_user_wants_them(rules_file: Path) -> None:
    rules_file.write_text('[fr.layout]\nspace_before = { "?" = "\\u202f" }\n', "utf-8")
    said = ("ça va point d'interrogation", "Oui ? Non !")
    assert written(rules_file, *said, language="French") == "ça va\u202f? Oui\u202f? Non !"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[en", "is not TOML"),
        ("en = 3", "rules.toml: en: expected a table."),
        ("[xx.say]", "rules.toml: xx: no rules have this language; known are any, de,"),
        ("[en.sai]", "rules.toml: en.sai: no such table; there are say, replace, pattern, layout."),
        ("[en]\nsay = 3", "rules.toml: en.say: expected `object`, got `int`."),
        ("[en.say]\ncomma = 3", "rules.toml: en.say.comma: expected a text, a table or false."),
        ("[en.say]\ncomma = true", "rules.toml: en.say.comma: expected a text, a table or false."),
        ("[en.say]\ncomma = {}", "rules.toml: en.say.comma: expected either `type` or `do`."),
        ("[en.say]\ncomma = {do='x'}", "rules.toml: en.say.comma.do: invalid enum value 'x'."),
        ("[en.say]\ncomma = {typ='x'}", "rules.toml: en.say.comma: object contains unknown field"),
        ('[en.say]\ncomma = "\\u001b"', "rules.toml: en.say.comma: U+001B cannot be typed."),
        ('[en.say]\n"" = "x"', "rules.toml: en.say.: expected words."),
        ("[en.replace]\na = {}", "rules.toml: en.replace.a: expected a text or false."),
        ("[[en.pattern]]\nfind='('\nwrite=''", "rules.toml: en.pattern[0]: find is no regular"),
        ("[[en.pattern]]\nfind='(a+)+'\nwrite=''", "rules.toml: en.pattern[0]: find repeats what"),
        ("[[en.pattern]]\nfind='a'\nwrite='\\1'", "rules.toml: en.pattern[0]: write cannot be"),
        ("[[en.pattern]]\nfind='a'", "rules.toml: en.pattern[0]: object missing required field"),
        ('[fr.layout]\nspace_before = { "?" = "x" }', "rules.toml: fr.layout: 'x' is no space"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(
    text: str, complaint: str, rules_file: Path
) -> None:
    rules_file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as refusal:
        load_rules(rules_file)
    sentence = str(refusal.value)
    assert complaint in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_file_that_is_missing_or_no_text_is_refused(rules_file: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_rules(rules_file)
    rules_file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_rules(rules_file)


@pytest.mark.parametrize(
    "find",
    ["(a+)+b", "(a|aa)*b", "(a?){30}a{30}", "(?:a*)*", "a*a*a*a*a*b", "(a)\\1", "a?" * 40, ".*"],
)
def test_patterns_that_could_take_for_ever_are_refused(find: str) -> None:
    with pytest.raises(ValueError, match="find"):
        check_pattern(Pattern(find=find, write="x"))


@pytest.mark.parametrize("find", ["a+b", "(?i)colou?r", "(foo|bar)s?", r"\d+(?:px)?", "x{2,4}"])
def test_ordinary_patterns_are_taken(find: str) -> None:
    check_pattern(Pattern(find=find, write="x"))


def test_the_costliest_pattern_that_is_taken_costs_little() -> None:
    pattern = Pattern(find="a*a*a*b", write="x")
    check_pattern(pattern)
    begin = time.perf_counter()
    assert pattern.written_for("a" * 100) is None
    assert pattern.written_for("a" * 101 + "b") is None
    assert time.perf_counter() - begin < 5.0
