"""The reference implementation, stage by stage: what transformers computes of a clip.

Everything runs in float32 on the CPU with eager attention. Source of truth:
`transformers.models.qwen3_asr`, version 5.13 or later.
"""

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

    def logits(self, token_ids: list[int], samples: FloatArray) -> FloatArray:
        """One forward pass over tokens of which as many as needed are audio placeholders.

        Returns:
            (len(token_ids), n_tokens or n_classes).
        """
        features, mask = _extract(samples, self.n_mels, self.n_window)
        with torch.no_grad():
            output = self.model(
                input_ids=torch.tensor([token_ids]),
                input_features=features,
                input_features_mask=mask,
            )
        return output.logits[0].numpy()


def _extract(
    samples: FloatArray, n_mels: int, n_window: int = 50
) -> tuple[torch.Tensor, torch.Tensor]:
    extractor = Qwen3ASRFeatureExtractor(feature_size=n_mels, n_window=n_window)
    output = extractor(samples, sampling_rate=16_000, padding=True, return_attention_mask=True)
    return output["input_features"], output["attention_mask"]
