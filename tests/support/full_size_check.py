"""Every published form of Qwen3-ASR at full size: imported, compared with transformers, measured.

Each import and each run has a separate process; see `full_size_steps.py`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.aligner import ForcedAligner
from tests.sources.crispasr import write_crispasr
from tests.sources.full_size import SHAPES, write_checkpoint
from tests.support.forms import FORMS, LOSSY, Form, Recogniser, cosine
from tests.support.full_size_steps import Row, main, n_cores, report, run_step, temporary
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


def _in(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory / "model.gguf"


def check_model(directory: Path, model: str, forms: Sequence[str] | None) -> Iterator[Row]:
    """Check some forms of one model, or all; all files in the directory are temporary."""
    family = "aligner" if SHAPES[model].n_classes else "recogniser"
    with temporary(directory / f"{model}.weights") as weights:
        report(model, "writing the weights")
        write_checkpoint(weights, SHAPES[model])
        expected = _reference(weights, directory / "expected.npz", model)
        for name in forms or CHECKS:
            if name in CHECKS and family in CHECKS[name].families:
                yield _check_form(directory, weights, model, name, expected)


def _check_form(
    directory: Path, weights: Path, model: str, name: str, expected: dict[str, Any] | None
) -> Row:
    form = CHECKS[name]
    with temporary(directory / "source") as files, temporary(directory / "bundle") as bundle:
        report(model, f"writing {name}")
        source = form.write(weights, files)
        sizes = {path.name: path.stat().st_size for path in files.rglob("*") if path.is_file()}
        report(model, f"bytes: {sizes}")
        report(model, f"importing {name}")
        importing, _ = run_step(__name__, "import", source, bundle, name)
        report(model, f"running {name}")
        running, found = run_step(__name__, "run", bundle, directory / "found.npz")
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
    report(model, "running transformers")
    return run_step(__name__, "reference", weights, path)[1]


# Steps, each run in a separate process


def step_import(source: str, destination: str, form: str) -> None:
    """Import a source."""
    import_model(Path(source), Path(destination), CHECKS[form].options)


def step_run(bundle: str, output: str) -> None:
    """Run a model directory for the clip."""
    facts = json.loads((Path(bundle) / "model.json").read_text("utf-8"))
    if facts["family"].endswith("aligner"):
        embeddings, answer = _align(Path(bundle))
    else:
        embeddings, answer = _recognise(Path(bundle))
    np.savez(output, embeddings=embeddings, answer=np.array(answer))


def _recognise(bundle: Path) -> tuple[Float32Array, Sequence[int]]:
    with Recogniser(bundle, n_threads=n_cores()) as recogniser:
        embeddings = recogniser.encoder.encode(CLIP)
        answer = recogniser.greedy(embeddings, N_TOKENS)
        return embeddings, answer + (-1,) * (N_TOKENS - len(answer))


def _align(bundle: Path) -> tuple[Float32Array, Sequence[int]]:
    with ForcedAligner(bundle, OnnxOptions(threads=n_cores()), n_cores()) as aligner:
        embeddings = aligner._encoder.encode(CLIP)
        return embeddings, aligner.classify(embeddings, WORDS).argmax(axis=-1).tolist()


def step_reference(checkpoint: str, output: str) -> None:
    """Run transformers for the clip."""
    module = import_module("tests.reference.reference")  # needs torch
    module.torch.set_num_threads(n_cores())
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


if __name__ == "__main__":
    main(STEPS)
