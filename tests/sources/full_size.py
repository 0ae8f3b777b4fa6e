"""Checkpoints with the dimensions and token ids of the released models, and random weights."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from tests.sources.safetensors import write_header
from tests.support import checkpoints
from tests.support.checkpoints import FIRST_RELEASED, RELEASED_TOKENS, Shape

SMALL_RECOGNISER: Final = Shape(
    channels=480,
    d_model=896,
    encoder_layers=18,
    encoder_heads=14,
    encoder_ffn=3584,
    hidden=1024,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    ffn=3072,
    vocab=151_936,
)
LARGE_RECOGNISER: Final = replace(
    SMALL_RECOGNISER,
    d_model=1024,
    encoder_layers=24,
    encoder_heads=16,
    encoder_ffn=4096,
    hidden=2048,
    ffn=6144,
)
ALIGNER: Final = replace(
    LARGE_RECOGNISER, hidden=1024, ffn=3072, vocab=152_064, tied=False, n_classes=5000
)
SHAPES: Final = {"0.6b": SMALL_RECOGNISER, "1.7b": LARGE_RECOGNISER, "aligner": ALIGNER}

_MAX_POSITIONS: Final = 65_536
_PIECE: Final = 1 << 22  # values generated at a time


def write_checkpoint(directory: Path, shape: Shape, seed: int = 0) -> Path:
    """Write a native checkpoint in bfloat16, tensor by tensor, and return its directory."""
    directory.mkdir(parents=True)
    write_tokenizer(directory, shape.vocab)
    (directory / "config.json").write_text(json.dumps(_config(shape)), "utf-8")
    sizes = dict(sorted(checkpoints.tensor_shapes(shape)))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        begin, end = end, end + 2 * int(np.prod(size))
        place = {"dtype": "BF16", "shape": size, "data_offsets": [begin, end]}
        header[checkpoints.file_name(name, shape, "native")] = place
    rng = np.random.default_rng(seed)
    with (directory / "model.safetensors").open("wb") as file:
        write_header(file, header)
        for name, size in sizes.items():
            _write_tensor(file, name, size, rng)
    return directory


def _config(shape: Shape) -> dict[str, Any]:
    """Return the native configuration with the token ids of the tokenizer in the same folder."""
    config = checkpoints.native_config(shape)
    config["text_config"]["max_position_embeddings"] = _MAX_POSITIONS
    ids = {text: number for number, text in added_tokens(shape.vocab).items()}
    end_of_text, im_end = ids["<|endoftext|>"], ids["<|im_end|>"]
    return config | {
        "audio_token_id": ids["<|audio_pad|>"],
        "timestamp_token_id": ids["<timestamp>"],
        "eos_token_id": [end_of_text, im_end],
        "pad_token_id": end_of_text,
    }


def added_tokens(vocab: int) -> dict[int, str]:
    """Return all added tokens by id: the released ids if they fit, else the last ids."""
    first = min(FIRST_RELEASED, vocab - len(RELEASED_TOKENS))
    return dict(enumerate(RELEASED_TOKENS, first))


def write_tokenizer(directory: Path, vocab: int) -> None:
    """Write a byte-level BPE in which almost every ordinary id is a word of four letters.

    Words with a leading space come first, then the words without it, from which they are merged.
    """
    checkpoints.write_tokenizer(directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    added = added_tokens(vocab)
    known: dict[str, int] = tokenizer["model"]["vocab"]
    merges: list[list[str]] = tokenizer["model"]["merges"]
    pairs = [pair for pair in map("".join, product(ascii_lowercase, repeat=2)) if pair not in known]
    n_left = min(added) - len(known) - len(pairs)
    words = list(islice(_words(pairs), n_left - n_left // 2))
    spaced = words[: n_left // 2]
    made = [*pairs, *(f"Ġ{left}{right}" for left, right in spaced), *map("".join, words)]
    known.update({text: number for number, text in enumerate(made, len(known))})
    merges += [list(pair) for pair in pairs]
    merges += [[left, right] for left, right in words]
    merges += [["Ġ", left + right] for left, right in spaced]
    form = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] = [
        form | {"id": number, "content": text, "special": text.startswith("<|")}
        for number, text in added.items()
    ]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


def _words(pairs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield words of two pairs of letters; equal pairs are excluded: they merge differently."""
    return ((left, right) for left, right in product(pairs, repeat=2) if left != right)


def _write_tensor(
    file: BinaryIO, name: str, size: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Write values with the distribution of `checkpoints.random_tensors`, by another generator."""
    n_values, rest = int(np.prod(size)), int(np.prod(size[1:]))
    scale = 0.3 if len(size) == 1 else 1.5 / float(np.sqrt(rest))
    is_norm = name.endswith(("norm.weight", "ln_post.weight"))
    for begin in range(0, n_values, _PIECE):
        n = min(_PIECE, n_values - begin)
        if is_norm:
            values = 0.5 + rng.random(n, np.float32)
        else:
            values = rng.standard_normal(n, np.float32) * np.float32(scale)
        file.write(_bf16(values))


def _bf16(values: npt.NDArray[np.float32]) -> bytes:
    """Return the upper half of the bits; rounding is irrelevant for random values."""
    return bytes((values.view(np.uint32) >> 16).astype("<u2").tobytes())
