"""Every published form at full size: imported, compared with transformers, and measured.

Each import and each run has a separate process, so that their memory is measured separately. There
are two figures for memory: the peak of all resident pages, which includes pages of mapped files
that the system can drop at any time, and the peak of the process's own pages.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.aligner import ForcedAligner
from tests.sources.crispasr import write_crispasr
from tests.sources.full_size import SHAPES, write_checkpoint
from tests.support.forms import FORMS, LOSSY, Form, Recogniser, cosine
from tests.support.signals import speechlike

_SMALL_ONLY: Final = ("flat", "folder", "mel", "q5_0", "q3_k")
"""Suffixes of forms for which a check at full size gives no further information."""

CHECKS: Final[dict[str, Form]] = {
    **{name: form for name, form in FORMS.items() if not name.endswith(_SMALL_ONLY)},
    "crispasr q4_k, old": replace(
        FORMS["crispasr q4_k"],
        write=lambda source, to: write_crispasr(source, _in(to), "q4_k", generation="old"),
        cosine=LOSSY,
    ),
}

CLIP: Final = speechlike(9 * SAMPLE_RATE)  # longer than an attention window
WORDS: Final = ("abac", "adae", "afag", "ahai")
N_TOKENS: Final = 8
"""Number of compared tokens."""

_SAMPLE_S: Final = 0.02


def _in(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory / "model.gguf"


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and memory of a step."""

    seconds: float
    resident_mib: int
    """Peak of resident memory."""
    own_mib: int
    """Peak of resident memory without pages of files."""


@dataclass(frozen=True, slots=True)
class Row:
    """Result for one form."""

    model: str
    form: str
    source_mib: int
    importing: Cost
    running: Cost
    cosine: float | None
    """Cosine of the encoder's output with that of transformers; None without torch."""
    n_equal: int | None
    """Number of equal tokens of a recogniser, or time classes of an aligner; None without torch."""
    n_compared: int
    is_good: bool


def check(
    directory: Path, models: Sequence[str], forms: Sequence[str] | None, as_json: bool
) -> None:
    """Check models one after the other and print the results; exit with 1 if a check failed."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for model in models:
        for row in check_model(directory, model, forms or list(CHECKS)):
            rows.append(row)
            _report(model, json.dumps(asdict(row)))  # the other models may take hours
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console(width=120).print(_table(rows))
    if not all(row.is_good for row in rows):
        sys.exit(1)


def check_model(directory: Path, model: str, forms: Sequence[str]) -> Iterator[Row]:
    """Check some forms of one model; all files in the directory are temporary."""
    family = "aligner" if SHAPES[model].n_classes else "recogniser"
    with _temporary(directory / f"{model}.weights") as weights:
        _report(model, "writing the weights")
        write_checkpoint(weights, SHAPES[model])
        expected = _reference(weights, directory / "expected.npz", model)
        for name in forms:
            if family in CHECKS[name].families:
                yield _check_form(directory, weights, model, name, expected)


def _check_form(
    directory: Path, weights: Path, model: str, name: str, expected: dict[str, Any] | None
) -> Row:
    form = CHECKS[name]
    with _temporary(directory / "source") as files, _temporary(directory / "bundle") as bundle:
        _report(model, f"writing {name}")
        source = form.write(weights, files)
        sizes = {path.name: path.stat().st_size for path in files.rglob("*") if path.is_file()}
        _report(model, f"bytes: {sizes}")
        _report(model, f"importing {name}")
        importing, _ = _step("import", source, bundle, name)
        _report(model, f"running {name}")
        running, found = _step("run", bundle, directory / "found.npz")
    similarity = cosine(found["embeddings"], expected["embeddings"]) if expected else None
    n_equal = int((found["answer"] == expected["answer"]).sum()) if expected else None
    return Row(
        model=model,
        form=name,
        source_mib=sum(sizes.values()) >> 20,
        importing=importing,
        running=running,
        cosine=similarity,
        n_equal=n_equal,
        n_compared=len(found["answer"]),
        is_good=(similarity is None or similarity >= form.cosine)
        and (n_equal in {None, len(found["answer"])} or not form.is_greedy_exact),
    )


def _reference(weights: Path, path: Path, model: str) -> dict[str, Any] | None:
    if find_spec("torch") is None or find_spec("transformers") is None:
        return None
    _report(model, "running transformers")
    return _step("reference", weights, path)[1]


def _step(name: str, *arguments: Path | str) -> tuple[Cost, dict[str, Any]]:
    """Run a step in a separate process; its last argument is the file of its results, if any."""
    command = [sys.executable, "-m", "tests.support.full_size_check", name, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    path = Path(arguments[-1])
    if path.suffix != ".npz":
        return cost, {}
    with np.load(path) as found:
        arrays = dict(found)
    path.unlink()
    return cost, arrays


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _report(model: str, step: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {model}: {step}", file=sys.stderr, flush=True)


def _table(rows: Sequence[Row]) -> Table:
    table = Table("model", "form", title="Every form at full size")
    for heading in ("source", "import", "resident", "own", "run", "own", "cosine", "equal"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            row.form,
            f"{row.source_mib} MiB",
            f"{row.importing.seconds:.0f} s",
            f"{row.importing.resident_mib} MiB",
            f"{row.importing.own_mib} MiB",
            f"{row.running.seconds:.0f} s",
            f"{row.running.own_mib} MiB",
            "-" if row.cosine is None else f"{row.cosine:.5f}",
            "-" if row.n_equal is None else f"{row.n_equal} of {row.n_compared}",
            style="" if row.is_good else "bold red",
        )
    return table


# Steps, each run in a separate process


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step, and print its cost."""
    parser = argparse.ArgumentParser(description="A step of `tests.support.full_size check`.")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args(arguments)
    with _measured() as cost:
        STEPS[options.step](*options.arguments)
    print(json.dumps(asdict(cost())))


def step_import(source: str, destination: str, form: str) -> None:
    """Import a source."""
    import_model(Path(source), Path(destination), CHECKS[form].wish)


def step_run(bundle: str, output: str) -> None:
    """Run a model directory for the clip."""
    facts = json.loads((Path(bundle) / "model.json").read_text("utf-8"))
    if facts["family"].endswith("aligner"):
        embeddings, answer = _align(Path(bundle))
    else:
        embeddings, answer = _recognise(Path(bundle))
    np.savez(output, embeddings=embeddings, answer=np.array(answer))


def _recognise(bundle: Path) -> tuple[Float32Array, Sequence[int]]:
    with Recogniser(bundle, n_threads=_cores()) as recogniser:
        embeddings = recogniser.encoder.encode(CLIP)
        answer = recogniser.greedy(embeddings, N_TOKENS)
        return embeddings, answer + (-1,) * (N_TOKENS - len(answer))


def _align(bundle: Path) -> tuple[Float32Array, Sequence[int]]:
    with ForcedAligner(bundle, OnnxOptions(threads=_cores()), _cores()) as aligner:
        embeddings = aligner._encoder.encode(CLIP)
        return embeddings, aligner.classify(embeddings, WORDS).argmax(axis=-1).tolist()


def step_reference(checkpoint: str, output: str) -> None:
    """Run transformers for the clip."""
    module = import_module("tests.reference.reference")  # needs torch
    module.torch.set_num_threads(_cores())
    is_aligner = Path(checkpoint).name.startswith("aligner")
    reference = module.Reference(Path(checkpoint), is_aligner=is_aligner)
    embeddings = reference.encode(CLIP).embeddings
    if is_aligner:
        answer = reference.classes(CLIP, WORDS).argmax(axis=-1)
    else:
        prompt = reference.prompt("", None, len(embeddings))
        tokens = reference.greedy(prompt, CLIP, N_TOKENS)
        answer = np.array(tokens + (-1,) * (N_TOKENS - len(tokens)))
    np.savez(output, embeddings=embeddings, answer=answer)


STEPS: Final[dict[str, Callable[..., None]]] = {
    "import": step_import,
    "run": step_run,
    "reference": step_reference,
}


@contextmanager
def _measured() -> Iterator[Callable[[], Cost]]:
    """Measure the time and the memory of this process from here on."""
    began, own, is_over = time.monotonic(), [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(_SAMPLE_S):
            own[0] = max(own[0], _kib("RssAnon"))

    def cost() -> Cost:
        # Not getrusage's peak, which includes that of the parent process.
        seconds = round(time.monotonic() - began, 1)
        return Cost(seconds, _kib("VmHWM") >> 10, own[0] >> 10)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield cost
    finally:
        is_over.set()
        watcher.join()


def _kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
