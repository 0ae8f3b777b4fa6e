"""Quantisation of linear layers, and of decoders with llama.cpp."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.quantize import QuantizedWidth, quantize_decoder, quantize_rows
from streamasr.importing.qwen3.gguf_writer import write_decoder
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises

SHAPE = Shape(hidden=256, ffn=512)  # rows of whole q4_k blocks


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    )
)
def test_the_error_of_a_quantised_row_is_at_most_half_a_step(weight: Float32Array) -> None:
    values, scales = quantize_rows(weight)
    assert values.shape == weight.shape
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max() <= 64
    assert (scales > 0).all()
    restored = values * scales[:, None].astype(np.float64)
    assert (np.abs(restored - weight) <= 0.5001 * scales[:, None]).all()


def test_each_row_has_its_own_scale_and_zeros_stay_zeros() -> None:
    values, scales = quantize_rows(np.array([[0.5, -1], [0, 0], [640, 10]], np.float32))
    assert values.tolist() == [[32, -64], [0, 0], [64, 1]]
    assert scales.tolist() == [1 / 64, 1, 10]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("decoder")
    checkpoint = read_checkpoint(write_checkpoint(directory / "c", SHAPE))
    write_decoder(checkpoint, directory / "f16.gguf", "f16", "x")
    return directory / "f16.gguf"


def first_logits(path: Path) -> Float32Array:
    with LlamaModel(path) as model:
        context = LlamaContext(model, n_ctx=32, n_threads=1)
        logits = context.read([Rows(0, np.array([1, 2, 3], np.int32), 1)])[0].copy()
        context.close()
    return logits


@pytest.mark.parametrize(
    ("widths", "types"),
    [
        (("q8_0",), {"Q8_0", "F32"}),
        # llama.cpp gives tied embeddings more bits, and rows of 128 do not fill a block of 256.
        (("q4_k",), {"Q4_K", "Q6_K", "Q5_0", "F32"}),
        (("q8_0", "q4_k"), {"Q4_K", "Q6_K", "Q5_0", "F32"}),
        (("q4_k", "q8_0"), {"Q8_0", "F32"}),
    ],
)
def test_a_decoder_can_be_quantised_even_if_it_is_quantised_already(
    tmp_path: Path, decoder: Path, widths: tuple[QuantizedWidth, ...], types: set[str]
) -> None:
    source = decoder
    for number, width in enumerate(widths):
        quantize_decoder(source, tmp_path / f"{number}.gguf", width)
        source = tmp_path / f"{number}.gguf"
    assert {tensor.stored_type for tensor in read_gguf(source).tensors.values()} == types
    a, b = first_logits(decoder), first_logits(source)
    assert float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) > 0.95


def test_the_source_is_only_read(tmp_path: Path, decoder: Path) -> None:
    before = decoder.read_bytes()
    quantize_decoder(decoder, tmp_path / "q.gguf", "q8_0")
    assert decoder.read_bytes() == before


def test_a_damaged_source_is_refused(tmp_path: Path, decoder: Path) -> None:
    broken, out = tmp_path / "broken.gguf", tmp_path / "q.gguf"
    broken.write_bytes(decoder.read_bytes()[:-100])
    with raises(ModelError, "file_cut_short") as caught:
        quantize_decoder(broken, out, "q8_0")
    assert "broken.gguf" in str(caught.value)
    assert not out.exists()


def test_a_model_unknown_to_llama_cpp_is_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "other.gguf", tmp_path / "q.gguf"
    writer = gguf.GGUFWriter(source, "unknown-architecture")
    writer.add_tensor("a.weight", np.zeros((4, 256), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with raises(ModelError, "quantisation_failed") as caught:
        quantize_decoder(source, out, "q4_k")
    assert "to q4_k; " in str(caught.value)
    assert not out.exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", SHAPE))
    source, out = tmp_path / "f32.gguf", tmp_path / "q.gguf"
    write_decoder(checkpoint, source, "f32", "x")
    tensor = read_gguf(source).tensors["blk.0.ffn_up.weight"]
    values = np.memmap(source, np.float32, "r+", tensor.offset, tensor.shape)
    values[3, :] = np.inf
    values.flush()
    del values
    with raises(ModelError, "quantisation_failed"):
        quantize_decoder(source, out, "q4_k")
    assert not out.exists()
