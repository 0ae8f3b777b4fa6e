"""Tests of the rules of the package, and of those that a user adds, replaces or removes."""

import time
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError
from streamasr.writing import Writer, load_rules
from streamasr.writing.patterns import Pattern, check_pattern
from streamasr.writing.rules import language_code
from tests.support.errors import raises

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
def test_every_language_has_commands_for_lines_and_for_deletion(code: str) -> None:
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


def test_a_user_can_set_the_spaces_of_french(rules_file: Path) -> None:
    rules_file.write_text('[fr.layout]\nspace_before = { "?" = "\\u202f" }\n', "utf-8")
    said = ("ça va point d'interrogation", "Oui ? Non !")
    assert written(rules_file, *said, language="French") == "ça va\u202f? Oui\u202f? Non !"


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("[en", "file_not_toml", "is not TOML"),
        ("en = 3", "rule_invalid", "rules.toml: en: expected a table."),
        (
            "[xx.say]",
            "rule_language_unknown",
            "rules.toml: xx: unknown language; choose one of any, de,",
        ),
        (
            "[en.sai]",
            "rule_invalid",
            "rules.toml: en.sai: unknown table; choose one of say, replace, pattern, layout.",
        ),
        ("[en]\nsay = 3", "rule_invalid", "rules.toml: en.say: expected `object`, got `int`."),
        (
            "[en.say]\ncomma = 3",
            "rule_invalid",
            "rules.toml: en.say.comma: expected a text, a table or false.",
        ),
        (
            "[en.say]\ncomma = true",
            "rule_invalid",
            "rules.toml: en.say.comma: expected a text, a table or false.",
        ),
        (
            "[en.say]\ncomma = {}",
            "rule_invalid",
            "rules.toml: en.say.comma: expected either `type` or `do`.",
        ),
        (
            "[en.say]\ncomma = {do='x'}",
            "rule_invalid",
            "rules.toml: en.say.comma.do: invalid enum value 'x'.",
        ),
        (
            "[en.say]\ncomma = {typ='x'}",
            "rule_invalid",
            "rules.toml: en.say.comma: object contains unknown field",
        ),
        (
            '[en.say]\ncomma = "\\u001b"',
            "rule_invalid",
            "rules.toml: en.say.comma: U+001B cannot be typed; remove",
        ),
        ('[en.say]\n"" = "x"', "rule_invalid", "rules.toml: en.say.: expected words."),
        (
            "[en.replace]\na = {}",
            "rule_invalid",
            "rules.toml: en.replace.a: expected a text or false.",
        ),
        (
            "[[en.pattern]]\nfind='('\nwrite=''",
            "rule_invalid",
            "rules.toml: en.pattern[0]: `find` is not a valid",
        ),
        (
            "[[en.pattern]]\nfind='(a+)+'\nwrite=''",
            "rule_invalid",
            "rules.toml: en.pattern[0]: `find` repeats an",
        ),
        (
            "[[en.pattern]]\nfind='a'\nwrite='\\1'",
            "rule_invalid",
            "rules.toml: en.pattern[0]: `write` refers to",
        ),
        (
            "[[en.pattern]]\nfind='a'",
            "rule_invalid",
            "rules.toml: en.pattern[0]: object missing required field",
        ),
        (
            '[fr.layout]\nspace_before = { "?" = "x" }',
            "rule_invalid",
            "rules.toml: fr.layout: 'x' is not a space",
        ),
    ],
)
def test_an_invalid_rule_is_refused_with_its_place(
    text: str, code: str, reason: str, rules_file: Path
) -> None:
    rules_file.write_text(text, "utf-8")
    with raises(ConfigError, code) as refusal:
        load_rules(rules_file)
    sentence = str(refusal.value)
    assert reason in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_file_that_is_missing_or_not_text_is_refused(rules_file: Path) -> None:
    with raises(ConfigError, "no_such_file"):
        load_rules(rules_file)
    rules_file.write_bytes(b"\xff")
    with raises(ConfigError, "file_not_utf8"):
        load_rules(rules_file)


@pytest.mark.parametrize(
    "find",
    ["(a+)+b", "(a|aa)*b", "(a?){30}a{30}", "(?:a*)*", "a*a*a*a*a*b", "(a)\\1", "a?" * 40, ".*"],
)
def test_patterns_that_could_take_too_long_are_refused(find: str) -> None:
    with pytest.raises(ValueError, match="find"):
        check_pattern(Pattern(find=find, write="x"))


@pytest.mark.parametrize("find", ["a+b", "(?i)colou?r", "(foo|bar)s?", r"\d+(?:px)?", "x{2,4}"])
def test_ordinary_patterns_are_accepted(find: str) -> None:
    check_pattern(Pattern(find=find, write="x"))


def test_the_costliest_accepted_pattern_takes_little_time() -> None:
    pattern = Pattern(find="a*a*a*b", write="x")
    check_pattern(pattern)
    begin = time.perf_counter()
    assert pattern.expand("a" * 100) is None
    assert pattern.expand("a" * 101 + "b") is None
    assert time.perf_counter() - begin < 5.0
