"""Qwen3-ASR: a speech language model of an audio encoder and a Qwen3 decoder.

The decoder side of the family: its prompt, its special tokens, and how an answer becomes a
hypothesis. The encoder side is `streamasr.models.qwen3.encoder`; it lives in the encoder process.

Source: the official prompt of the reference implementation (`qwen-asr` 0.0.6), byte for byte.
"""

import logging
from collections.abc import Generator, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import ConfigError
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.units import Float32Array
from streamasr.decoder.batching import MAX_ROWS, N_PREFIXES, Answer, Batcher, greedy
from streamasr.decoder.generate import Generated, Prompt, Question, generate, token_budget
from streamasr.decoder.llama import LlamaContext, LlamaModel, self_test
from streamasr.decoder.placement import ON_CPU, Placement
from streamasr.decoder.script import Script
from streamasr.models.qwen3.answer import parse_answer

logger = logging.getLogger(__name__)

TOKENS_PER_SECOND: Final = 13
"""Embeddings that the encoder gives for a second of audio."""

_ENDS: Final = ("<|im_end|>", "<|endoftext|>")
_TEXT_MARKER: Final = "<asr_text>"
MAX_CONTEXT_TOKENS: Final = 512
"""Room for names and terms. Longer contexts slow every segment down and invite recitation."""

_MIN_RECITED_CHARACTERS: Final = 12
_TURN_TOKENS: Final = 64  # what is around context and audio, in any vocabulary

_MAX_SEGMENTS: Final = 16
"""Open segments whose cells are kept; of more sessions, those that waited longest start anew."""

_USUAL_SEGMENTS: Final = 3
"""Room for so many segments of full length and usual text, besides one that is as long as possible.
At full size each takes 60 MB; segments are mostly shorter, and kept only while they are open."""


class Qwen3ASRDecoder:
    """Turns the encoder's embeddings into hypotheses, many at once. Belongs to one thread."""

    def __init__(
        self,
        path: Path,
        *,
        n_threads: int,
        max_segment_s: float,
        reuse: bool = True,
        script: Script | None = None,
        placement: Placement = ON_CPU,
    ) -> None:
        """Load the decoder of a bundle, and see whether it works.

        Args:
            path: the GGUF file.
            n_threads: for llama.cpp.
            max_segment_s: the longest audio that will be decoded, in seconds.
            reuse: off, every hypothesis is decoded from scratch.
            script: for weights that have learned nothing: what they say in place of gibberish.
            placement: where it is to be computed.

        Raises:
            ModelError: the file cannot be used, or not there.
        """
        self._model = LlamaModel(path, placement)
        self._reuse = reuse
        self._script = script
        self._text_marker = self._model.special_token(_TEXT_MARKER)
        self._ends = frozenset(self._model.special_token(text) for text in _ENDS)
        self._context = LlamaContext(
            self._model,
            n_ctx=context_cells(max_segment_s),
            n_threads=n_threads,
            n_sequences=N_PREFIXES + _MAX_SEGMENTS,
            n_batch=MAX_ROWS,
        )
        self_test(self._context)
        self._batcher = Batcher(self._context, N_PREFIXES + _MAX_SEGMENTS, reuse=reuse)

    def begin(
        self,
        key: Hashable,
        embeddings: Float32Array,
        *,
        context: str = "",
        language: str | None = None,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
    ) -> Answer[Hypothesis]:
        """Begin to decode the audio of one segment; `step` goes on with it.

        An answer that a guard had to end, or that only recites the context, is decoded again
        without the context.

        Args:
            key: of the segment: what was read for it before is used again as far as it is the same.
            embeddings: (n, n_embd) from the encoder.
            context: text that the model may draw names and terms from.
            language: the name of a language to force, None to have it detected.
            forced: tokens that the answer begins with, of an earlier one for less of this audio.
            draft: tokens that it probably has, from its beginning; they only make it faster.
        """
        draft = self._best_draft(key, forced, draft) if self._reuse else ()
        script = self._script
        choose = script.chooser(len(embeddings), min(self._ends)) if script else greedy
        hypotheses = self._hypothesis(embeddings, context, language, forced, draft)
        return self._batcher.begin(key, hypotheses, choose)

    def step(self, answers: Sequence[Answer[Hypothesis]]) -> list[tuple[Answer[Hypothesis], float]]:
        """Read one batch for some of the answers; see `Batcher.step`."""
        return self._batcher.step(answers)

    def release(self, key: Hashable) -> None:
        """Forget what was read for a segment."""
        self._batcher.release(key)

    def decode(
        self,
        embeddings: Float32Array,
        *,
        context: str = "",
        language: str | None = None,
        forced: Sequence[int] = (),
    ) -> Hypothesis:
        """Decode one segment alone and from scratch.

        Raises:
            DecodeError: llama.cpp refused.
            Aborted: `abandon` was called since the last `rearm`.
        """
        key = object()
        answer = self.begin(key, embeddings, context=context, language=language, forced=forced)
        try:
            while not answer.is_complete:
                self.step([answer])
        finally:
            self.release(key)
        if answer.error:
            raise answer.error
        assert answer.result is not None
        return answer.result

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

    @property
    def n_operations(self) -> int:
        """Rises during a `step` on the CPU. May be asked from any thread."""
        return self._context.n_operations

    def abandon(self) -> None:
        """Make a running `step` raise `Aborted` soon. May be called from any thread."""
        self._context.abort.set()

    def rearm(self) -> None:
        """Take `abandon` back, for the next `step`."""
        self._context.abort.clear()

    def close(self) -> None:
        """Give the memory back."""
        self._context.close()
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _best_draft(
        self, key: Hashable, forced: Sequence[int], draft: Sequence[int]
    ) -> Sequence[int]:
        """The draft, or what an abandoned answer for this segment had found already."""
        found = self._batcher.text_of(key)
        keeps_promise = found[: len(forced)] == tuple(forced)
        return found if keeps_promise and len(found) > len(draft) else draft

    def _hypothesis(
        self,
        embeddings: Float32Array,
        context: str,
        language: str | None,
        forced: Sequence[int],
        draft: Sequence[int],
    ) -> Generator[Question, Sequence[int], Hypothesis]:
        """Ask until the answer is complete, and once more where the context has spoilt it."""
        prompt = build_prompt(self._model, context, language, self._ends)
        generated = yield from generate(prompt, embeddings, forced, draft)
        hypothesis = self._read(generated, language)
        if context.strip() and (hypothesis.is_suspicious or _recites(hypothesis.text, context)):
            logger.info("decoding once more without the context")
            prompt = build_prompt(self._model, "", language, self._ends)
            generated = yield from generate(prompt, embeddings, forced, draft)
            hypothesis = self._read(generated, language)
        return hypothesis

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


def context_cells(max_segment_s: float) -> int:
    """How many positions a decoder has room for, of all segments together."""
    n_audio = round(max_segment_s + 1) * TOKENS_PER_SECOND
    n_longest = n_audio + _TURN_TOKENS + MAX_CONTEXT_TOKENS + token_budget(n_audio)
    n_usual = n_audio + _TURN_TOKENS + n_audio // 2
    return n_longest + _USUAL_SEGMENTS * n_usual


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
