"""Reading checkpoints: both key styles come out alike, and whatever is wrong is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamasr.errors import ModelError
from streamasr.importing.checkpoint import EMBEDDINGS, HEAD
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.importing.safetensors_file import read_header
from tests.checkpoints import (
    KeyStyle,
    Shape,
    StoredType,
    file_name,
    random_tensors,
    write_checkpoint,
    write_weights,
)

SHAPES = {
    "tied": Shape(),
    "untied": Shape(tied=False),
    "aligner": Shape(n_classes=50),
    "odd": Shape(channels=3, d_model=20, encoder_heads=5, heads=6, kv_heads=3, head_dim=16),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("style", ["native", "original"])
def test_every_tensor_is_found_in_either_key_style(
    tmp_path: Path, style: KeyStyle, shape: Shape
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, shape, style=style))
    expected = random_tensors(shape, seed=0)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(checkpoint.tensors[name].float32(), values)


@pytest.mark.parametrize("style", ["native", "original"])
def test_dimensions_are_read_from_the_configuration(tmp_path: Path, style: KeyStyle) -> None:
    shape = SHAPES["odd"]
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, shape, style=style))
    audio, text = checkpoint.audio, checkpoint.text
    assert (audio.channels, audio.d_model, audio.n_heads) == (3, 20, 5)
    assert (audio.chunk_frames, audio.chunk_tokens, audio.convolved_mels) == (100, 13, 16)
    assert (text.n_heads, text.n_kv_heads, text.head_dim) == (6, 3, 16)
    assert text.rope_theta == 1e6


@pytest.mark.parametrize("style", ["native", "original"])
def test_a_recogniser_and_an_aligner_are_told_apart_by_their_head(
    tmp_path: Path, style: KeyStyle
) -> None:
    families = {
        name: read_checkpoint(write_checkpoint(tmp_path / name, shape, style=style)).family
        for name, shape in SHAPES.items()
    }
    assert families.pop("aligner") == "qwen3-forced-aligner"
    assert set(families.values()) == {"qwen3-asr"}


def test_an_aligner_with_as_many_classes_as_tokens_is_still_one(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, Shape(n_classes=320)))
    assert checkpoint.family == "qwen3-forced-aligner"


@pytest.mark.parametrize("stored_type", ["F32", "F16", "BF16"])
def test_shards_and_half_precision_are_read(tmp_path: Path, stored_type: StoredType) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, stored_type=stored_type, n_shards=3))
    expected = random_tensors(Shape(), seed=0)
    precision = {"F32": 0, "F16": 2**-10, "BF16": 2**-7}[stored_type]
    for name, values in expected.items():
        tensor = checkpoint.tensors[name]
        assert tensor.stored_type == stored_type
        np.testing.assert_allclose(tensor.float32(), values, rtol=precision, atol=1e-6)


def test_a_head_that_repeats_the_embeddings_is_dropped(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors[HEAD] = tensors[EMBEDDINGS]
    rewrite(tmp_path, tensors)
    assert HEAD not in read_checkpoint(tmp_path).tensors


def test_a_head_that_differs_is_kept_whatever_the_configuration_says(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(tied=False), seed=0)
    rewrite(tmp_path, tensors)
    assert HEAD in read_checkpoint(tmp_path).tensors


def test_languages_and_time_step_are_read_where_they_are(tmp_path: Path) -> None:
    original = read_checkpoint(
        write_checkpoint(tmp_path / "original", SHAPES["aligner"], style="original")
    )
    assert original.languages == ("English", "Chinese")
    assert original.timestamp_ms == 80
    native = write_checkpoint(tmp_path / "native", SHAPES["aligner"])
    assert read_checkpoint(native).languages is None
    assert read_checkpoint(native).timestamp_ms == 80
    (native / "processor_config.json").write_text('{"timestamp_segment_time": 40}')
    assert read_checkpoint(native).timestamp_ms == 40


@pytest.mark.parametrize("style", ["native", "original"])
def test_a_missing_tensor_is_named(tmp_path: Path, style: KeyStyle) -> None:
    write_checkpoint(tmp_path, style=style)
    tensors = random_tensors(Shape(), seed=0)
    del tensors["audio_tower.layers.1.fc1.bias"]
    rewrite(tmp_path, tensors, style)
    with pytest.raises(ModelError, match=r"tensor audio_tower\.layers\.1\.fc1\.bias is missing"):
        read_checkpoint(tmp_path)


def test_an_unexpected_tensor_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors["language_model.layers.0.self_attn.q_proj.bias"] = np.zeros(128, np.float32)
    rewrite(tmp_path, tensors)
    with pytest.raises(ModelError, match=r"model\.language_model\.layers\.0\.self_attn\.q_proj"):
        read_checkpoint(tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors["audio_tower.conv_out.weight"] = np.zeros((32, 127), np.float32)
    rewrite(tmp_path, tensors)
    with pytest.raises(ModelError, match=r"conv_out\.weight is \(32, 127\), .* means \(32, 128\)"):
        read_checkpoint(tmp_path)


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors[HEAD] = np.zeros((320, 47), np.float32)
    rewrite(tmp_path, tensors)
    with pytest.raises(ModelError, match=r"lm_head\.weight is \(320, 47\)"):
        read_checkpoint(tmp_path)


def test_a_tensor_in_both_key_styles_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    named = native_names(random_tensors(Shape(), seed=0))
    write_weights(tmp_path, named | {"thinker.model.norm.weight": np.zeros(48, np.float32)})
    with pytest.raises(ModelError, match="there twice, in two key styles"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.clear(), "audio_config is missing"),
        (lambda c: c.pop("text_config"), "text_config is missing"),
        (lambda c: c.update(audio_config=7), "a JSON object was expected"),
        (lambda c: c["audio_config"].pop("d_model"), "d_model is missing"),
        (lambda c: c["audio_config"].update(d_model="32"), "d_model must be a positive number"),
        (lambda c: c["audio_config"].update(d_model=0), "d_model must be a positive number"),
        (lambda c: c["audio_config"].update(encoder_attention_heads=5), "split into 5 heads"),
        (lambda c: c["audio_config"].update(n_window_infer=850), "not a multiple"),
        (
            lambda c: c["audio_config"].update(output_dim=64),
            "output_dim 64 is not the LLM's hidden_size 48",
        ),
        (lambda c: c["audio_config"].update(activation_function="relu"), "'relu' is not supported"),
        (lambda c: c["audio_config"].update(encoder_layers=3), r"layers\.2\.\S+ is missing"),
        (lambda c: c["text_config"].pop("rope_parameters"), "rope_theta is missing"),
        (
            lambda c: c["text_config"]["rope_parameters"].update(rope_type="yarn"),
            "rope_type = 'yarn' is not supported",
        ),
        (lambda c: c["text_config"].update(use_sliding_window=True), "use_sliding_window = True"),
        (lambda c: c["text_config"].update(rms_norm_eps="tiny"), "rms_norm_eps must be a number"),
        (lambda c: c["text_config"].update(head_dim=64), "q_proj.weight is"),
        (
            lambda c: (
                c.update(tie_word_embeddings=False)
                or c["text_config"].update(tie_word_embeddings=False)
            ),
            "lm_head.weight is missing",
        ),
        (lambda c: c.update(support_languages="all"), "support_languages must be a list"),
    ],
)
def test_a_configuration_that_cannot_be_is_named_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=sentence) as raised:
        read_checkpoint(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe"])
def test_a_missing_or_broken_configuration_is_named(tmp_path: Path, content: bytes | None) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: "):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"\xff" * 100,
        b"\x02\0\0\0\0\0\0\0{",
        (10).to_bytes(8, "little") + b"not json!!",
    ],
)
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, content: bytes) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        read_checkpoint(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="cut short or broken at tensor"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        7,
    ],
)
def test_a_header_entry_that_cannot_be_is_named(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"weight": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ModelError, match="tensor weight"):
        read_header(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, n_shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        read_checkpoint(tmp_path)


def rewrite(
    directory: Path, tensors: dict[str, np.ndarray[Any, Any]], style: KeyStyle = "native"
) -> None:
    """Replace a recogniser's weights."""
    write_weights(directory, {file_name(n, Shape(), style): v for n, v in tensors.items()})


def native_names(tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {file_name(name, Shape(), "native"): values for name, values in tensors.items()}
