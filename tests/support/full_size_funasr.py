"""Paraformer and ct-punc at full size in every published form: imported, compared, measured.

The models have the released dimensions and random weights. Each import and each run has a separate
process; see `full_size_steps.py`. The outputs for a clip, or for a text, are compared with those of
funasr for the same weights, if torch and funasr are installed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from streamasr.core.options import SessionOptions
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.features.cmvn import Cmvn
from streamasr.features.fbank import GrowingFbank
from streamasr.features.lfr import stack_frames
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import load
from tests.sources import ct_punc
from tests.sources.ct_punc import MARKS, Shape
from tests.sources.paraformer import weights as paraformer
from tests.sources.paraformer.weights import RELEASED, Sizes, cmvn, token_list
from tests.support import paraformer_forms
from tests.support.forms import cosine
from tests.support.full_size_steps import (
    Cost,
    Row,
    main,
    n_cores,
    report,
    run_step,
    temporary,
)
from tests.support.paraformer_forms import EXACT, FORMS, Form, log_softmax
from tests.support.signals import speechlike

CLIP: Final = speechlike(9 * SAMPLE_RATE)
HOTWORDS: Final = ("一丁丂", "七丄")
FIRES: Final = 0.8
"""Bias of the predictor for random weights: so about 4 tokens fire in a second, as in speech."""

PARAFORMERS: Final[dict[str, Sizes]] = {
    "paraformer": RELEASED,
    "bicif": replace(RELEASED, head="cnn_blstm"),
    "seaco": replace(RELEASED, head="cnn_blstm", has_hotwords=True),
    "small": Sizes(vocab=60),
}
"""Sizes by model: without a time head, with one, with hotwords, too; and one for tests."""

_WITHOUT_HEAD: Final = tuple(
    name
    for name in FORMS
    if "SeACo" not in name and name not in ("original f16", "original bf16", "original to int8")
)

PARAFORMER_FORMS: Final[dict[str, Sequence[str]]] = {
    "paraformer": (*_WITHOUT_HEAD, "original to int8"),
    "bicif": (
        "original",
        "funasr gguf f32",
        "funasr export",
        "funasr export int8",
        "sherpa-onnx int8",
    ),
    "seaco": ("original of SeACo", "funasr export of SeACo", "funasr export of SeACo int8"),
    "small": _WITHOUT_HEAD,
}

PUNCTUATION: Final[dict[str, tuple[Shape, int]]] = {
    "ct-punc": (Shape(width=256, hidden=256, heads=8, inner=1024, blocks=4), 272_727),
    "ct-punc-large": (Shape(width=516, hidden=516, heads=12, inner=2048, blocks=12), 471_067),
    "small punctuation": (Shape(), 25_000),
}
"""Sizes and number of words by model."""


@dataclass(frozen=True, slots=True)
class PunctuationForm:
    """Form of ct-punc."""

    write: Callable[[Path, ct_punc.Weights, Shape, Sequence[str]], Path]
    cosine: float = EXACT
    options: ImportOptions = field(default_factory=ImportOptions)


PUNCTUATION_FORMS: Final[dict[str, PunctuationForm]] = {
    "original": PunctuationForm(ct_punc.write_original),
    "original to int8": PunctuationForm(
        ct_punc.write_original, 0.99, ImportOptions(encoder="int8")
    ),
    "funasr export": PunctuationForm(ct_punc.write_funasr_folder),
    "sherpa-onnx": PunctuationForm(ct_punc.write_sherpa_folder),
}

MODELS: Final = ("paraformer", "bicif", "seaco", "ct-punc", "ct-punc-large")
FORM_NAMES: Final = dict.fromkeys(
    (*(name for names in PARAFORMER_FORMS.values() for name in names), *PUNCTUATION_FORMS)
)


class Weights(paraformer.Weights):
    """Random weights with which tokens fire as often as in speech."""

    def read(self, name: str) -> Float32Array:
        """Return a tensor, the same on every call."""
        if name == "predictor.cif_output.bias":
            return np.full(self.shapes[name], FIRES, np.float32)
        return super().read(name)


def words_of(n_words: int) -> list[str]:
    """Return a vocabulary of so many words: all Hanzi, then invented words, then the unknown."""
    hanzi = (chr(code) for code in range(0x4E00, 0x9FA6))
    invented = (f"w{number}" for number in range(n_words))
    others = ["<blank>", "<s>", "</s>", *islice(hanzi, max(0, n_words - 4)), *invented]
    return [*others[: n_words - 1], "<unk>"]


TEXT: Final = "".join(chr(0x4E00 + 37 * number % 20_000) for number in range(100))


def punctuation_weights(model: str) -> ct_punc.Weights:
    """Return random weights of a punctuation model."""
    shape, n_words = PUNCTUATION[model]
    return ct_punc.random_weights(shape, n_words, len(MARKS))


def write_source(model: str, form: str, folder: Path) -> Path:
    """Write a model in a form into a new folder and return the source's path."""
    if model in PARAFORMERS:
        return FORMS[form].write(Weights(PARAFORMERS[model]), folder)
    shape, n_words = PUNCTUATION[model]
    weights, words = punctuation_weights(model), words_of(n_words)
    return PUNCTUATION_FORMS[form].write(folder, weights, shape, words)


def check_model(directory: Path, model: str, forms: Sequence[str] | None) -> Iterator[Row]:
    """Check some forms of one model, or all; all files in the directory are temporary."""
    own = PARAFORMER_FORMS[model] if model in PARAFORMERS else tuple(PUNCTUATION_FORMS)
    expected = _reference(directory / "expected.npz", model)
    for name in own if forms is None else [name for name in own if name in forms]:
        yield _check_form(directory, model, name, expected)


def _form(model: str, name: str) -> Form | PunctuationForm:
    return FORMS[name] if model in PARAFORMERS else PUNCTUATION_FORMS[name]


def _check_form(directory: Path, model: str, name: str, expected: dict[str, Any] | None) -> Row:
    with temporary(directory / "source") as files, temporary(directory / "bundle") as bundle:
        report(model, f"writing {name}")
        written = directory / "written.npz"
        cost, places = run_step(__name__, "write", model, name, files, written)
        report(model, f"written with {cost}")
        sizes = {path.name: path.stat().st_size for path in files.rglob("*") if path.is_file()}
        report(model, f"bytes: {sizes}")
        report(model, f"importing {name}")
        importing, _ = run_step(__name__, "import", model, name, str(places["source"]), bundle)
        report(model, f"running {name}")
        running, answer = run_step(__name__, "run", model, bundle, directory / "answer.npz")
        _, found = run_step(__name__, "outputs", model, bundle, directory / "found.npz")
    measured = _Measured(sum(sizes.values()), importing, running, answer["answer"], found)
    return _row(model, name, measured, expected)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Results of one form."""

    source_bytes: int
    importing: Cost
    running: Cost
    answer: Any
    """Tokens of the clip, or classes of the words."""
    found: dict[str, Any]
    """Output that is compared."""


def _row(model: str, name: str, measured: _Measured, expected: dict[str, Any] | None) -> Row:
    form = _form(model, name)
    answer, found = measured.answer, measured.found
    similarity, n_equal = None, None
    # funasr's hotwords are not compared here: tests/reference does that.
    if expected and "export of SeACo" not in name:
        key = next(iter(found))
        n_common = min(len(found[key]), len(expected[key]))
        similarity = cosine(found[key][:n_common], expected[key][:n_common])
        n_common = min(len(answer), len(expected["answer"]))
        n_equal = int((answer[:n_common] == expected["answer"][:n_common]).sum())
    n_compared = max(len(answer), len(expected["answer"])) if expected else len(answer)
    is_exact = form.cosine == EXACT
    is_close = similarity is None or similarity >= (form.cosine if is_exact else 0)
    return Row(
        model=model,
        form=name,
        source_mib=measured.source_bytes >> 20,
        importing=measured.importing,
        running=measured.running,
        cosine=similarity,
        n_equal=n_equal,
        n_compared=n_compared,
        is_good=is_close and n_compared > 0 and (not is_exact or n_equal in (None, n_compared)),
    )


def _reference(path: Path, model: str) -> dict[str, Any] | None:
    if find_spec("torch") is None or find_spec("funasr") is None:
        return None
    report(model, "running funasr")
    return run_step(__name__, "reference", model, path)[1]


# Steps, each run in a separate process


def step_write(model: str, form: str, folder: str, output: str) -> None:
    """Write a source."""
    np.savez(output, source=np.array(str(write_source(model, form, Path(folder)))))


def step_import(model: str, form: str, source: str, destination: str) -> None:
    """Import a source."""
    import_model(Path(source), Path(destination), _form(model, form).options)


def step_run(model: str, bundle: str, output: str) -> None:
    """Recognise the clip, or punctuate the text."""
    options = OnnxOptions(threads=n_cores())
    if model in PUNCTUATION:
        punctuator = CTPunctuator.from_bundle(open_bundle(Path(bundle)), options)
        np.savez(output, answer=np.array(punctuator.classes([*TEXT])[:-1]))
        return
    utterance = load(Path(bundle), options).begin(SessionOptions(hotwords=HOTWORDS))
    utterance.append(CLIP)
    result = utterance.update(len(CLIP)).result
    assert result is not None
    np.savez(output, answer=np.array(result.tokens))


def step_outputs(model: str, bundle: str, output: str) -> None:
    """Compute the outputs that are compared: encoded rows, or log-probabilities."""
    if model in PUNCTUATION:
        options = OnnxOptions(threads=n_cores())
        punctuator = CTPunctuator.from_bundle(open_bundle(Path(bundle)), options)
        np.savez(output, logits=punctuator._logits(punctuation_ids(model))[0])
        return
    features = clip_features()
    if (Path(bundle) / "encoder.onnx").exists():
        acoustic = features[:1, : PARAFORMERS[model].d_model]  # the decoder is not compared
        found = paraformer_forms.run_parts(Path(bundle), features, acoustic).encoded
        assert found is not None
        np.savez(output, encoded=found)
        return
    bias = np.zeros((1, 1, PARAFORMERS[model].d_model), np.float32)
    given = bias if PARAFORMERS[model].has_hotwords else None
    np.savez(output, logits=paraformer_forms.run_whole(Path(bundle), features, given).logits)


def clip_features() -> Float32Array:
    """Return the rows of features of the clip."""
    fbank = GrowingFbank()
    fbank.append(CLIP)
    return Cmvn(*cmvn()).apply(stack_frames(fbank.frames(len(CLIP)), 7, 6))


def punctuation_ids(model: str) -> list[int]:
    """Return the words of the text by their ids."""
    places = {word: number for number, word in enumerate(words_of(PUNCTUATION[model][1]))}
    return [places[word] for word in TEXT][:20]


def step_reference(model: str, output: str) -> None:
    """Run funasr."""
    if model in PUNCTUATION:
        _punctuation_reference(model, output)
        return
    module = import_module("tests.reference.paraformer")  # needs torch
    module.torch.set_num_threads(n_cores())
    sizes = PARAFORMERS[model]
    found = module.stages(module.build(sizes, weights=Weights(sizes)), clip_features())
    tokens = token_list(sizes.vocab)
    hidden = {0, 1, 2, tokens.index("<unk>")}
    answer = [each for each in found.logits.argmax(axis=-1).tolist() if each not in hidden]
    np.savez(
        output,
        encoded=found.encoded,
        logits=log_softmax(found.logits),
        answer=np.array(answer),
    )


def _punctuation_reference(model: str, output: str) -> None:
    module = import_module("tests.reference.ct_punc")  # needs torch
    module.torch.set_num_threads(n_cores())
    built = module.reference(punctuation_weights(model), PUNCTUATION[model][0])
    words = words_of(PUNCTUATION[model][1])
    answer = module.infer(built, TEXT, words)[1][:-1]  # funasr ends each text with a period
    ids = module.torch.tensor([punctuation_ids(model)])
    with module.torch.no_grad():
        logits = built.punc_forward(ids, module.torch.tensor([ids.shape[1]]))[0]
    np.savez(output, logits=logits[0].numpy(), answer=np.array(answer))


STEPS: Final[dict[str, Callable[..., None]]] = {
    "write": step_write,
    "import": step_import,
    "run": step_run,
    "outputs": step_outputs,
    "reference": step_reference,
}


if __name__ == "__main__":
    main(STEPS)
