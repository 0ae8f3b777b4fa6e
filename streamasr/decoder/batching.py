"""Many answers at once: the rows of each batch, and the cells that are kept for each answer.

An `Answer` is being generated: it asks a `Question` about some content, and a `Batcher` lets one of
the context's sequences read that content until the question is answered. Sequences are caches: each
belongs to a key, keeps its cells after the answer is complete, and reads only the rows that differ
when the key asks again. Any of them may be evicted at any time; its rows are read again if needed.

    key  -> sequence: | before | audio ............ | after | text ... |
                        ^ copied from a sequence that keeps the constant prefix

A batch is led by one answer and joined by others that read the same kind of rows, tokens or
embeddings: their decode steps come nearly free, since each batch has to fetch all weights once.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from streamasr.core.errors import DecodeError
from streamasr.core.events import Costs
from streamasr.core.units import Float32Array
from streamasr.decoder.content import Content, common_length
from streamasr.decoder.generate import Question
from streamasr.decoder.llama import NoRoomError, Rows, check_finite

MAX_ROWS: Final = 96
"""Rows in a batch: most texts with the end of their prompt. With 32, each row takes a fifth longer;
with more than 96 hardly less, and an urgent answer would wait for longer."""

N_PREFIXES: Final = 4
"""Constant prefixes that are kept: prompts of different sessions."""

ResultT = TypeVar("ResultT")

Choose = Callable[[Float32Array, int], int]
"""Function that chooses the next token from the logits, (n_vocab,), and the number of tokens that
the answer has before it."""


class Reader(Protocol):
    """The part of `LlamaContext` that a batcher uses."""

    n_ctx: int

    def length(self, sequence: int) -> int:
        """See `LlamaContext.length`."""

    def read(self, batch: Sequence[Rows]) -> list[Float32Array]:
        """See `LlamaContext.read`."""

    def truncate(self, sequence: int, length: int) -> None:
        """See `LlamaContext.truncate`."""

    def copy(self, source: int, target: int, length: int) -> None:
        """See `LlamaContext.copy`."""


def greedy(logits: Float32Array, _n_before: int) -> int:
    """Return the most likely token.

    Raises:
        DecodeError: a logit is not finite.
    """
    token = int(np.argmax(logits))
    if not np.isfinite(logits[token]):  # the maximum, or the first NaN
        check_finite(logits)
    return token


class Answer(Generic[ResultT]):
    """An answer that is being generated; `result` or `error` is set once `is_complete`."""

    def __init__(
        self,
        key: Hashable,
        generator: Generator[Question, Sequence[int], ResultT],
        choose: Choose,
        number: int,
    ) -> None:
        """Ask the first question; `Batcher.begin` makes answers and numbers them as they come."""
        self.key = key
        self.number = number
        self.result: ResultT | None = None
        self.error: DecodeError | None = None
        self.cost = Costs()
        self._generator = generator
        self._choose = choose
        self._choices: list[int] = []
        self.question = next(generator)

    @property
    def is_complete(self) -> bool:
        """Tell whether it has a result or an error."""
        return self.result is not None or self.error is not None

    def receive(self, outputs: Sequence[Float32Array]) -> None:
        """Take the logits of the next of the rows that the question is about."""
        question = self.question
        content, openings = question.content, question.openings
        n_answer = len(content.text) - content.n_prompt
        for output in outputs:
            n_before = n_answer - question.n_choices + len(self._choices) + 1
            logits = output
            if openings is not None and n_before < openings.length:
                said = content.text[content.n_prompt : content.n_prompt + n_before]
                logits = openings.restrict(output, said)
            self._choices.append(self._choose(logits, n_before))
        if len(self._choices) < question.n_choices:
            return
        choices, self._choices = self._choices, []
        try:
            self.question = self._generator.send(choices)
        except StopIteration as stop:
            self.result = stop.value

    def forget_choices(self) -> None:
        """Discard the choices so far, since the cells behind them are lost."""
        self._choices = []

    def charge(self, prefill: float, verify: float, decode: float) -> None:
        """Add seconds to its cost."""
        cost = self.cost
        self.cost = Costs(
            prefill=cost.prefill + prefill,
            verify=cost.verify + verify,
            decode=cost.decode + decode,
        )

    def fail(self, error: DecodeError) -> None:
        """End it with an error."""
        self.error = error
        self._generator.close()


@dataclass(slots=True)
class _Slot:
    """One sequence of the context, and the content that it has read or is reading."""

    sequence: int
    answer: Answer[Any] | None = None  # the last one that used it
    content: Content | None = None
    n_shared: int = 0  # cells at its beginning that a kept prefix has, too


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of one answer in a batch."""

    answer: Answer[Any]
    slot: _Slot
    begin: int  # position of the first row
    rows: Rows

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Shares of prefill, verification and decoding in these rows."""
        content, n_rows = self.answer.question.content, len(self.rows.data)
        n_prompt = content.text_begin + content.n_prompt - self.begin
        prefill = min(max(n_prompt, 0), n_rows) / n_rows
        return (prefill, 1 - prefill, 0.0) if n_rows > 1 else (prefill, 0.0, 1 - prefill)


class Batcher:
    """Shares one context among answers. Belongs to one thread."""

    def __init__(
        self, reader: Reader, n_sequences: int, *, reuse: bool = True, max_rows: int = MAX_ROWS
    ) -> None:
        """Begin with nothing read.

        Args:
            reader: the context.
            n_sequences: of the context, more than `N_PREFIXES`.
            reuse: False reads each answer from scratch, and the known part of its text token by
                token, as engines without caches do: the baseline of measurements.
            max_rows: largest number of rows in a batch.
        """
        self._reader = reader
        self._reuse = reuse
        self._max_rows = max_rows
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()  # the last used one is last
        self._prefixes: OrderedDict[tuple[int, ...], int] = OrderedDict()  # likewise
        self._free_prefixes = list(range(N_PREFIXES))
        self._free = list(range(N_PREFIXES, n_sequences))
        self._numbers = itertools.count()

    @property
    def n_free_cells(self) -> int:
        """Number of positions that are free."""
        own = (self._reader.length(slot.sequence) - slot.n_shared for slot in self._slots.values())
        return self._reader.n_ctx - sum(own) - sum(map(len, self._prefixes))

    def begin(
        self,
        key: Hashable,
        generator: Generator[Question, Sequence[int], ResultT],
        choose: Choose = greedy,
    ) -> Answer[ResultT]:
        """Begin to generate an answer.

        Args:
            key: answers of the same key share a sequence, one after the other.
            generator: asks the questions.
            choose: chooses each token.
        """
        if not self._reuse:
            self.release(key)
        return Answer(key, generator, choose, next(self._numbers))

    def text_of(self, key: Hashable) -> tuple[int, ...]:
        """Return the tokens of the last answer for a key if it was abandoned; none otherwise."""
        slot = self._slots.get(key)
        if slot is None or slot.content is None or slot.answer is None or slot.answer.is_complete:
            return ()
        n_read = self._reader.length(slot.sequence) - slot.content.text_begin
        return slot.content.text[slot.content.n_prompt : max(0, n_read)]

    def release(self, key: Hashable) -> None:
        """Free the cells that are kept for a key."""
        if slot := self._slots.pop(key, None):
            self._reader.truncate(slot.sequence, 0)
            self._free.append(slot.sequence)

    def step(self, answers: Sequence[Answer[Any]]) -> list[tuple[Answer[Any], float]]:
        """Read one batch.

        Args:
            answers: incomplete ones of different keys, the most urgent first. The first that is
                still reading its prompt or its audio leads the batch, so that afterwards all of
                them decode together; otherwise the first of all leads.

        Returns:
            The answers that had rows in the batch, and the seconds charged to each.

        Raises:
            Aborted: the reader's `abort` was set; only this batch is lost.
        """
        began = time.perf_counter()
        parts = self._plan(answers)
        if not parts:
            return [(answer, 0.0) for answer in answers if answer.is_complete]
        try:
            outputs = self._reader.read([part.rows for part in parts])
        except DecodeError as error:
            if len(parts) > 1:  # one of them may be at fault
                return [served for part in parts for served in self.step([part.answer])]
            if isinstance(error, NoRoomError) and self._evict_one(keep={parts[0].answer.key}):
                return self.step([parts[0].answer])
            parts[0].answer.fail(error)
            return [(parts[0].answer, time.perf_counter() - began)]
        return self._hand_out(parts, outputs, began)

    def _plan(self, answers: Sequence[Answer[Any]]) -> list[_Part]:
        """Choose the rows of a batch; none if the first answer alone has no room, and fails."""
        chosen = self._fitting(answers)
        for answer in chosen:
            self._admit(answer, chosen)
        lead = next(filter(self._is_reading_prompt, chosen), chosen[0])
        if not self._make_room(lead, chosen):
            lead = chosen[0]
            if not self._make_room(lead, chosen):
                n_rows = len(lead.question.content)
                message = f"{n_rows} positions do not fit into the decoder's context."
                lead.fail(DecodeError(message, code="context_full"))
                return []
        n_rows, n_free = 0, self.n_free_cells
        parts: list[_Part] = []
        for answer in [lead, *chosen]:
            limit = min(self._max_rows - n_rows, n_free - n_rows)
            if limit <= 0 or answer.key not in self._slots:
                continue
            part = self._part(answer, limit)
            if not parts or (answer is not lead and _are_alike(part, parts[0])):
                parts.append(part)
                n_rows += len(part.rows.data)
        return parts

    def _fitting(self, answers: Sequence[Answer[Any]]) -> list[Answer[Any]]:
        """Return the most urgent ones that fit into the context together.

        The others wait until one of these is complete. If all went on, each would take the cells
        that another has just filled, and none would ever be complete.
        """
        n_free, n_slots = self._reader.n_ctx, len(self._slots) + len(self._free)
        fitting: list[Answer[Any]] = []
        prefixes: set[tuple[int, ...]] = set()
        for answer in answers:
            content = answer.question.content
            is_shared = self._reuse and content.before in prefixes
            n_rows = len(content) - (len(content.before) if is_shared else 0)
            if fitting and (n_rows > n_free or len(fitting) == n_slots):
                continue
            fitting.append(answer)
            prefixes.add(content.before)
            n_free -= n_rows
        return fitting

    def _admit(self, answer: Answer[Any], chosen: Sequence[Answer[Any]]) -> None:
        """Give an answer a sequence that holds as much as possible of its content."""
        slot = self._slots.get(answer.key)
        if slot is None:
            if not self._free:
                self._evict_slot(keep={other.key for other in chosen})
            slot = self._slots[answer.key] = _Slot(self._free.pop())
        self._slots.move_to_end(answer.key)
        slot.answer = answer
        self._turn_to(slot, answer)

    def _turn_to(self, slot: _Slot, answer: Answer[Any]) -> None:
        """Discard the cells that are not part of the present question's content."""
        question = answer.question
        n_read = self._reader.length(slot.sequence)
        n_silent = len(question.content) - question.n_choices  # positions that need no output
        if slot.content is not question.content:
            n_kept = common_length(slot.content, question.content) if slot.content else 0
            n_kept = min(n_kept, n_read, n_silent)
            self._reader.truncate(slot.sequence, n_kept)
            if not slot.content or slot.content.before != question.content.before:
                slot.n_shared = 0  # the cells that it still shares may be evicted for others
            slot.content = question.content
            answer.forget_choices()
        elif n_read < n_silent:
            answer.forget_choices()  # rows that it had outputs of were lost
        if self._reader.length(slot.sequence) < len(question.content.before):
            self._copy_prefix(slot, question.content.before)

    def _part(self, answer: Answer[Any], limit: int) -> _Part:
        question, slot = answer.question, self._slots[answer.key]
        begin = self._reader.length(slot.sequence)
        if not self._reuse:
            answer_begin = question.content.text_begin + question.content.n_prompt
            limit = min(limit, max(answer_begin - begin, 1))
        data = question.content.rows(begin, limit)
        n_silent = len(question.content) - question.n_choices
        n_outputs = min(max(begin + len(data) - n_silent, 0), len(data))
        return _Part(answer, slot, begin, Rows(slot.sequence, data, n_outputs))

    def _hand_out(
        self, parts: Sequence[_Part], outputs: Sequence[Float32Array], began: float
    ) -> list[tuple[Answer[Any], float]]:
        """Give every answer its outputs, and charge it for them."""
        remaining = iter(outputs)
        for part in parts:
            self._keep_prefix(part)
            try:
                part.answer.receive(list(itertools.islice(remaining, part.rows.n_outputs)))
            except DecodeError as error:
                part.answer.fail(error)
        seconds = time.perf_counter() - began
        n_rows = sum(len(part.rows.data) for part in parts)
        shares = [seconds * len(part.rows.data) / n_rows for part in parts]
        for part, share in zip(parts, shares, strict=True):
            part.answer.charge(*(share * fraction for fraction in part.fractions))
        return [(part.answer, share) for part, share in zip(parts, shares, strict=True)]

    def _n_missing(self, answer: Answer[Any]) -> int:
        read = self._reader.length(self._slots[answer.key].sequence)
        return len(answer.question.content) - read

    def _is_reading_prompt(self, answer: Answer[Any]) -> bool:
        read = self._reader.length(self._slots[answer.key].sequence)
        return read < answer.question.content.text_begin

    def _make_room(self, lead: Answer[Any], chosen: Sequence[Answer[Any]]) -> bool:
        """Evict caches until the lead has room for its rows; return False if it never has."""
        n_wanted = min(self._max_rows, self._n_missing(lead))
        while self.n_free_cells < n_wanted:
            if not (
                self._evict_one({answer.key for answer in chosen}) or self._part_with(lead, chosen)
            ):
                return False
        return True

    def _part_with(self, lead: Answer[Any], chosen: Sequence[Answer[Any]]) -> bool:
        """Free the cells of the least urgent answer behind the lead; return False without one."""
        behind = chosen[chosen.index(lead) + 1 :]
        key = next((a.key for a in reversed(behind) if a.key in self._slots), None)
        if key is not None:
            self.release(key)
        return key is not None

    def _evict_one(self, keep: Collection[Hashable]) -> bool:
        """Evict a slot or prefix that is not in use now; return False if all are in use."""
        return self._evict_slot(keep) or self._evict_prefix()

    def _evict_slot(self, keep: Collection[Hashable]) -> bool:
        """Evict the least recently used slot whose answer is complete.

        If all answers are incomplete, evict that of the newest one: where too many take turns, the
        least recently used one comes next, and all would lose their cells before they are complete.
        """
        slots = {key: slot.answer for key, slot in self._slots.items() if key not in keep}
        if not slots:
            return False
        idle = (key for key, answer in slots.items() if answer is None or answer.is_complete)
        newest = max(slots, key=lambda key: answer.number if (answer := slots[key]) else -1)
        self.release(next(idle, newest))
        return True

    def _evict_prefix(self) -> bool:
        shared = {
            slot.content.before for slot in self._slots.values() if slot.content and slot.n_shared
        }
        tokens = next((tokens for tokens in self._prefixes if tokens not in shared), None)
        if tokens is None:
            return False
        sequence = self._prefixes.pop(tokens)
        self._reader.truncate(sequence, 0)
        self._free_prefixes.append(sequence)
        return True

    def _copy_prefix(self, slot: _Slot, tokens: tuple[int, ...]) -> None:
        if tokens in self._prefixes:
            self._prefixes.move_to_end(tokens)
            self._reader.copy(self._prefixes[tokens], slot.sequence, len(tokens))
            slot.n_shared = len(tokens)

    def _keep_prefix(self, part: _Part) -> None:
        """Keep the constant beginning of the rows that were read, for later answers."""
        tokens = part.answer.question.content.before
        if not self._reuse or not tokens or tokens in self._prefixes:
            return
        is_read = self._reader.length(part.slot.sequence) >= len(tokens)
        if is_read and (self._free_prefixes or self._evict_prefix()):
            sequence = self._prefixes[tokens] = self._free_prefixes.pop()
            self._reader.copy(part.slot.sequence, sequence, len(tokens))
            part.slot.n_shared = len(tokens)


def _are_alike(a: _Part, b: _Part) -> bool:
    """Tell whether both read tokens, or both read embeddings."""
    return a.rows.holds_tokens == b.rows.holds_tokens
