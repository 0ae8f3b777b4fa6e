"""Qwen3-ASR: a speech language model of an audio encoder and a Qwen3 decoder.

The decoder side of the family: its prompt, its special tokens, and how an answer becomes a
hypothesis. The encoder side is `streamasr.models.qwen3_encoder`; it lives in the encoder process.

Source: the official prompt of the reference implementation (`qwen-asr` 0.0.6), byte for byte.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from streamasr.decoder.generate import Generated, Prompt, generate, token_budget
from streamasr.decoder.llama import LlamaContext, LlamaModel
from streamasr.decoder.text import parse_answer
from streamasr.errors import ConfigError
from streamasr.events import Hypothesis
from streamasr.units import Float32Array

logger = logging.getLogger(__name__)

TOKENS_PER_SECOND: Final = 13
"""Embeddings that the encoder gives for a second of audio."""

_ENDS: Final = ("<|im_end|>", "<|endoftext|>")
_TEXT_MARKER: Final = "<asr_text>"
MAX_CONTEXT_TOKENS: Final = 512
"""Room for names and terms. Longer contexts slow every segment down and invite recitation."""

_MIN_RECITED_CHARACTERS: Final = 12
_TURN_TOKENS: Final = 64  # what is around context and audio, in any vocabulary


class Qwen3ASRDecoder:
    """Turns the encoder's embeddings into hypotheses. Belongs to one thread."""

    def __init__(self, path: Path, *, n_threads: int, max_segment_s: float) -> None:
        """Load the decoder of a bundle.

        Args:
            path: the GGUF file.
            n_threads: for llama.cpp.
            max_segment_s: the longest audio that will be decoded, in seconds.

        Raises:
            ModelError: the file cannot be used.
        """
        self._model = LlamaModel(path)
        self._text_marker = self._model.special_token(_TEXT_MARKER)
        self._ends = frozenset(self._model.special_token(text) for text in _ENDS)
        n_audio = round(max_segment_s + 1) * TOKENS_PER_SECOND
        n_ctx = n_audio + _TURN_TOKENS + MAX_CONTEXT_TOKENS + token_budget(n_audio)
        self._context = LlamaContext(self._model, n_ctx=n_ctx, n_threads=n_threads)

    def decode(
        self,
        embeddings: Float32Array,
        *,
        context: str = "",
        language: str | None = None,
        forced: Sequence[int] = (),
    ) -> Hypothesis:
        """Decode the audio of one segment from scratch.

        An answer that a guard had to end, or that only recites the context, is decoded again
        without the context.

        Args:
            embeddings: (n, n_embd) from the encoder.
            context: text that the model may draw names and terms from.
            language: the name of a language to force, None to have it detected.
            forced: tokens that the answer begins with, of an earlier one for less of this audio.

        Raises:
            DecodeError: llama.cpp refused; this segment only.
            Aborted: `abandon` was called since the last `rearm`.
        """
        hypothesis = self._decode_once(embeddings, context, language, forced)
        if context.strip() and (hypothesis.is_suspicious or _recites(hypothesis.text, context)):
            logger.info("decoding once more without the context")
            hypothesis = self._decode_once(embeddings, "", language, forced)
        return hypothesis

    def check_context(self, context: str) -> None:
        """Refuse a context that there is no room for.

        Raises:
            ConfigError: it is too long.
        """
        n_tokens = len(self._model.tokenize(context.strip(), special=False))
        if n_tokens > MAX_CONTEXT_TOKENS:
            raise ConfigError(
                f"the context is {n_tokens} tokens long, at most {MAX_CONTEXT_TOKENS} fit: "
                "name the rarest words only."
            )

    def abandon(self) -> None:
        """Make a running `decode` raise `Aborted` soon. May be called from any thread."""
        self._context.abort.set()

    def rearm(self) -> None:
        """Take `abandon` back, for the next `decode`."""
        self._context.abort.clear()

    def close(self) -> None:
        """Give the memory back."""
        self._context.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode_once(
        self,
        embeddings: Float32Array,
        context: str,
        language: str | None,
        forced: Sequence[int],
    ) -> Hypothesis:
        prompt = build_prompt(self._model, context, language, self._ends)
        generated = generate(self._context, prompt, embeddings, forced)
        return self._read(generated, language)

    def _read(self, generated: Generated, forced_language: str | None) -> Hypothesis:
        parsed = parse_answer(
            generated.tokens, self._model.piece, self._text_marker, forced_language
        )
        if generated.stop != "end":
            logger.warning("an answer of %d tokens had no end", len(generated.tokens))
        return Hypothesis(
            text=parsed.text,
            language=parsed.language,
            tokens=generated.tokens,
            ends=parsed.ends,
            is_suspicious=generated.stop != "end",
        )


def build_prompt(
    model: LlamaModel, context: str, language: str | None, ends: frozenset[int]
) -> Prompt:
    """The official prompt.

    The context is tokenised with special tokens off, so that it cannot end its turn. Leading and
    trailing white space is cut, which keeps the line breaks around it tokens of their own.
    """
    before = [
        *model.tokenize("<|im_start|>system\n", special=True),
        *model.tokenize(context.strip(), special=False),
        *model.tokenize("<|im_end|>\n<|im_start|>user\n<|audio_start|>", special=True),
    ]
    after = model.tokenize("<|audio_end|><|im_end|>\n<|im_start|>assistant\n", special=True)
    if language is not None:
        after += model.tokenize(f"language {language}{_TEXT_MARKER}", special=True)
    return Prompt(tuple(before), tuple(after), ends)


def add_hotwords(context: str, hotwords: Iterable[str]) -> str:
    """Make one context of a text and of words that are likely.

    The family knows no hotwords of their own: it takes names and terms from any text before the
    audio. They stand in a paragraph after the text, divided by commas as a writer would do it.
    """
    words = ", ".join(word for word in map(str.strip, hotwords) if word)
    return "\n".join(part for part in (context.strip(), words) if part)


def _recites(text: str, context: str) -> bool:
    """Whether the text is the context said back, or a good part of it."""
    said = "".join(text.lower().split())
    given = "".join(context.lower().split())
    return len(said) >= _MIN_RECITED_CHARACTERS and said in given
