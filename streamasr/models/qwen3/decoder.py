"""Decoder of Qwen3-ASR: prompt, special tokens, and the way from an answer to a hypothesis.

The family is a speech language model of an audio encoder and a Qwen3 decoder. The encoder is in
`streamasr.models.qwen3.encoder` and runs in the encoder process.

Source: the official prompt of the reference implementation (`qwen-asr` 0.0.6), byte for byte.
"""

import functools
import logging
from collections.abc import Generator, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import ConfigError
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.decoder.batching import Answer, greedy
from streamasr.decoder.generate import Generated, Prompt, Question, generate, token_budget
from streamasr.decoder.llama import LlamaModel
from streamasr.decoder.openings import Openings
from streamasr.decoder.placement import ON_CPU, Placement
from streamasr.decoder.script import Script
from streamasr.models.bundle import Bundle
from streamasr.models.family import DecoderConfig, Encoded
from streamasr.models.qwen3.answer import NO_LANGUAGE, parse_answer
from streamasr.models.speech_decoder import SpeechDecoder

logger = logging.getLogger(__name__)

ROWS_PER_SECOND: Final = 13
"""Embeddings that the encoder makes of a second of audio."""

_ENDS: Final = ("<|im_end|>", "<|endoftext|>")
_TEXT_MARKER: Final = "<asr_text>"
MAX_CONTEXT_TOKENS: Final = 512
"""Room for names and terms. Longer contexts slow every segment down and invite recitation."""

_MIN_RECITED_CHARACTERS: Final = 12
_TURN_TOKENS: Final = 64  # around context and audio, in any vocabulary

_USUAL_SEGMENTS: Final = 3
"""Room for so many segments of full length and usual text, besides one that is as long as possible.
At full size each takes 60 MB; segments are mostly shorter, and kept only while they are open."""

_DEFAULTS: Final = SessionOptions()


class Qwen3ASRDecoder(SpeechDecoder):
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
        """Load the decoder of a bundle, and test whether it works.

        Args:
            path: the GGUF file.
            n_threads: for llama.cpp.
            max_segment_s: the longest audio that will be decoded, in seconds.
            reuse: False decodes every hypothesis from scratch.
            script: output in place of the gibberish of random weights.
            placement: device that computes it.

        Raises:
            ModelError: the file is missing, or not the decoder of a Qwen3-ASR.
        """
        n_ctx = context_cells(max_segment_s)
        super().__init__(path, placement, n_ctx=n_ctx, n_threads=n_threads, reuse=reuse)
        self._script = script
        self._text_marker = self.model.special_token(_TEXT_MARKER)
        self._ends = frozenset(self.model.special_token(text) for text in _ENDS)
        # Sessions differ in their lists of languages, but not often.
        self._openings = functools.lru_cache(maxsize=64)(self._make_openings)

    @classmethod
    def from_bundle(cls, bundle: Bundle, config: DecoderConfig) -> Self:
        """Load the decoder of a bundle.

        Raises:
            ModelError: a file or fact of the bundle cannot be used.
        """
        rate = bundle.scripted_tokens_per_second
        return cls(
            bundle.decoder,
            n_threads=config.n_threads,
            max_segment_s=config.max_segment_s,
            reuse=config.reuse,
            script=None if rate is None else Script(rate / ROWS_PER_SECOND),
            placement=config.placement,
        )

    def begin(
        self,
        key: Hashable,
        encoded: Encoded,
        options: SessionOptions = _DEFAULTS,
        *,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
    ) -> Answer[Hypothesis]:
        """Begin to decode the audio of one segment; `step` continues it.

        An answer that a guard had to end, or that only recites the context, is decoded again
        without the context.

        Args:
            key: of the segment: the rows that were read for it before are reused as far as they
                are the same.
            encoded: its embeddings, (n, n_embd).
            options: language or languages, context and hotwords.
            forced: tokens that the answer begins with, of an earlier one for less of this audio.
            draft: tokens that it probably begins with; they change its speed only.
        """
        embeddings, script = encoded.embeddings, self._script
        draft = self.best_draft(key, forced, draft)
        choose = script.chooser(len(embeddings), min(self._ends)) if script else greedy
        hypotheses = self._hypothesis(embeddings, options, forced, draft)
        return self.batcher.begin(key, hypotheses, choose)

    def check_options(self, options: SessionOptions) -> None:
        """Check that the context has room for the context text and hotwords of a session.

        Raises:
            ConfigError: they are more than `MAX_CONTEXT_TOKENS` tokens together.
        """
        context = add_hotwords(options.context, options.hotwords)
        n_tokens = len(self.model.tokenize(context, special=False))
        if n_tokens > MAX_CONTEXT_TOKENS:
            raise ConfigError(
                f"the context is {n_tokens} tokens long, at most {MAX_CONTEXT_TOKENS} fit; give "
                "the rarest words only.",
                code="context_too_long",
            )

    def _hypothesis(
        self,
        embeddings: Float32Array,
        options: SessionOptions,
        forced: Sequence[int],
        draft: Sequence[int],
    ) -> Generator[Question, Sequence[int], Hypothesis]:
        """Ask until the answer is complete, and once more where the context has spoilt it."""
        context = add_hotwords(options.context, options.hotwords)
        language = _forced_language(options)
        generated = yield from generate(self._prompt(context, options), embeddings, forced, draft)
        hypothesis = self._read(generated, language)
        if context and (hypothesis.is_suspicious or _recites(hypothesis.text, context)):
            logger.info("decoding again without the context")
            generated = yield from generate(self._prompt("", options), embeddings, forced, draft)
            hypothesis = self._read(generated, language)
        return hypothesis

    def _prompt(self, context: str, options: SessionOptions) -> Prompt:
        language = _forced_language(options)
        is_restricted = language is None and len(options.languages) > 1
        openings = self._openings(options.languages) if is_restricted else None
        return build_prompt(self.model, context, language, self._ends, openings)

    def _make_openings(self, languages: tuple[str, ...]) -> Openings:
        """Return the headers that name one of these languages, or none."""
        headers = (_header(name) for name in (*languages, NO_LANGUAGE))
        return Openings(self.model.tokenize(header, special=True) for header in headers)

    def _read(self, generated: Generated, forced_language: str | None) -> Hypothesis:
        parsed = parse_answer(
            generated.tokens, self.model.piece, self._text_marker, forced_language
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


def _forced_language(options: SessionOptions) -> str | None:
    """Return the language that the prompt names: the only one that is allowed, if it is one."""
    if options.language is None and len(options.languages) == 1:
        return options.languages[0]
    return options.language


def _header(language: str) -> str:
    return f"language {language}{_TEXT_MARKER}"


def context_cells(max_segment_s: float) -> int:
    """Return the number of positions that a decoder has room for, of all segments together."""
    n_audio = round(max_segment_s + 1) * ROWS_PER_SECOND
    n_longest = n_audio + _TURN_TOKENS + MAX_CONTEXT_TOKENS + token_budget(n_audio)
    n_usual = n_audio + _TURN_TOKENS + n_audio // 2
    return n_longest + _USUAL_SEGMENTS * n_usual


def build_prompt(
    model: LlamaModel,
    context: str,
    language: str | None,
    ends: frozenset[int],
    openings: Openings | None = None,
) -> Prompt:
    """Return the official prompt.

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
        after += model.tokenize(_header(language), special=True)
    return Prompt(tuple(before), tuple(after), ends, openings)


def add_hotwords(context: str, hotwords: Iterable[str]) -> str:
    """Make one context of a text and of hotwords; empty if there are neither.

    The family has no separate place for hotwords: it takes names and terms from any text before the
    audio. They stand in a paragraph after the text, divided by commas as a writer would do it.
    """
    words = ", ".join(word for word in map(str.strip, hotwords) if word)
    return "\n".join(part for part in (context.strip(), words) if part)


def _recites(text: str, context: str) -> bool:
    """Tell whether the text is the context itself, or a good part of it."""
    said = "".join(text.lower().split())
    given = "".join(context.lower().split())
    return len(said) >= _MIN_RECITED_CHARACTERS and said in given
