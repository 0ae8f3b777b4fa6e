"""The embedded model's shape, initial values, and a batched forward pass for training.

The weights are in the classes of `transformers`, so checkpoints are compatible by construction;
only the forward pass of the encoder is ours, because theirs loops over windows.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from safetensors.torch import save_file
from tokenizer import save_tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

CHUNK = 100  # mel frames in the input of the convolutions
TOKENS_PER_CHUNK = 13
WINDOW = 104  # tokens that attend to each other: 8 s
CLASS_SECONDS = 0.08  # duration of a time class of the aligner
N_CLASSES = 512


def config(tokenizer: Tokenizer, n_classes: int = 2) -> Qwen3ASRConfig:
    """Return the configuration of a small model of the released architecture.

    Args:
        tokenizer: source of the vocabulary's size and the special tokens' ids.
        n_classes: time classes of an aligner; otherwise 2, the default of `transformers`.
    """
    token = tokenizer.token_to_id
    end = token("<|im_end|>")
    return Qwen3ASRConfig(
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "num_mel_bins": 128,
            "d_model": 192,
            "encoder_layers": 4,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 576,
            "downsample_hidden_size": 16,
            "output_dim": 192,
            "n_window": CHUNK // 2,
            "n_window_infer": CHUNK * WINDOW // TOKENS_PER_CHUNK,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": token("<|endoftext|>"),
        },
        audio_token_id=token("<|audio_pad|>"),
        timestamp_token_id=token("<timestamp>"),
        pad_token_id=token("<|endoftext|>"),
        eos_token_id=[token("<|endoftext|>"), end],
        tie_word_embeddings=True,
        num_labels=n_classes,
    )


def scale_start_values(model: nn.Module) -> None:
    """Initialise so that variances are constant with depth; 0.02 everywhere suits wide models."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and "lm_head" not in name and "score" not in name:
            deep = name.endswith(("out_proj", "fc2", "o_proj", "down_proj"))
            gain = 1 / math.sqrt(8) if deep else 1.0
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))


def encode(model: nn.Module, mel: Tensor) -> Tensor:
    """Compute audio embeddings from features, like `Qwen3ASRModel.get_audio_features`.

    Args:
        model: a `Qwen3ASRModel`.
        mel: (batch, frames, mels), all clips of the same length.
    Returns:
        (batch, tokens, output_dim).
    """
    tower = model.audio_tower
    batch, n_frames, n_mels = mel.shape
    n_chunks = -(-n_frames // CHUNK)
    mel = F.pad(mel, (0, 0, 0, n_chunks * CHUNK - n_frames))
    hidden = mel.reshape(batch * n_chunks, 1, CHUNK, n_mels).transpose(2, 3)
    for layer in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
        hidden = F.gelu(layer(hidden))
    hidden = tower.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
    hidden = hidden + tower.positional_embedding.positional_embedding
    hidden = hidden.reshape(batch, n_chunks * TOKENS_PER_CHUNK, -1)
    hidden = hidden[:, : n_tokens(n_frames)]
    for layer in tower.layers:
        hidden = _encoder_layer(layer, hidden)
    return model.multi_modal_projector(tower.ln_post(hidden))


def n_tokens(n_frames: int) -> int:
    """Count the audio tokens of a clip of `n_frames` mel frames."""
    chunks, rest = divmod(n_frames, CHUNK)
    return chunks * TOKENS_PER_CHUNK + -(-rest // 8)


def _encoder_layer(layer: nn.Module, hidden: Tensor) -> Tensor:
    attention = layer.self_attn
    normed = layer.self_attn_layer_norm(hidden)
    heads = [
        projection(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    windows = zip(*(tensor.split(WINDOW, dim=2) for tensor in heads), strict=True)
    mixed = torch.cat([F.scaled_dot_product_attention(q, k, v) for q, k, v in windows], dim=2)
    hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))


def read_text(model: nn.Module, ids: Tensor, audio: Tensor, audio_token: int) -> Tensor:
    """Run the language model over a prompt with audio and return the last of `read_layers`."""
    return read_layers(model, ids, audio, audio_token)[-1]


def read_layers(
    model: nn.Module, ids: Tensor, audio: Tensor, audio_token: int
) -> tuple[Tensor, ...]:
    """Run the language model over a prompt with audio.

    Args:
        model: a `Qwen3ASRModel`.
        ids: (batch, length), padded on the right, where causal attention ignores it.
        audio: (batch, tokens, hidden), replaces the `audio_token`s.
    Returns:
        (batch, length, hidden) before each layer, and after the last layer and its norm.
    """
    embedded = model.language_model.embed_tokens(ids)
    places = (ids == audio_token).unsqueeze(-1)
    embedded = embedded.masked_scatter(places, audio)
    output = model.language_model(
        inputs_embeds=embedded, use_cache=False, output_hidden_states=True
    )
    return tuple(output.hidden_states)


CHAT_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages if message.role == 'system' -%}
{%- if message.content is string -%}
{%- set ns.system = ns.system + message.content -%}
{%- else -%}
{%- for part in message.content if part.type == 'text' -%}
{%- set ns.system = ns.system + part.text -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' -}}
{%- for message in messages if message.role == 'user' -%}
{{- '<|im_start|>user\\n' -}}
{%- for part in message.content if part.type == 'audio' -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' -}}
{%- for message in messages if message.role == 'assistant' -%}
{%- for part in message.content if part.type == 'text' -%}
{{- part.text -}}
{%- endfor -%}
{%- endfor -%}
"""
ALIGNER_TEMPLATE = """\
{%- for message in messages -%}
{%- for part in message.content -%}
{%- if part.type == 'audio' -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}
{{- part.text + '<timestamp><timestamp>' -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""
FEATURES = {
    "feature_extractor_type": "Qwen3ASRFeatureExtractor",
    "processor_class": "Qwen3ASRProcessor",
    "feature_size": 128,
    "sampling_rate": 16000,
    "hop_length": 160,
    "chunk_length": 30,
    "n_fft": 400,
    "n_window": 50,
    "min_length": 8000,
    "dither": 0.0,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
}
PROCESSOR = {"processor_class": "Qwen3ASRProcessor", "timestamp_segment_time": 80}


def to_f16(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round weights to the precision of the shipped files."""
    return {name: tensor.detach().half().contiguous().clone() for name, tensor in weights.items()}


def save_checkpoint(
    directory: Path,
    model: Qwen3ASRForConditionalGeneration | Qwen3ASRForTokenClassification,
    weights: dict[str, Tensor],
) -> None:
    """Write a checkpoint of f16 values like `transformers`, replacing an older one atomically."""
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_tokenizer(fresh)
    tied = "lm_head.weight"  # equal to the embeddings
    kept = {name: tensor for name, tensor in to_f16(weights).items() if name != tied}
    save_file(kept, str(fresh / "model.safetensors"), metadata={"format": "pt"})
    (fresh / "model.safetensors").chmod(0o644)
    described = model.config.to_diff_dict() | {
        "architectures": [type(model).__name__],
        "dtype": "float16",
        "audio_config": model.config.audio_config.to_dict(),
        "text_config": model.config.text_config.to_dict(),
    }
    for part in (described, described["audio_config"], described["text_config"]):
        part["dtype"] = "float16"
    aligner = isinstance(model, Qwen3ASRForTokenClassification)
    for name, content in (
        ("config.json", described),
        ("preprocessor_config.json", FEATURES),
        ("processor_config.json", PROCESSOR),
    ):
        (fresh / name).write_text(json.dumps(content, indent=2) + "\n")
    template = ALIGNER_TEMPLATE if aligner else CHAT_TEMPLATE
    (fresh / "chat_template.jinja").write_text(template)
    old = directory.with_name(directory.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
