"""llama.cpp's pair of GGUFs: correct pairs give a checkpoint, wrong ones an error with the "
"reason."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.decoder.llama import LlamaModel
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor, read_gguf
from streamasr.importing.qwen3.checkpoint import Checkpoint, encoder_shapes
from streamasr.importing.qwen3.projector import read_projector
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from tests.sources.ggml_org import Width, write_ggml_org
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.examples import examples


def read_pair(directory: Path) -> tuple[GGUFFile, GGUFFile]:
    files = {file.architecture: file for file in map(read_gguf, directory.iterdir())}
    return files["qwen3vl"], files["clip"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[GGUFFile, GGUFFile]:
    folder = tmp_path_factory.mktemp("pair")
    return read_pair(write_ggml_org(write_checkpoint(folder / "c"), folder / "g"))


def with_metadata(file: GGUFFile, changes: dict[str, Any]) -> GGUFFile:
    metadata = dict(file.metadata) | changes
    return replace(file, metadata={name: v for name, v in metadata.items() if v is not None})


def with_tensor(file: GGUFFile, name: str, tensor: GGUFTensor | None) -> GGUFFile:
    tensors = {key: value for key, value in file.tensors.items() if key != name}
    return replace(file, tensors=tensors | ({name: tensor} if tensor else {}))


def in_a_file(path: Path, name: str, values: np.ndarray[Any, Any]) -> GGUFTensor:
    values = values.astype(np.float32)
    path.write_bytes(values.tobytes())
    return GGUFTensor(path, name, "F32", values.shape, 0, values.nbytes)


@pytest.mark.parametrize("width", ["f16", "bf16", "q8_0"])
def test_a_pair_gives_the_checkpoint_that_it_was_written_from(tmp_path: Path, width: Width) -> None:
    directory = write_checkpoint(tmp_path / "c", Shape(d_model=64))
    ours = read_checkpoint(directory)
    text, projector = read_pair(write_ggml_org(directory, tmp_path / "g", width, width))
    theirs = read_projector(text, projector)
    assert (theirs.family, theirs.audio) == (ours.family, ours.audio)
    assert theirs.text.rms_eps == pytest.approx(ours.text.rms_eps)
    assert replace(theirs.text, rms_eps=ours.text.rms_eps) == ours.text
    assert (theirs.decoder_file, theirs.licence) == (text.path, "apache-2.0")
    assert list(theirs.tensors) == list(encoder_shapes(ours.audio))
    for name, tensor in theirs.tensors.items():
        exact = ours.tensors[name].float32()
        assert tensor.float32().shape == exact.shape
        assert np.allclose(tensor.float32(), exact, atol=0.02 * np.abs(exact).max())
    assert theirs.read_vocabulary() == ours.read_vocabulary()
    with LlamaModel(text.path) as model:
        assert model.n_embd == theirs.text.hidden


def test_an_untied_output_matrix_is_allowed(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", Shape(tied=False))
    text, projector = read_pair(write_ggml_org(directory, tmp_path / "g"))
    assert "output.weight" in text.tensors
    assert read_projector(text, projector).decoder_file == text.path


def test_files_of_different_models_are_refused(
    tmp_path: Path, pair: tuple[GGUFFile, GGUFFile]
) -> None:
    other = write_checkpoint(tmp_path / "c", Shape(hidden=64))
    text, projector = read_pair(write_ggml_org(other, tmp_path / "g"))
    with raises(ModelError, "encoder_decoder_widths") as caught:
        read_projector(pair[0], projector)
    assert " 64 values" in str(caught.value)
    with raises(ModelError, "encoder_decoder_widths") as caught:
        read_projector(text, pair[1])
    assert " 48 values" in str(caught.value)


def test_files_in_the_wrong_order_are_refused(pair: tuple[GGUFFile, GGUFFile]) -> None:
    text, projector = pair
    with raises(ModelError, "gguf_encoder_alone"):
        read_projector(projector, text)
    with raises(ModelError, "gguf_decoder_alone"):
        read_projector(text, text)


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"clip.audio.projector_type": "qwen2a"}, "gguf_other_encoder", "qwen2a"),
        ({"clip.audio.projector_type": None}, "gguf_other_encoder", "for images"),
        ({"clip.audio.block_count": 2**31 - 1}, "layer_count", "is 2147483647, "),
        ({"clip.audio.embedding_length": 64}, "tensor_shape", "a.position_embd.weight "),
        ({"clip.audio.feed_forward_length": 65}, "tensor_shape", "a.blk.0.ffn_up.weight "),
        ({"clip.audio.attention.head_count": 5}, "encoder_heads", "into 5 heads"),
        (
            {"clip.audio.attention.layer_norm_epsilon": 1e-6},
            "setting_unsupported",
            "layer_norm_epsilon = 1e-06 ",
        ),
        ({"clip.audio.num_mel_bins": 80}, "tensor_shape", "a.conv_out.weight "),
        ({"clip.audio.num_mel_bins": None}, "metadata_missing", "num_mel_bins"),
    ],
)
def test_an_invalid_encoder_is_refused(
    pair: tuple[GGUFFile, GGUFFile], changes: dict[str, Any], code: str, value: str
) -> None:
    with raises(ModelError, code) as caught:
        read_projector(pair[0], with_metadata(pair[1], changes))
    assert value in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"tokenizer.ggml.tokens": ["a"]}, "gguf_text_model", "(qwen3vl)"),
        ({"tokenizer.ggml.merges": []}, "merges_missing", ""),
        ({"split.count": 2}, "gguf_split", ""),
        ({"qwen3vl.block_count": 3}, "layer_count", "is 3, "),
        ({"qwen3vl.attention.head_count": 8}, "tensor_shape", "blk.0.attn_q.weight "),
        ({"qwen3vl.attention.value_length": 64}, "setting_unsupported", "value_length = 64 "),
        ({"qwen3vl.n_deepstack_layers": 3}, "setting_unsupported", "n_deepstack_layers = 3 "),
        ({"qwen3vl.rope.dimension_count": 7}, "setting_unsupported", "dimension_count = 7 "),
        (
            {"qwen3vl.rope.dimension_sections": [0] * 4},
            "setting_unsupported",
            "sections = [0, 0, 0, 0] ",
        ),
        ({"qwen3vl.rope.dimension_sections": 24}, "setting_unsupported", "sections = 24 "),
        ({"qwen3vl.expert_count": 4}, "setting_unsupported", "expert_count = 4 "),
        ({"qwen3vl.nextn_predict_layers": 1}, "setting_unsupported", "nextn_predict_layers = 1 "),
        ({"qwen3vl.rope.freq_base": None}, "metadata_missing", "rope.freq_base"),
    ],
)
def test_an_invalid_text_model_is_refused(
    pair: tuple[GGUFFile, GGUFFile], changes: dict[str, Any], code: str, value: str
) -> None:
    with raises(ModelError, code) as caught:
        read_projector(with_metadata(pair[0], changes), pair[1])
    assert value in str(caught.value)


def test_missing_and_unexpected_tensors_are_errors(pair: tuple[GGUFFile, GGUFFile]) -> None:
    text, projector = pair
    norm = projector.tensors["a.post_ln.weight"]
    with raises(ModelError, "tensor_missing") as caught:
        read_projector(text, with_tensor(projector, norm.name, None))
    assert "audio_tower.ln_post.weight" in str(caught.value)
    with raises(ModelError, "tensor_unexpected") as caught:
        read_projector(text, with_tensor(projector, "v.post_ln.weight", norm))
    assert "v.post_ln.weight" in str(caught.value)
    with raises(ModelError, "tensor_missing") as caught:
        read_projector(text, with_tensor(projector, "a.conv2d.1.weight", None))
    assert "a.conv2d.1.weight" in str(caught.value)
    with raises(ModelError, "tensor_missing") as caught:
        read_projector(with_tensor(text, "token_embd.weight", None), projector)
    assert "token_embd.weight" in str(caught.value)


def test_positions_may_be_absent_but_must_be_sinusoids(
    tmp_path: Path, pair: tuple[GGUFFile, GGUFFile]
) -> None:
    text, projector = pair
    table = projector.tensors["a.position_embd.weight"]
    assert read_projector(text, with_tensor(projector, table.name, None)).tensors
    learned = in_a_file(tmp_path / "p", table.name, table.float32() + 0.1)
    with raises(ModelError, "setting_unsupported") as caught:
        read_projector(text, with_tensor(projector, table.name, learned))
    assert table.name in str(caught.value)
    transposed = in_a_file(tmp_path / "t", table.name, table.float32().T)
    with raises(ModelError, "tensor_shape") as caught:
        read_projector(text, with_tensor(projector, table.name, transposed))
    assert "(32, 1500), but (n, 32)" in str(caught.value)


def test_an_aligners_decoder_is_identified_by_its_padding(
    tmp_path: Path, pair: tuple[GGUFFile, GGUFFile]
) -> None:
    rows = np.full((320, 48), -100.0249)  # -100 after quantisation to 8 bits
    rows[:50] = np.random.default_rng(5).normal(size=(50, 48))
    padded = in_a_file(tmp_path / "h", "output.weight", rows)
    with raises(ModelError, "aligner_decoder"):
        read_projector(with_tensor(pair[0], padded.name, padded), pair[1])
    short = in_a_file(tmp_path / "s", "output.weight", np.zeros((50, 48)))
    with raises(ModelError, "tensor_shape") as caught:
        read_projector(with_tensor(pair[0], short.name, short), pair[1])
    assert "output.weight has the shape (50, 48)" in str(caught.value)


ODD = st.one_of(
    st.integers(-2, 1 << 64),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 9), max_size=3),
    st.lists(st.text(max_size=3), max_size=3),
)


@given(data=st.data(), half=st.integers(0, 1))
@settings(deadline=None, max_examples=examples(200))
def test_any_metadata_gives_a_checkpoint_or_a_model_error(
    pair: tuple[GGUFFile, GGUFFile], data: st.DataObject, half: int
) -> None:
    names = st.sampled_from(sorted(pair[half].metadata))
    changes = data.draw(st.dictionaries(names, ODD, max_size=3))
    files = list(pair)
    files[half] = with_metadata(files[half], changes)
    if data.draw(st.booleans()):
        gone = data.draw(st.sampled_from(sorted(files[half].tensors)))
        files[half] = with_tensor(files[half], gone, None)
    with contextlib.suppress(ModelError):
        assert isinstance(read_projector(*files), Checkpoint)
