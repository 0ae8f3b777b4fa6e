"""Text -> words: as the reference divides it, and back to the text."""

import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.alignment import words as words_module
from streamasr.alignment.words import AlignableWord, split_words, text_width
from tests.support.examples import examples
from tests.support.paths import DATA

GOLDEN = json.loads((DATA / "words_golden.json").read_text("utf-8"))

TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab9' \t\n.,!?-\"“”¿(《》「」，。中文々かゃーカﾞ한½é\u0301\u200b\U00020000"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
)
LANGUAGES = st.sampled_from([None, "English", "Chinese", "Japanese", "ja", "Korean", "Klingon"])


def rebuild(words: Sequence[AlignableWord]) -> str:
    return "".join(word.display + " " * word.space_after for word in words)


def spoken(text: str, language: str | None = None) -> list[str]:
    return [word.spoken for word in split_words(text, language)]


def displays(text: str, language: str | None = None) -> list[str]:
    return [word.display for word in split_words(text, language)]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: repr(case["text"]))
def test_words_are_those_of_the_reference(case: dict[str, object]) -> None:
    assert spoken(str(case["text"])) == case["words"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", ["Hello,", "world!"]),
        ("re-run it", ["re-run", "it"]),
        ("don’t “quote” me", ["don’t", "“quote”", "me"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("他说：「好。」", ["他", "说：", "「好。」"]),
        ("看《红楼》吧", ["看", "《红", "楼》", "吧"]),
        ("用iPhone 15拍", ["用", "iPhone", "15", "拍"]),
        ("¿Qué tal? ¡Hola!", ["¿Qué", "tal?", "¡Hola!"]),
        ("Ça va ? « Oui »", ["Ça", "va ?", "« Oui »"]),
        ("yes - no", ["yes -", "no"]),
        ("costs $5, or 5€", ["costs", "$5,", "or", "5€"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    ],
)
def test_punctuation_stays_with_its_word(text: str, expected: list[str]) -> None:
    assert displays(text) == expected


@pytest.mark.parametrize("text", ["", "  \n", "...", "。！？", "♪ ♪", "-- ?"])
@pytest.mark.parametrize("language", [None, "Japanese", "Korean"])
def test_nothing_spoken_gives_no_words(text: str, language: str | None) -> None:
    assert split_words(text, language) == []


@settings(max_examples=examples(150), deadline=None)
@given(TEXTS, LANGUAGES)
def test_the_text_can_be_rebuilt(text: str, language: str | None) -> None:
    words = split_words(text, language)
    assert not words or rebuild(words) == " ".join(text.split())
    assert all(word.spoken and word.display.strip() == word.display != "" for word in words)
    assert not words or not words[-1].space_after


@settings(max_examples=examples(150), deadline=None)
@given(TEXTS)
def test_every_spoken_character_is_in_one_word(text: str) -> None:
    kept = [c for c in text if c == "'" or unicodedata.category(c)[0] in "LN"]
    assert "".join(spoken(text, "English")) == "".join(kept)
    if not words_module._nagisa():
        assert "".join(spoken(text, "Japanese")) == "".join(kept)


class TestJapanese:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        words_module._nagisa.cache_clear()
        yield
        words_module._nagisa.cache_clear()

    def test_without_nagisa_kana_and_ideographs_stand_alone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "nagisa", None)
        assert spoken("人々は東京タワーへ、きょう行った。ABC 2024年", "Japanese") == [
            *(
                "人々",
                "は",
                "東",
                "京",
                "タ",
                "ワー",
                "へ",
                "きょ",
                "う",
                "行っ",
                "た",
                "ABC",
                "2024",
                "年",
            )
        ]

    def test_words_of_nagisa_keep_the_text_as_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What nagisa 0.3.0 answers: full width becomes plain, white space is a token.
        tokens = ["ABC", "が", "好き", "\u3000", "です", "。", "「", "ガギ", "」", "2", "0", "年"]
        monkeypatch.setattr(words_module, "_nagisa", lambda: lambda text: tokens)
        text = "ＡＢＣが好き です。「ｶﾞｷﾞ」20年"
        assert displays(text, "Japanese") == [
            *("ＡＢＣ", "が", "好き", "です。", "「ｶﾞｷﾞ」", "2", "0", "年")
        ]
        assert spoken(text, "ja") == ["ABC", "が", "好き", "です", "ガギ", "2", "0", "年"]

    def test_words_that_share_a_character_are_joined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(words_module, "_nagisa", lambda: lambda text: ["株式", "会社", "A"])
        assert split_words("㍿A", "Japanese") == [
            AlignableWord("株式会社", "㍿", space_after=False),
            AlignableWord("A", "A", space_after=False),
        ]

    def test_words_that_do_not_match_the_text_are_not_used(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(words_module, "_nagisa", lambda: lambda text: ["東京"])
        assert spoken("東京へ", "Japanese") == ["東", "京", "へ"]

    def test_the_installed_nagisa_divides_a_sentence(self) -> None:
        pytest.importorskip("nagisa")
        assert displays("私は「東京タワー」へ行きました。", "Japanese") == [
            *("私", "は", "「東京", "タワー」", "へ", "行き", "まし", "た。")
        ]


class TestKorean:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        words_module._soynlp.cache_clear()
        yield
        words_module._soynlp.cache_clear()

    @pytest.fixture
    def dictionary(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "dictionary"
        path.write_text("오늘 10 x\n\n학교 10 x\n", encoding="utf-8")
        monkeypatch.setattr(words_module, "_korean_dictionary", lambda: path)
        return path

    def test_without_a_dictionary_words_are_divided_at_white_space(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(words_module, "_korean_dictionary", lambda: None)
        assert displays("오늘은, 학교에서!", "Korean") == ["오늘은,", "학교에서!"]

    def test_without_soynlp_words_are_divided_at_white_space(
        self, dictionary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "soynlp.tokenizer", None)
        assert displays("오늘은, 학교에서!", "Korean") == ["오늘은,", "학교에서!"]

    def test_the_dictionary_divides_words(
        self, dictionary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        soynlp = ModuleType("soynlp.tokenizer")
        soynlp.LTokenizer = FakeLTokenizer  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "soynlp.tokenizer", soynlp)
        words = split_words("오늘은, 학교에서!", "ko")
        assert [word.display for word in words] == ["오늘", "은,", "학교", "에서!"]
        assert [word.space_after for word in words] == [False, True, False, False]

    def test_the_installed_soynlp_divides_words(self, dictionary: Path) -> None:
        pytest.importorskip("soynlp")
        assert displays("오늘은, 학교에서!", "Korean") == ["오늘", "은,", "학교", "에서!"]


class FakeLTokenizer:
    """Takes the first two characters for a word where the dictionary has them."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def tokenize(self, text: str) -> list[str]:
        return [part for word in text.split() for part in self.divide(word)]

    def divide(self, word: str) -> list[str]:
        return [word[:2], word[2:]] if word[:2] in self.scores else [word]


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("中文，", 6), ("한", 2), ("e\u0301", 1), ("नमस्ते", 4)]
)
def test_width_counts_columns(text: str, width: int) -> None:
    assert text_width(text) == width
