"""CrispASR's GGUF: correct files give the checkpoint, wrong ones an error with the reason."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.features.log_mel import mel_filters
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.qwen3.checkpoint import HEAD, Checkpoint
from streamasr.importing.qwen3.crispasr import read_crispasr
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from tests.sources.crispasr import write_crispasr
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.gguf_changes import ODD, values_in, with_metadata, with_tensor

UNTIED = Shape(tied=False)
ALIGNER = Shape(n_classes=50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crispasr")


@pytest.fixture(scope="module")
def recogniser(folder: Path) -> GGUFFile:
    return read_gguf(write_crispasr(write_checkpoint(folder / "r"), folder / "r.gguf"))


@pytest.fixture(scope="module")
def aligner(folder: Path) -> GGUFFile:
    return read_gguf(write_crispasr(write_checkpoint(folder / "a", ALIGNER), folder / "a.gguf"))


def with_own(file: GGUFFile, **changes: Any) -> GGUFFile:
    """Return the file with some of CrispASR's own metadata changed; None removes an entry."""
    return with_metadata(file, {f"qwen3asr.{name}": value for name, value in changes.items()})


@pytest.mark.parametrize("shape", [Shape(), UNTIED, ALIGNER])
def test_an_f16_file_gives_the_checkpoint_that_it_was_written_from(
    tmp_path: Path, shape: Shape
) -> None:
    directory = write_checkpoint(tmp_path / "c", shape, stored_type="F16")
    ours = read_checkpoint(directory)
    theirs = read_crispasr(read_gguf(write_crispasr(directory, tmp_path / "c.gguf")))
    assert (theirs.family, theirs.audio) == (ours.family, ours.audio)
    # The file has rms_eps in single precision, and does not state the length of the context.
    text = replace(theirs.text, rms_eps=ours.text.rms_eps, max_positions=ours.text.max_positions)
    assert theirs.text.rms_eps == pytest.approx(ours.text.rms_eps)
    assert text == ours.text
    assert list(theirs.tensors) == list(ours.tensors)  # a head equal to the embeddings is omitted
    for name, tensor in ours.tensors.items():
        assert np.array_equal(theirs.tensors[name].float32(), tensor.float32())
    assert theirs.read_vocabulary() == ours.read_vocabulary()


@pytest.mark.parametrize("types", ["q8_0", "q4_k"])
def test_a_quantised_file_is_close_to_the_checkpoint(tmp_path: Path, types: Any) -> None:
    directory = write_checkpoint(tmp_path / "c", Shape(d_model=64, hidden=256))
    ours = read_checkpoint(directory)
    theirs = read_crispasr(read_gguf(write_crispasr(directory, tmp_path / "c.gguf", types)))
    assert theirs.tensors["language_model.layers.0.self_attn.q_proj.weight"].stored_type in {
        "Q8_0",
        "Q4_K",
    }
    for name, tensor in ours.tensors.items():
        exact, found = tensor.float32().ravel(), theirs.tensors[name].float32().ravel()
        cosine = exact @ found / np.linalg.norm(exact) / np.linalg.norm(found)
        assert cosine > (0.99 if "language_model" in name else 0.9999)


def test_an_aligner_is_identified_by_its_head(aligner: GGUFFile) -> None:
    checkpoint = read_crispasr(aligner)
    assert checkpoint.family == "qwen3-forced-aligner"
    assert checkpoint.tensors[HEAD].shape == (50, 48)
    assert checkpoint.timestamp_ms == 80


def test_files_without_mel_tensors_and_windows_are_complete(recogniser: GGUFFile) -> None:
    bare = with_tensor(with_tensor(recogniser, "audio.mel_filters", None), "audio.mel_window", None)
    checkpoint = read_crispasr(bare)
    assert (checkpoint.audio.n_window, checkpoint.audio.n_window_infer) == (50, 800)
    stated = with_own(bare, **{"audio.n_window": 50, "audio.n_window_infer": 400})
    assert read_crispasr(stated).audio.n_window_infer == 400


def test_stated_windows_are_used(recogniser: GGUFFile) -> None:
    stated = with_own(recogniser, **{"audio.n_window_infer": 810})
    with raises(ModelError, "encoder_window"):
        read_crispasr(stated)


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"audio.n_layers": 3}, "layer_count", "audio.n_layers is 3, "),
        ({"llm.n_layers": 2**31 - 1}, "layer_count", "llm.n_layers is 2147483647, "),
        (
            {"audio.d_model": 64, "audio.head_dim": 32},
            "tensor_shape",
            "tensor audio.conv_out.weight ",
        ),
        ({"llm.head_dim": 64}, "tensor_shape", "tensor blk.0.attn_q.weight "),
        ({"audio.head_dim": 64}, "setting_unsupported", "audio.head_dim = 64 "),
        ({"llm.vocab_size": 321}, "tensor_shape", "tensor token_embd.weight "),
        ({"audio.proj_dim": 64}, "encoder_decoder_widths", "64 is not the LLM's hidden_size 48"),
        ({"audio.n_heads": 0}, "metadata_value", "audio.n_heads must be a positive integer, not 0"),
        ({"llm.ff_dim": None}, "metadata_missing", "llm.ff_dim"),
        ({"llm.rope_theta": float("nan")}, "metadata_value", "llm.rope_theta "),
        ({"llm.rms_norm_eps": 0.0}, "metadata_value", "llm.rms_norm_eps "),
        ({"sample_rate": 8000}, "setting_unsupported", "sample_rate = 8000 "),
        ({"n_mels": 80}, "setting_unsupported", "n_mels = 80 "),
        ({"n_fft": 512}, "setting_unsupported", "n_fft = 512 "),
        ({"win_length": 320}, "setting_unsupported", "win_length = 320 "),
        ({"hop_length": 320}, "setting_unsupported", "hop_length = 320 "),
    ],
)
def test_metadata_that_contradicts_the_tensors_is_an_error(
    recogniser: GGUFFile, changes: dict[str, Any], code: str, value: str
) -> None:
    with raises(ModelError, code) as caught:
        read_crispasr(with_own(recogniser, **changes))
    assert value in str(caught.value)


def test_missing_and_unexpected_tensors_are_errors(recogniser: GGUFFile) -> None:
    tensor = recogniser.tensors["blk.0.ffn_up.weight"]
    with raises(ModelError, "tensor_missing") as caught:
        read_crispasr(with_tensor(recogniser, "blk.0.ffn_up.weight", None))
    assert "layers.0.mlp.up_proj.weight" in str(caught.value)
    for name in ("blk.0.ffn_sub.weight", "audio.embed.weight", "blk.01.ffn_up.weight", "weight"):
        with raises(ModelError, "tensor_unexpected") as caught:
            read_crispasr(with_tensor(recogniser, name, tensor))
        assert str(caught.value).endswith(f" {name}")


def test_features_other_than_ours_are_refused(recogniser: GGUFFile, tmp_path: Path) -> None:
    ours = mel_filters(128)
    half = values_in(tmp_path, ours.astype(np.float16), "audio.mel_filters")
    read_crispasr(with_tensor(recogniser, half.name, half))
    for other in (ours * 1.01, np.roll(ours, 1, axis=0), np.full_like(ours, np.nan)):
        tensor = values_in(tmp_path, other, "audio.mel_filters")
        with raises(ModelError, "features_differ") as caught:
            read_crispasr(with_tensor(recogniser, tensor.name, tensor))
        assert "audio.mel_filters " in str(caught.value)
    transposed = values_in(tmp_path, ours.T, "audio.mel_filters")
    with raises(ModelError, "tensor_shape") as caught:
        read_crispasr(with_tensor(recogniser, transposed.name, transposed))
    assert "the shape (128, 201), but (201, 128)" in str(caught.value)
    window = values_in(tmp_path, np.hanning(400), "audio.mel_window")  # symmetric, not periodic
    with raises(ModelError, "features_differ") as caught:
        read_crispasr(with_tensor(recogniser, window.name, window))
    assert "audio.mel_window " in str(caught.value)


def test_the_bias_of_conv_out_must_be_zero(recogniser: GGUFFile, tmp_path: Path) -> None:
    zero = values_in(tmp_path, np.zeros(32), "audio.conv_out.bias")
    assert len(read_crispasr(with_tensor(recogniser, zero.name, zero)).tensors) > 0
    other = values_in(tmp_path, np.eye(32)[0], "audio.conv_out.bias")
    with raises(ModelError, "setting_unsupported") as caught:
        read_crispasr(with_tensor(recogniser, other.name, other))
    assert "audio.conv_out.bias" in str(caught.value)


def test_a_head_of_neither_family_is_refused(aligner: GGUFFile, tmp_path: Path) -> None:
    head = values_in(tmp_path, np.zeros((10_001, 48)), "output.weight")
    with raises(ModelError, "time_classes") as caught:
        read_crispasr(with_tensor(aligner, head.name, head))
    assert "output.weight has 10001 rows" in str(caught.value)


def test_another_architecture_is_refused(recogniser: GGUFFile) -> None:
    with raises(ModelError, "gguf_qwen3_asr_cpp"):
        read_crispasr(replace(recogniser, architecture="qwen3-asr"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tokenizer.ggml.merges": []}, "merges_missing"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer_type"),
        ({"tokenizer.ggml.tokens": ["a"] * 321}, "vocabulary_too_large"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "prompt_token_missing"),
    ],
)
def test_an_unusable_vocabulary_is_detected_before_anything_is_written(
    recogniser: GGUFFile, changes: dict[str, Any], code: str
) -> None:
    with raises(ModelError, code):
        read_crispasr(replace(recogniser, metadata=dict(recogniser.metadata) | changes))


def test_the_special_tokens_of_an_old_file_are_restored(tmp_path: Path) -> None:
    """Use a table of the released size, as the released ids require, and the released texts."""
    shape = Shape(vocab=151_936, hidden=32, head_dim=4, ffn=32, layers=1)
    path = write_crispasr(write_checkpoint(tmp_path / "c", shape), tmp_path / "o.gguf")
    file = read_gguf(path)
    lost = [f"tok{number}" for number in range(151_643)]
    lost += [f"[PAD{number}]" for number in range(151_643, 151_936)]
    old = replace(file, metadata=dict(file.metadata) | {"tokenizer.ggml.tokens": lost})
    vocabulary = read_crispasr(old).read_vocabulary()
    found = {text: number for number, text in enumerate(vocabulary.tokens)}
    kinds = {text: vocabulary.types[number].name for text, number in found.items()}
    assert found["<|endoftext|>"] == 151_643
    assert found["<|im_end|>"] == 151_645
    assert (found["<|video_pad|>"], found["</think>"]) == (151_656, 151_668)
    assert (found["<|audio_start|>"], found["<|audio_pad|>"]) == (151_669, 151_676)
    assert (found["<blank1>"], found["<blank27>"]) == (151_677, 151_703)
    assert (found["<asr_text>"], found["<timestamp>"]) == (151_704, 151_705)
    assert (kinds["<|im_end|>"], kinds["<asr_text>"]) == ("CONTROL", "USER_DEFINED")
    assert (kinds["tok1"], kinds["[PAD151706]"]) == ("NORMAL", "UNUSED")


@given(data=st.data())
@settings(deadline=None, max_examples=200)
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
        assert isinstance(read_crispasr(changed), Checkpoint)
