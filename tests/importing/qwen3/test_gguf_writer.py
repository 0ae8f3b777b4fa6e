"""Decoders as GGUF: the weights of the source, in a form that llama.cpp runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.qwen3.checkpoint import check_dimensions
from streamasr.importing.qwen3.crispasr import read_crispasr
from streamasr.importing.qwen3.gguf_writer import WrittenWidth, write_decoder
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from tests.sources.crispasr import Types, write_crispasr
from tests.support import checkpoints
from tests.support.checkpoints import Shape, StoredType, token_id, write_checkpoint
from tests.support.errors import raises

BLOCKS = Shape(d_model=64, hidden=256, ffn=256, head_dim=64)  # rows of whole q4_k blocks
PROMPT = np.array([108, 97, 110, 103, 260, 33, 270], np.int32)


def outputs(path: Path, *, hidden_states: bool = False) -> Float32Array:
    """Return llama.cpp's output for every position of a prompt."""
    with (
        LlamaModel(path) as model,
        LlamaContext(model, n_ctx=32, n_threads=1, hidden_states=hidden_states) as context,
    ):
        return np.array(context.read([Rows(0, PROMPT, len(PROMPT))]))


@pytest.mark.parametrize("shape", [Shape(), Shape(tied=False)])
@pytest.mark.parametrize("width", ["keep", "f16"])
def test_a_decoder_from_crispasr_equals_the_one_from_the_checkpoint(
    tmp_path: Path, shape: Shape, width: WrittenWidth
) -> None:
    directory = write_checkpoint(tmp_path / "c", shape, stored_type="F16")
    write_decoder(read_checkpoint(directory), tmp_path / "ours.gguf", "f16", "m")
    file = read_gguf(write_crispasr(directory, tmp_path / "c.gguf", "f16"))
    write_decoder(read_crispasr(file), tmp_path / "theirs.gguf", width, "m")
    ours, theirs = read_gguf(tmp_path / "ours.gguf"), read_gguf(tmp_path / "theirs.gguf")
    assert list(theirs.tensors) == list(ours.tensors)
    assert ("output.weight" in theirs.tensors) == (not shape.tied)
    for name, tensor in ours.tensors.items():
        assert theirs.tensors[name].stored_type == tensor.stored_type
        assert np.array_equal(theirs.tensors[name].stored(), tensor.stored())
    assert np.array_equal(outputs(theirs.path), outputs(ours.path))


@pytest.mark.parametrize("shape", [Shape(), BLOCKS, Shape(n_classes=50)])
@pytest.mark.parametrize("types", ["f16", "q8_0", "q4_k"])
def test_blocks_are_copied_byte_for_byte(tmp_path: Path, shape: Shape, types: Types) -> None:
    directory = write_checkpoint(tmp_path / "c", shape)
    source = read_gguf(write_crispasr(directory, tmp_path / "c.gguf", types))
    write_decoder(read_crispasr(source), tmp_path / "d.gguf", "keep", "m")
    written = read_gguf(tmp_path / "d.gguf")
    assert (written.architecture, written.metadata["general.name"]) == ("qwen3", "m")
    for name, tensor in written.tensors.items():
        kept = source.tensors[name]
        assert (tensor.stored_type, tensor.shape) == (kept.stored_type, kept.shape)
        assert tensor.stored().tobytes() == kept.stored().tobytes()
    # A head equal to the embeddings is not stored; an aligner's head is not a part of the decoder.
    language_model = {name for name in source.tensors if not name.startswith("audio.")}
    assert language_model - set(written.tensors) == {"output.weight"}


@pytest.mark.parametrize("types", ["q8_0", "q4_k"])
def test_copied_blocks_give_the_results_of_their_values(tmp_path: Path, types: Types) -> None:
    directory = write_checkpoint(tmp_path / "c", BLOCKS)
    checkpoint = read_crispasr(read_gguf(write_crispasr(directory, tmp_path / "c.gguf", types)))
    write_decoder(checkpoint, tmp_path / "kept.gguf", "keep", "m")
    write_decoder(checkpoint, tmp_path / "f32.gguf", "f32", "m")
    kept, exact = outputs(tmp_path / "kept.gguf"), outputs(tmp_path / "f32.gguf")
    cosines = (kept * exact).sum(1) / np.linalg.norm(kept, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.99  # activations are quantised to 8 bits in one of them
    assert {t.stored_type for t in read_gguf(tmp_path / "f32.gguf").tensors.values()} == {"F32"}


def test_an_aligners_hidden_states_equal_those_of_the_checkpoint(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", Shape(n_classes=50), stored_type="F16")
    write_decoder(read_checkpoint(directory), tmp_path / "ours.gguf", "f16", "m")
    theirs = read_crispasr(read_gguf(write_crispasr(directory, tmp_path / "c.gguf")))
    write_decoder(theirs, tmp_path / "theirs.gguf", "keep", "m")
    ours = outputs(tmp_path / "ours.gguf", hidden_states=True)
    assert np.array_equal(outputs(tmp_path / "theirs.gguf", hidden_states=True), ours)


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
def test_checkpoints_can_be_copied_unchanged(tmp_path: Path, stored: StoredType) -> None:
    directory = write_checkpoint(tmp_path / "c", stored_type=stored)
    write_decoder(read_checkpoint(directory), tmp_path / "kept.gguf", "keep", "m")
    write_decoder(read_checkpoint(directory), tmp_path / "f32.gguf", "f32", "m")
    types = {t.name: t.stored_type for t in read_gguf(tmp_path / "kept.gguf").tensors.values()}
    assert {kind for name, kind in types.items() if "norm" not in name} == {stored}
    assert {kind for name, kind in types.items() if "norm" in name} == {"F32"}
    kept, exact = outputs(tmp_path / "kept.gguf"), outputs(tmp_path / "f32.gguf")
    assert np.abs(kept - exact).max() < 0.05 * np.abs(exact).max()


def test_llama_cpp_finds_the_tokens_of_a_prompt(tmp_path: Path) -> None:
    path = write_crispasr(write_checkpoint(tmp_path / "c"), tmp_path / "c.gguf")
    write_decoder(read_crispasr(read_gguf(path)), tmp_path / "d.gguf", "keep", "m")
    with LlamaModel(tmp_path / "d.gguf") as model:
        for text in ("<|audio_start|>", "<|im_end|>", "<asr_text>", "<timestamp>"):
            assert model.special_token(text) == token_id(text)
        assert model.is_end(token_id("<|im_end|>"))
        assert model.piece(token_id("<asr_text>")) == b"<asr_text>"
        assert model.piece(token_id("<|audio_start|>")) == b""
        assert model.tokenize("language", special=False) == [token_id("language")]


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    write_decoder(checkpoint, tmp_path / "d.gguf", "f16", "m", lambda *step: steps.append(step))
    written = read_gguf(tmp_path / "d.gguf").tensors.values()
    total = sum(tensor.n_bytes for tensor in written)
    assert [name for name, _, _ in steps] == ["writing the decoder, f16"] * len(written)
    done = [done for _, done, _ in steps]
    assert done == sorted(done)
    assert {all_ for _, _, all_ in steps} == {total} == {done[-1]}


@pytest.mark.parametrize(("width", "value"), [("f16", 1e5), ("f16", np.nan), ("f32", np.inf)])
def test_values_out_of_range_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: WrittenWidth, value: float
) -> None:
    def spoiled(*arguments: Any) -> dict[str, Any]:
        tensors = random_tensors(*arguments)
        tensors["language_model.layers.1.mlp.up_proj.weight"][3, 4] = value
        return tensors

    random_tensors = checkpoints.random_tensors
    monkeypatch.setattr(checkpoints, "random_tensors", spoiled)
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    with raises(ModelError, "weight_not_finite") as caught:
        write_decoder(checkpoint, tmp_path / "d.gguf", width, "m")
    assert "mlp.up_proj.weight " in str(caught.value)
    assert str(caught.value).endswith(f" {width}")


def test_the_file_type_is_only_stated_if_a_type_is_chosen(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    widths: dict[WrittenWidth, object] = {
        "f32": gguf.LlamaFileType.ALL_F32,
        "f16": gguf.LlamaFileType.MOSTLY_F16,
        "keep": None,
    }
    for width, expected in widths.items():
        write_decoder(checkpoint, tmp_path / f"{width}.gguf", width, "m")
        metadata = read_gguf(tmp_path / f"{width}.gguf").metadata
        assert metadata.get("general.file_type") == expected


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"rope_theta": 1e308}, "value_out_of_range", "rope_theta 1e+308 "),
        ({"rope_theta": -1.0}, "value_out_of_range", "rope_theta -1.0 "),
        ({"rms_eps": float("nan")}, "value_out_of_range", "rms_norm_eps nan "),
        ({"max_positions": 1 << 40}, "context_out_of_range", " 1099511627776 positions "),
        ({"n_heads": 3}, "decoder_heads", "3 heads cannot share 2 key"),
        ({"n_kv_heads": 8}, "decoder_heads", "4 heads cannot share 8 key"),
        ({"head_dim": 33}, "decoder_head_width", " 33 values "),
        ({"n_layers": 513}, "too_many_layers", "at most 512 layers, not 513"),
    ],
)
def test_dimensions_for_which_llama_cpp_would_abort_are_refused(
    tmp_path: Path, changes: dict[str, Any], code: str, value: str
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    text = replace(checkpoint.text, **changes)
    with raises(ModelError, code) as caught:
        check_dimensions(checkpoint.audio, text, checkpoint.path)
    assert value in str(caught.value)
