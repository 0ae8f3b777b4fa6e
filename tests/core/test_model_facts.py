"""Facts about a model that clients may ask for."""

from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.requested_options import RequestedOptions


def test_options_without_effect_are_named_if_they_are_given() -> None:
    facts = ModelFacts("zh", "paraformer", (), frozenset({"hotwords", "context"}))
    assert facts.about_ignored(SessionOptions(language="Chinese")) is None
    assert facts.about_ignored(RequestedOptions(context="a")) == (
        "zh takes no context; what is given has no effect."
    )
    assert facts.about_ignored(SessionOptions(context="a", hotwords=("b",))) == (
        "zh takes no context and no hotwords; what is given has no effect."
    )
    assert ModelFacts("a", "b", ()).about_ignored(SessionOptions(context="a")) is None
