"""Creation of model directories: their content, llama.cpp's use of it, and atomicity."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from streamasr.core.errors import ConfigError, ModelError
from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows
from streamasr.importing.atomic import PARTIAL, atomic_directory
from streamasr.importing.files import hash_file
from streamasr.importing.options import DecoderWidth, EncoderWidth, ImportOptions
from streamasr.importing.pack import import_model
from streamasr.importing.qwen3 import packing as module
from streamasr.importing.qwen3.gguf_writer import write_decoder
from streamasr.importing.qwen3.tokenizer import read_vocabulary
from streamasr.models import tiny
from streamasr.models.bundle import open_bundle
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.sources.crispasr import write_crispasr
from tests.sources.onnx_release import write_onnx_release
from tests.support.checkpoints import (
    MERGES,
    ORDINARY_ADDED_TOKENS,
    SPECIAL_TOKENS,
    KeyStyle,
    Shape,
    byte_alphabet,
    random_tensors,
    token_id,
    write_checkpoint,
)
from tests.support.errors import raises
from tests.support.goldens import TINY_RECOGNISER
from tests.support.signals import speechlike

RECOGNISER = Shape(hidden=256, ffn=512)  # rows of whole q4_k blocks
ALIGNER = Shape(n_classes=50)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("recogniser"), RECOGNISER)


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("aligner"), ALIGNER, style="original")


def pack(source: Path, destination: Path, **options: Any) -> Path:
    chosen = ImportOptions(**({"encoder": "fp32", "decoder": "f32"} | options))
    return import_model(source, destination, chosen).directory


def test_a_model_directory_describes_itself_and_its_origin(
    tmp_path: Path, recogniser: Path
) -> None:
    steps: list[str] = []
    chosen = ImportOptions("fp32", "f32", "mine", provenance={"repository": "some/where"})
    bundle = import_model(
        recogniser, tmp_path / "out" / "b", chosen, lambda step, *_: steps.append(step)
    )
    facts = json.loads((bundle.directory / "model.json").read_text())
    assert (facts["format"], facts["version"]) == ("streamasr-bundle", 1)
    assert (facts["family"], facts["name"]) == ("qwen3-asr", "mine")
    assert (facts["languages"], facts["licence"]) == (None, None)
    assert facts["precision"] == {"encoder": "fp32", "decoder": "f32"}
    assert facts["encoder_bits"] == 32
    assert facts["source"]["repository"] == "some/where"
    weights = recogniser / "model.safetensors"
    assert facts["source"]["files"] == [
        {
            "path": str(weights),
            "modified_ns": weights.stat().st_mtime_ns,
            "bytes": weights.stat().st_size,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
    ]
    assert len(set(steps)) >= 3


def test_the_files_of_a_model_directory_agree_with_its_description(
    tmp_path: Path, recogniser: Path
) -> None:
    bundle = import_model(recogniser, tmp_path / "b")
    bundle.check_files()
    assert {path.name for path in bundle.directory.iterdir()} == {*bundle.files, "model.json"}
    for name, stored in bundle.files.items():
        assert hash_file(bundle.directory / name) == stored.sha256


def test_an_aligners_directory_states_its_time_classes(tmp_path: Path, aligner: Path) -> None:
    facts = open_bundle(pack(aligner, tmp_path / "b")).facts
    assert facts["family"] == "qwen3-forced-aligner"
    assert facts["languages"] == ["English", "Chinese"]
    assert (facts["n_classes"], facts["timestamp_step_ms"]) == (50, 80)


def test_a_folder_with_both_families_gives_a_recogniser_with_its_aligner(
    tmp_path: Path, recogniser: Path, aligner: Path
) -> None:
    shutil.copytree(recogniser, tmp_path / "both" / "asr")
    shutil.copytree(aligner, tmp_path / "both" / "aligner")
    bundle = open_bundle(pack(tmp_path / "both", tmp_path / "b"))
    assert bundle.family.name == "qwen3-asr"
    assert bundle.aligner
    assert open_bundle(bundle.aligner).family.name == "qwen3-forced-aligner"


def test_a_folder_of_two_recognisers_is_ambiguous(tmp_path: Path, recogniser: Path) -> None:
    for name in "ab":
        shutil.copytree(recogniser, tmp_path / "both" / name)
    with raises(ModelError, "several_models") as caught:
        pack(tmp_path / "both", tmp_path / "out")
    assert f"{tmp_path / 'both/a'}, {tmp_path / 'both/b'}" in str(caught.value)


def test_a_model_directory_can_be_imported_again_under_another_name(
    tmp_path: Path, recogniser: Path
) -> None:
    first = import_model(recogniser, tmp_path / "a", ImportOptions(decoder="f16"))
    second = import_model(first.directory, tmp_path / "b", ImportOptions(name="other"))
    assert second.name == "other"
    assert second.source["path"] == str(first.directory)
    assert {n: f.sha256 for n, f in second.files.items()} == {
        n: f.sha256 for n, f in first.files.items()
    }
    assert second.decoder.samefile(first.decoder)  # linked, not copied
    third = import_model(first.directory, tmp_path / "c", ImportOptions(decoder="q8_0"))
    assert third.precision == {"encoder": "fp32", "decoder": "q8_0"}
    with raises(ConfigError, "encoder_fixed"):
        import_model(first.directory, tmp_path / "d", ImportOptions(encoder="int8"))


OWN = tiny.BUNDLE / "aligner"


def test_the_aligner_in_a_model_directory_is_imported_with_it(tmp_path: Path) -> None:
    bundle = import_model(tiny.BUNDLE, tmp_path / "b")
    assert bundle.aligner is not None
    assert open_bundle(bundle.aligner).files.keys() == open_bundle(OWN).files.keys()
    assert bundle.source["checkpoint"] == "tests/tiny/asr"


def test_a_source_whose_description_lists_itself_is_not_modified(
    tmp_path: Path, recogniser: Path
) -> None:
    bundle = import_model(recogniser, tmp_path / "a")
    path = bundle.directory / "model.json"
    files = {"model.json": {}, "sub/model.json": {}} | bundle.facts["files"]
    path.write_text(json.dumps(bundle.facts | {"files": files}))
    (bundle.directory / "sub").mkdir()
    (bundle.directory / "sub" / "model.json").touch()
    before = path.read_bytes()
    import_model(bundle.directory, tmp_path / "b", ImportOptions(name="other"))
    assert path.read_bytes() == before


def test_a_quantised_encoder_becomes_half_precision(tmp_path: Path) -> None:
    source = write_crispasr(TINY_RECOGNISER, tmp_path / "m.gguf", "q8_0")
    bundle = import_model(source, tmp_path / "b")
    assert bundle.precision == {"encoder": "fp16", "decoder": "q8_0"}
    assert bundle.encoder_bits == 8


def test_an_archive_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(32))
    with raises(ModelError, "archive_format") as caught:
        import_model(tmp_path / "m.7z", tmp_path / "b")
    assert "m.7z is a 7-Zip archive, " in str(caught.value)


def test_a_full_disk_is_detected_before_the_work(
    tmp_path: Path, recogniser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with raises(ConfigError, "disk_full") as caught:
        pack(recogniser, tmp_path / "b")
    assert "has only 1.0 kB free" in str(caught.value)


def test_leftovers_of_killed_imports_are_removed_by_the_next(
    tmp_path: Path, recogniser: Path
) -> None:
    leftover = tmp_path / f".b.1234{PARTIAL}"
    leftover.mkdir()
    (leftover / "decoder.gguf").touch()
    with atomic_directory(tmp_path / "c") as locked:
        pack(recogniser, tmp_path / "b")
        assert not leftover.exists()
        assert locked.exists()


def test_of_two_imports_with_one_destination_the_later_is_refused(
    tmp_path: Path, recogniser: Path
) -> None:
    def import_late() -> None:
        with atomic_directory(tmp_path / "b") as partial:
            (partial / "mine").touch()
            pack(recogniser, tmp_path / "b")

    with raises(ConfigError, "destination_exists"):
        import_late()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_model_is_replaced_only_after_a_successful_import(
    tmp_path: Path, recogniser: Path
) -> None:
    (tmp_path / "b").mkdir()
    with raises(ModelError, "file_missing"):
        import_model(tmp_path / "nothing", tmp_path / "b", replaces=True)
    assert (tmp_path / "b").exists()
    import_model(recogniser, tmp_path / "b", replaces=True).check_files()


def test_a_linked_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    release = write_onnx_release(TINY_RECOGNISER, tmp_path / "release", "fp32", "q8_0")
    bundle = import_model(release, tmp_path / "b")
    [decoder] = release.glob("*.gguf")
    os.utime(decoder)
    bundle.check_files()  # only touched
    with decoder.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"x")
    with raises(ModelError, "model_file_changed") as caught:
        bundle.check_files()
    assert "decoder.gguf" in str(caught.value)


def test_a_source_that_changes_during_the_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint(tmp_path / "source")

    def change(*arguments: Any) -> None:
        (source / "config.json").write_text("{}")
        write_decoder(*arguments)

    monkeypatch.setattr(module, "write_decoder", change)
    with raises(ModelError, "source_changed"):
        import_model(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_damaged_model_directory_is_not_imported(tmp_path: Path, recogniser: Path) -> None:
    bundle = import_model(recogniser, tmp_path / "a")
    with bundle.decoder.open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"x")
    with raises(ModelError, "model_file_damaged") as caught:
        import_model(bundle.directory, tmp_path / "b")
    assert "decoder.gguf is damaged" in str(caught.value)


@pytest.mark.parametrize("files", [{}, {"decoder.gguf": {}}])
def test_a_description_may_list_too_few_files(
    tmp_path: Path, recogniser: Path, files: dict[str, Any]
) -> None:
    bundle = import_model(recogniser, tmp_path / "a")
    (bundle.directory / "model.json").write_text(json.dumps(bundle.facts | {"files": files}))
    again = import_model(bundle.directory, tmp_path / "b")
    assert again.files.keys() == bundle.files.keys()


@pytest.mark.parametrize("width", ["fp32", "int8"])
def test_the_encoder_of_a_bundle_runs(
    tmp_path: Path, recogniser: Path, width: EncoderWidth
) -> None:
    bundle = pack(recogniser, tmp_path / "b", encoder=width)
    encoder = Qwen3Encoder.from_bundle(bundle, OnnxOptions(threads=1))
    assert encoder.encode(speechlike(16_000)).shape == (13, 256)


def test_the_classifier_equals_the_aligners_head(tmp_path: Path, aligner: Path) -> None:
    bundle = pack(aligner, tmp_path / "b")
    classifier = np.load(bundle / "classifier.npy")
    assert np.array_equal(classifier, random_tensors(ALIGNER, seed=0)["head.weight"])
    half = write_checkpoint(tmp_path / "half", ALIGNER, stored_type="BF16")
    assert np.load(pack(half, tmp_path / "h") / "classifier.npy").dtype == np.float16


@pytest.mark.parametrize(
    ("width", "types"),
    [
        ("f32", {"F32"}),
        ("f16", {"F16", "F32"}),
        ("q8_0", {"Q8_0", "F32"}),
        # llama.cpp gives tied embeddings more bits, and rows of 128 do not fill a block of 256.
        ("q4_k", {"Q4_K", "Q6_K", "Q5_0", "F32"}),
    ],
)
def test_every_width_of_the_decoder_runs_in_llama_cpp(
    tmp_path: Path, recogniser: Path, width: DecoderWidth, types: set[str]
) -> None:
    path = pack(recogniser, tmp_path / "b", decoder=width) / "decoder.gguf"
    tensors = gguf.GGUFReader(path).tensors
    assert {tensor.tensor_type.name for tensor in tensors} == types
    assert {t.tensor_type.name for t in tensors if "norm" in t.name} == {"F32"}
    with LlamaModel(path) as model:
        context = LlamaContext(model, n_ctx=32, n_threads=1)
        [logits] = np.array(context.read([Rows(0, np.array([1, 2, 3], np.int32), 1)]))
        context.close()
    assert logits.shape == (320,)
    assert np.isfinite(logits).all()


def test_the_metadata_of_the_decoder_equals_the_checkpoints(
    tmp_path: Path, recogniser: Path
) -> None:
    fields = read_fields(pack(recogniser, tmp_path / "b", name="mine") / "decoder.gguf")
    assert fields["general.architecture"] == "qwen3"
    assert fields["general.name"] == "mine"
    assert fields["qwen3.block_count"] == 2
    assert fields["qwen3.embedding_length"] == 256
    assert fields["qwen3.feed_forward_length"] == 512
    assert fields["qwen3.attention.head_count"] == 4
    assert fields["qwen3.attention.head_count_kv"] == 2
    assert fields["qwen3.attention.key_length"] == 32
    assert fields["qwen3.rope.freq_base"] == 1e6
    assert fields["qwen3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


def read_fields(path: Path) -> dict[str, Any]:
    return {field.name: field.contents() for field in gguf.GGUFReader(path).fields.values()}


@pytest.mark.parametrize("shape", [Shape(), Shape(tied=False), ALIGNER])
@pytest.mark.parametrize("style", ["native", "original"])
def test_weights_are_unchanged_and_an_output_matrix_exists_only_if_it_is_not_tied(
    tmp_path: Path, style: KeyStyle, shape: Shape
) -> None:
    checkpoint = write_checkpoint(tmp_path / "c", shape, style=style)
    reader = gguf.GGUFReader(pack(checkpoint, tmp_path / "b") / "decoder.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert ("output.weight" in tensors) == (not shape.tied)
    expected = random_tensors(shape, seed=0)
    pairs = {
        "token_embd.weight": "language_model.embed_tokens.weight",
        "blk.1.attn_q.weight": "language_model.layers.1.self_attn.q_proj.weight",
        "blk.1.attn_k_norm.weight": "language_model.layers.1.self_attn.k_norm.weight",
        "blk.0.ffn_norm.weight": "language_model.layers.0.post_attention_layernorm.weight",
        "blk.0.ffn_down.weight": "language_model.layers.0.mlp.down_proj.weight",
        "output_norm.weight": "language_model.norm.weight",
    }
    for ours, theirs in pairs.items():
        assert np.array_equal(tensors[ours], expected[theirs])


@pytest.mark.parametrize("style", ["native", "original"])
def test_the_tokenizer_is_read_from_either_form(tmp_path: Path, style: KeyStyle) -> None:
    vocabulary = read_vocabulary(write_checkpoint(tmp_path, style=style), n_rows=320)
    assert len(vocabulary.tokens) == len(vocabulary.types) == 320
    assert vocabulary.tokens[:256] == tuple(byte_alphabet())
    assert vocabulary.merges == MERGES
    tokens_and_types = (vocabulary.tokens, vocabulary.types)
    kinds = {token: kind.name for token, kind in zip(*tokens_and_types, strict=True)}
    assert {kinds[token] for token in SPECIAL_TOKENS} == {"CONTROL"}
    assert {kinds[token] for token in ORDINARY_ADDED_TOKENS} == {"USER_DEFINED"}
    assert (kinds["a"], kinds["language"], kinds["[PAD319]"]) == ("NORMAL", "NORMAL", "UNUSED")


@pytest.fixture(scope="module")
def model(recogniser: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    path = pack(recogniser, tmp_path_factory.mktemp("model") / "b") / "decoder.gguf"
    with LlamaModel(path) as model:
        yield model


@pytest.mark.parametrize("text", [*SPECIAL_TOKENS, *ORDINARY_ADDED_TOKENS])
def test_special_tokens_are_found_by_their_text(model: LlamaModel, text: str) -> None:
    assert model.special_token(text) == token_id(text)


@pytest.mark.parametrize("text", ORDINARY_ADDED_TOKENS)
def test_added_tokens_that_are_not_special_stay_in_the_text(model: LlamaModel, text: str) -> None:
    assert model.piece(token_id(text)) == text.encode()


@pytest.mark.parametrize("text", ["language", " the language\n", "naïve 中文 🙂", "a  b\t\n c"])
def test_text_is_restored_byte_for_byte(model: LlamaModel, text: str) -> None:
    tokens = model.tokenize(text, special=False)
    assert b"".join(map(model.piece, tokens)) == text.encode()


def test_merges_are_used(model: LlamaModel) -> None:
    assert model.tokenize("language", special=False) == [token_id("language")]


def test_the_end_of_a_turn_ends_generation(model: LlamaModel) -> None:
    assert model.is_end(token_id("<|im_end|>"))
    assert model.is_end(token_id("<|endoftext|>"))
    assert not model.is_end(token_id("<asr_text>"))


@pytest.mark.parametrize(
    ("content", "code", "value"),
    [
        ("{}", "json_value_missing", "model"),
        ('{"model": {"type": "Unigram"}}', "tokenizer_type", "Unigram"),
        ('{"model": {"type": "BPE", "merges": [], "vocab": {"a": "x"}}}', "json_value", "'a'"),
        (
            '{"model": {"type": "BPE", "merges": [], "vocab": {"a": 400}}}',
            "vocabulary_too_large",
            "the id 400, but only 320 ",
        ),
        (
            '{"model": {"type": "BPE", "merges": [], "vocab": {"a": 1}},'
            ' "added_tokens": [{"id": 2, "content": "a"}]}',
            "token_duplicate",
            "'a'",
        ),
        (
            '{"model": {"type": "BPE", "merges": [], "vocab": {}}, "added_tokens": [{"id": 2}]}',
            "merges_invalid",
            "content",
        ),
        ('{"model": {"type": "BPE", "vocab": {}}}', "merges_invalid", ""),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": [3]}}', "merges_invalid", ""),
    ],
)
def test_an_invalid_tokenizer_is_refused(
    tmp_path: Path, content: str, code: str, value: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "c")
    (checkpoint / "tokenizer.json").write_text(content)
    with raises(ModelError, code) as caught:
        pack(checkpoint, tmp_path / "b")
    assert value in str(caught.value)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_missing_tokenizer_file_is_an_error(tmp_path: Path, file: str) -> None:
    checkpoint = write_checkpoint(tmp_path / "c", style="original")
    (checkpoint / file).unlink()
    with raises(ModelError, "file_missing") as caught:
        pack(checkpoint, tmp_path / "b")
    assert file in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_weight_too_large_for_f16_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = random_tensors(Shape(), seed=0)
    tensors["language_model.layers.1.mlp.up_proj.weight"][3, 4] = 1e5
    monkeypatch.setattr("tests.support.checkpoints.random_tensors", lambda *_: tensors)
    checkpoint = write_checkpoint(tmp_path / "c")
    pack(checkpoint, tmp_path / "f32")
    with raises(ModelError, "weight_not_finite") as caught:
        pack(checkpoint, tmp_path / "f16", decoder="f16")
    assert "layers.1.mlp.up_proj.weight " in str(caught.value)


def test_an_existing_destination_is_refused(tmp_path: Path, recogniser: Path) -> None:
    (tmp_path / "b").mkdir()
    with raises(ConfigError, "destination_exists"):
        pack(recogniser, tmp_path / "b")


def test_a_destination_that_cannot_be_created_is_refused(tmp_path: Path, recogniser: Path) -> None:
    (tmp_path / "file").touch()
    with raises(ConfigError, "directory_not_made"):
        pack(recogniser, tmp_path / "file" / "b")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ConfigError),
    ],
)
def test_a_failed_import_leaves_nothing_behind(
    tmp_path: Path,
    recogniser: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    expected: type[BaseException],
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(module, "write_decoder", fail)
    with pytest.raises(expected):
        pack(recogniser, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
