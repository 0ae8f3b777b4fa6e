"""Models and sources of full size: their dimensions, and the commands with a small shape."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamasr.bench.machine import SCRIPTED
from streamasr.decoder.llama import LlamaModel
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.importing.source import open_sources
from streamasr.models.bundle import read_bundle
from streamasr.models.family import Role
from tests.sources.ct_punc import MARKS, random_weights
from tests.sources.full_size import (
    ALIGNER,
    LARGE_RECOGNISER,
    SHAPES,
    SMALL_RECOGNISER,
    added_tokens,
    write_checkpoint,
)
from tests.sources.paraformer.weights import Sizes
from tests.sources.paraformer.weights import tensor_shapes as paraformer_shapes
from tests.sources.weights import Weights, read_vocabulary
from tests.support import full_size_funasr
from tests.support.checkpoints import Shape, tensor_shapes
from tests.support.full_size import add_script, main
from tests.support.full_size_check import CHECKS

SMALL = Shape(vocab=4096)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "checkpoint", SMALL)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the commands write small models, in seconds."""
    monkeypatch.setitem(SHAPES, "0.6b", SMALL)
    monkeypatch.setitem(SHAPES, "aligner", Shape(vocab=4096, tied=False, n_classes=150))


def n_weights(shape: Shape) -> float:
    return sum(float(np.prod(size)) for _, size in tensor_shapes(shape))


def test_the_dimensions_are_those_of_the_released_models() -> None:
    assert n_weights(SMALL_RECOGNISER) == pytest.approx(782e6, rel=0.01)
    assert n_weights(LARGE_RECOGNISER) == pytest.approx(2_038e6, rel=0.01)
    assert n_weights(ALIGNER) == pytest.approx(918e6, rel=0.01)


def test_special_tokens_have_the_released_ids(tmp_path: Path) -> None:
    texts = {text: number for number, text in added_tokens(SMALL_RECOGNISER.vocab).items()}
    assert texts["<|endoftext|>"] == 151_643
    assert texts["<|im_end|>"] == 151_645
    assert texts["<|audio_start|>"] == 151_669
    assert texts["<|audio_pad|>"] == 151_676
    assert texts["<asr_text>"] == 151_704
    assert texts["<timestamp>"] == 151_705


def test_every_id_up_to_the_last_special_token_has_a_distinct_text(checkpoint: Path) -> None:
    vocabulary = read_vocabulary(checkpoint)
    assert sorted(vocabulary.texts) == list(range(SMALL.vocab))
    assert len(set(vocabulary.texts.values())) == SMALL.vocab


def test_weights_are_scaled_so_that_every_stage_contributes(checkpoint: Path) -> None:
    weights = Weights(checkpoint)
    norm = weights.read("language_model.norm.weight")
    assert 0.5 <= norm.min() < norm.max() <= 1.5
    matrix = weights.read("language_model.embed_tokens.weight")
    assert matrix.std() == pytest.approx(1.5 / np.sqrt(SMALL.hidden), rel=0.05)


def test_scripted_output_consists_of_words(checkpoint: Path, tmp_path: Path) -> None:
    bundle = import_model(checkpoint, tmp_path / "bundle", ImportOptions(decoder="f16")).directory
    add_script(bundle, "random", 4.0)
    read = read_bundle(bundle, Role.RECOGNISER)
    assert read.name == "random"
    assert read.facts[SCRIPTED] == 4.0
    assert json.loads((bundle / "model.json").read_text("utf-8")) == read.facts
    model = LlamaModel(read.decoder)
    pieces = [model.piece(token) for token in range(SMALL.vocab // 4, SMALL.vocab // 2)]
    assert all(len(piece) == 5 and piece.startswith(b" ") for piece in pieces)
    assert len(model.tokenize(pieces[0].decode(), special=False)) == 1
    model.close()


@pytest.mark.usefixtures("small")
def test_a_model_for_measurements_has_a_script_and_an_aligner(tmp_path: Path) -> None:
    options = ["--decoder", "f16", "--aligner", "--tokens-per-second", "3"]
    main(["model", str(tmp_path / "model"), *options])
    bundle = read_bundle(tmp_path / "model", Role.RECOGNISER)
    assert bundle.name == "random-0.6b-fp32-f16"
    assert bundle.facts[SCRIPTED] == 3.0
    assert bundle.aligner is not None
    assert read_bundle(bundle.aligner, Role.ALIGNER).facts["n_classes"] == 150
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "options",
    [
        ["--form", "onnx", "--precision", "fp16", "--decoder", "q5_k", "--no-infix"],
        ["--form", "onnx", "--model", "aligner"],
        ["--form", "crispasr", "--precision", "q8_0"],
        ["--form", "ggml-org"],
        ["--form", "safetensors", "--shards", "2"],
    ],
)
@pytest.mark.usefixtures("small")
def test_written_sources_can_be_opened(tmp_path: Path, options: list[str]) -> None:
    main(["source", str(tmp_path / "source"), *options])
    sources = open_sources(tmp_path / "source")
    assert (sources.aligner is not None) == ("aligner" in options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="exists already"):
        main(["source", str(tmp_path)])


@pytest.mark.usefixtures("small")
def test_a_check_reports_time_and_memory_of_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forms = ["--form", "crispasr q8_0", "--form", "safetensors bf16"]
    models = ["--model", "0.6b", "--model", "aligner"]
    main(["check", str(tmp_path), *models, *forms, "--json"])
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["form"]) for row in rows] == [
        (model, form)
        for model in ("0.6b", "aligner")
        for form in ("crispasr q8_0", "safetensors bf16")
    ]
    for row in rows:
        assert row["importing"]["resident_mib"] > row["importing"]["own_mib"] > 10
        assert row["is_good"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "forms"),
    [
        ("small", ["original", "sherpa-onnx"]),
        ("small punctuation", ["original"]),
    ],
)
def test_models_of_funasr_are_checked(tmp_path: Path, model: str, forms: list[str]) -> None:
    rows = [*full_size_funasr.check_model(tmp_path, model, forms)]
    assert [row.form for row in rows] == forms
    for row in rows:
        assert row.importing.own_mib > 10
        assert row.n_compared > 10
        assert row.is_good
    assert list(tmp_path.iterdir()) == []


def test_the_dimensions_of_funasr_are_those_of_the_released_models() -> None:
    """Sizes of published files, in bytes; see `tests/sources/README.md`."""

    def n_bytes(sizes: Sizes) -> float:
        return 4 * sum(float(np.prod(size)) for _, size in paraformer_shapes(sizes))

    assert n_bytes(full_size_funasr.PARAFORMERS["paraformer"]) == pytest.approx(881e6, rel=0.001)
    shape, n_words = full_size_funasr.PUNCTUATION["ct-punc-large"]
    values = random_weights(shape, 100, len(MARKS)).values()
    n_values = sum(each.size for each in values) + (n_words - 100) * shape.width
    assert 4 * n_values == pytest.approx(1_125_507_622, rel=0.001)


def test_a_paraformer_for_measurements_is_written(tmp_path: Path) -> None:
    full_size_funasr.write_source("small", "original", tmp_path / "source")
    bundle = import_model(tmp_path / "source", tmp_path / "bundle")
    assert bundle.family.name == "paraformer"
    with pytest.raises(SystemExit):
        main(["model", str(tmp_path / "source"), "--model", "paraformer"])  # exists already


def test_every_kind_of_source_is_checked() -> None:
    kinds = {name.split()[0] for name in CHECKS}
    assert kinds == {"onnx", "crispasr", "transcribe.cpp", "ggml-org", "safetensors"}
