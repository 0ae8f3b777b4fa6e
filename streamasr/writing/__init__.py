"""What becomes of recognised text before it is written somewhere.

    texts of segments -> numbers in digits -> spoken commands, replacements, spaces -> edits

`Writer` answers each text with an `Edit`: what to type, and, for "scratch that" alone, what to take
back first. `load_rules` reads what may be said, which users extend. `numbers` writes numbers as
people do, in finals, transcripts and their timed words. All of it is pure.
"""

from streamasr.writing.edits import Edit
from streamasr.writing.rules import LanguageRules, RuleBook, load_rules
from streamasr.writing.writer import Writer

__all__ = ["Edit", "LanguageRules", "RuleBook", "Writer", "load_rules"]
