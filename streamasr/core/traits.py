"""Facts about a model family that sessions and the engine depend on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from streamasr.core.borders import join_at_border
from streamasr.core.messages import AlignmentMethod

Join: TypeAlias = Callable[[str, str], str]
"""Puts a stable text and the rest of a hypothesis together, which are cut at word borders. The
result begins with the first, and ends with the second without the white space before it."""


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """Abilities of a model family. The default is a family with a language model."""

    can_force: bool = True
    """Its answers can be forced to begin with given tokens. Otherwise the session joins the stable
    text and the new hypothesis, for which the family must give the times of its tokens."""
    word_method: AlignmentMethod | None = None
    """Origin of the times of its tokens, if they are good enough for words; None has an aligner
    find the times of words."""
    join: Join = join_at_border
    """Used if answers cannot be forced."""
    punctuates: bool = True
    """Its texts have punctuation. Those of other families get it from a model of its own."""
    has_punctuator: bool = False
    """Such a model runs beside it; a fact of the engine, not of the family."""

    @property
    def asks_for_marks(self) -> bool:
        """Return True if texts need punctuation, and can get it."""
        return self.has_punctuator and not self.punctuates
