"""Facts of a Paraformer bundle: `model.json`, the tokens and the normalisation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.features.cmvn import Cmvn, checked_cmvn
from streamasr.models.bundle import FACTS_FILE
from streamasr.models.paraformer.names import GRAPHS_KEY, PARTS, WHOLE

_MOST: Final = 1 << 20
"""Of any number in the description; the vocabulary is the largest."""

_MOST_BYTES: Final = 64 << 20
"""Of the tokens; those of the released models have 93 kB."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Facts of `model.json`."""

    is_whole: bool
    """The model is one released graph, not an encoder and a decoder."""
    n_tokens: int
    """Size of the vocabulary."""
    n_mels: int
    window: int
    """Frames of a row."""
    shift: int
    """Frames from one row to the next."""
    tail: float
    """Weight of the row behind the last one; see `cif`. Unknown and 0 for a released graph."""
    time_upsampling: int | None
    """Steps of the time head for each row; None without one. Unknown for a released graph."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Read and check them.

        Raises:
            ModelError: a fact is missing or cannot be.
        """
        kind = facts.get(GRAPHS_KEY)
        if kind not in {PARTS, WHOLE}:
            raise ModelError(
                f"{GRAPHS_KEY} is {kind!r:.60} instead of {PARTS!r} or {WHOLE!r}",
                code="paraformer_facts",
            )
        is_whole = kind == WHOLE
        predictor = {} if is_whole else _table(facts, "predictor")
        threshold = predictor.get("threshold", 1.0)
        if threshold != 1:
            raise ModelError(
                f"the threshold of the predictor is {threshold!r:.60} instead of 1.0",
                code="paraformer_facts",
            )
        upsampling = facts.get("time_upsampling")
        if upsampling is not None:
            upsampling = _count(facts, "time_upsampling")
        lfr = _table(facts, "lfr")
        return cls(
            is_whole=is_whole,
            n_tokens=_count(facts, "vocab"),
            n_mels=_count(facts, "n_mels"),
            window=_count(lfr, "window"),
            shift=_count(lfr, "shift"),
            tail=0.0 if is_whole else _fraction(predictor, "tail"),
            time_upsampling=upsampling,
        )

    @property
    def width(self) -> int:
        """Width of a row of features."""
        return self.n_mels * self.window


def read_settings(directory: Path) -> Settings:
    """Read the description of a bundle.

    Raises:
        ModelError: the description cannot be read, or a fact in it is missing or cannot be.
    """
    path = directory / FACTS_FILE
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}", code="bundle_unreadable") from error
    try:
        return Settings.from_facts(facts if isinstance(facts, dict) else {})
    except ModelError as error:
        raise ModelError(f"{path}: {error}; import the model again.", code=error.code) from error


def read_tokens(path: Path, n_tokens: int) -> tuple[str, ...]:
    """Read the tokens of a vocabulary of a known size.

    Raises:
        ModelError: the file cannot be read, or does not hold so many strings.
    """
    try:
        with path.open("rb") as file:
            tokens = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error!r:.200}", code="tokens_broken") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"{path} is not a list of strings.", code="tokens_broken")
    if len(tokens) != n_tokens:
        raise ModelError(
            f"{path} has {len(tokens)} tokens instead of {n_tokens}; import the model again.",
            code="tokens_broken",
        )
    return tuple(tokens)


def read_cmvn(path: Path, width: int) -> Cmvn:
    """Read the normalisation of rows of a known width.

    Raises:
        ModelError: the file cannot be read, or does not hold a shift and a scale of this width.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {error!r:.200}", code="cmvn_unreadable") from error
    if not isinstance(array, np.ndarray) or array.shape != (2, width) or array.dtype != np.float32:
        raise ModelError(
            f"{path} is not float32 of 2 by {width}; import the model again.", code="cmvn_broken"
        )
    try:
        return checked_cmvn(*array)
    except ModelError as error:
        raise ModelError(f"{path}: {error}", code=error.code) from error


def _table(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = facts.get(key)
    if not isinstance(found, dict):
        raise ModelError(f"{key} is {found!r:.60} instead of a table", code="paraformer_facts")
    return found


def _count(facts: Mapping[str, Any], key: str) -> int:
    found = facts.get(key)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 < found <= _MOST:
        raise ModelError(
            f"{key} is {found!r:.60} instead of a whole number from 1 to {_MOST}",
            code="paraformer_facts",
        )
    return found


def _fraction(facts: Mapping[str, Any], key: str) -> float:
    found = facts.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < 1:
        raise ModelError(
            f"{key} is {found!r:.60} instead of a number from 0 to 1", code="paraformer_facts"
        )
    return float(found)
