from streamasr.models.qwen3.languages import ALIGNER_LANGUAGES, LANGUAGES


def test_names_are_unique() -> None:
    assert len(set(LANGUAGES)) == len(LANGUAGES.names) == 30


def test_the_aligner_has_11_of_them() -> None:
    assert len(ALIGNER_LANGUAGES.names) == 11
    assert ALIGNER_LANGUAGES.names.items() <= LANGUAGES.names.items()
