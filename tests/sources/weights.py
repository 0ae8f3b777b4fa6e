"""Reader for a checkpoint of transformers' native classes, tensor by tensor.

Tensors have the names of `tests.support.checkpoints.random_tensors`: the native names without their
outer "model.", and `head.weight` for the head of either family.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.support.checkpoints import Shape

Float32Array = npt.NDArray[np.float32]

HEAD: Final = "head.weight"
EMBEDDINGS: Final = "language_model.embed_tokens.weight"
IM_END: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"

_ITEMS: Final[dict[str, npt.DTypeLike]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class _Location:
    """Location of a tensor in a file."""

    path: Path
    stored_type: str
    shape: tuple[int, ...]
    offset: int


class Weights:
    """Dimensions and tensors of a checkpoint."""

    def __init__(self, directory: Path) -> None:
        """Read the headers of all safetensors files in `directory`."""
        self.directory = directory
        self.config: dict[str, Any] = _read_json(directory / "config.json")
        self._locations: dict[str, _Location] = {}
        for path in sorted(directory.glob("*.safetensors")):
            self._locations |= _read_header(path)

    @cached_property
    def shape(self) -> Shape:
        """Dimensions of the checkpoint."""
        audio, text = self.config["audio_config"], self.config["text_config"]
        head = self._locations.get(HEAD)
        is_aligner = self.config["architectures"] == ["Qwen3ASRForTokenClassification"]
        return Shape(
            n_mels=audio["num_mel_bins"],
            channels=audio["downsample_hidden_size"],
            d_model=audio["d_model"],
            encoder_layers=audio["encoder_layers"],
            encoder_heads=audio["encoder_attention_heads"],
            encoder_ffn=audio["encoder_ffn_dim"],
            n_window=audio["n_window"],
            n_window_infer=audio["n_window_infer"],
            hidden=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text["head_dim"],
            ffn=text["intermediate_size"],
            vocab=text["vocab_size"],
            rope_theta=text["rope_parameters"]["rope_theta"],
            tied=head is None,
            n_classes=head.shape[0] if head is not None and is_aligner else None,
        )

    @property
    def rms_eps(self) -> float:
        """Epsilon of the LLM's norms."""
        return float(self.config["text_config"]["rms_norm_eps"])

    @property
    def max_positions(self) -> int:
        """Number of positions that the LLM supports."""
        return int(self.config["text_config"]["max_position_embeddings"])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors in the files."""
        return tuple(self._locations)

    def size(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; for a tied head, that of the embeddings."""
        return self._location(name).shape

    def read(self, name: str) -> Float32Array:
        """Read a tensor; for a tied head, the embeddings."""
        location = self._location(name)
        count = int(np.prod(location.shape))
        stored = np.memmap(
            location.path, _ITEMS[location.stored_type], "r", location.offset, (count,)
        )
        if location.stored_type == "BF16":
            values = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            values = stored.astype(np.float32)
        return values.reshape(location.shape)

    def _location(self, name: str) -> _Location:
        if name == HEAD and HEAD not in self._locations:
            return self._locations[EMBEDDINGS]
        return self._locations[name]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Byte-level BPE tokenizer."""

    ordinary: dict[int, str]
    """Bytes and the tokens merged from them, in GPT-2's alphabet of bytes."""
    added: dict[int, str]
    special: frozenset[int]
    """Added tokens that are removed from decoded text."""
    merges: tuple[str, ...]

    @property
    def texts(self) -> dict[int, str]:
        """Texts of all tokens by id."""
        return self.ordinary | self.added

    def find(self, text: str) -> int:
        """Return the id of an added token."""
        return next(number for number, added in self.added.items() if added == text)


def read_vocabulary(directory: Path) -> Vocabulary:
    """Read the tokenizer of a checkpoint."""
    tokenizer = _read_json(directory / "tokenizer.json")
    added = tokenizer["added_tokens"]
    merges = tokenizer["model"]["merges"]
    return Vocabulary(
        ordinary={number: text for text, number in tokenizer["model"]["vocab"].items()},
        added={entry["id"]: entry["content"] for entry in added},
        special=frozenset(entry["id"] for entry in added if entry["special"]),
        merges=tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in merges),
    )


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _read_header(path: Path) -> dict[str, _Location]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        _normal_name(name): _Location(
            path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


def _normal_name(name: str) -> str:
    is_head = name in {"lm_head.weight", "score.weight"}
    return HEAD if is_head else name.removeprefix("model.")
