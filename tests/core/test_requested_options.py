"""The options of a session, from those of its client and those of the operator."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import ConfigError
from streamasr.core.options import SessionOptions
from streamasr.core.requested_options import OperatorDefaults, OptionsChange, RequestedOptions
from tests.support.errors import raises

NAMES = {"de": "German", "en": "English", "fr": "French", "zh": "Chinese"}
OPERATOR = OperatorDefaults(language="de", context="house", hotwords=("Roof",))


def language_name(name_or_code: str) -> str:
    if name_or_code in NAMES.values():
        return name_or_code
    if name_or_code not in NAMES:
        raise ConfigError(f"{name_or_code!r} is not known", code="unknown_language")
    return NAMES[name_or_code]


def resolve(
    requested: RequestedOptions, operator: OperatorDefaults | None = None
) -> SessionOptions:
    return requested.resolve(operator or OperatorDefaults(), language_name)


def test_the_operator_decides_what_a_client_leaves_open() -> None:
    expected = SessionOptions(language="German", context="house", hotwords=("Roof",))
    assert resolve(RequestedOptions(), OPERATOR) == expected


def test_the_client_decides_before_the_operator() -> None:
    requested = RequestedOptions(
        language="fr", context="ship", hotwords=("Mast", "Sail"), partials=False, words=False
    )
    assert resolve(requested, OPERATOR) == SessionOptions(
        language="French", context="ship", hotwords=("Mast", "Sail"), partials=False, words=False
    )


def test_every_option_of_a_session_can_be_requested() -> None:
    names = {field.name for field in fields(SessionOptions)}
    assert {field.name for field in fields(RequestedOptions)} == names
    assert set(OptionsChange.__annotations__) == names


@pytest.mark.parametrize("kind", ["partials", "words"])
def test_what_the_operator_has_switched_off_stays_off(kind: str) -> None:
    operator = OperatorDefaults(**{kind: False})  # type: ignore[arg-type]
    assert getattr(resolve(RequestedOptions(), operator), kind) is False


@pytest.mark.parametrize(
    "requested", [RequestedOptions(language="tlh"), RequestedOptions(languages=("en", "tlh"))]
)
def test_an_unknown_language_is_refused(requested: RequestedOptions) -> None:
    with raises(ConfigError, "unknown_language"):
        resolve(requested)


def test_allowed_languages_are_named_as_the_model_names_them() -> None:
    requested = RequestedOptions(languages=("en", "Chinese", "English"))
    assert resolve(requested) == SessionOptions(languages=("English", "Chinese"))


def test_one_allowed_language_is_forced() -> None:
    options = resolve(RequestedOptions(languages=("zh",)))
    assert options == SessionOptions(language="Chinese", languages=("Chinese",))


def test_a_language_that_is_not_among_the_allowed_ones_is_refused() -> None:
    with raises(ConfigError, "language_not_allowed") as caught:
        resolve(RequestedOptions(language="fr", languages=("en", "zh")))
    assert "French" in str(caught.value)
    assert "English, Chinese" in str(caught.value)


@pytest.mark.parametrize(
    ("requested", "language", "languages"),
    [
        (RequestedOptions(), None, ("English", "German")),
        (RequestedOptions(language="fr"), "French", ()),
        (RequestedOptions(languages=("fr", "zh")), None, ("French", "Chinese")),
    ],
)
def test_languages_of_the_operator_and_of_a_client_are_not_mixed(
    requested: RequestedOptions, language: str | None, languages: tuple[str, ...]
) -> None:
    options = resolve(requested, OperatorDefaults(languages=("en", "de")))
    assert (options.language, options.languages) == (language, languages)


def test_a_change_touches_only_the_options_that_it_names() -> None:
    requested = RequestedOptions(language="fr", context="ship", hotwords=("Mast",), partials=False)
    assert requested.changed({}) == requested
    assert requested.changed({"language": None, "hotwords": ()}) == RequestedOptions(
        context="ship", partials=False
    )


@given(
    st.builds(
        SessionOptions,
        language=st.none() | st.sampled_from(list(NAMES.values())),
        context=st.text(max_size=3),
        hotwords=st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple),
        channel=st.none() | st.integers(0, 7),
        partials=st.booleans(),
        words=st.booleans(),
        endpoint_ms=st.none() | st.integers(0, 5000),
        endpoint_by_client=st.booleans(),
        onset_padding_ms=st.none() | st.integers(0, 500),
        itn=st.booleans(),
        punctuation=st.booleans(),
    )
)
def test_a_restart_keeps_the_options(options: SessionOptions) -> None:
    assert resolve(RequestedOptions.restored(options)) == options


@pytest.mark.parametrize("languages", [("en",), ("en", "zh")])
def test_a_restart_keeps_the_allowed_languages(languages: tuple[str, ...]) -> None:
    options = resolve(RequestedOptions(languages=languages))
    restored = RequestedOptions.restored(options)
    assert resolve(restored) == options
    other = resolve(restored.changed({"languages": ("de", "fr")}))
    assert (other.language, other.languages) == (None, ("German", "French"))
