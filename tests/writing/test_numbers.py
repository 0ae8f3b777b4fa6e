"""Tests of numbers in digits: numbers, text that only looks like one, and the times of words."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.alignment import split_words
from streamasr.core.transcript import Segment, Word, join_words
from streamasr.core.units import Samples
from streamasr.writing.numbers import (
    normalise_segment,
    normalise_text,
    normalise_words,
    settled_length,
)
from tests.support.examples import examples

CHINESE = {
    "二零二四年三月十五日": "2024年3月15日",
    "十二点零五分": "12:05",
    "三点十五分二十秒": "03:15:20",
    "百分之七十五点五": "75.5%",
    "四分之三": "3/4",
    "三比二": "3:2",
    "一千二百三十四": "1234",
    "两万五千块": "25000块",
    "一百二": "120",
    "三点一四": "3.14",
    "零零七": "007",
    "四五百人": "400~500人",
    "二十七八个": "27~28个",
    "二十五克": "25g",
    "六十千米每小时": "60km/h",
    "负十五": "负15",
    "十亿": "10亿",
    "三百零五万": "305万",
    "我的电话是幺三八零零一三八零零零": "我的电话是13800138000",
    "今年二十三岁": "今年23岁",
    "三十八度五": "38度5",
    "五百二十一块三毛": "521块3毛",
    "一万零三百": "10300",
    "三千五百万人": "3500万人",
    "一亿两千万": "1亿2000万",
    "一九九八年": "1998年",
    "九八年": "98年",
    "两千零八年": "2008年",
    "二〇二五年十二月": "2025年12月",
    "一点五倍": "1.5倍",
    "三分之二的人": "2/3的人",
    "百分之百": "100%",
    "千分之三": "3‰",
    "星期二二十点": "星期二20点",
    "下午三点二十": "下午3:20",
    "十月一日到十月七日": "10月1日到10月7日",
    "八九十岁": "80~90岁",
    "两三千人": "2000~3000人",
    "第二十一届": "第21届",
    "二十五克拉": "25克拉",
    "两千克": "2kg",
    "一百二十三点四五": "123.45",
}

TRADITIONAL = {
    "二零二四年三月十五號": "2024年3月15號",
    "三點十五分二十秒": "03:15:20",
    "兩萬五千塊": "25000塊",
    "三百零五萬": "305萬",
    "一億兩千萬": "1億2000萬",
    "三點一四": "3.14",
    "五百二十一塊三毛": "521塊3毛",
    "兩三千個人": "2000~3000個人",
    "六十千米每小時": "60km/h",
    "下午三點二十": "下午3:20",
    "二十三歲": "23歲",
}

TRADITIONAL_UNCHANGED = [
    *["幾十個人", "七八個", "好幾百", "數十萬人", "三三兩兩", "三十六計", "十八層地獄"],
    *["禮拜三", "週二", "兩點", "十萬火急", "八點整", "一點兒也不", "臘月二十三"],
]

CHINESE_UNCHANGED = [
    *["几十个人", "乱七八糟", "一个", "一下", "第三", "七八个", "十几个人", "好几百"],
    *["数十万人", "几千万", "三五个人", "两个人", "一两个", "一心一意", "三心二意"],
    *["五颜六色", "十全十美", "千万不要忘记", "万一下雨", "一起去吧", "第一次见面"],
    *["下午三点开会", "八点一起吃饭", "三点一直", "差一点", "一点儿也不", "二话不说"],
    *["十有八九", "七上八下", "百分百", "说一不二", "成千上万", "千里之行始于足下"],
    *["一一对应", "八点整", "七七八八", "三三两两", "不管三七二十一", "九九八十一难"],
    *["三十六计", "五十步笑百步", "二百五", "一千零一夜", "一五一十", "一二三木头人"],
    *["正月十五", "星期三", "周二", "三比二大", "一年三个月", "十万火急", "百万富翁"],
    *["两点", "三月", "五四运动", "十一长假", "三点五分", "六一儿童节"],
]

ENGLISH = {
    "twenty three percent": "23%",
    "Twenty-three per cent of them": "23% of them",
    "five percent": "5%",
    "ninety nine point nine percent": "99.9%",
    "one hundred and twenty three": "123",
    "a hundred and twenty men": "120 men",
    "one thousand two hundred thirty four": "1234",
    "two million people": "2 million people",
    "two point five million dollars": "$2.5 million",
    "two thousand twenty four": "2024",
    "twenty twenty four": "2024",
    "in nineteen eighty four.": "in 1984.",
    "nineteen oh five": "1905",
    "March fifteenth, twenty twenty four": "March 15th, 2024",
    "March third twenty ten": "March 3rd 2010",
    "the twenty-first century": "the 21st century",
    "five dollars and fifty cents": "$5.50",
    "twenty five dollars.": "$25.",
    "three thirty pm": "3:30 pm",
    "at three oh five p.m. sharp": "at 3:05 p.m. sharp",
    "eleven a.m.": "11 a.m.",
    "three point one four": "3.14",
    "it was minus ten degrees": "it was -10 degrees",
    "call five five five one two three four": "call 5551234",
    "zero zero seven": "007",
    "thirty two point five kilometers": "32.5 kilometers",
    "Twenty-three people came.": "23 people came.",
    "it costs forty two.": "it costs 42.",
    "twenty, thirty": "20, 30",
}

ENGLISH_UNCHANGED = (
    "one of them",
    "no one knows",
    "I have two dogs",
    "I'll be there in a second",
    "a twenty second delay",
    "on the one hand",
    "first of all",
    "he came second",
    "a hundred people",
    "hundreds of thousands",
    "one or two",
    "four five six seven",
    "one, two, three",
    "half past three",
    "a quarter past ten",
    "in the nineteen eighties",
    "two thirds",
    "three and a half",
    "seven eleven",
    "twenty twenty vision",
    "the sixties",
    "oh no",
    "to the nth degree",
    "minus five",
)


@pytest.mark.parametrize(("said", "written"), CHINESE.items())
def test_chinese_numerals_are_written_in_digits(said: str, written: str) -> None:
    assert normalise_text(said, "Chinese") == written
    assert normalise_text(f"他说，{said}。", "zh") == f"他说，{written}。"


@pytest.mark.parametrize("said", CHINESE_UNCHANGED)
def test_chinese_that_only_looks_like_a_number_stays(said: str) -> None:
    assert normalise_text(said, "Chinese") == said
    assert normalise_text(f"是{said}。", "Chinese") == f"是{said}。"


@pytest.mark.parametrize(("said", "written"), TRADITIONAL.items())
def test_traditional_characters_are_read_and_kept(said: str, written: str) -> None:
    assert normalise_text(said, "Chinese") == written
    assert normalise_text(f"他說，{said}。", "zh") == f"他說，{written}。"


@pytest.mark.parametrize("said", TRADITIONAL_UNCHANGED)
def test_traditional_characters_that_only_look_like_a_number_stay(said: str) -> None:
    assert normalise_text(said, "Chinese") == said


@pytest.mark.parametrize(("said", "written"), ENGLISH.items())
def test_english_numbers_are_written_in_digits(said: str, written: str) -> None:
    assert normalise_text(said, "English") == written


@pytest.mark.parametrize("said", ENGLISH_UNCHANGED)
def test_english_that_only_looks_like_a_number_stays(said: str) -> None:
    assert normalise_text(said, "English") == said


@pytest.mark.parametrize("language", ["German", "Japanese", None, "Klingon", ""])
def test_other_languages_stay_as_they_are(language: str | None) -> None:
    text = "twenty three 二零二四年"
    assert normalise_text(text, language) == text


NUMERALS = (
    "零〇一二两三四五六七八九十百千万亿幺几点分之比负年月日号秒第个克米度块毛周 01"
    "23.,~:%g人数上午下萬億兩點幾號塊"
)
CHINESE_TEXTS = st.text(st.sampled_from(NUMERALS), max_size=24)
ENGLISH_WORDS = [
    *["one", "two", "three", "five", "ten", "twelve", "twenty", "thirty", "ninety"],
    *["hundred", "thousand", "million", "billion", "and", "a", "an", "oh", "point"],
    *["percent", "per", "cent", "dollars", "cents", "euros", "am", "p.m.", "minus"],
    *["negative", "first", "second", "third", "twenty-first", "fifteenth", "twentieth"],
    *["thirds", "March", "May", "of", "the", ",", ".", "-", "5", "23", "1984", "zero"],
    *["nineteen", "sixty", "half", "people", "vision", "twenty-three", "hundredth"],
]
ENGLISH_TEXTS = st.lists(st.sampled_from(ENGLISH_WORDS), max_size=16).map(" ".join)
TEXTS = st.one_of(
    st.tuples(CHINESE_TEXTS, st.just("Chinese")),
    st.tuples(ENGLISH_TEXTS, st.just("English")),
    st.tuples(st.text(max_size=40), st.sampled_from(["Chinese", "English"])),
)


@settings(max_examples=examples(500), deadline=None)
@given(TEXTS)
def test_a_second_normalisation_changes_nothing(case: tuple[str, str]) -> None:
    text, language = case
    once = normalise_text(text, language)
    assert normalise_text(once, language) == once


@settings(max_examples=examples(200), deadline=None)
@given(TEXTS)
def test_a_text_grows_little(case: tuple[str, str]) -> None:
    text, language = case
    assert len(normalise_text(text, language)) <= 4 * len(text) + 8


@settings(max_examples=examples(100), deadline=None)
@given(st.text(st.characters(exclude_characters=NUMERALS), max_size=60))
def test_text_without_numerals_stays(text: str) -> None:
    assert normalise_text(text, "Chinese") == text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("三" * 30_000, "zh"),
        ("一百" * 5_000, "zh"),
        ("三比" * 5_000, "zh"),
        ("三点" * 5_000, "zh"),
        ("二十一，" * 5_000, "zh"),
        ("twenty " * 2_500, "en"),
        ("five million " * 1_500, "en"),
        ("oh " * 5_000, "en"),
    ],
)
def test_a_long_row_of_numerals_takes_little_time(text: str, language: str) -> None:
    assert len(normalise_text(text, language)) <= 4 * len(text)


def timed(text: str, language: str) -> tuple[Word, ...]:
    """Make words of a tenth of a second each."""
    return tuple(
        Word(word.display, Samples(1600 * n), Samples(1600 * n + 1500), 0.9, word.space_after)
        for n, word in enumerate(split_words(text, language))
    )


def test_a_number_spans_the_times_of_its_words() -> None:
    words = normalise_words(timed("About twenty three percent, yes.", "English"), "English")
    assert [word.text for word in words] == ["About", "23%,", "yes."]
    assert (words[1].start, words[1].end, words[1].confidence) == (1600, 3 * 1600 + 1500, 0.9)


def test_chinese_characters_become_one_word_of_the_number() -> None:
    words = normalise_words(timed("我二零二四年三月去，好。", "Chinese"), "Chinese")
    assert [word.text for word in words] == ["我", "2024年3月", "去，", "好。"]
    assert (words[1].start, words[1].end) == (1600, 7 * 1600 + 1500)


@settings(max_examples=examples(300), deadline=None)
@given(TEXTS)
def test_words_and_text_are_normalised_alike(case: tuple[str, str]) -> None:
    text, language = case
    words = timed(text, language)
    end = Samples(1600 * len(words))
    before = Segment(1, Samples(0), end, language, text, words)
    after = normalise_segment(before)
    assert not words or after.text == join_words(after.words)
    assert normalise_segment(after) == after
    assert bool(after.words) == bool(words)
    if words:
        assert (after.words[0].start, after.words[-1].end) == (words[0].start, words[-1].end)
    assert all(a.end <= b.start for a, b in pairwise(after.words))
    assert {word.start for word in after.words} <= {word.start for word in words}


def test_words_that_do_not_match_the_text_are_normalised_separately() -> None:
    words = timed("twenty three", "English")
    segment = Segment(1, Samples(0), Samples(9), "English", "it is forty two", words)
    after = normalise_segment(segment)
    assert (after.text, [word.text for word in after.words]) == ("it is 42", ["23"])


@settings(max_examples=examples(500), deadline=None)
@given(TEXTS, st.integers(0, 100))
def test_the_settled_prefix_stays_when_the_text_grows(case: tuple[str, str], cut: int) -> None:
    text, language = case
    settled = settled_length(text[:cut], language)
    whole = normalise_text(text, language)
    assert whole.startswith(normalise_text(text[:settled], language))


@pytest.mark.parametrize(
    ("text", "settled"),
    [("I have twenty ", "I have "), ("twenty people ", "twenty people "), ("so i", "so ")],
)
def test_a_number_waits_for_a_word_that_is_not_part_of_it(text: str, settled: str) -> None:
    assert text[: settled_length(text, "English")] == settled
