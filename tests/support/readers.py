"""Fake language model, whose next token is a hash of all that was read."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.decoder.content import Content
from streamasr.decoder.generate import (
    Answering,
    Generated,
    Prompt,
    Question,
    find_cycle,
    token_budget,
)
from streamasr.decoder.llama import IntArray, NoRoomError, Rows

N_VOCAB: Final = 8
END: Final = 7
ENDS: Final = frozenset((END,))

Item = int | bytes
"""Content of one position: a token, or an embedding."""

Model = Callable[[tuple[int, ...]], int]
"""Function from the tokens of an answer so far to the next token."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """Position of one or more sequences, with the digest of everything up to it."""

    item: Item
    digest: int


class FakeReader:
    """Context whose sequences record exactly what they have read.

    Attributes:
        n_ctx: maximum number of distinct cells of all sequences.
        batches: number of rows by sequence, for each batch that was read.
        faults: exceptions of the next reads, in order; None for a read that succeeds.
    """

    def __init__(self, n_ctx: int, n_sequences: int) -> None:
        self.n_ctx = n_ctx
        self.batches: list[dict[int, int]] = []
        self.faults: list[Exception | None] = []
        self._cells: list[list[Cell]] = [[] for _ in range(n_sequences)]
        self._outputs = np.empty((0, N_VOCAB), np.float32)

    @property
    def n_rows(self) -> int:
        """Number of rows read."""
        return sum(sum(batch.values()) for batch in self.batches)

    @property
    def n_used(self) -> int:
        """Number of cells in use."""
        return len({id(cell) for cells in self._cells for cell in cells})

    def items(self, sequence: int) -> list[Item]:
        """Return the items that a sequence has read."""
        return [cell.item for cell in self._cells[sequence]]

    def length(self, sequence: int) -> int:
        """See `Reader`."""
        return len(self._cells[sequence])

    def read(self, batch: Sequence[Rows]) -> list[Float32Array]:
        """See `Reader`; the outputs of the last batch become invalid, like those of llama.cpp."""
        self._outputs[:] = np.nan
        if fault := self.faults.pop(0) if self.faults else None:
            raise fault
        assert len({rows.holds_tokens for rows in batch}) == 1
        assert len({rows.sequence for rows in batch}) == len(batch)
        assert all(0 <= rows.n_outputs <= len(rows.data) and len(rows.data) for rows in batch)
        n_rows = {rows.sequence: len(rows.data) for rows in batch}
        if self.n_used + sum(n_rows.values()) > self.n_ctx:
            raise NoRoomError("no free cells")
        self.batches.append(n_rows)
        for rows in batch:
            self._cells[rows.sequence] = follow(self._cells[rows.sequence], row_items(rows.data))
        chosen = [
            choice(cell.digest)
            for rows in batch
            for cell in self._cells[rows.sequence][self.length(rows.sequence) - rows.n_outputs :]
        ]
        self._outputs = np.eye(N_VOCAB, dtype=np.float32)[chosen]
        return list(self._outputs)

    def truncate(self, sequence: int, length: int) -> None:
        """See `Reader`."""
        del self._cells[sequence][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        """See `Reader`."""
        assert length <= self.length(source)
        assert source != target
        self._cells[target] = self._cells[source][:length]


def row_items(data: IntArray | Float32Array) -> list[Item]:
    """Return the items of tokens or embeddings, one for each position."""
    if data.ndim == 1:
        return [int(token) for token in data]
    return [row.tobytes() for row in data]


def items_of(content: Content) -> list[Item]:
    """Return the items of a sequence that has read all of the content."""
    return [*content.before, *row_items(content.embeddings), *content.text]


def follow(cells: Sequence[Cell], items: Iterable[Item]) -> list[Cell]:
    """Append cells for items to cells."""
    cells = list(cells)
    for item in items:
        data = item if isinstance(item, bytes) else b"token %d" % item
        cells.append(Cell(item, zlib.crc32(data, cells[-1].digest if cells else 0)))
    return cells


def choice(digest: int) -> int:
    """Choose the next token; one in ten is the end."""
    mixed = digest * 2654435761 >> 7
    return END if mixed % 10 == 0 else mixed // 10 % END


def hashing(before: Sequence[int], embeddings: Float32Array, after: Sequence[int]) -> Model:
    """Return the model that a `FakeReader` implements for a prompt."""
    prompt = follow([], [*before, *row_items(embeddings), *after])
    return lambda tokens: choice(follow(prompt, tokens)[-1].digest)


def greedy_answer(
    model: Model, n_audio_tokens: int, forced: Sequence[int] = (), ends: frozenset[int] = ENDS
) -> Generated:
    """Generate an answer token by token, without a draft or a cache."""
    tokens = list(forced)
    while True:
        token = model(tuple(tokens))
        if token in ends:
            return Generated(tuple(tokens), "end")
        if len(tokens) >= token_budget(n_audio_tokens):
            return Generated(tuple(tokens), "budget")
        tokens.append(token)
        if period := find_cycle(tokens):
            n_kept = next(
                n
                for n in range(period, len(tokens) + 1)
                if tokens[n:] == tokens[n - period : -period]
            )
            return Generated(tuple(tokens[: max(n_kept, len(forced))]), "cycle")


def interview(answering: Answering, model: Model) -> tuple[Generated, list[Question]]:
    """Answer all questions; return the generated answer and the questions."""
    questions = [next(answering)]
    while True:
        question = questions[-1]
        text = question.content.text[question.content.n_prompt :]
        ends = range(len(text) - question.n_choices + 1, len(text) + 1)
        try:
            questions.append(answering.send([model(text[:end]) for end in ends]))
        except StopIteration as stop:
            return stop.value, questions


def hashed_prompt(before: Sequence[int] = (1, 2), after: Sequence[int] = (3, 4)) -> Prompt:
    """Make a prompt for a `FakeReader`."""
    return Prompt(tuple(before), tuple(after), ENDS)
