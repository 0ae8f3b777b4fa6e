"""Prompts of both models as rows of token ids: the official prompts, byte for byte."""

from __future__ import annotations

from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor
from vocabulary import CHINESE, ENGLISH, WORDS, language_of, to_text

IGNORED = -100  # label of tokens without a loss
WITH_CONTEXT = 0.15  # share of batches


def transcript(words: list[int]) -> str:
    """Return the recogniser's answer for words."""
    said = [WORDS[word] for word in words]
    return f"language {language_of(said)}<asr_text>{to_text(said)}<|im_end|>"


def random_context(rng: Random) -> str:
    """Generate a random context; it never helps, so the model learns to tolerate any or none."""
    if rng.random() < 0.6:
        return " ".join(rng.choice(ENGLISH + CHINESE) for _ in range(rng.randint(1, 12)))
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-'äéñ中文日本"
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 40)))


class Prompts:
    """Converter of words to rows of token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.audio_token = self._id("<|audio_pad|>")
        self.end_token = self._id("<|im_end|>")
        self.timestamp_token = self._id("<timestamp>")
        self._pad_token = self._id("<|endoftext|>")

    def _id(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no {token}")
        return number

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def ask(self, n_audio: int, context: str = "") -> list[int]:
        """Return the recogniser's prompt up to the answer."""
        return [
            *self.encode(f"<|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n"),
            *self.encode("<|audio_start|>"),
            *[self.audio_token] * n_audio,
            *self.encode("<|audio_end|><|im_end|>\n<|im_start|>assistant\n"),
        ]

    def recognition(
        self, words: list[list[int]], n_audio: int, rng: Random
    ) -> tuple[Tensor, Tensor]:
        """Return prompts with their answers.

        Returns:
            (batch, length) ids, padded on the right, and the labels of the next tokens.
        """
        # All rows of a batch have a context or none has one: the longest row determines the cost.
        contexts = rng.random() < WITH_CONTEXT
        questions = [self.ask(n_audio, random_context(rng) if contexts else "") for _ in words]
        answers = [self.encode(transcript(said)) for said in words]
        rows = [q + a for q, a in zip(questions, answers, strict=True)]
        ids = self._padded(rows, self._pad_token)
        labels = torch.full_like(ids, IGNORED)
        for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            start = len(question) - 1
            labels[row, start : start + len(answer)] = torch.tensor(answer)
        return ids, labels

    def alignment(self, words: list[list[int]], n_audio: int) -> Tensor:
        """Return the aligner's prompts: each word, followed by slots for its start and its end."""
        head = [*self.encode("<|audio_start|>"), *[self.audio_token] * n_audio]
        head += self.encode("<|audio_end|>")
        rows = [
            head + self.encode("".join(f"{WORDS[word]}<timestamp><timestamp>" for word in said))
            for said in words
        ]
        return self._padded(rows, self._pad_token)

    @staticmethod
    def _padded(rows: list[list[int]], value: int) -> Tensor:
        length = max(map(len, rows))
        return torch.tensor([row + [value] * (length - len(row)) for row in rows])
