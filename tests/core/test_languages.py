"""Languages by name and by tag."""

import pytest

from streamasr.core.errors import ConfigError
from streamasr.core.languages import Languages
from streamasr.models.qwen3.languages import LANGUAGES
from tests.support.errors import raises

FEW = Languages({"zh": "Chinese", "en": "English", "yue": "Cantonese", "fil": "Filipino"})


@pytest.mark.parametrize("code", LANGUAGES.names)
def test_a_language_is_found_by_code_and_by_name_in_any_case(code: str) -> None:
    name = LANGUAGES.names[code]
    for given in (code, code.upper(), name, name.lower(), name.upper(), f" {name} "):
        assert LANGUAGES.resolve(given) == name


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("en-US", "English"),
        ("en_GB", "English"),
        ("zh-Hans-CN", "Chinese"),
        ("zh-TW", "Chinese"),
        ("cmn-Hans", "Chinese"),
        ("yue-HK", "Cantonese"),
        ("zh-yue", "Cantonese"),
        ("ZH-YUE-HK", "Cantonese"),
        ("tl", "Filipino"),
    ],
)
def test_a_language_is_found_by_its_bcp_47_tag(tag: str, name: str) -> None:
    assert FEW.resolve(tag) == name


@pytest.mark.parametrize("unknown", ["", "klingon", "None", "English Chinese", "-", "US-en", "de"])
def test_an_unknown_language_is_refused_with_the_known_ones(unknown: str) -> None:
    with raises(ConfigError, "unknown_language") as caught:
        FEW.resolve(unknown)
    assert "Chinese (zh), English (en)" in str(caught.value)


def test_several_languages_are_named_once_each() -> None:
    assert FEW.resolve_all(["en", "zh-CN", "English", "cmn"]) == ("English", "Chinese")
    with raises(ConfigError, "unknown_language"):
        FEW.resolve_all(["en", "de"])
