"""transcribe.cpp's GGUF: correct files give the checkpoint, wrong ones an error with the reason."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import TokenType
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.features.log_mel import mel_filters
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.qwen3.checkpoint import Checkpoint
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from streamasr.importing.qwen3.transcribe_cpp import read_transcribe_cpp
from streamasr.importing.source import open_sources
from tests.sources.crispasr import write_crispasr
from tests.sources.transcribe_cpp import write_transcribe_cpp
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.gguf_changes import ODD, values_in, with_metadata, with_tensor

ENCODER = "stt.qwen3_asr.encoder"
DECODER = "stt.qwen3_asr.decoder"
FRONT_END = "stt.frontend"


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    folder = tmp_path_factory.mktemp("transcribe-cpp")
    return read_gguf(write_transcribe_cpp(write_checkpoint(folder / "r"), folder / "r.gguf"))


@pytest.mark.parametrize("shape", [Shape(), Shape(n_window=25, n_window_infer=400, kv_heads=4)])
def test_an_f16_file_gives_the_checkpoint_that_it_was_written_from(
    tmp_path: Path, shape: Shape
) -> None:
    directory = write_checkpoint(tmp_path / "c", shape, stored_type="F16")
    ours = read_checkpoint(directory)
    theirs = read_transcribe_cpp(read_gguf(write_transcribe_cpp(directory, tmp_path / "c.gguf")))
    assert (theirs.family, theirs.audio) == (ours.family, ours.audio)
    assert theirs.text.rms_eps == pytest.approx(ours.text.rms_eps)  # stored in single precision
    assert replace(theirs.text, rms_eps=ours.text.rms_eps) == ours.text
    assert list(theirs.tensors) == list(ours.tensors)
    for name, tensor in ours.tensors.items():
        assert np.array_equal(theirs.tensors[name].float32(), tensor.float32())
    assert theirs.languages == ("Chinese", "English")
    assert theirs.licence == "apache-2.0"


def test_the_vocabulary_has_the_types_that_the_prompt_needs(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "c")
    path = write_transcribe_cpp(directory, tmp_path / "c.gguf")
    stored, expected = read_gguf(path), read_checkpoint(directory).read_vocabulary()
    vocabulary = read_transcribe_cpp(stored).read_vocabulary()
    number = expected.find("<asr_text>")
    assert number is not None
    assert stored.metadata["tokenizer.ggml.token_type"][number] == TokenType.NORMAL
    assert vocabulary.types == expected.types
    assert vocabulary.merges == expected.merges
    used = [kind != TokenType.UNUSED for kind in expected.types]
    for ours, theirs, is_used in zip(vocabulary.tokens, expected.tokens, used, strict=True):
        assert ours == theirs or not is_used


@pytest.mark.parametrize("preset", ["bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_a_file_of_any_preset_is_close_to_the_checkpoint(tmp_path: Path, preset: Any) -> None:
    shape = Shape(d_model=256, encoder_heads=2, encoder_ffn=256, hidden=256, ffn=256)
    directory = write_checkpoint(tmp_path / "c", shape)
    ours = read_checkpoint(directory)
    path = write_transcribe_cpp(directory, tmp_path / "c.gguf", preset)
    theirs = read_transcribe_cpp(read_gguf(path))
    for name, tensor in ours.tensors.items():
        exact, found = tensor.float32().ravel(), theirs.tensors[name].float32().ravel()
        cosine = exact @ found / np.linalg.norm(exact) / np.linalg.norm(found)
        assert cosine > 0.99


def test_the_file_of_the_highest_precision_up_to_8_bits_is_used(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "c", Shape(hidden=256, ffn=256))
    for preset in ("f16", "q8_0", "q4_k_m"):
        write_transcribe_cpp(checkpoint, tmp_path / f"Qwen3-ASR-{preset}.gguf", preset)
    found = open_sources(tmp_path / "Qwen3-ASR-f16.gguf")
    assert isinstance(found.main, Checkpoint)
    assert found.main.path.name == "Qwen3-ASR-f16.gguf"
    found = open_sources(tmp_path)
    assert isinstance(found.main, Checkpoint)
    assert found.main.path.name == "Qwen3-ASR-q8_0.gguf"
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({f"{ENCODER}.n_layers": 3}, "layer_count", "encoder.n_layers is 3, "),
        ({f"{DECODER}.n_layers": 2**31 - 1}, "layer_count", "decoder.n_layers is 2147483647, "),
        ({f"{ENCODER}.d_model": 64}, "tensor_shape", "tensor enc.conv_out.weight "),
        ({f"{DECODER}.head_dim": 64}, "tensor_shape", "tensor dec.blocks.0.attn.q.weight "),
        ({f"{DECODER}.vocab_size": 321}, "tensor_shape", "tensor dec.token_embd.weight "),
        ({f"{ENCODER}.output_dim": 64}, "encoder_decoder_widths", "64 is not the LLM's"),
        ({f"{ENCODER}.n_window_infer": 810}, "encoder_window", "810"),
        ({f"{ENCODER}.n_window": None}, "metadata_missing", "encoder.n_window"),
        ({f"{ENCODER}.activation": "relu"}, "setting_unsupported", "activation = 'relu' "),
        ({f"{DECODER}.tie_word_embeddings": False}, "setting_unsupported", "tie_word_embeddings"),
        ({f"{DECODER}.rope_theta": float("nan")}, "metadata_value", "decoder.rope_theta "),
        ({f"{FRONT_END}.sample_rate": 8000}, "setting_unsupported", "sample_rate = 8000 "),
        ({f"{FRONT_END}.num_mels": 80}, "setting_unsupported", "num_mels = 80 "),
        ({f"{FRONT_END}.window": "hamming"}, "setting_unsupported", "window = 'hamming' "),
        ({f"{FRONT_END}.f_max": 7600.0}, "setting_unsupported", "f_max = 7600.0 "),
        ({f"{FRONT_END}.center": False}, "setting_unsupported", "center = False "),
        (
            {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.token_type": [1, 1]},
            "prompt_token_missing",
            "<|im_start|>",
        ),
        ({"split.count": 2}, "gguf_split", "llama-gguf-split"),
    ],
)
def test_metadata_of_another_model_is_an_error(
    recogniser: GGUFFile, changes: dict[str, Any], code: str, value: str
) -> None:
    with raises(ModelError, code) as caught:
        read_transcribe_cpp(with_metadata(recogniser, changes))
    assert value in str(caught.value)


def test_missing_and_unexpected_tensors_are_errors(recogniser: GGUFFile) -> None:
    name = "dec.blocks.0.ffn.up.weight"
    with raises(ModelError, "tensor_missing") as caught:
        read_transcribe_cpp(with_tensor(recogniser, name, None))
    assert "layers.0.mlp.up_proj.weight" in str(caught.value)
    for other in ("dec.output.weight", "dec.blocks.0.attn.q.scale", "blk.0.attn_q.weight"):
        with raises(ModelError, "tensor_unexpected") as caught:
            read_transcribe_cpp(with_tensor(recogniser, other, recogniser.tensors[name]))
        assert str(caught.value).endswith(f" {other}")


def test_features_other_than_ours_are_refused(recogniser: GGUFFile, tmp_path: Path) -> None:
    filters = values_in(tmp_path, mel_filters(128).T * 1.01, "frontend.mel_filterbank")
    with raises(ModelError, "features_differ"):
        read_transcribe_cpp(with_tensor(recogniser, filters.name, filters))
    window = values_in(tmp_path, np.hanning(400), "frontend.window")  # symmetric, not periodic
    with raises(ModelError, "features_differ"):
        read_transcribe_cpp(with_tensor(recogniser, window.name, window))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = write_crispasr(write_checkpoint(tmp_path / "c"), tmp_path / "c.gguf")
    with raises(ModelError, "gguf_crispasr"):
        read_transcribe_cpp(read_gguf(path))


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_any_metadata_gives_a_checkpoint_or_a_model_error(
    recogniser: GGUFFile, data: st.DataObject
) -> None:
    names = st.sampled_from(sorted(recogniser.metadata))
    changes = data.draw(st.dictionaries(names, ODD, max_size=3))
    gone = data.draw(st.lists(st.sampled_from(sorted(recogniser.tensors)), max_size=1))
    changed = with_metadata(recogniser, changes)
    for name in gone:
        changed = with_tensor(changed, name, None)
    with contextlib.suppress(ModelError):
        assert isinstance(read_transcribe_cpp(changed), Checkpoint)
