"""Formats of a transcript: plain text, JSON, and the two kinds of subtitles.

    txt   one line per segment
    json  everything, seconds with three decimals
    srt   SubRip subtitles
    vtt   WebVTT subtitles

A subtitle (cue) is one line that fits the screen and stays long enough to be read. Lines end
with sentences, unless these are too quick to see. A sentence that is too long is divided where
its parts come out about equally wide, rather after a comma than elsewhere, and never inside a
word.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from typing import Final

from streamasr.alignment.spread import guess_words
from streamasr.alignment.words import text_width
from streamasr.core.errors import ConfigError, OutputError
from streamasr.core.transcript import Segment, Transcript, Word, join_words, seconds
from streamasr.core.units import SAMPLE_RATE

MAX_COLUMNS: Final = 42
"""Width of a subtitle line, as television uses; an ideograph takes two columns."""
MAX_CUE_MS: Final = 7000
MIN_CUE_MS: Final = 1000
"""Shortest time that a cue stays, where the next one leaves it the time."""

_MIN_SENTENCE_MS: Final = 500
"""A sentence that is shown for less than this shares its line with the next one."""

_COMMA_WORTH: Final = 12
"""Columns of imbalance that are accepted so that a line ends at a comma."""

_CLOSING: Final = "[\"'\u2019\u201d»)\\]）」』】》]*$"
_SENTENCE_END: Final = re.compile("[.!?…。！？؟।]" + _CLOSING)
_CLAUSE_END: Final = re.compile("[,;:，、；：،—.!?…。！？؟।]" + _CLOSING)


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle; times in milliseconds."""

    start: int
    end: int
    text: str


def format_transcript(transcript: Transcript, fmt: str) -> str:
    """Return a transcript in one of the `FORMATS`.

    Returns:
        The whole file, ending in a line feed, or nothing at all.

    Raises:
        ConfigError: the format is unknown.
    """
    if fmt not in FORMATS:
        raise ConfigError(
            f"unknown format {fmt!r}; choose one of: {', '.join(FORMATS)}.", code="unknown_format"
        )
    return FORMATS[fmt](transcript)


def _txt(transcript: Transcript) -> str:
    lines = [" ".join(segment.text.split()) for segment in transcript.segments]
    return "".join(f"{line}\n" for line in lines if line)


def _json(transcript: Transcript) -> str:
    document = {
        "file": transcript.file,
        "model": transcript.model,
        "language": transcript.language,
        "duration": seconds(transcript.duration),
        "text": transcript.text,
        "segments": [_json_segment(segment) for segment in transcript.segments],
    }
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def _json_segment(segment: Segment) -> dict[str, object]:
    return {
        "id": segment.id,
        "start": seconds(segment.start),
        "end": seconds(segment.end),
        "language": segment.language,
        "text": segment.text,
        "words": [_json_word(word) for word in segment.words],
    }


def _json_word(word: Word) -> dict[str, object]:
    return {
        "text": word.text,
        "start": seconds(word.start),
        "end": seconds(word.end),
        "score": None if word.confidence is None else round(word.confidence, 3),
    }


def _srt(transcript: Transcript) -> str:
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_plain(cue.text)}\n\n"
        for number, cue in enumerate(make_cues(transcript), 1)
    )


def _vtt(transcript: Transcript) -> str:
    cues = "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{escape(cue.text, quote=False)}\n\n"
        for cue in make_cues(transcript)
    )
    return f"WEBVTT\n\n{cues}"


FORMATS: Final[dict[str, Callable[[Transcript], str]]] = {
    "txt": _txt,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
}


def _plain(text: str) -> str:
    """Replace arrows: SubRip has no escapes, and one in the text would read as a line of times."""
    return text.replace("-->", "→")


def _clock(ms: int, point: str) -> str:
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"


def make_cues(transcript: Transcript) -> list[Cue]:
    """Divide a transcript into subtitles.

    Segments without words get theirs by the length of the text.

    Returns:
        Cues in order, disjoint; every word is in exactly one.
    """
    lines = [
        line
        for segment in transcript.segments
        for sentence in _sentences(segment.words or guess_words(segment))
        for line in _fit(sentence)
    ]
    marks = [_milliseconds(line[0].start) for line in lines]
    marks.append(_milliseconds(max([transcript.duration, *(line[-1].end for line in lines)])))
    cues: list[Cue] = []
    for line, (mark, limit) in zip(lines, pairwise(marks), strict=True):
        start = max(mark, cues[-1].end if cues else 0)
        end = max(_milliseconds(line[-1].end), start + MIN_CUE_MS)
        end = max(min(end, start + MAX_CUE_MS, limit), start + 1)
        cues.append(Cue(start, end, join_words(line)))
    return cues


def _sentences(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Divide words after full stops, question and exclamation marks."""
    begin = 0
    for end, (word, following) in enumerate(pairwise(words), 1):
        shown = _milliseconds(following.start - words[begin].start)
        if _SENTENCE_END.search(word.text) and shown >= _MIN_SENTENCE_MS:
            yield words[begin:end]
            begin = end
    if words:
        yield words[begin:]


def _fit(words: Sequence[Word]) -> list[Sequence[Word]]:
    """Divide a sentence until each part fits the line and the time of a cue."""
    width = text_width(join_words(words))
    length = _milliseconds(words[-1].end) - _milliseconds(words[0].start)
    n_lines = ceil(max(width / MAX_COLUMNS, length / MAX_CUE_MS))
    if n_lines <= 1 or len(words) == 1:
        return [words]
    middle = _best_break(words, width * (n_lines // 2) / n_lines)
    return _fit(words[:middle]) + _fit(words[middle:])


def _best_break(words: Sequence[Word], target: float) -> int:
    """Return the number of words in the first of two parts, about `target` columns wide."""
    widths = accumulate(text_width(word.text) + word.space_after for word in words)

    def cost(part: tuple[int, Word, int]) -> float:
        _, last, width = part
        return abs(width - target) - _COMMA_WORTH * bool(_CLAUSE_END.search(last.text))

    parts = zip(range(1, len(words)), words, widths, strict=False)
    return min(parts, key=cost)[0]


def _milliseconds(position: int) -> int:
    return round(position * 1000 / SAMPLE_RATE)


def write_transcript(path: Path, transcript: Transcript, fmt: str) -> None:
    """Write a transcript to a file, whole or not at all.

    Raises:
        ConfigError: the format is unknown.
        OutputError: the file cannot be written.
    """
    try:
        write_whole(path, format_transcript(transcript, fmt))
    except OSError as error:
        sentence = f"{path} cannot be written: {error.strerror}."
        raise OutputError(sentence, code="file_not_written") from error


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it exists whole or, after a failure, not at all.

    The text goes to a temporary file beside it, which takes its name once it is on the disk.

    Raises:
        OSError: the directory cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".streamasr-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
