"""GGUF headers: correct files are read exactly, damaged and malicious ones are refused."""

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, read_gguf
from streamasr.importing.gguf_kind import unusable
from tests.sources.ggml_org import write_ggml_org
from tests.support.checkpoints import write_checkpoint
from tests.support.errors import raises
from tests.support.examples import examples

RNG = np.random.default_rng(5)

_CODES: Final = {"u8": 0, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "u64": 10, "f64": 12}
_FORMATS: Final = {"u8": "<B", "u32": "<I", "i32": "<i", "f32": "<f", "u64": "<Q", "f64": "<d"}


@dataclass(frozen=True)
class Entry:
    """Metadata value of a given type; an array's type is "[str]", for example."""

    kind: str
    value: Any


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def packed(kind: str, value: Any) -> bytes:
    match kind:
        case "str":
            return text(value)
        case "bool":
            return bytes([value])
        case _:
            return struct.pack(_FORMATS[kind], value)


def packed_entry(name: str | bytes, entry: Entry) -> bytes:
    if not entry.kind.startswith("["):
        return text(name) + struct.pack("<I", _CODES[entry.kind]) + packed(entry.kind, entry.value)
    kind = entry.kind.strip("[]")
    items = b"".join(packed(kind, item) for item in entry.value)
    return text(name) + struct.pack("<IIQ", 9, _CODES[kind], len(entry.value)) + items


def tensor(name: str | bytes, sizes: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """Pack a tensor's entry; `sizes` are in ggml's order, rows last."""
    shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


def build(
    metadata: Mapping[str, Entry] | None = None,
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    metadata = metadata or {}
    header = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    header += b"".join(packed_entry(name, value) for name, value in metadata.items())
    header += b"".join(tensors)
    return header + b"\0" * (-len(header) % alignment) + data


ARCHITECTURE = {"general.architecture": Entry("str", "qwen3asr")}
EVERY_KIND = ARCHITECTURE | {
    "small": Entry("u8", 200),
    "signed": Entry("i32", -5),
    "large": Entry("u64", 1 << 63),
    "ratio": Entry("f32", 0.5),
    "precise": Entry("f64", 0.1),
    "claim": Entry("bool", True),
    "name": Entry("str", "café 中文"),
    "words": Entry("[str]", ["a", "", "é"]),
    "numbers": Entry("[i32]", [1, -2, 3]),
    "claims": Entry("[bool]", [True, False]),
    "none": Entry("[str]", []),
}
VALUES = RNG.normal(size=(3, 4)).astype(np.float32)
SOUND = build(
    EVERY_KIND,
    [tensor("one.weight", (4, 3)), tensor("two.bias", (5,), kind=1, offset=64)],
    VALUES.tobytes().ljust(64, b"\0") + np.arange(5, dtype=np.float16).tobytes(),
)
HEADER_BYTES = len(SOUND) - 64 - 10


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "x.gguf"


@pytest.fixture
def read(scratch: Path) -> Callable[[bytes], GGUFFile]:
    return lambda data: read_bytes(scratch, data)


Read = Callable[[bytes], GGUFFile]


def read_bytes(path: Path, data: bytes) -> GGUFFile:
    path.write_bytes(data)
    return read_gguf(path)


def test_metadata_of_every_type_is_read(read: Read) -> None:
    file = read(SOUND)
    assert file.architecture == "qwen3asr"
    assert file.metadata["ratio"] == 0.5
    for name, stated in EVERY_KIND.items():
        assert file.metadata[name] == stated.value
        assert type(file.metadata[name]) is type(stated.value)


def test_tensors_have_the_shapes_of_numpy(read: Read) -> None:
    one, two = read(SOUND).tensors.values()
    assert (one.name, one.stored_type, one.shape) == ("one.weight", "F32", (3, 4))
    assert np.array_equal(one.stored(), VALUES)
    assert np.array_equal(one.float32(), VALUES)
    assert np.array_equal(one.rows(1, 3), VALUES[1:])
    assert (two.stored_type, two.stored().dtype.name, two.shape) == ("F16", "float16", (5,))
    assert two.float32().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 8, 64])
def test_any_alignment_is_supported(read: Read, version: int, alignment: int) -> None:
    metadata = ARCHITECTURE | {"general.alignment": Entry("u32", alignment)}
    data = build(
        metadata, [tensor("a", (4, 3))], VALUES.tobytes(), version=version, alignment=alignment
    )
    assert np.array_equal(read(data).tensors["a"].stored(), VALUES)


def test_bytes_that_are_not_utf_8_are_replaced(read: Read) -> None:
    invalid = {"general.name": Entry("str", b"caf\xe9"), "words": Entry("[str]", [b"\xff", "b"])}
    metadata = read(build(ARCHITECTURE | invalid)).metadata
    assert metadata["general.name"] == "caf\ufffd"
    assert metadata["words"] == ["\ufffd", "b"]


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0, Type.Q5_1, Type.BF16, Type.F16, Type.F32])
def test_types_are_dequantised_as_the_gguf_package_does(tmp_path: Path, kind: Type) -> None:
    values = RNG.normal(size=(6, 64)).astype(np.float32)
    stored = gguf.quants.quantize(values, kind)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "qwen3asr")
    writer.add_tensor("a.weight", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = read_gguf(tmp_path / "t.gguf").tensors["a.weight"]
    assert (ours.shape, ours.stored_type) == ((6, 64), kind.name)
    assert ours.stored().tobytes() == stored.tobytes()
    expected = gguf.quants.dequantize(stored, kind)
    assert ours.float32().dtype == np.float32
    assert np.array_equal(ours.float32(), expected)
    assert np.array_equal(ours.rows(2, 4), expected[2:4])


@pytest.mark.parametrize("kind", [24, 27, 28, 15])
def test_types_that_are_not_weights_are_not_dequantised(read: Read, kind: int) -> None:
    block, n_bytes = gguf.GGML_QUANT_SIZES[Type(kind)]
    file = read(build(ARCHITECTURE, [tensor("a", (block,), kind)], b"\0" * n_bytes))
    assert file.tensors["a"].stored().nbytes == n_bytes
    with raises(ModelError, "tensor_type_unsupported") as caught:
        file.tensors["a"].float32()
    assert f"tensor a is stored as {Type(kind).name}" in str(caught.value)


def test_trailing_axes_of_size_1_can_be_removed(read: Read) -> None:
    data = build(ARCHITECTURE, [tensor("a.bias", (1, 1, 12))], VALUES.tobytes())
    bias = read(data).tensors["a.bias"]
    assert bias.shape == (12, 1, 1)
    assert np.array_equal(bias.squeezed().float32(), VALUES.ravel())


def test_files_are_read_as_by_the_gguf_package(tmp_path: Path) -> None:
    directory = write_ggml_org(write_checkpoint(tmp_path / "c"), tmp_path / "g")
    for path in directory.iterdir():
        ours, theirs = read_gguf(path), gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in theirs.fields.items()}
        assert {n: v for n, v in fields.items() if not n.startswith("GGUF.")} == ours.metadata
        assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
        for tensor in theirs.tensors:
            assert tensor.shape.tolist()[::-1] == list(ours.tensors[tensor.name].shape)
            assert np.array_equal(tensor.data, ours.tensors[tensor.name].stored())


@pytest.mark.parametrize(
    ("data", "code", "value"),
    [
        (b"", "not_gguf", ""),
        (b"GGU", "not_gguf", ""),
        (b"PK\3\4" + bytes(60), "not_gguf", ""),
        (b"GGUF", "file_cut_short", "within its header"),
        (build(version=1), "gguf_version", "version 1; "),
        (build(version=4), "gguf_version", "version 4; "),
        (build(version=3 << 24), "gguf_big_endian", ""),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0), "header_too_large", f"{1 << 62} tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62), "header_too_large", f"{1 << 62} entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 60_000), "file_cut_short", "within its header"),
        (
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63) + bytes(99),
            "file_cut_short",
            "within its header",
        ),
        (build({}, [tensor("a", (1, 1, 1, 1, 1))]), "tensor_axes", "'a' has 5 axes"),
        (build({}, [tensor("a", (4,), kind=4)]), "tensor_type_unsupported", "'a' has the type 4"),
        (build({}, [tensor("a", (4,), kind=999)]), "tensor_type_unsupported", "the type 999"),
        (build({}, [tensor("a", (4, 0))]), "tensor_shape", "(0, 4), which F32 "),
        (build({}, [tensor("a", (48,), kind=8)]), "tensor_shape", "(48,), which Q8_0 "),
        (build({}, [tensor("a", (1 << 62, 1 << 62))]), "file_cut_short", " bytes of the GGUF are"),
        (build({}, [tensor("a", (4, 3))], bytes(41)), "file_cut_short", " 7 bytes "),
        (build({}, [tensor("a", (4,), offset=32)], bytes(64)), "gguf_damaged", "'a' begins at 32"),
        (
            build({}, [tensor("a", (4,)), tensor("b", (4,))], bytes(64)),
            "gguf_damaged",
            "'b' begins at 0 instead of 32",
        ),
        (
            build({}, [tensor("a", (4,)), tensor("a", (4,), offset=32)], bytes(64)),
            "gguf_damaged",
            "'a' occurs twice",
        ),
        (build({}, [tensor(b"\xff", (4,))], bytes(64)), "gguf_damaged", "a tensor has a name"),
        (build({b"\xff": Entry("u8", 1)}), "gguf_damaged", "an entry of the metadata has a name"),  # type: ignore[dict-item]
        (build({"general.architecture": Entry("u8", 1)}), "metadata_value", "architecture "),
        (build({"general.alignment": Entry("u32", 0)}), "metadata_value", "alignment "),
        (build({"general.alignment": Entry("u32", 48)}), "metadata_value", "of two, not 48"),
        (build({"general.alignment": Entry("str", "32")}), "metadata_value", "of two, not '32'"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    read: Read, data: bytes, code: str, value: str
) -> None:
    with raises(ModelError, code) as caught:
        read(data)
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_duplicate_metadata_entry_is_refused(read: Read) -> None:
    twice = struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + 2 * packed_entry("a", Entry("u8", 1))
    with raises(ModelError, "gguf_damaged") as caught:
        read(twice)
    assert "'a' twice" in str(caught.value)


@pytest.mark.parametrize("kind", [9, 13, 0xFFFFFFFF])
def test_nested_arrays_and_unknown_types_are_refused(read: Read, kind: int) -> None:
    entry = text("deep") + struct.pack("<IIQ", 9, kind, 1) + bytes(99)
    with raises(ModelError, "gguf_damaged") as caught:
        read(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + entry)
    assert f"'deep' has the unknown type {kind}" in str(caught.value)


@pytest.mark.parametrize("kind", ["str", "u8", "u64"])
def test_a_huge_count_is_refused(read: Read, kind: str) -> None:
    for count in (1 << 21, 1 << 40, (1 << 64) - 1):
        entry = text("many") + struct.pack("<IIQ", 9, _CODES[kind], count) + bytes(99)
        code = "file_cut_short" if count == 1 << 21 else "header_too_large"
        with raises(ModelError, code):
            read(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + entry)


def test_a_header_that_is_too_long_is_refused(scratch: Path) -> None:
    """Use sparse files, which take no space whatever their size."""
    with scratch.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("general.name"))
        file.write(struct.pack("<IQ", 8, 1 << 33))
        file.truncate(1 << 34)
    with raises(ModelError, "header_too_large"):
        read_gguf(scratch)
    with scratch.open("wb") as file:
        file.write(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("words"))
        file.write(struct.pack("<IIQ", 9, 8, 1 << 30))
        file.truncate(1 << 34)
    with raises(ModelError, "header_too_large"):
        read_gguf(scratch)
    scratch.unlink()


def test_a_path_that_is_not_a_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with raises(ModelError, "not_a_regular_file"):
        read_gguf(tmp_path / "pipe")
    with raises(ModelError, "not_a_regular_file"):
        read_gguf(tmp_path)
    with raises(ModelError, "file_missing"):
        read_gguf(tmp_path / "missing")
    with raises(ModelError, "file_unreadable"):
        read_gguf(tmp_path / ("x" * 300))


def read_all(path: Path) -> None:
    """Read the header and every tensor of a file, if it is accepted."""
    try:
        file = read_gguf(path)
        assert str(unusable(file))
    except ModelError:
        return
    for tensor in file.tensors.values():
        assert tensor.stored().nbytes == tensor.n_bytes


@given(length=st.integers(0, len(SOUND) - 1))
@settings(deadline=None, max_examples=examples(150))
def test_a_file_cut_anywhere_is_refused(scratch: Path, length: int) -> None:
    with pytest.raises(ModelError) as caught:
        read_bytes(scratch, SOUND[:length])
    if length >= HEADER_BYTES:
        assert f" {len(SOUND) - length:,} bytes " in str(caught.value)


@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, HEADER_BYTES - 9),
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.integers(0, 63).map(lambda shift: struct.pack("<Q", 1 << shift)),
                st.integers(0, 14).map(lambda kind: struct.pack("<I", kind)),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=examples(400))
@pytest.mark.process
def test_bytes_changed_in_the_header_are_refused_or_harmless(
    scratch: Path, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(SOUND)
    for position, change in changes:
        data[position : position + len(change)] = change
    scratch.write_bytes(data)
    read_all(scratch)


def test_metadata_is_accessed_by_type(read: Read) -> None:
    file = read(SOUND)
    assert (file.integer("small"), file.integer("missing", 7)) == (200, 7)
    assert (file.number("precise"), file.number("small")) == (0.1, 200)
    assert file.text("missing", "small", "name") == "café 中文"
    assert file.text("missing") is None
    assert (file.texts("words"), file.texts("none"), file.texts("no")) == (["a", "", "é"], [], [])
    for name in ("claim", "signed", "large", "ratio", "name", "words"):
        with raises(ModelError, "metadata_value") as caught:
            file.integer(name)
        assert f" {name} must be a positive integer, " in str(caught.value)
    for name in ("signed", "name", "words"):
        with raises(ModelError, "metadata_value") as caught:
            file.number(name)
        assert f" {name} must be a positive number, " in str(caught.value)
    for name in ("numbers", "name", "small"):
        with raises(ModelError, "metadata_value") as caught:
            file.texts(name)
        assert f" {name} must be a list of strings, " in str(caught.value)
    with raises(ModelError, "metadata_missing"):
        file.integer("missing")
    file.only("small", 200)
    file.only("missing", 1)
    with raises(ModelError, "setting_unsupported") as caught:
        file.only("small", 199)
    assert "small = 200 is not supported; only 199 is" in str(caught.value)


def test_a_file_that_is_removed_or_cut_after_reading_its_header_is_an_error(
    scratch: Path, read: Read
) -> None:
    tensor = read(SOUND).tensors["one.weight"]
    scratch.write_bytes(SOUND[:-60])
    with raises(ModelError, "file_changed"):
        tensor.float32()
    scratch.unlink()
    with raises(ModelError, "file_changed"):
        tensor.stored()


def test_a_large_vocabulary_is_read_completely(scratch: Path) -> None:
    words = [f"token{number}" for number in range(152_000)]
    entries = {"tokens": Entry("[str]", words), "types": Entry("[i32]", range(152_000))}
    scratch.write_bytes(build(ARCHITECTURE | entries))
    file = read_gguf(scratch)
    assert file.texts("tokens") == words
    assert file.metadata["types"][-1] == 151_999
