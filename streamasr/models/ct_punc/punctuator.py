"""Punctuation by ct-punc: which mark stands behind each word.

The model reads a window of words and gives a class for each. A text of more than 20 words is read
in steps of 20: each window begins behind the last sentence end that the one before it has found, so
that a sentence is read as a whole. The classes of the newest two words are not trusted with that,
nor those of the first two. A window of more than 200 words without a sentence end is cut at its
last comma, which becomes a period.

Source: `CTTransformer.inference` in funasr 1.4.16. Two differences: an unknown word is looked up
in lower case, too (as sherpa-onnx does: the vocabulary is in lower case, recognisers write "ASR");
and a window without any comma does not grow beyond the positions of exported graphs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.punctuation import Mark, Marks
from streamasr.models.bundle import Bundle
from streamasr.models.ct_punc.names import (
    COMMA,
    MARKS,
    MODEL_FILE,
    PERIOD,
    QUESTION,
    REALTIME,
    SEGMENTATION_FILE,
    SEGMENTED,
    TOKENS_FILE,
    UNKNOWN,
)
from streamasr.models.ct_punc.segmentation import Segmentation
from streamasr.models.ct_punc.text import Divide, mark_behind, words_of
from streamasr.models.onnx import OnnxOptions, OnnxSession, open_session

STEP: Final = 20
"""Words that a window grows by."""

_LONG: Final = 200
"""Words of a window that is cut at a comma if it has no sentence end."""

_LONGEST: Final = 480
"""Words of a window that is cut anywhere: exported graphs have masks for 512."""

_SENTENCE_ENDS: Final = frozenset({PERIOD, QUESTION})

_OUTPUT: Final = "logits"
_INPUTS: Final = {"inputs": 2, "text_lengths": 1}
_MASKS: Final = {"vad_masks": 4, "sub_masks": 4}


class CTPunctuator:
    """The model in the punctuation process."""

    def __init__(
        self,
        session: OnnxSession,
        tokens: Sequence[str],
        marks: Sequence[str],
        *,
        realtime: bool,
        divide: Divide | None = None,
    ) -> None:
        """Take a loaded graph and test it; use `from_bundle`.

        Args:
            session: the graph.
            tokens: the vocabulary.
            marks: of the classes.
            realtime: whether the graph takes masks.
            divide: see `words_of`.

        Raises:
            ModelError: the graph gives no class for each word, or computes nonsense.
        """
        self._session = session
        self._ids: Mapping[str, int] = {token: i for i, token in enumerate(tokens)}
        self._unknown = self._ids[UNKNOWN]
        self._marks = tuple(marks)
        self._realtime = realtime
        self._divide = divide
        test = self._logits([0, len(tokens) - 1])
        if test.shape != (1, 2, len(marks)):
            raise ModelError(
                f"{session.path} gives {test.shape} for two words, where (1, 2, {len(marks)}) is "
                "expected; import the model again.",
                code="punctuation_classes",
            )
        if not np.isfinite(test).all():
            raise ModelError(
                f"{session.path} computes numbers that are not finite, so it is damaged.",
                code="punctuation_not_finite",
            )

    @classmethod
    def from_bundle(cls, bundle: Bundle, options: OnnxOptions) -> Self:
        """Load a bundle.

        Raises:
            ModelError: a file is missing or broken, or the files do not belong together.
        """
        tokens = read_tokens(bundle.directory / TOKENS_FILE)
        marks = read_marks(bundle)
        realtime = bundle.facts.get(REALTIME) is True
        inputs = _INPUTS | _MASKS if realtime else _INPUTS
        path = bundle.directory / MODEL_FILE
        session = open_session(path, options, inputs=inputs, outputs={_OUTPUT: 3})
        divide = None
        if bundle.facts.get(SEGMENTED) is True:
            divide = Segmentation.from_file(bundle.directory / SEGMENTATION_FILE).divide
        return cls(session, tokens, marks, realtime=realtime, divide=divide)

    def punctuate(self, text: str) -> Marks:
        """Return the marks of a text; see `Punctuator`."""
        words = list(words_of(text, self._divide))
        if not words:
            return Marks()
        found = [self._marks[each] for each in self.classes([word for word, _ in words])]
        each = tuple(
            Mark(end, mark_behind(word, mark) if mark in MARKS else "")
            for (word, end), mark in zip(words, found, strict=True)
        )
        last = found[-1] if found[-1] in _SENTENCE_ENDS else PERIOD
        return Marks(each, mark_behind(words[-1][0], last))

    def classes(self, words: Sequence[str]) -> list[int]:
        """Return the class of each word, an index of the bundle's `marks`."""
        ids = [self._id(word) for word in words]
        found: list[int] = []
        begin = 0
        for end in [*range(STEP, len(ids), STEP), len(ids)]:
            window = [int(each) for each in self._logits(ids[begin:end])[0].argmax(axis=-1)]
            n_done = len(window) if end == len(ids) else self._cut(window)
            found += window[:n_done]
            begin += n_done
        return found

    def _cut(self, window: list[int]) -> int:
        """Return the number of words up to the last sentence end; a comma may become one."""
        comma = None
        for i in range(len(window) - 2, 1, -1):
            mark = self._marks[window[i]]
            if mark in _SENTENCE_ENDS:
                return i + 1
            if comma is None and mark == COMMA:
                comma = i
        if comma is not None and len(window) > _LONG:
            window[comma] = self._marks.index(PERIOD)
            return comma + 1
        return len(window) - 1 if len(window) > _LONGEST - STEP else 0

    def _id(self, word: str) -> int:
        known = self._ids.get(word)
        return self._ids.get(word.lower(), self._unknown) if known is None else known

    def _logits(self, ids: Sequence[int]) -> npt.NDArray[Any]:
        """Return (1, n, n_marks)."""
        inputs = {"inputs": np.array([ids]), "text_lengths": np.array([len(ids)])}
        if self._realtime:
            # All words are attended to by the last layer, only earlier ones by those before it.
            seen = np.ones((1, 1, len(ids), len(ids)), np.float32)
            inputs |= {"vad_masks": seen, "sub_masks": np.tril(seen)}
        return self._session.run(_OUTPUT, **inputs)


def read_tokens(path: Path) -> list[str]:
    """Return the vocabulary.

    Raises:
        ModelError: the file is not a JSON list of strings, or has no word for unknown ones.
    """
    try:
        tokens = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot read {path}: {error}", code="tokens_unreadable") from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"{path} is not a JSON list of words.", code="tokens_unreadable")
    if UNKNOWN not in tokens:
        raise ModelError(
            f"{path} has no {UNKNOWN}, which stands for all unknown words; get the model again.",
            code="tokens_without_unknown",
        )
    return tokens


def read_marks(bundle: Bundle) -> tuple[str, ...]:
    """Return the mark of each class.

    Raises:
        ModelError: the description of the bundle has no such list.
    """
    marks = bundle.facts.get("marks")
    if isinstance(marks, list) and PERIOD in marks and all(isinstance(m, str) for m in marks):
        return tuple(marks)
    raise ModelError(
        f"{bundle.directory}: marks must be a list of the model's classes with {PERIOD}, not "
        f"{marks!r:.60}; import the model again.",
        code="punctuation_marks",
    )
