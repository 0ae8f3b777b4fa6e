"""How text is indexed and searched, so that Chinese is found as English is; pure.

SQLite's tokeniser takes what stands between spaces for a word. Scripts without spaces are given
some: each of their characters becomes a word, and a term of several a phrase.
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
that nobody searches for."""


def spaced(text: str) -> str:
    """Put spaces around the characters that count as words, as text is indexed."""
    # No NUL and no half of a surrogate pair can be handed to SQLite.
    plain = text.replace("\0", " ").encode(errors="replace").decode()
    return _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", plain))


def match_query(text: str) -> str:
    """What to ask the index for texts with all of these terms; empty if they hold no word.

    Quoted, since to the index bare words may be operators.
    """
    terms = (spaced(term).replace('"', " ") for term in text.split())
    return " ".join(f'"{term}"' for term in terms if any(map(str.isalnum, term)))
