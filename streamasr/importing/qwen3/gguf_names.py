"""Names of tensors in the published GGUF files, and the corresponding names of the normal form."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor

_BLOCK: Final = re.compile(
    r"(.*\bbl(?:k|ocks))\.(0|[1-9][0-9]{0,3})\.(.+)\.(weight|bias)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class TensorNames:
    """Mapping of names to the normal form, without `.weight` and `.bias`."""

    single: Mapping[str, str]
    """Names of the tensors outside of the layers."""
    blocks: Mapping[str, tuple[str, Mapping[str, str]]]
    """By the prefix before a layer's number: the prefix in the normal form, and the names of the
    layer's tensors."""

    def normal_name(self, name: str) -> str | None:
        """Return the normal name; None for an unknown name."""
        if found := _BLOCK.fullmatch(name):
            prefix, number, part, kind = found.groups()
            if prefix not in self.blocks:
                return None
            normal_prefix, parts = self.blocks[prefix]
            return f"{normal_prefix}.{number}.{parts[part]}.{kind}" if part in parts else None
        stem, _, kind = name.rpartition(".")
        if stem not in self.single or kind not in ("weight", "bias"):
            return None
        return f"{self.single[stem]}.{kind}"

    def normal_form(
        self, tensors: Mapping[str, GGUFTensor], path: Path, ignored: frozenset[str] = frozenset()
    ) -> dict[str, GGUFTensor]:
        """Return all tensors by their normal names.

        Raises:
            ModelError: a tensor's name is unknown.
        """
        normal = {}
        for name, tensor in tensors.items():
            if name in ignored:
                continue
            if (normal_name := self.normal_name(name)) is None:
                raise ModelError(f"{path}: unexpected tensor {name}", code="tensor_unexpected")
            normal[normal_name] = tensor
        return normal

    def n_layers(self, file: GGUFFile, key: str, prefix: str) -> int:
        """Return the number of layers that the metadata states, if it agrees with the tensors.

        Sizes are computed for each layer, so a claim of 2^31 layers would cost time and memory.

        Raises:
            ModelError: the file has more or fewer layers.
        """
        claimed = file.integer(key)
        blocks = (_BLOCK.fullmatch(name) for name in file.tensors)
        found = max((int(b[2]) + 1 for b in blocks if b and b[1] == prefix), default=0)
        if claimed != found:
            raise ModelError(
                f"{file.path}: {key} is {claimed}, but the file has tensors of {found} layers",
                code="layer_count",
            )
        return claimed


LLM: Final = TensorNames(
    single={
        "token_embd": "language_model.embed_tokens",
        "output_norm": "language_model.norm",
        "output": "head",
    },
    blocks={
        "blk": (
            "language_model.layers",
            {
                "attn_norm": "input_layernorm",
                "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj",
                "attn_output": "self_attn.o_proj",
                "attn_q_norm": "self_attn.q_norm",
                "attn_k_norm": "self_attn.k_norm",
                "ffn_norm": "post_attention_layernorm",
                "ffn_gate": "mlp.gate_proj",
                "ffn_up": "mlp.up_proj",
                "ffn_down": "mlp.down_proj",
            },
        )
    },
)
"""llama.cpp's names for a Qwen3; CrispASR uses the same."""

_ENCODER_BLOCK: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ffn_up": "fc1",
    "ffn_down": "fc2",
}

CRISPASR: Final = TensorNames(
    single={
        **LLM.single,
        **{f"audio.conv.{number}": f"audio_tower.conv2d{number}" for number in (1, 2, 3)},
        "audio.conv_out": "audio_tower.conv_out",
        "audio.ln_post": "audio_tower.ln_post",
        "audio.proj1": "multi_modal_projector.linear_1",
        "audio.proj2": "multi_modal_projector.linear_2",
    },
    blocks={
        **LLM.blocks,
        "audio.blk": (
            "audio_tower.layers",
            {
                **_ENCODER_BLOCK,
                "attn_norm": "self_attn_layer_norm",
                "ffn_norm": "final_layer_norm",
            },
        ),
    },
)

PROJECTOR: Final = TensorNames(
    single={
        **{f"a.conv2d.{number}": f"audio_tower.conv2d{number}" for number in (1, 2, 3)},
        "a.conv_out": "audio_tower.conv_out",
        "a.post_ln": "audio_tower.ln_post",
        "mm.a.mlp.1": "multi_modal_projector.linear_1",
        "mm.a.mlp.2": "multi_modal_projector.linear_2",
    },
    blocks={
        "a.blk": (
            "audio_tower.layers",
            {**_ENCODER_BLOCK, "ln1": "self_attn_layer_norm", "ln2": "final_layer_norm"},
        )
    },
)
"""Names in llama.cpp's `mmproj` files."""

TRANSCRIBE_CPP: Final = TensorNames(
    single={
        **{f"enc.conv.{number}": f"audio_tower.conv2d{number + 1}" for number in range(3)},
        "enc.conv_out": "audio_tower.conv_out",
        "enc.ln_post": "audio_tower.ln_post",
        "enc.proj1": "multi_modal_projector.linear_1",
        "enc.proj2": "multi_modal_projector.linear_2",
        "dec.token_embd": "language_model.embed_tokens",
        "dec.output_norm": "language_model.norm",
    },
    blocks={
        "enc.blocks": (
            "audio_tower.layers",
            {
                "norm_attn": "self_attn_layer_norm",
                "attn.q": "self_attn.q_proj",
                "attn.k": "self_attn.k_proj",
                "attn.v": "self_attn.v_proj",
                "attn.out": "self_attn.out_proj",
                "norm_ffn": "final_layer_norm",
                "ffn.fc1": "fc1",
                "ffn.fc2": "fc2",
            },
        ),
        "dec.blocks": (
            "language_model.layers",
            {
                "norm_attn": "input_layernorm",
                "attn.q": "self_attn.q_proj",
                "attn.k": "self_attn.k_proj",
                "attn.v": "self_attn.v_proj",
                "attn.o": "self_attn.o_proj",
                "attn.q_norm": "self_attn.q_norm",
                "attn.k_norm": "self_attn.k_norm",
                "norm_ffn": "post_attention_layernorm",
                "ffn.gate": "mlp.gate_proj",
                "ffn.up": "mlp.up_proj",
                "ffn.down": "mlp.down_proj",
            },
        ),
    },
)
"""Names in transcribe.cpp's files; they have no head, because it is tied to the embeddings."""
