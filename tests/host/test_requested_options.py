"""What clients ask for, what operators prefer, and what comes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from streamasr.config.sections import Settings
from streamasr.core.errors import ConfigError
from streamasr.core.options import SessionOptions
from streamasr.host.requested_options import RequestedOptions, resumed_wishes
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.protocols import v1

OPERATOR = Settings()
OPERATOR = structs.replace(
    OPERATOR,
    model=structs.replace(OPERATOR.model, language="de", context="house", hotwords=("Roof",)),
)


def resolve(asked: RequestedOptions, config: Settings = OPERATOR) -> SessionOptions:
    return asked.resolve(
        config,
        language_name=LANGUAGES.resolve,
        hotword_context=lambda context, hotwords: "|".join((context, *hotwords)),
    )


def test_what_is_left_open_is_the_operators_choice() -> None:
    assert resolve(RequestedOptions()) == SessionOptions(
        "German", "house|Roof", partials=True, words=True
    )


def test_what_a_client_asks_for_goes_first() -> None:
    asked = RequestedOptions("fr", "ship", ("Mast", "Sail"), partials=False, words=False)
    assert resolve(asked) == SessionOptions("French", "ship|Mast|Sail", partials=False, words=False)


@pytest.mark.parametrize("kind", ["partials", "words"])
def test_what_the_operator_has_switched_off_stays_off(kind: str) -> None:
    config = structs.replace(OPERATOR, live=structs.replace(OPERATOR.live, **{kind: False}))
    assert getattr(resolve(RequestedOptions(), config), kind) is False


def test_a_language_that_no_model_knows_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="'Klingon' is not known"):
        resolve(RequestedOptions("Klingon"))


def test_configure_changes_what_it_names() -> None:
    asked = RequestedOptions("fr", "ship", ("Mast",), partials=False)
    assert asked.changed(v1.Configure()) == asked
    assert asked.changed(v1.Configure(language=None, hotwords=())) == RequestedOptions(
        None, "ship", (), partials=False
    )


wishes = st.fixed_dictionaries(
    {},
    optional={
        "language": st.none() | st.sampled_from(["en", "fr"]),
        "context": st.text(max_size=3),
        "hotwords": st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple),
        "partials": st.booleans(),
        "words": st.booleans(),
    },
)


@given(wishes, wishes)
def test_coming_back_changes_what_is_asked_for_and_nothing_else(
    before: dict[str, object], given: dict[str, object]
) -> None:
    asked = RequestedOptions(**before)  # type: ignore[arg-type]
    again = asked.changed(resumed_wishes(v1.Start(session="s", **given)))  # type: ignore[arg-type]
    for name in v1.Configure.__struct_fields__:
        wish = given.get(name, getattr(v1.Start(), name))
        is_open = wish == getattr(v1.Start(), name)
        assert getattr(again, name) == (getattr(asked, name) if is_open else wish)


def test_a_restart_keeps_the_wishes() -> None:
    wishes = SessionOptions("French", "ship|Mast", partials=False, words=False)
    operator = Settings()
    assert (
        RequestedOptions.restored(wishes).resolve(
            operator, language_name=LANGUAGES.resolve, hotword_context=lambda context, _: context
        )
        == wishes
    )
