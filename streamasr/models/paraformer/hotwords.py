"""Embeddings of hotwords for models that take them (SeACo); the graph is FunASR's `model_eb.onnx`.

The context of a session counts as hotwords, too, as far as it is a list: what stands between
punctuation marks, or between spaces beside Chinese characters. Sentences in it are left out.

A hotword is at most ten tokens: each Chinese character is one, and each Latin word is one if the
vocabulary has it, else its letters if it is in capitals, else its longest pieces, else `<unk>`. The
graph runs an LSTM over them; the state at the last token of a hotword is its embedding. The last
entry of the list is `<s>` alone, which stands for no hotword.

Source: `SeacoParaformer.generate_hotwords_list` and `_hotword_representation` of FunASR, whose
dictionary of pieces is not part of the released ONNX models.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.borders import CJK
from streamasr.core.errors import ModelError
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.models.onnx import OnnxOptions, open_any

logger = logging.getLogger(__name__)

_MOST_TOKENS: Final = 10
"""Of a hotword; the graph is made for it."""

_MOST_HOTWORDS: Final = 500
"""The model itself chooses the 50 that fit the audio best."""

_LISTS_KEPT: Final = 16

_START: Final = 1
"""Id of `<s>`."""

_BETWEEN_PHRASES: Final = re.compile(rf"[^\w\s'’·.&+#-]+|\.\s|\n|(?<={CJK})\s+|\s+(?={CJK})")
"""Marks and spaces between the names and terms of a list; not those that are a part of them."""

_UNIT: Final = re.compile(rf"(?=\w){CJK}|[0-9]|(?:(?!{CJK})(?:[^\W\d_]|'))+")
"""A character, a digit or a word; not a mark."""


def phrases_of(options: SessionOptions) -> tuple[str, ...]:
    """Return the hotwords of a session and those in its context, each once."""
    in_context = filter(_is_short, _BETWEEN_PHRASES.split(options.context))
    stripped = map(str.strip, (*options.hotwords, *in_context))
    return tuple(dict.fromkeys(filter(None, stripped)))


def _is_short(phrase: str) -> bool:
    """Return True for a name or a term: all of it fits into a hotword."""
    return len(_UNIT.findall(phrase)) <= _MOST_TOKENS


class HotwordEncoder:
    """The graph of hotwords, with the embeddings of the latest lists."""

    def __init__(
        self, path: Path, tokens: Sequence[str], width: int | None, options: OnnxOptions
    ) -> None:
        """Open the graph and test it.

        Args:
            path: the `.onnx` file.
            tokens: the vocabulary.
            width: of the embeddings that the model takes; None for any.
            options: threads, execution providers and log level.

        Raises:
            ModelError: the file is missing or broken, or is not a graph of hotwords for this model.
        """
        self._graph = graph = open_any(path, options)
        axes = [
            [len(port.shape) for port in ports.values()] for ports in (graph.inputs, graph.outputs)
        ]
        if axes != [[2], [3]]:
            raise ModelError(
                f"{path}: the graph turns {', '.join(graph.inputs)} into {', '.join(graph.outputs)}"
                " instead of ids into embeddings; import the model again.",
                code="graph_inputs",
            )
        [self._input], [self._output] = graph.inputs, graph.outputs
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._unknown = self._ids.get("<unk>", len(tokens) - 1)
        self._known: OrderedDict[tuple[str, ...], Float32Array] = OrderedDict()
        found = self.embed(()).shape[-1]
        if width not in (None, found):
            raise ModelError(
                f"{path}: embeddings of hotwords are {found} wide instead of {width}: the file "
                "belongs to another model; import the model again.",
                code="graphs_do_not_fit",
            )

    def embed(self, hotwords: tuple[str, ...]) -> Float32Array:
        """Return the embeddings of a list of hotwords and of no hotword: (1, n + 1, width).

        Args:
            hotwords: of a session; those without a token that is known, and all after the first
                500, are left out.

        Raises:
            ModelError: the graph does not run, or computes other shapes or numbers that are not
                finite.
        """
        if hotwords in self._known:
            self._known.move_to_end(hotwords)
        else:
            self._known[hotwords] = self._computed(hotwords)
            if len(self._known) > _LISTS_KEPT:
                self._known.popitem(last=False)
        return self._known[hotwords]

    def _computed(self, hotwords: tuple[str, ...]) -> Float32Array:
        if len(hotwords) > _MOST_HOTWORDS:
            logger.warning("of %d hotwords, the first %d count", len(hotwords), _MOST_HOTWORDS)
        lists = [self.ids(hotword) for hotword in hotwords[:_MOST_HOTWORDS]]
        lists = [ids for ids in lists if any(each != self._unknown for each in ids)]
        lists.append([_START])
        padded = np.zeros((len(lists), _MOST_TOKENS), np.int32)
        for row, ids in zip(padded, lists, strict=True):
            row[: len(ids)] = ids
        states = self._graph.run(self._output, **{self._input: padded})
        if states.shape[:2] != (_MOST_TOKENS, len(lists)) or not np.isfinite(states).all():
            raise ModelError(
                f"{self._graph.path}: the graph of hotwords computes nonsense; import the model "
                "again.",
                code="hotwords_broken",
            )
        last = [len(ids) - 1 for ids in lists]
        return states[last, np.arange(len(lists))][None]

    def ids(self, hotword: str) -> list[int]:
        """Return the tokens of a hotword, at most ten."""
        found: list[int] = []
        for unit in _UNIT.findall(hotword):
            if unit.strip("'"):
                found += self._unit_ids(unit)
        return found[:_MOST_TOKENS]

    def _unit_ids(self, unit: str) -> list[int]:
        """Return the tokens of a character or word: one, its letters, or its longest pieces.

        A word in capitals is spelled: recognised letters in a row are written in capitals.
        """
        is_spelled = len(unit) > 1 and unit.isupper()
        unit = unit.lower()
        if unit in self._ids:
            return [self._ids[unit]]
        if is_spelled and all(letter in self._ids for letter in unit):
            return [self._ids[letter] for letter in unit]
        found: list[int] = []
        rest = unit
        while rest:
            whole = self._ids.get(rest)
            if whole is not None:
                return [*found, whole]
            lengths = range(len(rest) - 1, 0, -1)
            n_first = next((n for n in lengths if f"{rest[:n]}@@" in self._ids), None)
            if n_first is None:
                return [self._unknown]
            found.append(self._ids[f"{rest[:n_first]}@@"])
            rest = rest[n_first:]
        return found
