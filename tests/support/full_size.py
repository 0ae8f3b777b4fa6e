"""Models and sources of the released dimensions with random weights, and their cost.

python -m tests.support.full_size model DIR --encoder int8 --decoder q4_k --aligner
python -m tests.support.full_size source DIR --model 1.7b --form crispasr --precision q8_0
python -m tests.support.full_size check DIR --model 0.6b --model aligner

Speed, memory and arithmetic depend on shapes, not on the values of the weights, so these stand in
for the released files in measurements.

`model` makes a model directory for `streamasr bench`. Random weights would emit text of random
length, so `model.json` declares a scripted decoder with a fixed number of tokens for each second of
audio. The tokenizer holds 150,000 made-up words, so that text has a realistic length, too.
The checkpoint (bf16: 1.6 GB, with an aligner 3.4 GB) is written beside DIR; without --keep it
is deleted afterwards.

`source` writes a model as it is published, with the names, dimensions, types and metadata that the
published files have.

`check` writes every form below DIR, one after the other, imports each in a separate process and
measures the import. Then it compares the output for a clip with that of transformers with the same
weights, if transformers and torch are installed: always the encoder, the decoder if it is f16.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from streamasr.bench.machine import SCRIPTED
from tests.sources.crispasr import write_crispasr
from tests.sources.full_size import SHAPES, write_checkpoint
from tests.sources.ggml_org import write_ggml_org
from tests.sources.onnx_release import write_onnx_release
from tests.sources.safetensors import write_safetensors
from tests.support.full_size_check import CHECKS, check

TOKENS_PER_SECOND: Final = 4.0
"""Tokens per second of speech; people say two or three words a second."""

PRECISIONS: Final = {
    "onnx": ("fp32", "fp16", "int8", "int4"),
    "crispasr": ("f16", "q8_0", "q5_0", "q4_k", "q3_k"),
    "ggml-org": ("f16", "bf16", "q8_0"),
    "safetensors": ("BF16", "F16", "F32"),
}
"""Precisions of each form, the default first."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.run(options)


def make_model(options: argparse.Namespace) -> None:
    """Make a model directory whose decoder follows a script."""
    destination: Path = options.directory
    tell = _clock()
    widths = ["--encoder", options.encoder, "--decoder", options.decoder]
    with _beside(destination, keep=options.keep) as place:
        tell("writing the recogniser's weights")
        recogniser = write_checkpoint(place / "recogniser", SHAPES["0.6b"])
        tell("importing them")
        import_source(recogniser, destination, widths)
        if options.aligner:
            tell("writing the aligner's weights")
            aligner = write_checkpoint(place / "aligner", SHAPES["aligner"])
            tell("importing them")
            import_source(aligner, destination / "aligner", widths)
        name = f"random-0.6b-{options.encoder}-{options.decoder}"
        add_script(destination, name, options.tokens_per_second)
    tell(f"wrote {destination}")


def import_source(source: Path, destination: Path, options: Sequence[str]) -> None:
    """Import the source with `streamasr models import`."""
    command = [sys.executable, "-m", "streamasr", "models", "import", str(source)]
    subprocess.run([*command, "--output", str(destination), *options], check=True)


def add_script(bundle: Path, name: str, tokens_per_second: float) -> None:
    """Set the name of a model and declare its decoder as scripted."""
    path = bundle / "model.json"
    facts = json.loads(path.read_text("utf-8")) | {"name": name, SCRIPTED: tokens_per_second}
    path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")


def make_source(options: argparse.Namespace) -> None:
    """Write one form of one model."""
    destination: Path = options.directory
    choices = PRECISIONS[options.form]
    if options.precision not in {None, *choices}:
        sys.exit(f"the precisions of {options.form} are {', '.join(choices)}")
    tell = _clock()
    with _beside(destination, keep=options.keep) as checkpoint:
        tell("writing the weights")
        write_checkpoint(checkpoint, SHAPES[options.model])
        tell(f"writing them as {options.form}")
        destination.mkdir(parents=True)
        write_form(checkpoint, destination, options)
    tell(f"wrote {destination}")


def write_form(checkpoint: Path, destination: Path, options: argparse.Namespace) -> None:
    """Write a form into an empty directory."""
    precision: Any = options.precision or PRECISIONS[options.form][0]
    match options.form:
        case "onnx":
            write_onnx_release(
                checkpoint, destination, precision, options.decoder, infix=not options.no_infix
            )
        case "crispasr":
            name = f"qwen3-asr-{options.model}-{precision}.gguf"
            write_crispasr(checkpoint, destination / name, precision, generation=options.generation)
        case "ggml-org":
            write_ggml_org(checkpoint, destination, precision, precision)
        case "safetensors":
            write_safetensors(checkpoint, destination, options.style, precision, options.shards)


def check_forms(options: argparse.Namespace) -> None:
    """Import every form of some models and print time and memory."""
    check(options.directory, options.model or list(SHAPES), options.form, options.json)


@contextmanager
def _beside(destination: Path, *, keep: bool) -> Iterator[Path]:
    """Yield a directory for the checkpoint, beside the result."""
    checkpoint = destination.with_name(destination.name + ".checkpoint")
    if destination.exists() or checkpoint.exists():
        sys.exit(f"{destination} or {checkpoint} exists already")
    try:
        yield checkpoint
    finally:
        if not keep:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _clock() -> Callable[[str], None]:
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", file=sys.stderr, flush=True)

    return tell


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = commands.add_parser("model", help="a model directory for `streamasr bench`")
    model.add_argument("directory", type=Path, help="of the model; must not exist yet")
    model.add_argument("--encoder", choices=("fp32", "fp16", "int8"), default="fp32")
    model.add_argument("--decoder", choices=("f16", "q8_0", "q4_k"), default="q8_0")
    model.add_argument("--aligner", action="store_true", help="with an aligner of its size")
    model.add_argument("--tokens-per-second", type=float, default=TOKENS_PER_SECOND)
    model.add_argument("--keep", action="store_true", help="the checkpoint")
    model.set_defaults(run=make_model)

    source = commands.add_parser("source", help="a model as it is published")
    source.add_argument("directory", type=Path, help="for its files; must not exist yet")
    source.add_argument("--model", choices=SHAPES, default="0.6b")
    source.add_argument("--form", choices=PRECISIONS, default="onnx")
    source.add_argument("--precision", help="one that the form comes in")
    source.add_argument("--decoder", choices=("f16", "q8_0", "q5_k", "q4_k"), default="q4_k")
    source.add_argument("--no-infix", action="store_true", help="no precisions in ONNX file names")
    source.add_argument("--generation", choices=("new", "old"), default="new", help="of CrispASR")
    source.add_argument("--style", choices=("original", "native"), default="original")
    source.add_argument("--shards", type=int, default=1, help="of safetensors")
    source.add_argument("--keep", action="store_true", help="the checkpoint")
    source.set_defaults(run=make_source)

    checking = commands.add_parser("check", help="import every form, compare and measure")
    checking.add_argument("directory", type=Path, help="for files that are deleted again")
    checking.add_argument("--model", choices=SHAPES, action="append", help="all, if none is named")
    checking.add_argument("--form", choices=CHECKS, action="append", help="all, if none is named")
    checking.add_argument("--json", action="store_true", help="instead of a table")
    checking.set_defaults(run=check_forms)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
