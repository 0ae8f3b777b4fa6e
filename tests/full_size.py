"""Models with the dimensions of the released 0.6B ones and random weights.

python -m tests.full_size DIRECTORY --encoder int8 --decoder q4_k --aligner

Speed and memory depend on shapes, not on what the weights say, so these stand in for the released
files where either is measured. Their text would be gibberish of chance length: `model.json` says
that the decoder follows a script instead, so many tokens for each second of audio. With it come
151,936 made-up words, each a token, so that text has its real length, too.

The checkpoint is written as safetensors (1.6 GB, with an aligner 3.6 GB) into DIRECTORY.checkpoint,
goes through `streamasr export` like any other, and is deleted unless --keep is given. Two cores
take a minute with `q8_0` and two with `q4_k`, twice that with an aligner; writing takes little
memory, exporting 5 GB. DIRECTORY takes 1.0 GB (fp32, q8_0) or 0.6 GB (int8, q4_k), with an aligner
about twice that.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from streamasr.bench.machine import SCRIPTED
from tests import checkpoints
from tests.checkpoints import Shape

RECOGNISER: Final = Shape(
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
ALIGNER: Final = Shape(
    channels=480,
    d_model=1024,
    encoder_layers=24,
    encoder_heads=16,
    encoder_ffn=4096,
    hidden=1024,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    ffn=3072,
    vocab=152_064,
    tied=False,
    n_classes=5000,
)
TOKENS_PER_SECOND: Final = 4.0
"""Of speech; people say two or three words a second."""

_PIECE: Final = 1 << 22  # values made at a time


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    destination: Path = options.directory
    checkpoint = destination.with_name(destination.name + ".checkpoint")
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", file=sys.stderr, flush=True)

    if destination.exists() or checkpoint.exists():
        sys.exit(f"{destination} or {checkpoint} exists already")
    try:
        tell("writing the recogniser's checkpoint")
        write_checkpoint(checkpoint / "recogniser", RECOGNISER)
        if options.aligner:
            tell("writing the aligner's checkpoint")
            write_checkpoint(checkpoint / "aligner", ALIGNER)
        tell("exporting")
        export(checkpoint, destination, options.encoder, options.decoder, options.aligner)
        add_script(destination, options.tokens_per_second)
    finally:
        if not options.keep:
            shutil.rmtree(checkpoint, ignore_errors=True)
    tell(f"wrote {destination}")


def write_checkpoint(directory: Path, shape: Shape, seed: int = 0) -> None:
    """Write a checkpoint tensor by tensor, so that it need not fit into memory."""
    directory.mkdir(parents=True)
    config = json.dumps(checkpoints.native_config(shape), indent=2)
    (directory / "config.json").write_text(config, "utf-8")
    write_tokenizer(directory, shape.vocab)
    sizes = dict(sorted(checkpoints.tensor_shapes(shape)))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        begin, end = end, end + 2 * int(np.prod(size))
        place = {"dtype": "BF16", "shape": size, "data_offsets": [begin, end]}
        header[checkpoints.file_name(name, shape, "native")] = place
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    rng = np.random.default_rng(seed)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in sizes.items():
            _write_tensor(file, name, size, rng)


def write_tokenizer(directory: Path, vocab: int) -> None:
    """Write a byte-level BPE in which every id but a few is a word of four letters.

    Those with a space before them come first, then, as what they are merged from, those without.
    """
    checkpoints.write_tokenizer(directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    known: dict[str, int] = tokenizer["model"]["vocab"]
    n_added = len(tokenizer["added_tokens"])
    pairs = [pair for pair in map("".join, product(ascii_lowercase, repeat=2)) if pair not in known]
    n_words = (vocab - len(known) - n_added - len(pairs)) // 2
    words = list(islice(_words(pairs), n_words))
    made = [*pairs, *(f"Ġ{left}{right}" for left, right in words), *map("".join, words)]
    first = len(known) + n_added  # behind the special tokens
    known.update({text: first + number for number, text in enumerate(made)})
    merges: list[list[str]] = tokenizer["model"]["merges"]
    merges += [list(pair) for pair in pairs]
    merges += [[left, right] for left, right in words]
    merges += [["Ġ", left + right] for left, right in words]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")


def export(
    checkpoint: Path, destination: Path, encoder: str, decoder: str, has_aligner: bool
) -> None:
    """Have the program itself make a model of it."""
    command = [sys.executable, "-m", "streamasr", "export", str(checkpoint / "recogniser")]
    command += [str(destination), "--encoder", encoder, "--decoder", decoder]
    command += ["--name", f"random-0.6b-{encoder}-{decoder}"]
    if has_aligner:
        command += ["--aligner", str(checkpoint / "aligner")]
    subprocess.run(command, check=True)


def add_script(bundle: Path, tokens_per_second: float) -> None:
    """Say that the decoder's weights mean nothing."""
    path = bundle / "model.json"
    facts = json.loads(path.read_text("utf-8")) | {SCRIPTED: tokens_per_second}
    path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")


def _words(pairs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Two pairs each; the same letter pair twice is left out, as it would merge otherwise."""
    return ((left, right) for left, right in product(pairs, repeat=2) if left != right)


def _write_tensor(
    file: BinaryIO, name: str, size: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Values as `checkpoints.random_tensors` has them, of another generator."""
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
    """The upper half of the bits; rounding does not matter here."""
    return bytes((values.view(np.uint32) >> 16).astype("<u2").tobytes())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="of the model; must not exist yet")
    parser.add_argument("--encoder", choices=("fp32", "int8"), default="fp32")
    parser.add_argument("--decoder", choices=("f16", "q8_0", "q4_k"), default="q8_0")
    parser.add_argument("--aligner", action="store_true", help="with an aligner of its size")
    parser.add_argument("--tokens-per-second", type=float, default=TOKENS_PER_SECOND)
    parser.add_argument("--keep", action="store_true", help="the checkpoint")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
