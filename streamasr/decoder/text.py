"""From the tokens of an answer to its language and text.

A Qwen3-ASR answer reads `language {Name}<asr_text>{transcript}`; with a forced language the
prompt already holds the first part, and the answer is all transcript. Silence is answered with
`language None<asr_text>`.

Source: the output parsing of the reference implementation (Qwen3-ASR, `qwen-asr` 0.0.6), but on
tokens, so that a transcript which contains the text of a marker cannot be mistaken for one.
"""

from collections.abc import Callable, Sequence

_HEADER = "language "
_NO_LANGUAGE = "none"


def parse_answer(
    tokens: Sequence[int],
    piece: Callable[[int], bytes],
    text_marker: int,
    forced_language: str | None,
) -> tuple[str | None, str]:
    """Take an answer apart.

    Args:
        tokens: the answer without its end token; it may stop anywhere, even inside a character.
        piece: the bytes of one token.
        text_marker: the token of `<asr_text>`.
        forced_language: the language that the prompt has set, or None.

    Returns:
        The language, None when the model heard none; the transcript, of whole characters only
        and without the marker, however often the model repeats it.
    """
    header, transcript = _split(tokens, text_marker)
    if forced_language is not None:
        return forced_language, _join([*header, *transcript], piece)
    if text_marker not in tokens:
        # The header alone is not a transcript; anything else without the marker is one.
        text = _join(tokens, piece)
        return None, "" if _may_be_header(text) else text
    return _language(_join(header, piece)), _join(transcript, piece)


def _split(tokens: Sequence[int], marker: int) -> tuple[list[int], list[int]]:
    """What stands before the first marker, and what behind it, without the others."""
    first = tokens.index(marker) if marker in tokens else len(tokens)
    return list(tokens[:first]), [token for token in tokens[first:] if token != marker]


def _join(tokens: Sequence[int], piece: Callable[[int], bytes]) -> str:
    data = b"".join(map(piece, tokens))
    # A character whose last bytes have not been decoded yet is left out, never torn.
    return data.decode(errors="ignore").strip()


def _may_be_header(text: str) -> bool:
    return text.startswith(_HEADER) or _HEADER.startswith(text)


def _language(header: str) -> str | None:
    for line in header.splitlines():
        if line.startswith(_HEADER):
            name = line.removeprefix(_HEADER).strip()
            return None if name.lower() == _NO_LANGUAGE or not name else name
    return None
