"""Identification of the models under a path, at any depth and among other files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from streamasr.core.errors import ModelError
from streamasr.importing.qwen3.release import OnnxRelease
from streamasr.importing.source import Sources, open_sources
from streamasr.models.bundle import open_bundle
from tests.sources.crispasr import write_crispasr
from tests.sources.foreign import truncate, write_text_only
from tests.sources.ggml_org import write_ggml_org
from tests.sources.onnx_release import pack, write_onnx_release
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises

SHAPE = Shape(ffn=256, hidden=256)
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:7f3a1c0000000000000000000000000000000000000000000000000000000000\n"
    "size 1024\n"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint", SHAPE)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Write a release; tests copy it before they change anything."""
    return write_onnx_release(checkpoint, tmp_path_factory.mktemp("source") / "r", "fp16", "q8_0")


def release_in(sources: Sources) -> OnnxRelease:
    assert isinstance(sources.recogniser, OnnxRelease)
    return sources.recogniser


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_model_is_found_in_nested_folders(tmp_path: Path, release: Path, depth: int) -> None:
    folder = shutil.copytree(release, tmp_path.joinpath("top", *"abc"[:depth]))
    found = open_sources(tmp_path / "top")
    assert release_in(found).decoder.parent == folder
    assert found.notes == ()


def test_a_model_is_found_in_nested_folders_of_a_zip(tmp_path: Path, release: Path) -> None:
    archive = pack(release, tmp_path / "r.zip", "models/Qwen3-ASR/Qwen3-ASR-0.6B")
    found = open_sources(archive, tmp_path / "scratch")
    assert release_in(found).decoder.parent.name == "Qwen3-ASR-0.6B"
    assert found.notes == ()


def test_the_model_in_the_nearest_folder_is_used(tmp_path: Path, release: Path) -> None:
    shutil.copytree(release, tmp_path / "near")
    shutil.copytree(release, tmp_path / "far" / "away")
    assert release_in(open_sources(tmp_path)).decoder.parent == tmp_path / "near"


def test_folders_with_several_links_are_searched_once(tmp_path: Path, release: Path) -> None:
    shutil.copytree(release, tmp_path / "v1")
    (tmp_path / "latest").symlink_to("v1")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dead").symlink_to("dead")
    assert open_sources(tmp_path).recogniser is not None


def test_other_models_in_neighbouring_folders_are_skipped_with_a_note(
    tmp_path: Path, checkpoint: Path, release: Path
) -> None:
    (tmp_path / "chat").mkdir()
    write_text_only(checkpoint, tmp_path / "chat" / "text.gguf")
    shutil.copytree(release, tmp_path / "speech" / "0.6B")
    shutil.copytree(release, tmp_path / "speech" / "broken")
    truncate(tmp_path / "speech" / "broken" / "qwen3_asr_llm.q8_0.gguf", 0.5)
    found = open_sources(tmp_path)
    assert release_in(found).decoder.parent.name == "0.6B"
    text, broken = found.notes
    assert text.startswith("skipped: ")
    assert "text.gguf is a language model for text" in text
    assert "broken/qwen3_asr_llm.q8_0.gguf is cut short" in broken


DROPPED_CAPABILITIES = ("-dac_override", "-dac_read_search")
"""Capabilities with which root can read any file."""


def test_an_unreadable_folder_is_skipped(tmp_path: Path, release: Path) -> None:
    shutil.copytree(release, tmp_path / "top" / "mine")
    (tmp_path / "top" / "theirs").mkdir(mode=0)
    dropped = ",".join(DROPPED_CAPABILITIES)
    prefix = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    program = (
        "from streamasr.importing.pack import *; "
        f"import_model(Path({str(tmp_path / 'top')!r}), Path({str(tmp_path / 'made')!r}), "
        "notice=print)"
    )
    command = [*(prefix if os.geteuid() == 0 else ()), sys.executable, "-c", program]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert output == f"skipped: {tmp_path / 'top' / 'theirs'} cannot be read: Permission denied.\n"
    assert open_bundle(tmp_path / "made").precision["encoder"] == "fp16"


def test_a_damaged_model_in_the_given_folder_is_an_error(tmp_path: Path, release: Path) -> None:
    damaged = shutil.copytree(release, tmp_path / "r")
    shutil.copytree(release, damaged / "copy")
    truncate(damaged / "qwen3_asr_llm.q8_0.gguf", 0.5)
    with raises(ModelError, "file_cut_short"):
        open_sources(damaged)


def test_a_note_states_the_files_that_are_used_of_several_precisions(
    tmp_path: Path, checkpoint: Path, release: Path
) -> None:
    several = shutil.copytree(release, tmp_path / "r")
    write_onnx_release(checkpoint, several, "int4", "q4_k")
    assert open_sources(several).notes == (
        f"of the model files in {several}, qwen3_asr_encoder_backend.fp16.onnx, "
        "qwen3_asr_encoder_frontend.fp16.onnx and qwen3_asr_llm.q8_0.gguf are used.",
    )


def test_a_decoder_given_by_its_path_is_used(
    tmp_path: Path, checkpoint: Path, release: Path
) -> None:
    several = shutil.copytree(release, tmp_path / "r")
    write_onnx_release(checkpoint, several, "int4", "q4_k")
    found = open_sources(several / "qwen3_asr_llm.q4_k.gguf")
    assert release_in(found).decoder.name == "qwen3_asr_llm.q4_k.gguf"
    assert release_in(found).precision == "fp16"
    assert "qwen3_asr_llm.q4_k.gguf are used" in found.notes[0]


def test_a_complete_model_given_by_its_path_needs_no_note(tmp_path: Path, checkpoint: Path) -> None:
    for types in ("f16", "q8_0"):
        write_crispasr(checkpoint, tmp_path / f"{types}.gguf", types)
    assert open_sources(tmp_path / "f16.gguf").notes == ()
    [note] = open_sources(tmp_path).notes
    assert note == f"of the model files in {tmp_path}, q8_0.gguf is used."


def test_a_note_states_that_safetensors_are_preferred_to_a_gguf(
    tmp_path: Path, checkpoint: Path
) -> None:
    both = shutil.copytree(checkpoint, tmp_path / "both")
    write_crispasr(checkpoint, both / "f16.gguf", "f16")
    assert open_sources(both).notes == (
        f"of the model files in {both}, model.safetensors is used.",
    )


def test_a_damaged_neighbouring_file_is_an_error_only_if_it_may_be_the_other_half(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_ggml_org(checkpoint, tmp_path)
    [text] = (path for path in tmp_path.iterdir() if "mmproj" not in path.name)
    [encoder] = (path for path in tmp_path.iterdir() if "mmproj" in path.name)
    damaged = tmp_path / "another.gguf"
    damaged.write_bytes(text.read_bytes()[:1000])
    assert open_sources(text).recogniser is not None
    damaged.unlink()
    truncate(encoder, 0.5)
    with raises(ModelError, "file_cut_short") as caught:
        open_sources(text)
    assert encoder.name in str(caught.value)


def test_a_pair_may_share_a_folder_with_a_release_of_another_size(
    tmp_path: Path, release: Path
) -> None:
    both = shutil.copytree(release, tmp_path / "both")
    pair = write_ggml_org(write_checkpoint(tmp_path / "other", Shape(hidden=512)), tmp_path / "p")
    for path in pair.iterdir():
        shutil.copy(path, both)
    [text] = (path for path in pair.iterdir() if "mmproj" not in path.name)
    [note] = open_sources(both / text.name).notes
    assert f"{text.name} and mmproj" in note


def test_graphs_of_another_kind_of_model_are_ignored(tmp_path: Path, checkpoint: Path) -> None:
    write_ggml_org(checkpoint, tmp_path)
    [text] = (path for path in tmp_path.iterdir() if "mmproj" not in path.name)
    number = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "detector", [number], [number])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "vad.onnx")
    for source in (tmp_path, text):
        assert open_sources(source).recogniser is not None
    text.unlink()
    with raises(ModelError, "gguf_encoder_alone"):
        open_sources(tmp_path)


@pytest.mark.parametrize(("content", "code"), [(POINTER, "lfs_pointer"), ("", "file_empty")])
@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "model.safetensors"])
def test_an_empty_file_or_a_pointer_to_the_model_is_an_error(
    tmp_path: Path, checkpoint: Path, content: str, code: str, name: str
) -> None:
    source = shutil.copytree(checkpoint, tmp_path / "source")
    (source / "model.safetensors").unlink()
    (source / name).write_text(content, "utf-8")
    for given in (source, source / name):
        with raises(ModelError, code) as caught:
            open_sources(given)
        assert name in str(caught.value)


@pytest.mark.parametrize("part", ["encoder_frontend", "encoder_backend", "llm"])
def test_a_pointer_in_place_of_a_part_is_an_error(tmp_path: Path, release: Path, part: str) -> None:
    source = shutil.copytree(release, tmp_path / "r")
    [path] = source.glob(f"qwen3_asr_{part}*")
    path.write_text(POINTER, "utf-8")
    with raises(ModelError, "lfs_pointer") as caught:
        open_sources(source)
    assert path.name in str(caught.value)


def test_pointers_beside_complete_files_are_ignored(tmp_path: Path, release: Path) -> None:
    source = shutil.copytree(release, tmp_path / "r")
    for name in ("encoder_frontend.fp32.onnx", "encoder_backend.fp32.onnx", "llm.f16.gguf"):
        (source / f"qwen3_asr_{name}").write_text(POINTER, "utf-8")
    assert release_in(open_sources(source)).precision == "fp16"
