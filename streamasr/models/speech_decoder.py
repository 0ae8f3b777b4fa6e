"""Decoder side that families with a language model share: one context, and a batcher over it."""

import abc
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Final, Self

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.decoder.batching import MAX_ROWS, N_PREFIXES, Answer, Batcher
from streamasr.decoder.llama import LlamaContext, LlamaModel, self_test
from streamasr.decoder.placement import Placement
from streamasr.models.family import Encoded

MAX_SEGMENTS: Final = 16
"""Open segments whose cells are kept; of more sessions, the least recently used ones start anew."""

_DEFAULTS: Final = SessionOptions()


class SpeechDecoder(abc.ABC):
    """A language model that turns encodings into hypotheses; see `Decoder`. Base of a family's."""

    def __init__(
        self, path: Path, placement: Placement, *, n_ctx: int, n_threads: int, reuse: bool
    ) -> None:
        """Load a language model, and test whether it works.

        Args:
            path: the GGUF file.
            placement: device that computes it.
            n_ctx: positions of all segments together.
            n_threads: for llama.cpp.
            reuse: False computes each hypothesis from scratch.

        Raises:
            ModelError: the file is missing or cannot be used.
        """
        self.model = LlamaModel(path, placement)
        n_sequences = N_PREFIXES + MAX_SEGMENTS
        self._context = LlamaContext(
            self.model,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_sequences=n_sequences,
            n_batch=MAX_ROWS,
        )
        self_test(self._context)
        self.reuse = reuse
        self.batcher = Batcher(self._context, n_sequences, reuse=reuse)

    @abc.abstractmethod
    def begin(
        self,
        key: Hashable,
        encoded: Encoded,
        options: SessionOptions = _DEFAULTS,
        *,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
    ) -> Answer[Hypothesis]:
        """Begin to decode the audio of one segment; see `Decoder.begin`."""

    @abc.abstractmethod
    def check_options(self, options: SessionOptions) -> None:
        """Check whether a prompt can be made of options; see `Decoder.check_options`."""

    def step(self, answers: Sequence[Answer[Hypothesis]]) -> list[tuple[Answer[Hypothesis], float]]:
        """Read one batch for some of the answers; see `Batcher.step`."""
        return self.batcher.step(answers)

    def release(self, key: Hashable) -> None:
        """Discard everything that was read for a segment."""
        self.batcher.release(key)

    def decode(
        self,
        encoded: Encoded,
        options: SessionOptions = _DEFAULTS,
        *,
        forced: Sequence[int] = (),
    ) -> Hypothesis:
        """Decode one segment alone and from scratch.

        Raises:
            DecodeError: llama.cpp refused a batch.
            Aborted: `abandon` was called since the last `rearm`.
        """
        key = object()
        answer = self.begin(key, encoded, options, forced=forced)
        try:
            while not answer.is_complete:
                self.step([answer])
        finally:
            self.release(key)
        if answer.error:
            raise answer.error
        assert answer.result is not None
        return answer.result

    @property
    def n_operations(self) -> int:
        """Counter that rises during a `step` on the CPU. May be read from any thread."""
        return self._context.n_operations

    def abandon(self) -> None:
        """Make a running `step` raise `Aborted` soon. May be called from any thread."""
        self._context.abort.set()

    def rearm(self) -> None:
        """Undo `abandon` for the next `step`."""
        self._context.abort.clear()

    def close(self) -> None:
        """Free the memory."""
        self._context.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def best_draft(
        self, key: Hashable, forced: Sequence[int], draft: Sequence[int]
    ) -> Sequence[int]:
        """Return a draft, or the tokens of an abandoned answer for this segment if they are more.

        Args:
            key: of the segment.
            forced: tokens that a draft must begin with.
            draft: tokens of the last hypothesis.
        """
        if not self.reuse:
            return ()
        found = self.batcher.text_of(key)
        begins_as_forced = found[: len(forced)] == tuple(forced)
        return found if begins_as_forced and len(found) > len(draft) else draft
