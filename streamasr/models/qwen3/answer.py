"""Parser of answers: from their tokens to language and text.

A Qwen3-ASR answer reads `language {Name}<asr_text>{transcript}`; with a forced language the
prompt already holds the first part, and the answer is all transcript. Silence is answered with
`language None<asr_text>`.

Source: the output parsing of the reference implementation (Qwen3-ASR, `qwen-asr` 0.0.6), but on
tokens, so that a transcript which contains the text of a marker cannot be mistaken for one.
"""

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_HEADER = "language "
NO_LANGUAGE = "None"
"""Name of the language in the answer to silence."""


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """Language and text of an answer."""

    language: str | None
    """None if the answer names none."""
    text: str
    """The transcript, of whole characters only and without the marker, however often the model
    repeats it."""
    ends: tuple[int, ...]
    """(n_tokens,): number of code points of `text` that stay once this token is given, whatever
    tokens follow it. White space stays once something follows it."""


def parse_answer(
    tokens: Sequence[int],
    piece: Callable[[int], bytes],
    text_marker: int,
    forced_language: str | None,
) -> ParsedAnswer:
    """Take an answer apart.

    Args:
        tokens: the answer without its end token; it may stop anywhere, even inside a character.
        piece: the bytes of one token.
        text_marker: the token of `<asr_text>`.
        forced_language: the language that the prompt has set, or None.
    """

    def transcript_piece(token: int) -> bytes:
        return b"" if token == text_marker else piece(token)

    if forced_language is not None:
        return ParsedAnswer(forced_language, *_transcript(map(transcript_piece, tokens)))
    if text_marker not in tokens:
        # The header alone is not a transcript; anything else without the marker is one, as long as
        # no marker comes.
        text, _ = _transcript(map(piece, tokens))
        return ParsedAnswer(None, "" if _may_be_header(text) else text, (0,) * len(tokens))
    begin = tokens.index(text_marker)
    header, _ = _transcript(map(piece, tokens[:begin]))
    text, ends = _transcript(map(transcript_piece, tokens[begin:]))
    return ParsedAnswer(_language(header), text, (0,) * begin + ends)


def _transcript(pieces: Iterable[bytes]) -> tuple[str, tuple[int, ...]]:
    """Return the text of pieces without white space around it, and its end after each piece."""
    # A character whose last bytes have not been decoded yet is left out, never torn.
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    parts: list[str] = []
    ends: list[int] = []
    length = end = 0
    for data in pieces:
        part = decoder.decode(data)
        if length == 0:
            part = part.lstrip()
        if visible := part.rstrip():
            end = length + len(visible)
        length += len(part)
        parts.append(part)
        ends.append(end)
    return "".join(parts).rstrip(), tuple(ends)


def _may_be_header(text: str) -> bool:
    return text.startswith(_HEADER) or _HEADER.startswith(text)


def _language(header: str) -> str | None:
    for line in header.splitlines():
        if line.startswith(_HEADER):
            name = line.removeprefix(_HEADER).strip()
            return None if name.lower() == NO_LANGUAGE.lower() or not name else name
    return None
