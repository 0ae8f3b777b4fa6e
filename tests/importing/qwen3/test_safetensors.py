"""Safetensors checkpoints: both key styles give the same result; invalid files are refused."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.importing.qwen3.checkpoint import EMBEDDINGS, HEAD
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from streamasr.importing.safetensors_file import read_header
from tests.support.checkpoints import (
    KeyStyle,
    Shape,
    StoredType,
    file_name,
    random_tensors,
    write_checkpoint,
    write_weights,
)
from tests.support.errors import raises
from tests.support.examples import examples

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
def test_the_family_is_identified_by_the_head(tmp_path: Path, style: KeyStyle) -> None:
    families = {
        name: read_checkpoint(write_checkpoint(tmp_path / name, shape, style=style)).family
        for name, shape in SHAPES.items()
    }
    assert families.pop("aligner") == "qwen3-forced-aligner"
    assert set(families.values()) == {"qwen3-asr"}


def test_an_aligner_with_as_many_classes_as_tokens_is_identified(tmp_path: Path) -> None:
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


def test_a_head_equal_to_the_embeddings_is_omitted(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors[HEAD] = tensors[EMBEDDINGS]
    rewrite(tmp_path, tensors)
    assert HEAD not in read_checkpoint(tmp_path).tensors


def test_a_head_unlike_the_embeddings_is_kept_even_if_the_configuration_ties_it(
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(tied=False), seed=0)
    rewrite(tmp_path, tensors)
    assert HEAD in read_checkpoint(tmp_path).tensors


def test_languages_and_time_step_are_read_from_either_file(tmp_path: Path) -> None:
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
def test_a_missing_tensor_is_an_error(tmp_path: Path, style: KeyStyle) -> None:
    write_checkpoint(tmp_path, style=style)
    tensors = random_tensors(Shape(), seed=0)
    del tensors["audio_tower.layers.1.fc1.bias"]
    rewrite(tmp_path, tensors, style)
    with raises(ModelError, "tensor_missing") as caught:
        read_checkpoint(tmp_path)
    assert "tensor audio_tower.layers.1.fc1.bias " in str(caught.value)


def test_an_unexpected_tensor_is_reported_with_its_name_in_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors["language_model.layers.0.self_attn.q_proj.bias"] = np.zeros(128, np.float32)
    rewrite(tmp_path, tensors)
    with raises(ModelError, "tensor_unexpected") as caught:
        read_checkpoint(tmp_path)
    assert "model.language_model.layers.0.self_attn.q_proj.bias" in str(caught.value)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors["audio_tower.conv_out.weight"] = np.zeros((32, 127), np.float32)
    rewrite(tmp_path, tensors)
    with raises(ModelError, "tensor_shape") as caught:
        read_checkpoint(tmp_path)
    assert "conv_out.weight has the shape (32, 127), " in str(caught.value)
    assert "(32, 128)" in str(caught.value)


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors(Shape(), seed=0)
    tensors[HEAD] = np.zeros((320, 47), np.float32)
    rewrite(tmp_path, tensors)
    with raises(ModelError, "tensor_shape") as caught:
        read_checkpoint(tmp_path)
    assert "lm_head.weight has the shape (320, 47)" in str(caught.value)


def test_a_tensor_in_both_key_styles_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    named = native_names(random_tensors(Shape(), seed=0))
    write_weights(tmp_path, named | {"thinker.model.norm.weight": np.zeros(48, np.float32)})
    with raises(ModelError, "tensor_duplicate"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        (lambda c: c.clear(), "json_value_missing", "audio_config"),
        (lambda c: c.pop("text_config"), "json_value_missing", "text_config"),
        (lambda c: c.update(audio_config=7), "json_not_object", "found 7"),
        (lambda c: c["audio_config"].pop("d_model"), "json_value_missing", "d_model"),
        (lambda c: c["audio_config"].update(d_model="32"), "json_value", "d_model "),
        (lambda c: c["audio_config"].update(d_model=0), "json_value", "d_model "),
        (
            lambda c: c["audio_config"].update(encoder_attention_heads=5),
            "encoder_heads",
            "into 5 heads",
        ),
        (lambda c: c["audio_config"].update(n_window_infer=850), "encoder_window", "850"),
        (
            lambda c: c["audio_config"].update(output_dim=64),
            "encoder_decoder_widths",
            "64 is not the LLM's hidden_size 48",
        ),
        (
            lambda c: c["audio_config"].update(activation_function="relu"),
            "setting_unsupported",
            "'relu' is not supported; only 'gelu' is",
        ),
        (lambda c: c["audio_config"].update(encoder_layers=3), "tensor_missing", "layers.2."),
        (lambda c: c["text_config"].pop("rope_parameters"), "json_value_missing", "rope_theta"),
        (
            lambda c: c["text_config"]["rope_parameters"].update(rope_type="yarn"),
            "setting_unsupported",
            "rope_type = 'yarn' ",
        ),
        (
            lambda c: c["text_config"].update(use_sliding_window=True),
            "setting_unsupported",
            "use_sliding_window = True ",
        ),
        (lambda c: c["text_config"].update(rms_norm_eps="tiny"), "json_value", "rms_norm_eps "),
        (lambda c: c["text_config"].update(head_dim=64), "tensor_shape", "q_proj.weight "),
        (
            lambda c: (
                c.update(tie_word_embeddings=False)
                or c["text_config"].update(tie_word_embeddings=False)
            ),
            "tensor_missing",
            "lm_head.weight ",
        ),
        (lambda c: c.update(support_languages="all"), "json_value", "support_languages "),
        (lambda c: c["audio_config"].update(d_model=True), "json_value", "d_model "),
        (lambda c: c["audio_config"].update(d_model=1 << 40), "json_value", "d_model "),
        (
            lambda c: c["audio_config"].update(n_window=10**9),
            "size_out_of_range",
            "2000000000 frames in a chunk",
        ),
        (
            lambda c: c["audio_config"].update(n_window=2000),
            "size_out_of_range",
            "the encoder has 4000 frames in a chunk; the limit is 3000",
        ),
        (
            lambda c: c["audio_config"].update(n_window_infer=10**8),
            "size_out_of_range",
            "frames in an attention window",
        ),
        (lambda c: c["audio_config"].update(num_mel_bins=10**9), "size_out_of_range", " mel bins;"),
        (
            lambda c: c["audio_config"].update(downsample_hidden_size=10**9),
            "size_out_of_range",
            " channels;",
        ),
        (lambda c: c["audio_config"].update(d_model=10**9), "size_out_of_range", " in d_model;"),
        (lambda c: c["audio_config"].update(encoder_layers=10**9), "size_out_of_range", " layers;"),
        (lambda c: c["text_config"].update(vocab_size=10**9), "size_out_of_range", " tokens;"),
        (
            lambda c: c["text_config"].update(num_attention_heads=10**9),
            "size_out_of_range",
            " heads;",
        ),
        (
            lambda c: c["text_config"].update(rms_norm_eps=math.nan),
            "json_value",
            "rms_norm_eps must be a finite number, not nan",
        ),
        (lambda c: c["text_config"].update(rms_norm_eps=10**400), "json_value", "not 1000"),
        (lambda c: c.update(timestamp_segment_time=math.nan), "json_value", "not nan"),
        (lambda c: c.update(timestamp_segment_time=math.inf), "json_value", "not inf"),
        (
            lambda c: c.update(timestamp_segment_time=0.08),
            "timestamp_step_out_of_range",
            "is 0.08; it must be from 10 to 1000 milliseconds",
        ),
        (
            lambda c: c.update(timestamp_segment_time=-80),
            "timestamp_step_out_of_range",
            "is -80.0; ",
        ),
        (
            lambda c: c.update(timestamp_segment_time=1001),
            "timestamp_step_out_of_range",
            "is 1001.0; ",
        ),
    ],
)
def test_an_invalid_configuration_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], code: str, value: str
) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with raises(ModelError, code) as caught:
        read_checkpoint(tmp_path)
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["quantization", "quantization_config"])
def test_weights_quantised_by_another_program_are_refused(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: {"bits": 4}}))
    with raises(ModelError, "weights_quantised_elsewhere"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "file_missing"),
        (b"", "json_invalid"),
        (b"{", "json_invalid"),
        (b"[]", "json_not_object"),
        (b"\xff\xfe", "file_unreadable"),
        (b"[" * 10**5, "json_invalid"),
    ],
)
def test_a_missing_or_damaged_configuration_is_an_error(
    tmp_path: Path, content: bytes | None, code: str
) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with raises(ModelError, code) as caught:
        read_checkpoint(tmp_path)
    assert "config.json" in str(caught.value)


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b"[]"),
        safetensors(b"7 "),
        safetensors(b"[" * 100_000),
        safetensors(b'{"a":' * 100_000),
        b"",
        b"\x10",
        b"\xff" * 100,
        b"\x02\0\0\0\0\0\0\0{",
        (10).to_bytes(8, "little") + b"not json!!",
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with raises(ModelError, "not_safetensors" if content else "file_empty") as caught:
        read_checkpoint(tmp_path)
    assert "model.safetensors" in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with raises(ModelError, "file_cut_short"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "file_cut_short"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "file_cut_short"),
        (7, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [False, 4]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "tensor_entry_invalid"),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, "tensor_axes"),
        ({"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}, "tensor_entry_invalid"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "tensor_entry_invalid"),
    ],
)
def test_an_invalid_header_entry_is_refused(tmp_path: Path, entry: object, code: str) -> None:
    header = json.dumps({"weight": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with raises(ModelError, code) as caught:
        read_header(path)
    assert "tensor weight" in str(caught.value)


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with raises(ModelError, "file_missing") as caught:
        read_checkpoint(tmp_path)
    assert "model.safetensors" in str(caught.value)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, n_shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with raises(ModelError, "file_missing") as caught:
        read_checkpoint(tmp_path)
    assert "model-00002-of-00002" in str(caught.value)


@pytest.mark.parametrize(
    "shard", ["../outside", "sub/inside", "/dev/zero", "..", ".", "", "a\\b", "a\nb", "C:x"]
)
def test_a_shard_must_be_in_the_folder_of_its_index(tmp_path: Path, shard: str) -> None:
    write_checkpoint(tmp_path / "c", n_shards=2)
    path = tmp_path / "c" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    (tmp_path / "c" / "sub").mkdir()
    shutil.copy(tmp_path / "c" / "model-00001-of-00002.safetensors", tmp_path / "outside")
    shutil.copy(tmp_path / "outside", tmp_path / "c" / "sub" / "inside")
    names = index["weight_map"]
    first = {name for name, file in names.items() if "00001" in file}
    index["weight_map"] = names | dict.fromkeys(first, shard)
    path.write_text(json.dumps(index))
    with raises(ModelError, "shard_location") as caught:
        read_checkpoint(tmp_path / "c")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
    ],
)
def test_a_pipe_is_refused_without_opening_it(tmp_path: Path, name: str) -> None:
    directory = write_checkpoint(tmp_path / "c", style="original")
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    with raises(ModelError, "not_a_regular_file") as caught:
        read_checkpoint(directory).read_vocabulary()
    assert f"{name} is not" in str(caught.value)


@pytest.mark.parametrize("name", ["README.md", "processor_config.json"])
def test_a_pipe_in_place_of_an_optional_file_is_ignored(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    os.mkfifo(tmp_path / name)
    assert read_checkpoint(tmp_path).licence is None


def test_a_file_that_is_cut_or_removed_after_reading_its_header_is_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    tensor = list(read_header(path).values())[-1]
    path.write_bytes(path.read_bytes()[: tensor.offset])
    with raises(ModelError, "file_changed"):
        tensor.float32()
    path.unlink()
    with raises(ModelError, "file_changed"):
        tensor.stored()


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ("---\r\ntags: [a]\r\nlicense: mit \r\n---\r\n", "mit"),
        ("---\ntags: [a]\n---\nlicense: mit\n---\n", None),
        ("license: mit\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: a phrase\n---\n", None),
        ("---\n" + "license: mit\n" * 80_000, None),
        ("---\n" + "license: a" * 500_000, None),
        ("---\n" + "license: " + " \t" * 500_000 + "\n---\n", None),
        ("", None),
    ],
)
def test_the_licence_is_read_from_the_front_matter(
    tmp_path: Path, text: str, licence: str | None
) -> None:
    (write_checkpoint(tmp_path) / "README.md").write_bytes(text.encode())
    assert read_checkpoint(tmp_path).licence == licence


SMALL = Shape(d_model=8, channels=2, encoder_layers=1, layers=1, hidden=16, ffn=16, n_mels=16)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sound"), SMALL, n_shards=2)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, sound: Path) -> Path:
    return shutil.copytree(sound, tmp_path_factory.mktemp("scratch") / "c")


def read_all(directory: Path) -> None:
    """Read the configuration, the vocabulary and every tensor of a checkpoint, if it is "
    "accepted."""
    try:
        checkpoint = read_checkpoint(directory)
        checkpoint.read_vocabulary()
    except ModelError:
        return
    for tensor in checkpoint.tensors.values():
        assert tensor.stored().shape == tensor.shape


FILES = (
    "config.json",
    "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
    "tokenizer.json",
)
PIECES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(
        [b"NaN", b"-1", b"1e9", b"null", b"true", b"[[", b"{}", b'"', b"9" * 30, b"\\ud800", b"\0"]
    ),
)


@given(name=st.sampled_from(FILES), where=st.floats(0, 1), piece=PIECES, is_cut=st.booleans())
@settings(deadline=None, max_examples=examples(200))
def test_a_file_that_is_changed_or_cut_is_either_refused_or_harmless(
    sound: Path, scratch: Path, name: str, where: float, piece: bytes, *, is_cut: bool
) -> None:
    data = bytearray((sound / name).read_bytes())
    header = 8 + int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else len(data)
    position = round(where * header)
    if is_cut:
        del data[position:]
    else:
        data[position : position + len(piece)] = piece
    (scratch / name).write_bytes(data)
    try:
        read_all(scratch)
    finally:
        shutil.copy(sound / name, scratch / name)


def paths_in(value: Any, *before: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside a JSON value."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*before, name)
            yield from paths_in(inner, *before, name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths_in(inner, *before, number)
            yield (*before, number)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, 1, 2, 10**9, 1 << 31, 10**400, math.nan, math.inf, 1e-320]),
        st.floats(),
        st.text(max_size=4),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(data=st.data(), value=JSON)
@settings(deadline=None, max_examples=examples(300))
@pytest.mark.process
def test_any_value_in_the_configuration_is_either_refused_or_harmless(
    sound: Path, scratch: Path, data: st.DataObject, value: object
) -> None:
    content = json.loads((sound / "config.json").read_text())
    *path, last = data.draw(st.sampled_from(list(paths_in(content))))
    inner = content
    for step in path:
        inner = inner[step]
    inner[last] = value
    (scratch / "config.json").write_text(json.dumps(content))
    try:
        read_all(scratch)
    finally:
        shutil.copy(sound / "config.json", scratch / "config.json")


@given(data=st.data(), value=JSON)
@settings(deadline=None, max_examples=examples(300))
@pytest.mark.process
def test_any_value_in_a_header_is_either_refused_or_harmless(
    sound: Path, scratch: Path, data: st.DataObject, value: object
) -> None:
    name = "model-00001-of-00002.safetensors"
    original = (sound / name).read_bytes()
    length = int.from_bytes(original[:8], "little")
    content = json.loads(original[8 : 8 + length])
    *path, last = data.draw(st.sampled_from(list(paths_in(content))))
    inner = content
    for step in path:
        inner = inner[step]
    inner[last] = value
    header = json.dumps(content).encode()
    (scratch / name).write_bytes(safetensors(header) + original[8 + length :])
    try:
        read_all(scratch)
    finally:
        shutil.copy(sound / name, scratch / name)


def rewrite(
    directory: Path, tensors: dict[str, np.ndarray[Any, Any]], style: KeyStyle = "native"
) -> None:
    """Replace a recogniser's weights."""
    write_weights(directory, {file_name(n, Shape(), style): v for n, v in tensors.items()})


def native_names(tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {file_name(name, Shape(), "native"): values for name, values in tensors.items()}
