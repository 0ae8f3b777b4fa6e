"""The reference implementation, stage by stage: the computations of transformers for a clip.

Everything runs on the CPU with eager attention. Source of truth: `transformers.models.qwen3_asr`,
version 5.13 or later.

Models compute in double precision, whose results are exact for all purposes here and the same on
every processor. Other arithmetics show how far rounding moves the results: the tolerances of
comparisons follow from that (tests/support/rounding.py).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoTokenizer,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)
from transformers.models.qwen3 import modeling_qwen3

from tests.support.exact_log_mel import ExactLogMel

torch.set_num_threads(1)  # small matrices: more threads would mostly wait for each other

FloatArray = npt.NDArray[np.floating[Any]]
Arithmetic = Literal["double", "single", "half attention", "half decoder", "half"]
"""Double precision; single precision, the default of transformers; or double precision with
rounding to half precision before some products, as in llama.cpp and published models: in the
decoder's attention (keys, values, queries and weights), also of the decoder's matrices and their
inputs, or of all matrices and their inputs.
"""

_ENCODER = "audio_tower|multi_modal_projector"


@dataclass(frozen=True, slots=True)
class EncoderStages:
    """Outputs of the encoder's stages for the exact features of one clip."""

    conv_output: FloatArray
    """(n_tokens, d_model), positions added, rows of padding dropped."""
    encoder_output: FloatArray
    """(n_tokens, d_model), after the last norm, before the projector."""
    embeddings: FloatArray
    """(n_tokens, hidden)."""

    def errors(self, exact: "EncoderStages") -> dict[str, float]:
        """Return the largest distance from the exact values, by stage."""
        return {
            stage.name: float(np.abs(getattr(self, stage.name) - getattr(exact, stage.name)).max())
            for stage in fields(self)
        }


def reference_log_mel(samples: FloatArray, n_mels: int = 128) -> FloatArray:
    """Return the features of the reference's front end without padding: (n_frames, n_mels)."""
    features, mask = _extract(samples, n_mels)
    return features[0, :, : int(mask.sum())].T.numpy().copy()


class Reference:
    """Recogniser or aligner of transformers."""

    def __init__(
        self, checkpoint: Path, *, is_aligner: bool = False, arithmetic: Arithmetic = "double"
    ) -> None:
        cls = Qwen3ASRForTokenClassification if is_aligner else Qwen3ASRForConditionalGeneration
        self.model = cls.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.arithmetic = arithmetic
        if arithmetic != "single":
            _widen(self.model)
        if arithmetic in {"half decoder", "half"}:
            _round_matrices(self.model, "" if arithmetic == "half" else _ENCODER)
        self.n_mels = self.model.config.audio_config.num_mel_bins
        self.n_window = self.model.config.audio_config.n_window
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.ends = set(self.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))

    def encode(self, samples: FloatArray) -> EncoderStages:
        """Run the encoder and return the outputs of its stages."""
        features, mask = self._features(samples)
        seen: dict[str, FloatArray] = {}

        def keep_input(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            seen["conv_output"] = inputs[0].numpy().copy()

        tower = self.model.model.audio_tower
        hook = tower.layers[0].register_forward_pre_hook(keep_input)
        with self._computing():
            output = self.model.model.get_audio_features(features, mask)
        hook.remove()
        return EncoderStages(
            seen["conv_output"], output.last_hidden_state.numpy(), output.pooler_output.numpy()
        )

    def logits(self, token_ids: Sequence[int], samples: FloatArray) -> FloatArray:
        """Run one forward pass over tokens that include the audio placeholders.

        Returns:
            (len(token_ids), n_tokens or n_classes).
        """
        features, mask = self._features(samples)
        with self._computing():
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
        """Return the logits after the prompt and after each token of an answer.

        Returns:
            (len(answer) + 1, n_tokens).
        """
        return self.logits([*prompt, *answer], samples)[len(prompt) - 1 :]

    def answer(
        self, prompt: Sequence[int], samples: FloatArray, proposal: Sequence[int]
    ) -> tuple[FloatArray, tuple[int, ...]]:
        """Decode greedily along a proposed answer, in one pass.

        Returns:
            The first step's logits, and the greedy answer up to its first difference from the
            proposal: it equals the proposal exactly if the reference decodes the same.
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

    def _features(self, samples: FloatArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exact features, padded as the reference pads its own, and their mask.

        The reference's own features are compared separately: some have a far larger rounding error
        than their neighbours, which would influence all later stages.
        """
        features, mask = _extract(samples, self.n_mels, self.n_window)
        features = features.to(self.model.dtype)
        exact = _exact_features(samples.tobytes(), self.n_mels)
        features[0, :, : len(exact)] = torch.from_numpy(exact.T)
        return features, mask

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.arithmetic != "single":
                stack.enter_context(_Double())
            if self.arithmetic.startswith("half"):
                stack.enter_context(
                    patch.object(modeling_qwen3, "eager_attention_forward", _attend_in_half)
                )
            yield


@lru_cache(8)
def _exact_features(samples: bytes, n_mels: int) -> FloatArray:
    """Compute the features of float32 samples, cached because clips are used repeatedly."""
    return ExactLogMel(np.frombuffer(samples, np.float32), n_mels).features


class _Double(TorchFunctionMode):
    """Mode that replaces float32 by float64 wherever transformers requests float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        named = {
            name: torch.float64 if one is torch.float32 else one
            for name, one in (kwargs or {}).items()
        }
        return func(*args, **named)


def _widen(model: torch.nn.Module) -> None:
    """Convert a model to double precision, and compute its constants again."""
    model.double()
    with _Double():
        positions = model.model.audio_tower.positional_embedding
        table = positions.compute_default_singular_positional_embedding()
        positions.positional_embedding = table.double()
        rotary = model.model.language_model.rotary_emb
        steps = torch.arange(0, rotary.config.head_dim, 2).double() / rotary.config.head_dim
        rotary.inv_freq = 1 / rotary.config.rope_parameters["rope_theta"] ** steps


def _round_matrices(model: torch.nn.Module, exempt: str) -> None:
    """Round matrices to half precision, and in every later pass also their inputs.

    Args:
        model: the complete model.
        exempt: a pattern of module names to exclude; empty to exclude no module.
    """

    def round_input(_module: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (_half(inputs[0]),)

    for name, module in model.named_modules():
        is_exempt = bool(exempt) and re.search(exempt, name)
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and not is_exempt:
            module.weight.data = _half(module.weight.data)
            module.register_forward_pre_hook(round_input)


def _attend_in_half(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `eager_attention_forward` with both factors of its products rounded."""
    keys = modeling_qwen3.repeat_kv(_half(key), module.num_key_value_groups)
    values = modeling_qwen3.repeat_kv(_half(value), module.num_key_value_groups)
    scores = torch.matmul(_half(query), keys.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(_half(weights), values).transpose(1, 2).contiguous(), weights


def _half(values: torch.Tensor) -> torch.Tensor:
    return values.half().to(values.dtype)


def _extract(
    samples: FloatArray, n_mels: int, n_window: int = 50
) -> tuple[torch.Tensor, torch.Tensor]:
    extractor = Qwen3ASRFeatureExtractor(feature_size=n_mels, n_window=n_window)
    output = extractor(samples, sampling_rate=16_000, padding=True, return_attention_mask=True)
    return output["input_features"], output["attention_mask"]
