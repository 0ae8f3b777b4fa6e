"""The reference implementation, stage by stage: what transformers computes of a clip.

Everything runs in float32 on the CPU with eager attention. Source of truth:
`transformers.models.qwen3_asr`, version 5.13 or later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    AutoTokenizer,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

torch.set_num_threads(1)  # small matrices: more threads wait for each other

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderStages:
    """What the encoder makes of one clip."""

    conv_output: FloatArray
    """(n_tokens, d_model), positions added, rows of padding dropped."""
    encoder_output: FloatArray
    """(n_tokens, d_model), after the last norm, before the projector."""
    embeddings: FloatArray
    """(n_tokens, hidden)."""


def reference_log_mel(samples: FloatArray, n_mels: int = 128) -> FloatArray:
    """Features of the reference's front end: (n_frames, n_mels), padding cut off."""
    features, mask = _extract(samples, n_mels)
    return features[0, :, : int(mask.sum())].T.numpy().copy()


class Reference:
    """A recogniser or an aligner of transformers."""

    def __init__(self, checkpoint: Path, *, is_aligner: bool = False) -> None:
        cls = Qwen3ASRForTokenClassification if is_aligner else Qwen3ASRForConditionalGeneration
        self.model = cls.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.n_mels = self.model.config.audio_config.num_mel_bins
        self.n_window = self.model.config.audio_config.n_window
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.ends = set(self.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))

    def encode(self, samples: FloatArray) -> EncoderStages:
        """Run the encoder and keep what passes its stages."""
        features, mask = _extract(samples, self.n_mels, self.n_window)
        seen: dict[str, FloatArray] = {}

        def keep_input(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            seen["conv_output"] = inputs[0].numpy().copy()

        tower = self.model.model.audio_tower
        hook = tower.layers[0].register_forward_pre_hook(keep_input)
        with torch.no_grad():
            output = self.model.model.get_audio_features(features, mask)
        hook.remove()
        return EncoderStages(
            seen["conv_output"], output.last_hidden_state.numpy(), output.pooler_output.numpy()
        )

    def logits(self, token_ids: Sequence[int], samples: FloatArray) -> FloatArray:
        """One forward pass over tokens of which as many as needed are audio placeholders.

        Returns:
            (len(token_ids), n_tokens or n_classes).
        """
        features, mask = _extract(samples, self.n_mels, self.n_window)
        with torch.no_grad():
            output = self.model(
                input_ids=torch.tensor([list(token_ids)]),
                input_features=features,
                input_features_mask=mask,
            )
        return output.logits[0].numpy()

    def prompt(self, context: str, language: str | None, n_audio: int) -> tuple[int, ...]:
        """Tokenise the official prompt of a recogniser."""
        answer = "" if language is None else f"language {language}<asr_text>"
        text = (
            f"<|im_start|>system\n{context}<|im_end|>\n"
            f"<|im_start|>user\n<|audio_start|>{n_audio * '<|audio_pad|>'}<|audio_end|><|im_end|>\n"
            f"<|im_start|>assistant\n{answer}"
        )
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def answer_logits(
        self, prompt: Sequence[int], samples: FloatArray, answer: Sequence[int]
    ) -> FloatArray:
        """Compute what follows the prompt and each token of an answer.

        Returns:
            (len(answer) + 1, n_tokens).
        """
        return self.logits([*prompt, *answer], samples)[len(prompt) - 1 :]

    def answer(
        self, prompt: Sequence[int], samples: FloatArray, proposal: Sequence[int]
    ) -> tuple[FloatArray, tuple[int, ...]]:
        """Decode greedily along a proposed answer, in one pass.

        Returns:
            The first step's logits, and the greedy answer as far as the proposal leads
            there: it equals the proposal exactly if the reference decodes the same.
        """
        logits = self.answer_logits(prompt, samples, proposal)
        choices = logits.argmax(axis=-1).tolist()
        agreed = next(
            (i for i, (a, b) in enumerate(zip(choices, proposal, strict=False)) if a != b),
            len(proposal),
        )
        ended = choices[agreed] in self.ends
        return logits[0], tuple(proposal[:agreed]) + (() if ended else (choices[agreed],))

    def greedy(
        self, prompt: Sequence[int], samples: FloatArray, n_tokens: int = 48
    ) -> tuple[int, ...]:
        """Decode greedily from scratch, without the end token."""
        answer: tuple[int, ...] = ()
        while len(answer) < n_tokens:
            _, longer = self.answer(prompt, samples, answer)
            if len(longer) == len(answer):
                break
            answer = longer
        return answer

    def classes(self, samples: FloatArray, words: Sequence[str]) -> FloatArray:
        """Compute an aligner's logits at the timestamp slots: (2 * len(words), n_classes)."""
        n_audio = len(self.encode(samples).embeddings)
        text = f"<|audio_start|>{n_audio * '<|audio_pad|>'}<|audio_end|>" + "".join(
            f"{word}<timestamp><timestamp>" for word in words
        )
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        slot = self.tokenizer.convert_tokens_to_ids("<timestamp>")
        return self.logits(token_ids, samples)[np.flatnonzero(np.array(token_ids) == slot)]


def _extract(
    samples: FloatArray, n_mels: int, n_window: int = 50
) -> tuple[torch.Tensor, torch.Tensor]:
    extractor = Qwen3ASRFeatureExtractor(feature_size=n_mels, n_window=n_window)
    output = extractor(samples, sampling_rate=16_000, padding=True, return_attention_mask=True)
    return output["input_features"], output["attention_mask"]
