"""The embedded model's checkpoints in every published form: imported, then run.

The writers in tests/sources are independent of the importers, so a misreading on either side fails
here: encoders are compared with golden arrays of the reference, answers and time classes with
golden tokens.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.pack import import_model
from streamasr.models.bundle import Bundle
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.aligner import ForcedAligner
from streamasr.models.qwen3.names import BACKEND_FILE, CLASSIFIER_FILE, FRONTEND_FILE
from tests.sources import foreign
from tests.sources.crispasr import write_crispasr
from tests.sources.onnx_release import write_onnx_release
from tests.sources.released_ids import released_id, write_released_ids
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.forms import EXACT, FORMS, LOSSY, Form, Recogniser, cosine
from tests.support.goldens import (
    TINY_ALIGNER,
    TINY_CLIPS,
    TINY_GOLDEN,
    TINY_GOLDEN_CLIPS,
    TINY_RECOGNISER,
    clip_facts,
    read_clip,
    words_of,
)
from tests.support.rounding import assert_chosen
from tests.support.signals import speechlike

RECOGNISERS = [name for name, form in FORMS.items() if "recogniser" in form.families]
ALIGNERS = [name for name, form in FORMS.items() if "aligner" in form.families]
EXACT_RECOGNISERS = [
    "onnx fp32, f16",
    "crispasr f16",
    "ggml-org f16",
    "transcribe.cpp f16",
    "safetensors f16",
]
SPOKEN = [name for name in TINY_GOLDEN_CLIPS if name != "noise"]

Sources = Callable[[str, Path], Path]


@pytest.fixture(scope="session")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Return a function that writes a checkpoint in a form, only once for each form."""

    @cache
    def write(name: str, checkpoint: Path) -> Path:
        directory = tmp_path_factory.mktemp("forms") / name.replace(", ", "-").replace(" ", "-")
        return FORMS[name].write(checkpoint, directory)

    return write


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    with np.load(TINY_GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", RECOGNISERS)
def test_a_recogniser_gives_the_same_answers_in_any_form(
    source_of: Sources, golden: dict[str, Any], tmp_path: Path, name: str
) -> None:
    form = FORMS[name]
    bundle = import_model(source_of(name, TINY_RECOGNISER), tmp_path / "bundle", form.options)
    assert_warned_of_few_bits(bundle, form)
    with Recogniser(bundle.directory) as recogniser:
        for clip in TINY_GOLDEN_CLIPS:
            embeddings = recogniser.encoder.encode(read_clip(clip))
            assert cosine(embeddings, golden[f"{clip}/embeddings"]) >= form.cosine
            if form.is_greedy_exact:
                assert recogniser.greedy(embeddings) == tuple(golden[f"{clip}/answer"])


@pytest.mark.parametrize("name", ALIGNERS)
def test_an_aligner_gives_the_same_times_in_any_form(
    source_of: Sources, golden: dict[str, Any], tmp_path: Path, name: str
) -> None:
    form = FORMS[name]
    bundle = import_model(source_of(name, TINY_ALIGNER), tmp_path / "bundle", form.options)
    assert_warned_of_few_bits(bundle, form)
    with ForcedAligner(bundle.directory, OnnxOptions(threads=1), n_threads=1) as aligner:
        for clip in SPOKEN:
            words = words_of(clip_facts()[clip])
            ours = np.array(aligner.align(read_clip(clip), words).milliseconds) // 80
            logits = golden[f"{clip}/class_logits"]
            if form.is_greedy_exact:
                assert_chosen(ours, logits, golden[f"{clip}/class_logits_error"])
            elif form.cosine > LOSSY:
                assert np.abs(ours - logits.argmax(axis=-1)).mean() < 0.5


def assert_warned_of_few_bits(bundle: Bundle, form: Form) -> None:
    assert (bundle.warning is None) == (form.cosine > LOSSY)
    if bundle.warning is not None:
        assert "weights of 4 bits" in bundle.warning


@pytest.mark.parametrize(
    "name",
    [
        "onnx fp16, q5_k",
        "onnx zip, folder",
        "crispasr q8_0",
        "ggml-org q8_0",
        "transcribe.cpp q8_0",
        "transcribe.cpp q4_k_m",
        "safetensors f16",
    ],
)
def test_a_clip_is_transcribed_with_a_model_in_any_form(
    source_of: Sources, tmp_path: Path, name: str
) -> None:
    clip = clip_facts()["espeak_1"]
    source = source_of(name, TINY_RECOGNISER)
    assert transcribe(source, tmp_path / "cache", clip["file"]) == clip["text"]
    # The imported model directory is a valid source, too, and is used without a further import.
    (imported,) = (path.parent for path in (tmp_path / "cache").rglob("model.json"))
    assert transcribe(imported, tmp_path / "other", clip["file"]) == clip["text"]
    assert not (tmp_path / "other").exists()


def transcribe(model: Path, cache: Path, clip: str) -> str:
    command = [sys.executable, "-m", "streamasr", "transcribe", "--model", str(model)]
    done = subprocess.run(
        [*command, str(TINY_CLIPS / clip)],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Draw small shapes of any proportions, with rows that are not a multiple of a block."""
    encoder_heads, kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    return Shape(
        channels=draw(st.integers(1, 9)),
        d_model=encoder_heads * draw(st.sampled_from([8, 20, 32])),
        encoder_layers=draw(st.integers(1, 3)),
        encoder_heads=encoder_heads,
        encoder_ffn=draw(st.sampled_from([24, 64, 96])),
        hidden=draw(st.sampled_from([32, 40, 64])),
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([16, 32, 64])),
        ffn=draw(st.sampled_from([32, 72, 96])),
        tied=draw(st.booleans()),
    )


@settings(max_examples=12)
@given(shape=shapes(), name=st.sampled_from(EXACT_RECOGNISERS), seed=st.integers(0, 99))
def test_a_model_of_any_shape_is_the_same_in_any_form(shape: Shape, name: str, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = write_checkpoint(Path(directory) / "checkpoint", shape, seed=seed)
        embeddings: list[Float32Array] = []
        for form in (FORMS["safetensors f16"], FORMS[name]):
            source = form.write(checkpoint, Path(directory) / f"source-{len(embeddings)}")
            bundle = import_model(
                source, Path(directory) / f"bundle-{len(embeddings)}", form.options
            )
            with Recogniser(bundle.directory) as recogniser:
                embeddings.append(recogniser.encoder.encode(speechlike(20_000)))
                assert len(recogniser.greedy(embeddings[-1], 3)) <= 3
        assert cosine(*embeddings) >= EXACT


def test_a_folder_of_both_releases_becomes_a_model_with_its_aligner(tmp_path: Path) -> None:
    folder = write_onnx_release(TINY_RECOGNISER, tmp_path / "model", "fp32", "f16")
    write_onnx_release(TINY_ALIGNER, folder, "fp32", "f16")
    before = listing(folder)
    bundle = import_model(folder, tmp_path / "bundle")
    assert bundle.family.name == "qwen3-asr"
    assert bundle.aligner is not None
    assert listing(folder) == before


def test_the_files_of_a_release_are_used_unchanged(tmp_path: Path) -> None:
    release = write_onnx_release(TINY_RECOGNISER, tmp_path / "model", "int8", "q4_k")
    bundle = import_model(release, tmp_path / "bundle")
    graphs = (bundle.directory / name for name in (FRONTEND_FILE, BACKEND_FILE))
    for used in (*graphs, bundle.decoder):
        assert any(used.samefile(given) for given in release.iterdir())


def test_the_names_of_the_files_are_irrelevant(tmp_path: Path) -> None:
    release = write_onnx_release(TINY_RECOGNISER, tmp_path / "model", "fp16", "q8_0")
    for number, path in enumerate(sorted(release.iterdir())):
        path.rename(release / f"part-{number}")
    by_folder = import_model(release, tmp_path / "bundle")
    by_file = import_model(release / "part-0", tmp_path / "other")
    assert by_folder.precision == by_file.precision == {"encoder": "fp16", "decoder": "q8_0"}


def test_the_padding_of_an_aligners_head_is_removed(source_of: Sources, tmp_path: Path) -> None:
    source = source_of("onnx fp16, q5_k", TINY_ALIGNER)
    bundle = import_model(source, tmp_path / "bundle")
    classifier = np.load(bundle.directory / CLASSIFIER_FILE)
    assert classifier.shape == (512, 192)
    assert np.abs(classifier).max() < 10


@pytest.mark.parametrize("types", ["f16", "q8_0", "q4_k"])
def test_the_blocks_of_a_decoder_are_copied_byte_for_byte(tmp_path: Path, types: Any) -> None:
    path = write_crispasr(TINY_RECOGNISER, tmp_path / "model.gguf", types)
    bundle = import_model(path, tmp_path / "bundle")
    given, ours = tensors_of(path), tensors_of(bundle.decoder)
    assert len(ours) > 30
    for name, tensor in ours.items():
        assert tensor.tensor_type == given[name].tensor_type
        np.testing.assert_array_equal(tensor.data, given[name].data)
    # A head equal to the embeddings is not stored a second time.
    assert given.keys() - ours.keys() == {"output.weight"} | {n for n in given if "audio" in n}


def tensors_of(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recogniser with the released token ids."""
    return write_released_ids(TINY_RECOGNISER, tmp_path_factory.mktemp("released") / "wide")


def test_the_lost_tokens_of_old_files_are_restored(
    golden: dict[str, Any], wide: Path, tmp_path: Path
) -> None:
    path = write_crispasr(wide, tmp_path / "old.gguf", "f16", generation="old", mel=False)
    bundle = import_model(path, tmp_path / "bundle")
    with Recogniser(bundle.directory) as recogniser:
        embeddings = recogniser.encoder.encode(read_clip("espeak_1"))
        expected = [released_id(TINY_RECOGNISER, int(t)) for t in golden["espeak_1/answer"]]
        assert list(recogniser.greedy(embeddings)) == expected


def test_old_files_of_4_bits_cause_a_warning(wide: Path, tmp_path: Path) -> None:
    path = write_crispasr(wide, tmp_path / "old.gguf", "q4_k", generation="old")
    warning = import_model(path, tmp_path / "bundle").warning
    assert warning is not None
    assert "weights of 4 bits" in warning


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "predict-woo": (lambda d: foreign.write_predict_woo(d / "m.gguf"), "gguf_qwen3_asr_cpp"),
    "text only": (
        lambda d: foreign.write_text_only(TINY_RECOGNISER, d / "m.gguf"),
        "gguf_text_model",
    ),
    "decoder alone": (
        lambda d: foreign.write_decoder_alone(TINY_RECOGNISER, d / "m.gguf"),
        "gguf_decoder_alone",
    ),
    "CTC aligner": (lambda d: foreign.write_ctc_aligner(d / "m.gguf"), "gguf_ctc"),
    "vision": (lambda d: foreign.write_vision_projector(d / "m.gguf"), "gguf_other_encoder"),
    "old with other ids": (
        lambda d: write_crispasr(TINY_RECOGNISER, d / "m.gguf", generation="old"),
        "prompt_token_missing",
    ),
    "cut CrispASR": (
        lambda d: foreign.truncate(write_crispasr(TINY_RECOGNISER, d / "m.gguf"), 0.7),
        "file_cut_short",
    ),
    "cut header": (
        lambda d: foreign.truncate(write_crispasr(TINY_RECOGNISER, d / "m.gguf"), 0.002),
        "file_cut_short",
    ),
    "zip that leads out": (
        lambda d: foreign.write_climbing_zip(d / "m.zip"),
        "archive_unsafe_name",
    ),
    "zip with an absolute path": (
        lambda d: foreign.write_climbing_zip(d / "m.zip", "/tmp/climbed.onnx"),
        "archive_unsafe_name",
    ),
    "zip with a link": (lambda d: foreign.write_linking_zip(d / "m.zip"), "archive_special_member"),
    "bomb": (lambda d: foreign.write_bomb(d / "m.zip"), "archive_bomb"),
    "empty folder": (lambda d: d, "no_model"),
    "text": (lambda d: _text(d / "m.txt"), "not_a_model"),
}


def _text(path: Path) -> Path:
    path.write_text("a model\n")
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_an_unusable_source_is_refused_in_one_line_and_nothing_is_left_behind(
    tmp_path: Path, name: str
) -> None:
    write, code = REFUSED[name]
    (tmp_path / "given").mkdir()
    source = write(tmp_path / "given")
    before = listing(tmp_path)
    with raises(ModelError, code) as caught:
        import_model(source, tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert listing(tmp_path) == before


def listing(directory: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in directory.rglob("*"))
