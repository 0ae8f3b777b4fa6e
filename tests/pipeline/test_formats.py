"""Transcripts as files: the exact shapes, and what holds for subtitles of any transcript."""

import html
import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.alignment.spread import guess_words
from streamasr.alignment.words import text_width
from streamasr.core.errors import ConfigError
from streamasr.core.transcript import Segment, Transcript, Word, join_texts, join_words
from streamasr.core.units import Samples, to_samples
from streamasr.pipeline.formats import (
    MAX_COLUMNS,
    MAX_CUE_MS,
    MIN_CUE_MS,
    Cue,
    format_transcript,
    make_cues,
    write_whole,
)
from tests.support.errors import raises
from tests.support.examples import examples


def segment(text: str, start: float, end: float, *, number: int = 1, **rest: Any) -> Segment:
    return Segment(number, to_samples(start), to_samples(end), rest.pop("language", None), text)


def with_words(silent: Segment) -> Segment:
    return Segment(
        silent.id, silent.start, silent.end, silent.language, silent.text, guess_words(silent)
    )


def transcript(*segments: Segment, duration: float = 100.0) -> Transcript:
    return Transcript("a.wav", "tiny", to_samples(duration), segments)


def texts(*segments: Segment) -> list[str]:
    return [cue.text for cue in make_cues(transcript(*segments))]


TEXTS = st.text(
    st.sampled_from("aaaabbcd     ,.?!-'\"(<&>)\n中文字，。「」ー한é"), min_size=0, max_size=120
)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Ordered, disjoint segments, with and without words."""
    segments, position = [], 0
    for number, text in enumerate(draw(st.lists(TEXTS, max_size=3)), 1):
        start = position + draw(st.integers(0, 20_000))
        position = start + draw(st.integers(2000, 400_000))
        one = Segment(number, Samples(start), Samples(position), None, text)
        segments.append(with_words(one) if draw(st.booleans()) else one)
    return Transcript("f", "m", Samples(position), tuple(segments))


def all_words(of: Transcript) -> list[Word]:
    return [word for one in of.segments for word in one.words or guess_words(one)]


class TestTranscript:
    @pytest.mark.parametrize(
        ("parts", "joined"),
        [
            ([], ""),
            (["one", "two"], "one two"),
            (["你好。", "世界"], "你好。世界"),
            (["你好", "hello", "世界"], "你好 hello 世界"),
            (["零", "一", "二"], "零一二"),
            (["カナ", "かな"], "カナかな"),
            (["안녕", "하세요"], "안녕 하세요"),
            ([" a \n b", "", "  ", "c"], "a b c"),
        ],
    )
    def test_texts_are_joined_by_a_space_except_between_cjk(
        self, parts: list[str], joined: str
    ) -> None:
        assert join_texts(parts) == joined

    def test_language_is_that_of_most_speech(self) -> None:
        english = segment("a", 0, 2, language="English")
        chinese = segment("零", 3, 6, language="Chinese")
        silence = segment("", 7, 90)
        assert transcript(english, chinese, silence).language == "Chinese"
        assert transcript(chinese, english, segment("b", 9, 10, language="English")).language == (
            "Chinese"
        )
        assert transcript(silence).language is None
        assert transcript().language is None

    @settings(max_examples=examples(60), deadline=None)
    @given(TEXTS)
    def test_words_give_the_text_again(self, text: str) -> None:
        words = guess_words(segment(text, 1, 9))
        assert not words or join_words(words) == " ".join(text.split())

    def test_guessed_words_have_no_score_and_fill_the_segment(self) -> None:
        words = guess_words(segment("yes, no", 1, 2))
        assert [(word.text, word.start, word.end, word.confidence) for word in words] == [
            ("yes,", 16_000, 25_600, None),
            ("no", 25_600, 32_000, None),
        ]


class TestText:
    def test_one_line_per_segment(self) -> None:
        given = transcript(segment("one\n two", 0, 1), segment(" ", 2, 3), segment("零一", 4, 5))
        assert format_transcript(given, "txt") == "one two\n零一\n"

    def test_nothing_said_gives_an_empty_file(self) -> None:
        assert format_transcript(transcript(), "txt") == ""

    def test_unknown_format_is_refused(self) -> None:
        with raises(ConfigError, "unknown_format"):
            format_transcript(transcript(), "doc")


def test_json_has_exactly_the_documented_fields() -> None:
    words = (
        Word("零，", Samples(16_001), Samples(20_000), 0.98765, space_after=False),
        Word("一", Samples(20_000), Samples(24_005), None),
    )
    one = Segment(1, Samples(16_000), Samples(32_000), "Chinese", "零，一", words)
    written = format_transcript(transcript(one, segment("<a>", 3, 4, number=2)), "json")
    assert json.loads(written) == {
        "file": "a.wav",
        "model": "tiny",
        "language": "Chinese",
        "duration": 100.0,
        "text": "零，一 <a>",
        "segments": [
            {
                "id": 1,
                "start": 1.0,
                "end": 2.0,
                "language": "Chinese",
                "text": "零，一",
                "words": [
                    {"text": "零，", "start": 1.0, "end": 1.25, "score": 0.988},
                    {"text": "一", "start": 1.25, "end": 1.5, "score": None},
                ],
            },
            {"id": 2, "start": 3.0, "end": 4.0, "language": None, "text": "<a>", "words": []},
        ],
    }
    assert list(json.loads(written)) == [
        "file",
        "model",
        "language",
        "duration",
        "text",
        "segments",
    ]
    assert written.startswith('{\n  "file": "a.wav",\n')
    assert '"零，一"' in written
    assert written.endswith("}\n")


class TestSubtitles:
    def test_srt_looks_like_this(self) -> None:
        given = transcript(segment("One. Two --> <i>", 1, 3), segment("零一二", 3661.5, 3662.5))
        assert format_transcript(given, "srt") == (
            "1\n00:00:01,000 --> 00:00:01,857\nOne.\n\n"
            "2\n00:00:01,857 --> 00:00:03,000\nTwo → <i>\n\n"
            "3\n01:01:01,500 --> 01:01:02,500\n零一二\n\n"
        )

    def test_vtt_looks_like_this(self) -> None:
        given = transcript(segment('A & "b" --> <i>', 1, 3))
        assert format_transcript(given, "vtt") == (
            'WEBVTT\n\n00:00:01.000 --> 00:00:03.000\nA &amp; "b" --&gt; &lt;i&gt;\n\n'
        )

    def test_nothing_said_gives_no_cues(self) -> None:
        silence = segment("", 0, 1), segment("...", 2, 3)
        assert format_transcript(transcript(*silence), "srt") == ""
        assert format_transcript(transcript(*silence), "vtt") == "WEBVTT\n\n"

    @pytest.mark.parametrize(
        ("text", "lines"),
        [
            ("Hello there. How are you? Fine!", ["Hello there.", "How are you?", "Fine!"]),
            ('He said "no." And left.', ['He said "no."', "And left."]),
            ("It costs 3.14 or 1,000 at most.", ["It costs 3.14 or 1,000 at most."]),
            ("你好。今天天气很好！", ["你好。", "今天天气很好！"]),
            (
                "when the sun goes down, we walk along the river home",
                ["when the sun goes down,", "we walk along the river home"],
            ),
            (
                "one two three four five six seven eight nine ten eleven twelve",
                ["one two three four five six", "seven eight nine ten eleven twelve"],
            ),
            ("中" * 30, ["中" * 15, "中" * 15]),
            ("a" * 60, ["a" * 60]),
        ],
    )
    def test_lines_end_where_the_reader_pauses(self, text: str, lines: list[str]) -> None:
        assert texts(segment(text, 0, 6)) == lines

    def test_long_speech_of_few_words_is_divided_by_time(self) -> None:
        cues = make_cues(transcript(segment("one two three four", 0, 20)))
        assert len(cues) > 2
        assert all(cue.end - cue.start <= MAX_CUE_MS for cue in cues)

    def test_a_short_cue_stays_until_it_is_read_or_the_next_comes(self) -> None:
        given = transcript(segment("yes.", 1, 1.2), segment("no.", 1.7, 1.9), duration=10)
        assert make_cues(given) == [Cue(1000, 1700, "yes."), Cue(1700, 1700 + MIN_CUE_MS, "no.")]

    def test_sentences_too_quick_to_see_share_a_line(self) -> None:
        assert texts(segment("No. Yes. Maybe another time.", 0, 3)) == [
            "No. Yes.",
            "Maybe another time.",
        ]

    @settings(max_examples=examples(60), deadline=None)
    @given(transcripts())
    def test_cues_are_ordered_disjoint_and_not_too_long(self, given: Transcript) -> None:
        cues = make_cues(given)
        assert all(0 < cue.end - cue.start <= MAX_CUE_MS for cue in cues)
        assert all(a.end <= b.start for a, b in pairwise(cues))

    @settings(max_examples=examples(60), deadline=None)
    @given(transcripts())
    def test_every_word_is_in_exactly_one_line(self, given: Transcript) -> None:
        cues = make_cues(given)
        shown = "".join(cue.text.replace(" ", "") for cue in cues)
        assert shown == "".join(word.text.replace(" ", "") for word in all_words(given))
        ends, position = set(), 0
        for word in all_words(given):
            position += len(word.text.replace(" ", ""))
            ends.add(position)
        position = 0
        for cue in cues:
            position += len(cue.text.replace(" ", ""))
            assert position in ends

    @settings(max_examples=examples(60), deadline=None)
    @given(transcripts())
    def test_lines_fit_unless_one_word_does_not(self, given: Transcript) -> None:
        words = {word.text for word in all_words(given)}
        for cue in make_cues(given):
            assert cue.text.strip() == cue.text != ""
            assert text_width(cue.text) <= MAX_COLUMNS or cue.text in words

    @settings(max_examples=examples(60), deadline=None)
    @given(transcripts())
    def test_words_are_shown_when_they_are_spoken(self, given: Transcript) -> None:
        """A cue begins with its first word, and a word begins before its cue has gone."""
        starts = {word.start * 1000 / 16_000 for word in all_words(given)}
        for cue in make_cues(given):
            assert min(abs(start - cue.start) for start in starts) <= 1

    @settings(max_examples=examples(60), deadline=None)
    @given(transcripts())
    def test_files_can_be_read_again(self, given: Transcript) -> None:
        cues = make_cues(given)
        vtt = format_transcript(given, "vtt")
        assert [cue.text for cue in read_cues(vtt.removeprefix("WEBVTT\n\n"))] == [
            cue.text for cue in cues
        ]
        srt = format_transcript(given, "srt")
        assert srt.count("-->") == len(cues)
        numbers = re.findall(r"^(\d+)\n\d\d:", srt, re.MULTILINE)
        assert numbers == [str(n) for n in range(1, len(cues) + 1)]


def read_cues(vtt: str) -> list[Cue]:
    """A small WebVTT reader: blocks between empty lines."""
    found = []
    for block in vtt.split("\n\n")[:-1]:
        times, text = block.split("\n")
        start, end = (read_clock(clock) for clock in times.split(" --> "))
        found.append(Cue(start, end, html.unescape(text)))
    return found


def read_clock(clock: str) -> int:
    hours, minutes, seconds = clock.split(":")
    return round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1000)


class TestWriteWhole:
    def test_replaces_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 250 + ".txt")
        path.write_text("old and longer", encoding="utf-8")
        write_whole(path, "零\n")
        assert path.read_bytes() == "零\n".encode()
        assert list(tmp_path.iterdir()) == [path]

    def test_has_the_usual_permissions(self, tmp_path: Path) -> None:
        (tmp_path / "usual").touch()
        write_whole(tmp_path / "ours", "")
        assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode

    @pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
    def test_leaves_nothing_behind_when_it_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
    ) -> None:
        def fail(_: int) -> None:
            raise failure

        path = tmp_path / "out.txt"
        path.write_text("old", encoding="utf-8")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(type(failure)):
            write_whole(path, "new")
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_text(encoding="utf-8") == "old"

    def test_a_missing_directory_is_the_systems_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write_whole(tmp_path / "no" / "out.txt", "")
