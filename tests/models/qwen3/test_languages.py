import pytest

from streamasr.core.errors import ConfigError
from streamasr.models.qwen3.languages import LANGUAGES, language_name


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_is_found_by_code_and_by_name_in_any_case(code: str) -> None:
    name = LANGUAGES[code]
    for given in (code, code.upper(), name, name.lower(), name.upper(), f" {name} "):
        assert language_name(given) == name


def test_names_are_unique() -> None:
    assert len(set(LANGUAGES.values())) == len(LANGUAGES) == 30


@pytest.mark.parametrize("unknown", ["", "klingon", "en-US", "None", "English Chinese"])
def test_an_unknown_language_is_refused_with_the_known_ones(unknown: str) -> None:
    with pytest.raises(ConfigError, match=r"choose one of: Chinese \(zh\), English \(en\)"):
        language_name(unknown)
