"""Text as it is indexed and searched, so that Chinese is found as English is; pure.

SQLite's tokeniser takes the text between spaces for a word. In scripts without spaces, spaces are
added: each character becomes a word, and a term of several characters a phrase.
"""

import re
import unicodedata
from typing import Final

_UNSPACED: Final = re.compile(
    "(["
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # ideographs
    "\uac00-\ud7a3"  # hangul
    "])"
)
"""Characters of scripts that write words without spaces between them, or, as Korean, with endings
that users leave out of their searches."""


def spaced(text: str) -> str:
    """Return a text with spaces around the characters that count as words, as it is indexed."""
    # SQLite accepts neither NUL nor half of a surrogate pair.
    plain = text.replace("\0", " ").encode(errors="replace").decode()
    return _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", plain))


def match_query(text: str) -> str:
    """Return the query for texts that contain all of some terms; empty if they hold no word.

    Terms are quoted, since the index reads some bare words as operators.
    """
    terms = (spaced(term).replace('"', " ") for term in text.split())
    return " ".join(f'"{term}"' for term in terms if any(map(str.isalnum, term)))
