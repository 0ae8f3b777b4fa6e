"""Conversion of recognised text to written text; pure.

    texts of segments -> numbers in digits -> spoken commands, replacements, spaces -> edits

`Writer` returns an `Edit` for each text: the text to type and, only for "scratch that", the number
of characters to delete first. `load_rules` reads the phrases that are commands; users extend them.
`numbers` writes numbers in digits, in finals, transcripts and their timed words.
"""

from streamasr.writing.edits import Edit
from streamasr.writing.rules import LanguageRules, RuleBook, load_rules
from streamasr.writing.writer import Writer

__all__ = ["Edit", "LanguageRules", "RuleBook", "Writer", "load_rules"]
