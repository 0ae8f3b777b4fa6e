"""Reading checkpoints: both key styles come out alike, and whatever is wrong is named."""

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
from streamasr.importing.checkpoint import EMBEDDINGS, HEAD
from streamasr.importing.safetensors_checkpoint import read_checkpoint
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
        (lambda c: c["audio_config"].update(d_model=True), "d_model must be a positive number"),
        (lambda c: c["audio_config"].update(d_model=1 << 40), "d_model must be a positive number"),
        (lambda c: c["audio_config"].update(n_window=10**9), "2000000000 frames in a chunk"),
        (lambda c: c["audio_config"].update(n_window=2000), "encoder of 4000 frames in a chunk"),
        (lambda c: c["audio_config"].update(n_window_infer=10**8), "frames in a window"),
        (lambda c: c["audio_config"].update(num_mel_bins=10**9), "mel bins is impossible"),
        (lambda c: c["audio_config"].update(downsample_hidden_size=10**9), "channels is imposs"),
        (lambda c: c["audio_config"].update(d_model=10**9), "d_model is impossible"),
        (lambda c: c["audio_config"].update(encoder_layers=10**9), "layers is impossible"),
        (lambda c: c["text_config"].update(vocab_size=10**9), "tokens is impossible"),
        (lambda c: c["text_config"].update(num_attention_heads=10**9), "heads is impossible"),
        (
            lambda c: c["text_config"].update(rms_norm_eps=math.nan),
            "rms_norm_eps must be a number, not nan",
        ),
        (lambda c: c["text_config"].update(rms_norm_eps=10**400), "must be a number, not 1000"),
        (lambda c: c.update(timestamp_segment_time=math.nan), "must be a number, not nan"),
        (lambda c: c.update(timestamp_segment_time=math.inf), "must be a number, not inf"),
        (lambda c: c.update(timestamp_segment_time=0.08), "is 0.08, but .* 10 to 1000 mill"),
        (lambda c: c.update(timestamp_segment_time=-80), "is -80.0, but a time class lasts"),
        (lambda c: c.update(timestamp_segment_time=1001), "is 1001.0, but a time class lasts"),
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


@pytest.mark.parametrize("name", ["quantization", "quantization_config"])
def test_weights_that_another_program_has_quantised_are_named(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: {"bits": 4}}))
    with pytest.raises(ModelError, match="were quantised for another program"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b"[" * 10**5])
def test_a_missing_or_broken_configuration_is_named(tmp_path: Path, content: bytes | None) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: "):
        read_checkpoint(tmp_path)


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
def test_a_file_that_is_no_safetensors_is_named(tmp_path: Path, content: bytes) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors(: | is empty)"):
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
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [False, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
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


@pytest.mark.parametrize(
    "shard", ["../outside", "sub/inside", "/dev/zero", "..", ".", "", "a\\b", "a\nb", "C:x"]
)
def test_a_shard_is_a_file_beside_its_index(tmp_path: Path, shard: str) -> None:
    write_checkpoint(tmp_path / "c", n_shards=2)
    path = tmp_path / "c" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for place in (tmp_path, tmp_path / "c" / "sub"):
        place.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "c" / "model-00001-of-00002.safetensors", tmp_path / "outside")
    shutil.copy(tmp_path / "outside", tmp_path / "c" / "sub" / "inside")
    names = index["weight_map"]
    first = {name for name, file in names.items() if "00001" in file}
    index["weight_map"] = names | dict.fromkeys(first, shard)
    path.write_text(json.dumps(index))
    with pytest.raises(ModelError, match="is no file beside it") as caught:
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
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    directory = write_checkpoint(tmp_path / "c", style="original")
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    with pytest.raises(ModelError, match=f"{name}: this is not a file"):
        read_checkpoint(directory).read_vocabulary()


@pytest.mark.parametrize("name", ["README.md", "processor_config.json"])
def test_a_pipe_is_no_file_that_may_be_missing(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    os.mkfifo(tmp_path / name)
    assert read_checkpoint(tmp_path).licence is None


def test_a_file_that_shrinks_or_vanishes_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    tensor = list(read_header(path).values())[-1]
    path.write_bytes(path.read_bytes()[: tensor.offset])
    with pytest.raises(ModelError, match="removed or cut while it was read"):
        tensor.float32()
    path.unlink()
    with pytest.raises(ModelError, match="removed or cut while it was read"):
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
def test_a_licence_is_what_the_front_matter_states(
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


def survey(directory: Path) -> None:
    """All that a checkpoint says, and every tensor of it."""
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
@settings(deadline=None, max_examples=200)
def test_a_file_that_is_changed_or_cut_is_refused_or_harmless(
    sound: Path, scratch: Path, name: str, where: float, piece: bytes, *, is_cut: bool
) -> None:
    data = bytearray((sound / name).read_bytes())
    header = 8 + int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else len(data)
    place = round(where * header)
    if is_cut:
        del data[place:]
    else:
        data[place : place + len(piece)] = piece
    (scratch / name).write_bytes(data)
    try:
        survey(scratch)
    finally:
        shutil.copy(sound / name, scratch / name)


def places(value: Any, *before: str | int) -> Iterator[tuple[str | int, ...]]:
    """Where the values are that a JSON value is made of."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*before, name)
            yield from places(inner, *before, name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, *before, number)
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
@settings(deadline=None, max_examples=300)
@pytest.mark.process
def test_any_value_in_place_of_another_is_refused_or_harmless(
    sound: Path, scratch: Path, data: st.DataObject, value: object
) -> None:
    content = json.loads((sound / "config.json").read_text())
    *path, last = data.draw(st.sampled_from(list(places(content))))
    inner = content
    for step in path:
        inner = inner[step]
    inner[last] = value
    (scratch / "config.json").write_text(json.dumps(content))
    try:
        survey(scratch)
    finally:
        shutil.copy(sound / "config.json", scratch / "config.json")


@given(data=st.data(), value=JSON)
@settings(deadline=None, max_examples=300)
@pytest.mark.process
def test_any_value_in_a_header_in_place_of_another_is_refused_or_harmless(
    sound: Path, scratch: Path, data: st.DataObject, value: object
) -> None:
    name = "model-00001-of-00002.safetensors"
    whole = (sound / name).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    content = json.loads(whole[8 : 8 + length])
    *path, last = data.draw(st.sampled_from(list(places(content))))
    inner = content
    for step in path:
        inner = inner[step]
    inner[last] = value
    header = json.dumps(content).encode()
    (scratch / name).write_bytes(safetensors(header) + whole[8 + length :])
    try:
        survey(scratch)
    finally:
        shutil.copy(sound / name, scratch / name)


def rewrite(
    directory: Path, tensors: dict[str, np.ndarray[Any, Any]], style: KeyStyle = "native"
) -> None:
    """Replace a recogniser's weights."""
    write_weights(directory, {file_name(n, Shape(), style): v for n, v in tensors.items()})


def native_names(tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {file_name(name, Shape(), "native"): values for name, values in tensors.items()}
