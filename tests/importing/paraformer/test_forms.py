"""Random weights in every published form of Paraformer: imported, then run.

The writers in tests/sources/paraformer are independent of the importers, and the golden arrays are
those of FunASR for the same weights, so a misreading on either side fails here.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streamasr.core.errors import ConfigError, ModelError
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.importing.onnx_file import read_graph
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models.bundle import Bundle
from streamasr.models.onnx import OnnxOptions
from streamasr.models.paraformer.recogniser import load
from tests.sources import ct_punc
from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights
from tests.sources.onnx_release import pack
from tests.sources.paraformer.gguf_files import FunTypes, write_crispasr, write_funasr
from tests.sources.paraformer.onnx_export import (
    Precision,
    write_funasr_export,
    write_sherpa_export,
)
from tests.sources.paraformer.original import write_original
from tests.sources.paraformer.weights import RELEASED, Sizes, Weights, cmvn, token_list
from tests.support.errors import raises
from tests.support.forms import cosine
from tests.support.paraformer_forms import (
    FORMS,
    GOLDEN,
    GOLDEN_ROWS,
    GOLDEN_SIZES,
    features_of,
    log_softmax,
    run_parts,
    run_whole,
    weights_of,
)
from tests.support.signals import speechlike

SourceOf = Callable[[str], Path]
PARTS = [name for name, form in FORMS.items() if not form.is_whole]
HOTWORDS = [name for name, form in FORMS.items() if form.is_whole and form.has_hotwords]
WHOLE = [name for name, form in FORMS.items() if form.is_whole and not form.has_hotwords]


@pytest.fixture(scope="module")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> SourceOf:
    """Return a function that writes a form, only once."""

    @cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp("forms") / name.replace(" ", "-")
        return FORMS[name].write(weights_of(FORMS[name], GOLDEN_SIZES), folder)

    return write


@pytest.fixture(scope="module")
def golden() -> dict[str, Float32Array]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", PARTS)
def test_weights_in_any_form_become_the_same_graphs(
    source_of: SourceOf, golden: dict[str, Float32Array], tmp_path: Path, name: str
) -> None:
    form = FORMS[name]
    bundle = import_model(source_of(name), tmp_path / "b", form.options)
    assert_described(bundle, "parts")
    assert bundle.facts["predictor"] == {"threshold": 1.0, "tail": 0.45}
    assert bundle.facts.get("time_upsampling") == (3 if form.has_head else None)
    features = features_of(GOLDEN_ROWS, 0)
    found = run_parts(bundle.directory, features, golden["acoustic"])
    assert found.encoded is not None
    assert found.alphas is not None
    assert cosine(found.encoded, golden["encoded"]) >= form.cosine
    assert cosine(found.alphas, golden["alphas"]) >= form.cosine
    assert cosine(found.logits, golden["logits"]) >= form.cosine
    if form.has_head:
        assert found.time_alphas is not None
        assert cosine(found.time_alphas, golden["time_alphas"]) >= form.cosine


@pytest.mark.parametrize("name", WHOLE)
def test_released_graphs_are_used_unchanged(
    source_of: SourceOf, golden: dict[str, Float32Array], tmp_path: Path, name: str
) -> None:
    form = FORMS[name]
    bundle = import_model(source_of(name), tmp_path / "b")
    assert_described(bundle, "whole")
    assert bundle.precision["encoder"] == ("int8" if "int8" in name else "fp32")
    found = run_whole(bundle.directory, features_of(GOLDEN_ROWS, 0))
    expected = log_softmax(golden["logits"])
    # The weights of 8 bits may sum up to one token more or fewer.
    n_tokens = min(len(found.logits), len(expected))
    assert abs(len(found.logits) - len(expected)) <= (1 if "int8" in name else 0)
    assert cosine(found.logits[:n_tokens], expected[:n_tokens]) >= form.cosine


def assert_described(bundle: Bundle, graphs: str) -> None:
    facts = bundle.facts
    assert facts["graphs"] == graphs
    assert facts["languages"] == ["Chinese", "English"]
    assert facts["vocab"] == GOLDEN_SIZES.vocab
    assert facts["n_mels"] == 80
    assert facts["lfr"] == {"window": 7, "shift": 6}
    tokens = json.loads((bundle.directory / "tokens.json").read_text("utf-8"))
    assert tokens == token_list(GOLDEN_SIZES.vocab)
    np.testing.assert_allclose(np.load(bundle.directory / "cmvn.npy"), np.stack(cmvn()), rtol=1e-6)
    bundle.check_files()


@pytest.mark.parametrize("name", [*PARTS, *WHOLE, *HOTWORDS])
def test_a_bundle_of_any_form_runs(source_of: SourceOf, tmp_path: Path, name: str) -> None:
    bundle = import_model(source_of(name), tmp_path / "b")
    model = load(bundle.directory, OnnxOptions(threads=1))
    utterance = model.begin(SessionOptions())
    clip = speechlike(32_000)
    utterance.append(clip)
    result = utterance.update(len(clip)).result
    assert result is not None
    assert result.text


def test_the_graphs_of_weights_and_the_released_graph_agree_on_the_text(
    source_of: SourceOf, tmp_path: Path
) -> None:
    texts = {}
    for name in ("original", "funasr export", "sherpa-onnx", "funasr gguf f32"):
        bundle = import_model(source_of(name), tmp_path / name.replace(" ", "-"))
        utterance = load(bundle.directory, OnnxOptions(threads=1)).begin(SessionOptions())
        utterance.append(clip := speechlike(48_000))
        result = utterance.update(len(clip)).result
        assert result is not None
        texts[name] = result.text
    assert len(set(texts.values())) == 1, texts


def test_hotwords_in_weights_are_dropped_with_a_note(source_of: SourceOf, tmp_path: Path) -> None:
    notes: list[str] = []
    import_model(source_of("original of SeACo"), tmp_path / "b", notice=notes.append)
    assert len(notes) == 1
    assert "model_eb.onnx" in notes[0]
    assert not (tmp_path / "b" / "hotwords.onnx").exists()


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("funasr export of SeACo", "model_eb.onnx"),
        ("funasr export of SeACo int8", "model_eb_quant.onnx"),
    ],
)
def test_the_graph_of_hotwords_is_kept(
    source_of: SourceOf, tmp_path: Path, name: str, graph: str
) -> None:
    source = source_of(name)
    import_model(source, tmp_path / "b")
    kept = tmp_path / "b" / "hotwords.onnx"
    assert kept.read_bytes() == (source / graph).read_bytes()
    model = load(tmp_path / "b", OnnxOptions(threads=1))
    bias = model.bias(("一丁", "七"))
    assert bias is not None
    assert bias.shape[1:] == (3, GOLDEN_SIZES.d_model)  # and one for "no hotword"


@pytest.mark.parametrize("head", [None, "cnn_blstm"])
def test_forms_with_and_without_a_time_head_are_told_apart(
    tmp_path: Path, head: str | None
) -> None:
    """Graphs have 2 or 4 outputs, and FunASR's GGUF has the tensors of the head if there is one."""
    weights = Weights(replace(Sizes(), head=head))
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        for write in (write_funasr_export, write_sherpa_export):
            folder = write(weights, tmp_path / f"{write.__name__}-{precision}", (precision,))
            bundle = import_model(folder, tmp_path / f"b-{write.__name__}-{precision}")
            graph = read_graph(bundle.directory / "model.onnx")
            assert len(graph.outputs) == (4 if head else 2)
    gguf_types: tuple[FunTypes, ...] = ("f32", "f16", "q8")
    for types in gguf_types:
        path = write_funasr(weights, tmp_path / f"{types}.gguf", types)
        bundle = import_model(path, tmp_path / f"b-{types}")
        assert bundle.facts.get("time_upsampling") == (3 if head else None)


def test_a_gguf_in_a_folder_or_a_zip_is_imported(tmp_path: Path) -> None:
    first = write_crispasr(SMALL, tmp_path / "0" / "model.gguf")
    second = write_funasr(SMALL, tmp_path / "1" / "model.gguf")
    for number, path in enumerate((first, second)):
        pack(path.parent, tmp_path / f"{number}.zip")
        for source in (path, path.parent, tmp_path / f"{number}.zip"):
            bundle = import_model(source, tmp_path / f"b-{number}-{source.name}")
            assert bundle.family.name == "paraformer"


SMALL = Weights(Sizes())


def test_the_graph_with_more_bits_is_used_and_named(tmp_path: Path) -> None:
    for write in (write_funasr_export, write_sherpa_export):
        notes: list[str] = []
        folder = write(SMALL, tmp_path / write.__name__, ("fp32", "int8"))
        bundle = import_model(folder, tmp_path / f"b-{write.__name__}", notice=notes.append)
        assert bundle.precision["encoder"] == "fp32"
        assert "model.onnx is used" in notes[0]


def test_of_several_ggufs_the_one_nearest_to_8_bits_is_used(tmp_path: Path) -> None:
    weights = Weights(replace(GOLDEN_SIZES, blocks=12))  # mostly in the types of the names
    for types in ("f16", "q8_0", "q4_k"):
        path = tmp_path / "files" / f"paraformer-zh-{types}.gguf"
        write_crispasr(weights, path, types)
    notes: list[str] = []
    bundle = import_model(tmp_path / "files", tmp_path / "b", notice=notes.append)
    assert [file["path"].rpartition("/")[2] for file in bundle.source["files"]] == [
        "paraformer-zh-q8_0.gguf"
    ]
    assert "paraformer-zh-q8_0.gguf is used" in notes[0]


def test_a_file_of_a_folder_stands_for_it(tmp_path: Path) -> None:
    folder = write_original(SMALL, tmp_path / "files")
    for name in ("model.pt", "config.yaml", "am.mvn", "tokens.json"):
        bundle = import_model(folder / name, tmp_path / f"b-{name}")
        assert bundle.facts["graphs"] == "parts"


def test_zips_of_the_folders_are_imported(tmp_path: Path) -> None:
    folders = {
        "original": write_original(SMALL, tmp_path / "original"),
        "export": write_funasr_export(SMALL, tmp_path / "export"),
        "sherpa": write_sherpa_export(SMALL, tmp_path / "sherpa"),
    }
    for name, folder in folders.items():
        archive = pack(folder, tmp_path / f"{name}.zip", "some/folder")
        bundle = import_model(archive, tmp_path / f"b-{name}")
        assert bundle.family.name == "paraformer"


def test_a_bundle_is_imported_unchanged(tmp_path: Path) -> None:
    first = import_model(write_original(SMALL, tmp_path / "files"), tmp_path / "a")
    second = import_model(tmp_path / "a", tmp_path / "b")
    assert second.facts["files"].keys() == first.facts["files"].keys()
    assert second.facts["predictor"] == first.facts["predictor"]
    with raises(ConfigError, "encoder_fixed"):
        import_model(tmp_path / "a", tmp_path / "c", ImportOptions(encoder="int8"))


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    original = write_original(SMALL, tmp_path / "original")
    export = write_funasr_export(SMALL, tmp_path / "export")
    with raises(ConfigError, "decoder_absent"):
        import_model(original, tmp_path / "b", ImportOptions(decoder="q8_0"))
    with raises(ConfigError, "decoder_absent"):
        import_model(export, tmp_path / "b", ImportOptions(decoder="q8_0"))
    with raises(ConfigError, "encoder_fixed"):
        import_model(export, tmp_path / "b", ImportOptions(encoder="fp16"))


def test_narrower_graphs_are_smaller(tmp_path: Path) -> None:
    source = write_original(Weights(GOLDEN_SIZES), tmp_path / "files")
    sizes = {}
    for width in ("fp32", "fp16", "int8"):
        bundle = import_model(source, tmp_path / width, ImportOptions(encoder=width))
        sizes[width] = sum(path.stat().st_size for path in bundle.directory.glob("*.data"))
        assert bundle.precision == {"encoder": width, "decoder": width}
    assert sizes["fp32"] > 1.8 * sizes["fp16"] > 1.5 * sizes["int8"]


def test_half_precision_is_stored_once_and_stays_exact(tmp_path: Path) -> None:
    """The default of a checkpoint in float16 is lossless and no larger."""
    weights = Weights(GOLDEN_SIZES)
    half = import_model(write_original(weights, tmp_path / "half", "F16"), tmp_path / "a")
    full = import_model(write_original(weights, tmp_path / "full"), tmp_path / "b")
    assert half.precision["encoder"] == full.precision["encoder"] == "fp32"
    assert half.encoder_bits == 16
    small, large = (
        (bundle.directory / "encoder.onnx.data").stat().st_size for bundle in (half, full)
    )
    assert small < 0.6 * large


def test_the_licence_of_released_models_is_stated(tmp_path: Path) -> None:
    sizes = replace(Sizes(), vocab=RELEASED.vocab)
    released = import_model(write_original(Weights(sizes), tmp_path / "r"), tmp_path / "a")
    assert released.licence == "FunASR Model License"
    own = import_model(write_original(SMALL, tmp_path / "o"), tmp_path / "b")
    assert own.licence is None
    options = ImportOptions(licence="Apache-2.0")
    stated = import_model(write_original(SMALL, tmp_path / "s"), tmp_path / "c", options)
    assert stated.licence == "Apache-2.0"


def test_tokens_are_read_beside_a_gguf_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    path = write_funasr(SMALL, folder / "paraformer.gguf", has_tokens=False)
    with raises(ModelError, "tokens_missing"):
        import_model(path, tmp_path / "b")
    (folder / "tokens.json").write_text(json.dumps(token_list(SMALL.sizes.vocab)), "utf-8")
    assert import_model(path, tmp_path / "b").facts["vocab"] == SMALL.sizes.vocab


def test_a_clone_of_a_repository_of_sherpa_onnx_is_imported(tmp_path: Path) -> None:
    """A clone with both precisions, FunASR's sidecars, scripts and clips."""
    folder = write_sherpa_export(SMALL, tmp_path / "clone", ("fp32", "int8"))
    export = write_funasr_export(SMALL, tmp_path / "export")
    for name in ("am.mvn", "config.yaml", "tokens.json"):
        shutil.copy(export / name, folder / name)
    for name in ("add-model-metadata.py", "README.md", ".gitattributes"):
        (folder / name).write_text("text")
    (folder / "test_wavs").mkdir()
    assert import_model(folder, tmp_path / "b").precision["encoder"] == "fp32"


def test_a_cache_of_modelscope_is_searched(tmp_path: Path) -> None:
    """A cache has a folder for each model of a pipeline."""
    cache = tmp_path / "iic"
    recogniser = write_original(SMALL, cache / "speech_paraformer")
    (recogniser / "seg_dict").write_text("a b\n")
    (recogniser / "configuration.json").write_text("{}")
    (recogniser / "fig").mkdir()
    weights = random_weights(Shape(), len(WORDS), len(MARKS), 2)
    ct_punc.write_original(cache / "punc_ct-transformer", weights, Shape())
    detector = shutil.copytree(recogniser, cache / "speech_fsmn_vad")
    config = (detector / "config.yaml").read_text("utf-8")
    (detector / "config.yaml").write_text(config.replace('"Paraformer"', "FsmnVADStreaming"))
    notes: list[str] = []
    bundle = import_model(cache, tmp_path / "b", notice=notes.append)
    assert bundle.family.name == "paraformer"
    assert "is a punctuation model" in notes[0]


def test_a_cache_of_links_is_imported(tmp_path: Path) -> None:
    """Hugging Face's cache holds links to files without names."""
    source = write_original(SMALL, tmp_path / "source")
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    for number, path in enumerate((snapshot, tmp_path / "hub")):
        bundle = import_model(path, tmp_path / f"b{number}")
        assert bundle.facts["graphs"] == "parts"


def test_graphs_are_preferred_to_weights_in_one_folder(tmp_path: Path) -> None:
    folder = write_original(SMALL, tmp_path / "files")
    shutil.copytree(write_funasr_export(SMALL, tmp_path / "export"), folder, dirs_exist_ok=True)
    notes: list[str] = []
    bundle = import_model(folder, tmp_path / "b", notice=notes.append)
    assert bundle.facts["graphs"] == "whole"
    assert "model.onnx is used" in notes[0]


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(shift=2, decoder_shift=1, left=2, right=0, smooth=1.2, noise=0.05),
        Sizes(head="cnn", upsampling=5, is_after_convolution=True),
        Sizes(layers=1, layers_without_attention=2, blocks=1),
    ],
)
def test_settings_of_other_models_reach_the_graphs(tmp_path: Path, sizes: Sizes) -> None:
    """The same weights as the whole graph of an independent writer computes."""
    weights = Weights(sizes)
    parts = import_model(write_original(weights, tmp_path / "o"), tmp_path / "a").directory
    if sizes.head is None:
        whole = import_model(write_funasr_export(weights, tmp_path / "e"), tmp_path / "b").directory
        texts = []
        for bundle in (parts, whole):
            utterance = load(bundle, OnnxOptions(threads=1)).begin(SessionOptions())
            utterance.append(clip := speechlike(32_000))
            result = utterance.update(len(clip)).result
            assert result is not None
            texts.append(result.text)
        assert texts[0] == texts[1] != ""
    else:
        found = run_parts(parts, features_of(10, 0), features_of(3, 1)[:, : sizes.d_model])
        assert found.time_alphas is not None
        assert found.time_alphas.shape == (10 * sizes.upsampling,)
