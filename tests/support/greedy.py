"""Greedy decoding with llama.cpp, without the guards of the product."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows
from streamasr.models.qwen3.decoder import build_prompt

MAX_NEW_TOKENS: Final = 48
PLACEHOLDER: Final = "<|audio_pad|>"  # transformers would insert audio for it
_ENDS: Final = ("<|im_end|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class GreedyAnswer:
    """Answer of a decoder without its end token."""

    first_logits: Float32Array
    """(n_tokens,), logits after the prompt."""
    prompt: tuple[int, ...]
    """Token ids, with placeholders for the audio."""
    tokens: tuple[int, ...]


class GreedyDecoder:
    """Decoder in a bundle that takes the most likely token at each step."""

    def __init__(self, bundle: Path, n_ctx: int, n_threads: int = 1) -> None:
        """Open the decoder of a bundle."""
        self.model = LlamaModel(bundle / "decoder.gguf")
        self._context = LlamaContext(self.model, n_ctx=n_ctx, n_threads=n_threads)
        self._ends = frozenset(self.model.special_token(text) for text in _ENDS)
        self._placeholder = self.model.special_token(PLACEHOLDER)

    def decode(
        self,
        embeddings: Float32Array,
        context: str = "",
        language: str | None = None,
        n_tokens: int = MAX_NEW_TOKENS,
    ) -> GreedyAnswer:
        """Decode the most likely answer; an audio placeholder ends it, too."""
        prompt = build_prompt(self.model, context, language, self._ends)
        self._context.truncate(0, 0)
        self._read(prompt.before)
        self._context.read([Rows(0, embeddings)])
        first = logits = self._read(prompt.after, 1)[0].copy()
        answer: list[int] = []
        while len(answer) < n_tokens and int(logits.argmax()) not in {
            *self._ends,
            self._placeholder,
        }:
            answer.append(int(logits.argmax()))
            logits = self._read(answer[-1:], 1)[0]
        placeholders = len(embeddings) * (self._placeholder,)
        return GreedyAnswer(first, (*prompt.before, *placeholders, *prompt.after), tuple(answer))

    def close(self) -> None:
        """Release the model."""
        self._context.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, tokens: Sequence[int], n_outputs: int = 0) -> list[Float32Array]:
        return self._context.read([Rows(0, np.asarray(tokens, dtype=np.int32), n_outputs)])
