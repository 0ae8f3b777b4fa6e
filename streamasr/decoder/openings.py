"""Openings that an answer is restricted to; pure.

A family that lets the user choose among some languages, for instance, allows the headers that name
one of these and no others. At each position of an opening, the decoder chooses the most likely
token among those that continue an allowed sequence; behind the opening it is free.

The choice is greedy, token by token. The probabilities of whole sequences are not compared, since
that would take a pass of the model for each of them. So the best sequence is found where sequences,
those that are not allowed included, differ at the first token at which they differ from most; where
a likely sequence that is ruled out shares its first tokens with an unlikely one, that one may win.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array


class Openings:
    """Token sequences, one of which an answer must begin with."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        """Allow these sequences, and no others."""
        following: dict[tuple[int, ...], set[int]] = {}
        for sequence in map(tuple, sequences):
            for n_tokens, token in enumerate(sequence):
                following.setdefault(sequence[:n_tokens], set()).add(token)
        self._following: dict[tuple[int, ...], npt.NDArray[np.int64]] = {
            tokens: np.array(sorted(allowed)) for tokens, allowed in following.items()
        }
        self.length = 1 + max(map(len, self._following), default=-1)
        """Tokens of the longest opening: at this position and behind it, every token is allowed."""

    def restrict(self, logits: Float32Array, tokens: Sequence[int]) -> Float32Array:
        """Return logits that rule out every token but those that continue an opening.

        Args:
            logits: (n_vocab,), not changed.
            tokens: those of the answer so far. Where they are not the beginning of an opening, or
                a complete one, all logits are returned as they are.
        """
        allowed = self._following.get(tuple(tokens))
        if allowed is None:
            return logits
        restricted = np.full_like(logits, -np.inf)
        restricted[allowed] = logits[allowed]
        return restricted
