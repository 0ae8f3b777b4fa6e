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
from streamasr.importing.checkpoint import HEAD, Checkpoint
from streamasr.importing.crispasr import read_crispasr
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor, read_gguf
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from tests.sources.crispasr import write_crispasr
from tests.support.checkpoints import Shape, write_checkpoint

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


def with_facts(file: GGUFFile, **facts: Any) -> GGUFFile:
    """The file with some facts of its own changed; None takes one out."""
    metadata = dict(file.metadata) | {f"qwen3asr.{name}": value for name, value in facts.items()}
    kept = {name: value for name, value in metadata.items() if value is not None}
    return replace(file, metadata=kept)


def with_tensor(file: GGUFFile, name: str, tensor: GGUFTensor | None) -> GGUFFile:
    tensors = {key: value for key, value in file.tensors.items() if key != name}
    return replace(file, tensors=tensors | ({name: tensor} if tensor else {}))


def values_in(folder: Path, values: np.ndarray[Any, Any], name: str) -> GGUFTensor:
    """A tensor of its own file."""
    path = folder / f"{name}.raw"
    values = values.astype(np.float32)
    path.write_bytes(values.tobytes())
    return GGUFTensor(path, name, "F32", values.shape, 0, values.nbytes)


@pytest.mark.parametrize("shape", [Shape(), UNTIED, ALIGNER])
def test_an_f16_file_is_the_checkpoint_that_it_was_made_of(tmp_path: Path, shape: Shape) -> None:
    directory = write_checkpoint(tmp_path / "c", shape, stored_type="F16")
    ours = read_checkpoint(directory)
    theirs = read_crispasr(read_gguf(write_crispasr(directory, tmp_path / "c.gguf")))
    assert (theirs.family, theirs.audio) == (ours.family, ours.audio)
    # Their single precision has its own idea of 1e-6, and they never say how long a text may be.
    text = replace(theirs.text, rms_eps=ours.text.rms_eps, max_positions=ours.text.max_positions)
    assert theirs.text.rms_eps == pytest.approx(ours.text.rms_eps)
    assert text == ours.text
    assert list(theirs.tensors) == list(ours.tensors)  # so a head that only repeats is gone
    for name, tensor in ours.tensors.items():
        assert np.array_equal(theirs.tensors[name].float32(), tensor.float32())
    assert theirs.read_vocabulary() == ours.read_vocabulary()


@pytest.mark.parametrize("types", ["q8_0", "q4_k"])
def test_quantised_files_are_near_it(tmp_path: Path, types: Any) -> None:
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


def test_the_aligner_is_told_by_its_head(aligner: GGUFFile) -> None:
    checkpoint = read_crispasr(aligner)
    assert checkpoint.family == "qwen3-forced-aligner"
    assert checkpoint.tensors[HEAD].shape == (50, 48)
    assert checkpoint.timestamp_ms == 80


def test_files_without_mel_tensors_and_windows_are_complete(recogniser: GGUFFile) -> None:
    bare = with_tensor(with_tensor(recogniser, "audio.mel_filters", None), "audio.mel_window", None)
    checkpoint = read_crispasr(bare)
    assert (checkpoint.audio.n_window, checkpoint.audio.n_window_infer) == (50, 800)
    stated = with_facts(bare, **{"audio.n_window": 50, "audio.n_window_infer": 400})
    assert read_crispasr(stated).audio.n_window_infer == 400


def test_windows_that_are_stated_count(recogniser: GGUFFile) -> None:
    stated = with_facts(recogniser, **{"audio.n_window_infer": 810})
    with pytest.raises(ModelError, match="n_window_infer is not a multiple"):
        read_crispasr(stated)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"audio.n_layers": 3}, r"audio\.n_layers is 3, but there are 2 layers"),
        ({"llm.n_layers": 2**31 - 1}, r"llm\.n_layers is 2147483647, but there are 2 layers"),
        (
            {"audio.d_model": 64, "audio.head_dim": 32},
            "audio.conv_out.weight is .* but its configuration means",
        ),
        ({"llm.head_dim": 64}, "blk.0.attn_q.weight is .* but its configuration means"),
        ({"audio.head_dim": 64}, r"audio\.head_dim = 64 is not supported"),
        ({"llm.vocab_size": 321}, "token_embd.weight is .* but its configuration means"),
        ({"audio.proj_dim": 64}, "output_dim 64 is not the LLM's hidden_size 48"),
        ({"audio.n_heads": 0}, r"audio\.n_heads must be a positive number, not 0"),
        ({"llm.ff_dim": None}, r"llm\.ff_dim is missing"),
        ({"llm.rope_theta": float("nan")}, "rope_theta must be a positive number"),
        ({"llm.rms_norm_eps": 0.0}, "rms_norm_eps must be a positive number"),
        ({"sample_rate": 8000}, "sample_rate = 8000 is not supported"),
        ({"n_mels": 80}, "n_mels = 80 is not supported"),
        ({"n_fft": 512}, "n_fft = 512 is not supported"),
        ({"win_length": 320}, "win_length = 320 is not supported"),
        ({"hop_length": 320}, "hop_length = 320 is not supported"),
    ],
)
def test_facts_that_contradict_the_tensors_are_named(
    recogniser: GGUFFile, facts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_crispasr(with_facts(recogniser, **facts))


def test_tensors_that_are_missing_or_strange_are_named(recogniser: GGUFFile) -> None:
    tensor = recogniser.tensors["blk.0.ffn_up.weight"]
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight is missing"):
        read_crispasr(with_tensor(recogniser, "blk.0.ffn_up.weight", None))
    for name in ("blk.0.ffn_sub.weight", "audio.embed.weight", "blk.01.ffn_up.weight", "weight"):
        with pytest.raises(ModelError, match=f"there is an unexpected tensor, {name}"):
            read_crispasr(with_tensor(recogniser, name, tensor))


def test_other_features_than_ours_are_refused(recogniser: GGUFFile, tmp_path: Path) -> None:
    ours = mel_filters(128)
    half = values_in(tmp_path, ours.astype(np.float16), "audio.mel_filters")
    read_crispasr(with_tensor(recogniser, half.name, half))
    for other in (ours * 1.01, np.roll(ours, 1, axis=0), np.full_like(ours, np.nan)):
        tensor = values_in(tmp_path, other, "audio.mel_filters")
        with pytest.raises(ModelError, match=r"another audio\.mel_filters than every released one"):
            read_crispasr(with_tensor(recogniser, tensor.name, tensor))
    turned = values_in(tmp_path, ours.T, "audio.mel_filters")
    with pytest.raises(ModelError, match=r"is \(128, 201\), not \(201, 128\)"):
        read_crispasr(with_tensor(recogniser, turned.name, turned))
    window = values_in(tmp_path, np.hanning(400), "audio.mel_window")  # symmetric, not periodic
    with pytest.raises(ModelError, match=r"another audio\.mel_window"):
        read_crispasr(with_tensor(recogniser, window.name, window))


def test_a_bias_of_conv_out_may_only_be_nothing(recogniser: GGUFFile, tmp_path: Path) -> None:
    nothing = values_in(tmp_path, np.zeros(32), "audio.conv_out.bias")
    assert len(read_crispasr(with_tensor(recogniser, nothing.name, nothing)).tensors) > 0
    something = values_in(tmp_path, np.eye(32)[0], "audio.conv_out.bias")
    with pytest.raises(ModelError, match=r"audio\.conv_out\.bias is not supported"):
        read_crispasr(with_tensor(recogniser, something.name, something))


def test_a_head_of_neither_family_is_refused(aligner: GGUFFile, tmp_path: Path) -> None:
    head = values_in(tmp_path, np.zeros((10_001, 48)), "output.weight")
    with pytest.raises(ModelError, match=r"output\.weight has 10001 rows, neither"):
        read_crispasr(with_tensor(aligner, head.name, head))


def test_another_architecture_is_described(recogniser: GGUFFile) -> None:
    with pytest.raises(ModelError, match=r"dialect of qwen3-asr\.cpp"):
        read_crispasr(replace(recogniser, architecture="qwen3-asr"))


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"tokenizer.ggml.merges": []}, "has no merges"),
        ({"tokenizer.ggml.model": "llama"}, "the tokenizer is 'llama', not byte-level BPE"),
        ({"tokenizer.ggml.tokens": ["a"] * 321}, "321 tokens have only 320 embeddings"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "has no token"),
    ],
)
def test_a_vocabulary_that_cannot_work_is_found_before_anything_is_written(
    recogniser: GGUFFile, facts: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_crispasr(replace(recogniser, metadata=dict(recogniser.metadata) | facts))


def test_an_old_file_gets_its_special_tokens_back(tmp_path: Path) -> None:
    """The released ids need a table of the released size; these are the released models' texts."""
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


def mutated(file: GGUFFile, names: list[tuple[str, Any]], gone: list[str]) -> GGUFFile:
    metadata = dict(file.metadata) | dict(names)
    tensors = {name: tensor for name, tensor in file.tensors.items() if name not in gone}
    return replace(file, metadata=metadata, tensors=tensors)


ODD = st.one_of(
    st.integers(-2, 1 << 64),
    st.floats(),
    st.booleans(),
    st.text(max_size=3),
    st.lists(st.integers(-1, 9), max_size=3),
    st.lists(st.text(max_size=3), max_size=3),
)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_facts_give_a_checkpoint_or_a_sentence(
    recogniser: GGUFFile, data: st.DataObject
) -> None:
    names = st.sampled_from(sorted(recogniser.metadata))
    changes = data.draw(st.lists(st.tuples(names, ODD), max_size=3))
    gone = data.draw(st.lists(st.sampled_from(sorted(recogniser.tensors)), max_size=1))
    with contextlib.suppress(ModelError):
        assert isinstance(read_crispasr(mutated(recogniser, changes, gone)), Checkpoint)
