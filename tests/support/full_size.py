"""Models of the released dimensions with random weights: bundles, sources, measurements.

python -m tests.support.full_size model DIR --encoder int8 --decoder q4_k --aligner
python -m tests.support.full_size source DIR --model 1.7b --form crispasr --precision q8_0
python -m tests.support.full_size check DIR --model 0.6b --model aligner
python -m tests.support.full_size model DIR --model paraformer --encoder int8
python -m tests.support.full_size check DIR --model paraformer --form original

Speed, memory and arithmetic depend on shapes, not on the values of the weights, so these models
replace the released files in measurements.

`model` creates a model directory for `streamasr bench`. The text of random weights would be
gibberish of random length: `model.json` therefore states that the decoder follows a script, with a
fixed number of tokens per second of audio, and the tokenizer has 150,000 invented words, so that
text has its real length, too. The checkpoint (bf16: 1.6 GB, with an aligner 3.4 GB) is written
beside DIR and deleted unless --keep is given.

`source` writes a model in a published form, with the names, dimensions, types and metadata of the
published files.

`check` writes every form below DIR, one after the other, imports each in a separate process and
measures that. Then it compares the outputs of the encoder and, if its weights are f16, of the
decoder for a clip with those of transformers for the same weights, if transformers and torch are
installed. Models of FunASR (`full_size_funasr.py`) are compared with funasr.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from streamasr.bench.machine import SCRIPTED
from tests.sources.crispasr import write_crispasr
from tests.sources.full_size import SHAPES, write_checkpoint
from tests.sources.ggml_org import write_ggml_org
from tests.sources.onnx_release import write_onnx_release
from tests.sources.safetensors import write_safetensors
from tests.sources.transcribe_cpp import write_transcribe_cpp
from tests.support import full_size_check, full_size_funasr
from tests.support.full_size_steps import Row, report, table_of

TOKENS_PER_SECOND: Final = 4.0
"""Tokens of a scripted decoder; people speak two or three words per second."""

PRECISIONS: Final = {
    "onnx": ("fp32", "fp16", "int8", "int4"),
    "crispasr": ("f16", "q8_0", "q5_0", "q4_k", "q3_k"),
    "ggml-org": ("f16", "bf16", "q8_0"),
    "transcribe.cpp": ("q8_0", "bf16", "f16", "q6_k", "q5_k_m", "q4_k_m"),
    "safetensors": ("BF16", "F16", "F32"),
}
"""Precisions of each form, the default first."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.run(options)


def make_model(options: argparse.Namespace) -> None:
    """Create a model directory; the decoder of a Qwen3-ASR follows a script."""
    destination: Path = options.directory
    report = _clock()
    if options.model in full_size_funasr.MODELS:
        with _checkpoint_beside(destination, keep=options.keep) as checkpoint:
            report("writing the weights")
            full_size_funasr.write_source(options.model, "original", checkpoint)
            report("importing them")
            import_source(checkpoint, destination, ["--encoder", options.encoder])
        report(f"wrote {destination}")
        return
    widths = ["--encoder", options.encoder, "--decoder", options.decoder]
    with _checkpoint_beside(destination, keep=options.keep) as checkpoint:
        report("writing the recogniser's weights")
        recogniser = write_checkpoint(checkpoint / "recogniser", SHAPES["0.6b"])
        report("importing them")
        import_source(recogniser, destination, widths)
        if options.aligner:
            report("writing the aligner's weights")
            aligner = write_checkpoint(checkpoint / "aligner", SHAPES["aligner"])
            report("importing them")
            import_source(aligner, destination / "aligner", widths)
        name = f"random-0.6b-{options.encoder}-{options.decoder}"
        add_script(destination, name, options.tokens_per_second)
    report(f"wrote {destination}")


def import_source(source: Path, destination: Path, options: Sequence[str]) -> None:
    """Import a source with the program's command."""
    command = [sys.executable, "-m", "streamasr", "models", "import", str(source)]
    subprocess.run([*command, "--output", str(destination), *options], check=True)


def add_script(bundle: Path, name: str, tokens_per_second: float) -> None:
    """Set a model's name, and state that its decoder follows a script."""
    path = bundle / "model.json"
    facts = json.loads(path.read_text("utf-8")) | {"name": name, SCRIPTED: tokens_per_second}
    path.write_text(json.dumps(facts, ensure_ascii=False, indent=2) + "\n", "utf-8")


def make_source(options: argparse.Namespace) -> None:
    """Write one form of one model."""
    destination: Path = options.directory
    choices = PRECISIONS[options.form]
    if options.precision not in {None, *choices}:
        sys.exit(
            f"{options.form} has no precision {options.precision}; choose one of "
            f"{', '.join(choices)}"
        )
    report = _clock()
    with _checkpoint_beside(destination, keep=options.keep) as checkpoint:
        report("writing the weights")
        write_checkpoint(checkpoint, SHAPES[options.model])
        report(f"writing them as {options.form}")
        destination.mkdir(parents=True)
        write_form(checkpoint, destination, options)
    report(f"wrote {destination}")


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
        case "transcribe.cpp":
            name = f"Qwen3-ASR-{options.model}-{precision}.gguf"
            write_transcribe_cpp(checkpoint, destination / name, precision)
        case "safetensors":
            write_safetensors(checkpoint, destination, options.style, precision, options.shards)


def check_forms(options: argparse.Namespace) -> None:
    """Import every form of some models and print the results; exit with 1 if a check failed."""
    options.directory.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for model in options.model or list(SHAPES):
        module = full_size_check if model in SHAPES else full_size_funasr
        for row in module.check_model(options.directory, model, options.form):
            rows.append(row)
            report(model, json.dumps(asdict(row)))  # the other models may take hours
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console(width=120).print(table_of(rows))
    if not all(row.is_good for row in rows):
        sys.exit(1)


@contextmanager
def _checkpoint_beside(destination: Path, *, keep: bool) -> Iterator[Path]:
    """Provide a directory for a checkpoint beside the destination."""
    checkpoint = destination.with_name(destination.name + ".checkpoint")
    for path in (destination, checkpoint):
        if path.exists():
            sys.exit(f"{path} exists already; remove it or choose another path")
    try:
        yield checkpoint
    finally:
        if not keep:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _clock() -> Callable[[str], None]:
    began = time.monotonic()

    def report(step: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {step}", file=sys.stderr, flush=True)

    return report


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = commands.add_parser("model", help="a model directory for `streamasr bench`")
    model.add_argument("directory", type=Path, help="the model directory; must not exist")
    model.add_argument("--model", choices=("0.6b", *full_size_funasr.MODELS), default="0.6b")
    model.add_argument("--encoder", choices=("fp32", "fp16", "int8"), default="fp32")
    model.add_argument("--decoder", choices=("f16", "q8_0", "q4_k"), default="q8_0")
    model.add_argument("--aligner", action="store_true", help="include an aligner of full size")
    model.add_argument("--tokens-per-second", type=float, default=TOKENS_PER_SECOND)
    model.add_argument("--keep", action="store_true", help="keep the checkpoint")
    model.set_defaults(run=make_model)

    source = commands.add_parser("source", help="a model in a published form")
    source.add_argument("directory", type=Path, help="for the files; must not exist")
    source.add_argument("--model", choices=SHAPES, default="0.6b")
    source.add_argument("--form", choices=PRECISIONS, default="onnx")
    source.add_argument("--precision", help="a precision of the form")
    source.add_argument("--decoder", choices=("f16", "q8_0", "q5_k", "q4_k"), default="q4_k")
    source.add_argument("--no-infix", action="store_true", help="no precisions in ONNX file names")
    source.add_argument(
        "--generation",
        choices=("new", "old"),
        default="new",
        help="generation of CrispASR's converter",
    )
    source.add_argument("--style", choices=("original", "native"), default="original")
    source.add_argument("--shards", type=int, default=1, help="number of safetensors files")
    source.add_argument("--keep", action="store_true", help="keep the checkpoint")
    source.set_defaults(run=make_source)

    checking = commands.add_parser("check", help="import every form, compare and measure")
    checking.add_argument("directory", type=Path, help="for temporary files")
    checking.add_argument(
        "--model",
        choices=(*SHAPES, *full_size_funasr.MODELS),
        action="append",
        help="default: those of Qwen3-ASR",
    )
    forms = dict.fromkeys((*full_size_check.CHECKS, *full_size_funasr.FORM_NAMES))
    checking.add_argument("--form", choices=forms, action="append", help="default: all forms")
    checking.add_argument("--json", action="store_true", help="print JSON instead of a table")
    checking.set_defaults(run=check_forms)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
