"""Writer of a small checkpoint with the released number of token ids and the released special ids.

Old CrispASR files have lost the texts of special tokens, so a reader must know the released ids.
Ordinary tokens keep their ids, added tokens get the released ids, and the ids between them are
words that result from no merge.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.sources.weights import EMBEDDINGS, Float32Array, Weights, read_vocabulary
from tests.support.checkpoints import FIRST_RELEASED, RELEASED_TOKENS, file_name, write_weights

N_ROWS: Final = 151_936

_OTHER: Final = "<unknown0>"


def released_id(directory: Path, token: int) -> int:
    """Return the id in the wide checkpoint of a token of the small one."""
    text = read_vocabulary(directory).added.get(token)
    if text is None:
        return token
    known = text if text in RELEASED_TOKENS else _OTHER
    return FIRST_RELEASED + RELEASED_TOKENS.index(known)


def write_released_ids(checkpoint: Path, directory: Path) -> Path:
    """Write a recogniser's checkpoint with the released ids and return its directory."""
    directory.mkdir(parents=True)
    weights = Weights(checkpoint)
    tensors = {name: weights.read(name) for name in weights.names}
    tensors[EMBEDDINGS] = _widen(weights, tensors[EMBEDDINGS])
    native = {file_name(name, weights.shape, "native"): t for name, t in tensors.items()}
    write_weights(directory, native, "F16")
    _write_config(weights, directory)
    _write_tokenizer(checkpoint, directory)
    settings = (checkpoint / "tokenizer_config.json").read_bytes()
    (directory / "tokenizer_config.json").write_bytes(settings)
    return directory


def _widen(weights: Weights, table: Float32Array) -> Float32Array:
    vocabulary = read_vocabulary(weights.directory)
    wide = np.zeros((N_ROWS, table.shape[1]), np.float32)
    for token in vocabulary.texts:
        wide[released_id(weights.directory, token)] = table[token]
    return wide


def _write_config(weights: Weights, directory: Path) -> None:
    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(each) for each in value]
        return released_id(weights.directory, value)

    config = {
        key: moved(value) if key.endswith("token_id") and value is not None else value
        for key, value in weights.config.items()
    }
    config["text_config"] = weights.config["text_config"] | {"vocab_size": N_ROWS}
    (directory / "config.json").write_text(json.dumps(config), "utf-8")


def _write_tokenizer(checkpoint: Path, directory: Path) -> None:
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"filler{number}": number for number in range(len(vocab), FIRST_RELEASED)}
    form = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] = [
        form | {"id": number, "content": text, "special": text.startswith("<|")}
        for number, text in enumerate(RELEASED_TOKENS, FIRST_RELEASED)
    ]
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
