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
from streamasr.importing.checkpoint import Checkpoint, encoder_shapes
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor, read_gguf
from streamasr.importing.projector import read_projector
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from tests.sources.ggml_org import Width, write_ggml_org
from tests.support.checkpoints import Shape, write_checkpoint


def read_pair(directory: Path) -> tuple[GGUFFile, GGUFFile]:
    files = {file.architecture: file for file in map(read_gguf, directory.iterdir())}
    return files["qwen3vl"], files["clip"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[GGUFFile, GGUFFile]:
    folder = tmp_path_factory.mktemp("pair")
    return read_pair(write_ggml_org(write_checkpoint(folder / "c"), folder / "g"))


def with_facts(file: GGUFFile, facts: dict[str, Any]) -> GGUFFile:
    metadata = dict(file.metadata) | facts
    return replace(file, metadata={name: v for name, v in metadata.items() if v is not None})


def with_tensor(file: GGUFFile, name: str, tensor: GGUFTensor | None) -> GGUFFile:
    tensors = {key: value for key, value in file.tensors.items() if key != name}
    return replace(file, tensors=tensors | ({name: tensor} if tensor else {}))


def in_a_file(path: Path, name: str, values: np.ndarray[Any, Any]) -> GGUFTensor:
    values = values.astype(np.float32)
    path.write_bytes(values.tobytes())
    return GGUFTensor(path, name, "F32", values.shape, 0, values.nbytes)


@pytest.mark.parametrize("width", ["f16", "bf16", "q8_0"])
def test_the_encoder_is_the_one_that_the_files_were_made_of(tmp_path: Path, width: Width) -> None:
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


def test_an_output_matrix_of_its_own_is_allowed(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c", Shape(tied=False))
    text, projector = read_pair(write_ggml_org(directory, tmp_path / "g"))
    assert "output.weight" in text.tensors
    assert read_projector(text, projector).decoder_file == text.path


def test_halves_of_two_models_are_told_apart(
    tmp_path: Path, pair: tuple[GGUFFile, GGUFFile]
) -> None:
    other = write_checkpoint(tmp_path / "c", Shape(hidden=64))
    text, projector = read_pair(write_ggml_org(other, tmp_path / "g"))
    with pytest.raises(ModelError, match=r"embeddings of 64 values and .* 48: .* two different"):
        read_projector(pair[0], projector)
    with pytest.raises(ModelError, match=r"embeddings of 48 values and .* 64: .* two different"):
        read_projector(text, pair[1])


def test_files_in_each_others_place_are_described(pair: tuple[GGUFFile, GGUFFile]) -> None:
    text, projector = pair
    with pytest.raises(ModelError, match="encoder of a Qwen3-ASR without its language model"):
        read_projector(projector, text)
    with pytest.raises(ModelError, match="language model of a Qwen3-ASR without its encoder"):
        read_projector(text, text)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"clip.audio.projector_type": "qwen2a"}, "another model, with the projector qwen2a"),
        ({"clip.audio.projector_type": None}, "another model, for images"),
        ({"clip.audio.block_count": 2**31 - 1}, "is 2147483647, but there are 2 layers"),
        ({"clip.audio.embedding_length": 64}, r"a\.position_embd\.weight is .*, not \(n, 64\)"),
        ({"clip.audio.feed_forward_length": 65}, "a.blk.0.ffn_up.weight is .* configuration means"),
        ({"clip.audio.attention.head_count": 5}, "cannot be split into 5 heads"),
        ({"clip.audio.attention.layer_norm_epsilon": 1e-6}, "epsilon of 1e-06 is not supported"),
        ({"clip.audio.num_mel_bins": 80}, "a.conv_out.weight is .* configuration means"),
        ({"clip.audio.num_mel_bins": None}, "num_mel_bins is missing"),
    ],
)
def test_what_is_wrong_with_an_encoder_is_named(
    pair: tuple[GGUFFile, GGUFFile], facts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_projector(pair[0], with_facts(pair[1], facts))


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"tokenizer.ggml.tokens": ["a"]}, "for text .qwen3vl. without the tokens of speech"),
        ({"tokenizer.ggml.merges": []}, "has no merges"),
        ({"split.count": 2}, "one part of a model that was split"),
        ({"qwen3vl.block_count": 3}, "is 3, but there are 2 layers"),
        ({"qwen3vl.attention.head_count": 8}, r"blk\.0\.attn_q\.weight is .* configuration means"),
        ({"qwen3vl.attention.value_length": 64}, "value_length = 64 is not supported"),
        ({"qwen3vl.n_deepstack_layers": 3}, "n_deepstack_layers = 3 is not supported"),
        ({"qwen3vl.rope.dimension_count": 7}, "dimension_count = 7 is not supported"),
        ({"qwen3vl.rope.dimension_sections": [0] * 4}, r"sections = \[0, 0, 0, 0\] is not"),
        ({"qwen3vl.rope.dimension_sections": 24}, "sections = 24 is not supported"),
        ({"qwen3vl.expert_count": 4}, "expert_count = 4 is not supported"),
        ({"qwen3vl.nextn_predict_layers": 1}, "nextn_predict_layers = 1 is not supported"),
        ({"qwen3vl.rope.freq_base": None}, "rope.freq_base is missing"),
    ],
)
def test_what_is_wrong_with_a_text_model_is_named(
    pair: tuple[GGUFFile, GGUFFile], facts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_projector(with_facts(pair[0], facts), pair[1])


def test_tensors_that_are_missing_or_strange_are_named(pair: tuple[GGUFFile, GGUFFile]) -> None:
    text, projector = pair
    norm = projector.tensors["a.post_ln.weight"]
    with pytest.raises(ModelError, match=r"audio_tower\.ln_post\.weight is missing"):
        read_projector(text, with_tensor(projector, norm.name, None))
    with pytest.raises(ModelError, match=r"unexpected tensor, v\.post_ln\.weight"):
        read_projector(text, with_tensor(projector, "v.post_ln.weight", norm))
    with pytest.raises(ModelError, match=r"the convolution a\.conv2d\.1\.weight is missing"):
        read_projector(text, with_tensor(projector, "a.conv2d.1.weight", None))
    with pytest.raises(ModelError, match=r"token_embd\.weight is missing"):
        read_projector(with_tensor(text, "token_embd.weight", None), projector)


def test_positions_may_be_missing_but_not_others(
    tmp_path: Path, pair: tuple[GGUFFile, GGUFFile]
) -> None:
    text, projector = pair
    table = projector.tensors["a.position_embd.weight"]
    assert read_projector(text, with_tensor(projector, table.name, None)).tensors
    learned = in_a_file(tmp_path / "p", table.name, table.float32() + 0.1)
    with pytest.raises(ModelError, match="other positions than sinusoids"):
        read_projector(text, with_tensor(projector, table.name, learned))
    turned = in_a_file(tmp_path / "t", table.name, table.float32().T)
    with pytest.raises(ModelError, match=r"is \(32, 1500\), not \(n, 32\)"):
        read_projector(text, with_tensor(projector, table.name, turned))


def test_an_aligners_decoder_is_told_by_its_padding(
    tmp_path: Path, pair: tuple[GGUFFile, GGUFFile]
) -> None:
    rows = np.full((320, 48), -100.0249)  # as blocks of 8 bits have it
    rows[:50] = np.random.default_rng(5).normal(size=(50, 48))
    padded = in_a_file(tmp_path / "h", "output.weight", rows)
    with pytest.raises(ModelError, match="the decoder of a Qwen3-ForcedAligner"):
        read_projector(with_tensor(pair[0], padded.name, padded), pair[1])
    short = in_a_file(tmp_path / "s", "output.weight", np.zeros((50, 48)))
    with pytest.raises(ModelError, match=r"output\.weight is \(50, 48\), unlike the embeddings"):
        read_projector(with_tensor(pair[0], short.name, short), pair[1])


ODD = st.one_of(
    st.integers(-2, 1 << 64),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 9), max_size=3),
    st.lists(st.text(max_size=3), max_size=3),
)


@given(data=st.data(), half=st.integers(0, 1))
@settings(deadline=None, max_examples=200)
def test_any_facts_give_a_checkpoint_or_a_sentence(
    pair: tuple[GGUFFile, GGUFFile], data: st.DataObject, half: int
) -> None:
    names = st.sampled_from(sorted(pair[half].metadata))
    facts = data.draw(st.dictionaries(names, ODD, max_size=3))
    files = list(pair)
    files[half] = with_facts(files[half], facts)
    if data.draw(st.booleans()):
        gone = data.draw(st.sampled_from(sorted(files[half].tensors)))
        files[half] = with_tensor(files[half], gone, None)
    with contextlib.suppress(ModelError):
        assert isinstance(read_projector(*files), Checkpoint)
