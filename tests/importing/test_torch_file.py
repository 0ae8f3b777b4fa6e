"""PyTorch checkpoints read without torch: any layout of tensors, and files that are not trusted."""

import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.importing.torch_file import is_contiguous, is_torch_file, read_state_dict
from streamasr.importing.torch_pickle import MAX_DEPTH, PickleError, load
from tests.sources.torch_checkpoint import (
    Saved,
    TorchType,
    encode,
    pickle_of,
    storage_code,
    tensor_code,
    write_record,
)
from tests.support.errors import raises

VALUES = np.arange(24, dtype=np.float32)


def write(
    path: Path,
    pickled: bytes,
    records: Mapping[str, bytes] | None = None,
    *,
    order: bytes | None = b"little",
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        write_record(archive, "data.pkl", pickled)
        if order is not None:
            write_record(archive, "byteorder", order)
        for name, content in (records or {}).items():
            write_record(archive, name, content)
        write_record(archive, "version", b"3\n")
    return path


def write_one(path: Path, tensor: Saved, content: bytes | None = None) -> Path:
    """Write a checkpoint with one tensor, `w`, in the record 0."""
    data = encode(VALUES, tensor.kind) if content is None else content
    return write(path, pickle_of({"w": tensor}), {"data/0": data})


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "F64"])
def test_values_of_every_type_are_read(tmp_path: Path, kind: TorchType) -> None:
    path = write_one(tmp_path / "m.pt", Saved((4, 6), "0", 24, kind))
    tensor = read_state_dict(path)["w"]
    assert tensor.shape == (4, 6)
    assert tensor.stored_type == ("F32" if kind == "F64" else kind)
    np.testing.assert_array_equal(tensor.float32(), VALUES.reshape(4, 6))


def test_float64_beyond_float32_becomes_infinite(tmp_path: Path) -> None:
    values = np.full(24, 1e300)
    path = write_one(tmp_path / "m.pt", Saved((24,), "0", 24, "F64"), values.tobytes())
    assert np.isinf(read_state_dict(path)["w"].float32()).all()


def test_integers_are_listed_but_are_not_weights(tmp_path: Path) -> None:
    path = write_one(tmp_path / "m.pt", Saved((24,), "0", 24, "I64"))
    tensor = read_state_dict(path)["w"]
    assert tensor.stored().tolist() == list(range(24))
    with raises(ModelError, "tensor_type_unsupported"):
        tensor.float32()


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((6, 4), (1, 6), 0),  # transposed
        ((2, 3), (6, 1), 4),  # part of rows
        ((3, 2), (8, 2), 1),  # every other column
        ((), (), 5),
        ((1, 4), (99, 1), 20),
        ((2, 2, 2), (1, 2, 4), 0),
    ],
)
def test_parts_of_storages_are_read(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    saved = Saved(shape, "0", 24, offset=offset, strides=strides)
    tensor = read_state_dict(write_one(tmp_path / "m.pt", saved))["w"]
    steps = [4 * stride for stride in strides]
    expected = np.lib.stride_tricks.as_strided(VALUES[offset:], shape, steps)
    np.testing.assert_array_equal(tensor.float32(), expected)


def test_tensors_may_share_a_storage(tmp_path: Path) -> None:
    tensors = {"a": Saved((4, 6), "0", 24), "b": Saved((2,), "0", 24, offset=3)}
    path = write(tmp_path / "m.pt", pickle_of(tensors), {"data/0": encode(VALUES, "F32")})
    found = read_state_dict(path)
    assert found["b"].float32().tolist() == [3, 4]
    np.testing.assert_array_equal(found["a"].float32().ravel(), VALUES)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "module"])
def test_weights_may_be_beside_other_things(tmp_path: Path, wrapper: str | None) -> None:
    pickled = pickle_of({"w": Saved((24,), "0", 24)}, wrapper)
    path = write(tmp_path / "m.pt", pickled, {"data/0": encode(VALUES, "F32")})
    assert read_state_dict(path).keys() == {"w"}


def test_prefixes_of_parallel_training_are_removed(tmp_path: Path) -> None:
    pickled = pickle_of({f"module.{name}": Saved((24,), "0", 24) for name in "ab"})
    path = write(tmp_path / "m.pt", pickled, {"data/0": encode(VALUES, "F32")})
    assert read_state_dict(path).keys() == {"a", "b"}


def test_files_without_a_byte_order_are_read(tmp_path: Path) -> None:
    pickled = pickle_of({"w": Saved((24,), "0", 24)})
    records = {"data/0": encode(VALUES, "F32")}
    assert read_state_dict(write(tmp_path / "old.pt", pickled, records, order=None))
    with raises(ModelError, "torch_big_endian"):
        read_state_dict(write(tmp_path / "big.pt", pickled, records, order=b"big"))


def test_reading_needs_the_memory_of_one_tensor(tmp_path: Path) -> None:
    n_values, n_tensors = 1 << 18, 32
    saved = {f"w{n}": Saved((n_values,), str(n), n_values) for n in range(n_tensors)}
    data = {f"data/{n}": bytes(4 * n_values) for n in range(n_tensors)}
    path = write(tmp_path / "m.pt", pickle_of(saved), data)
    tracemalloc.start()
    for tensor in read_state_dict(path).values():
        tensor.float32().sum()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size // 8


def test_contiguity_ignores_axes_of_length_1() -> None:
    assert is_contiguous((2, 3), (3, 1))
    assert is_contiguous((2, 1, 3), (3, 77, 1))
    assert not is_contiguous((2, 3), (1, 2))
    assert is_contiguous((), ())


# Files that are not trusted


class Attack:
    """Object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], Any]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_function_of_a_pickle_is_called(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "run"
    for attack in (Attack(os.system, f"touch {marker}"), Attack(eval, "1"), Attack(marker.touch)):
        pickled = pickle.dumps({"w": attack}, protocol)
        with raises(ModelError, "torch_pickle"):
            read_state_dict(write(tmp_path / "m.pt", pickled))
    assert not marker.exists()


GLOBAL_CALLS = [
    b"cbuiltins\neval\n",
    b"cos\nsystem\n",
    b"ctorch\nload\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"cstreamasr.importing.torch_pickle\nload\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ccollections\nCounter\n",
]


@pytest.mark.parametrize("name", GLOBAL_CALLS)
def test_unknown_classes_are_refused(name: bytes) -> None:
    with pytest.raises(PickleError):
        load(b"\x80\x02" + name + b")R.")
    with pytest.raises(PickleError):
        load(b"\x80\x02" + name + b")\x81.")  # NEWOBJ
    with pytest.raises(PickleError):
        load(b"\x80\x02" + name + b"}b.")  # attributes


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\x80\x02",
        b"\x80\x00N.",
        b"\x80\x02.",
        b"\x80\x02NN.",
        b"\x80\x02(N.",
        b"\x80\x02h\x00.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x02\x8d" + b"\xff" * 8 + b"a.",
        b"\x80\x02T\xff\xff\xff\xffa.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02}(Nu.",
        b"\x80\x02](NNu.",
        b"\x80\x02}Na.",
        b"\x80\x02}]Ns.",  # a list as a key
        b"\x80\x02}))\x86Ns.",  # a tuple as a key, which might take for ever to hash
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        b"\x80\x02(NNNNNtQ.",
        b"\x80\x02Nb.",
        b"\x80\x02NNb.",
        b"\x80\x02N)R.",
        b"\x80\x02ccollections\nOrderedDict\nNR.",
        b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
        b"\x80\x02ctorch\nSize\nK\x05\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02c" + b"a" * 2000,
        b"\x80\x02NN\x93.",
        b"\x80\x02i" + b"os\nsystem\n.",
        b"\x80\x02P0\n.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_broken_pickles_are_refused(code: bytes) -> None:
    with pytest.raises(PickleError):
        load(code)


def test_nesting_is_bounded() -> None:
    with pytest.raises(PickleError):
        load(b"\x80\x02" + b"(" * (MAX_DEPTH + 1) + b"t" * (MAX_DEPTH + 1) + b".")
    # Without marks, a value of any depth can be made and removed, without recursion.
    load(b"\x80\x02)" + b"\x85" * 1_000_000 + b".")


def test_memory_is_proportional_to_the_pickle() -> None:
    """A value that refers to itself many times is not copied."""
    doubled = b"\x80\x02(]q\x00" + b"h\x00h\x00\x86q\x00" * 10_000 + b"t."
    tracemalloc.start()
    load(doubled)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * len(doubled)


def test_values_are_read() -> None:
    value = {"a": [1, -2, 70_000, 2**40, 1.5, True, False, None], "b": ("x", (), ["y"] * 3)}
    for protocol in (2, 3, 4, 5):
        assert load(pickle.dumps(value, protocol)) == value


@given(st.data())
@settings(max_examples=150)
def test_changed_pickles_raise_only_the_expected_error(data: st.DataObject) -> None:
    tensors = {"w": Saved((4, 6), "0", 24), "v": Saved((2,), "0", 24)}
    pickled = bytearray(pickle_of(tensors, "state_dict"))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(pickled) - 1))
        pickled[position] = data.draw(st.integers(0, 255))
    with suppress(PickleError):
        load(bytes(pickled))


@given(st.data())
@settings(max_examples=100)
def test_changed_files_raise_only_the_expected_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write_one(tmp_path_factory.mktemp("m") / "m.pt", Saved((4, 6), "0", 24))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 40))
    path.write_bytes(bytes(content[: len(content) - cut]))
    with suppress(ModelError):
        for tensor in read_state_dict(path).values():
            tensor.float32()


LYING = {
    "a storage that is not there": Saved((24,), "7", 24),
    "more values than the record": Saved((24,), "0", 25),
    "fewer values than the record": Saved((23,), "0", 23),
    "another type": Saved((24,), "0", 24, "F16"),
    "a shape beyond the storage": Saved((5, 6), "0", 24),
    "an offset beyond the storage": Saved((4, 6), "0", 24, offset=1),
    "a negative offset": Saved((2,), "0", 24, offset=-1),
    "negative strides": Saved((2,), "0", 24, offset=5, strides=(-1,)),
    "strides beyond the storage": Saved((2, 2), "0", 24, strides=(23, 2)),
    "a huge shape without strides": Saved((1 << 40,), "0", 24, strides=(0,)),
    "a shape and strides of different lengths": Saved((2, 2), "0", 24, strides=(1,)),
    "a huge claim": Saved((1 << 60,), "0", 1 << 60),
    "a path as the name": Saved((24,), "../../data.pkl", 24),
}


@pytest.mark.parametrize("name", LYING)
def test_tensors_outside_of_their_storage_are_refused(tmp_path: Path, name: str) -> None:
    data = encode(VALUES, "F32")
    with raises(ModelError, "tensor_outside"):
        read_state_dict(write_one(tmp_path / "m.pt", LYING[name], data))


def test_storages_of_unknown_classes_are_refused(tmp_path: Path) -> None:
    good = tensor_code(Saved((24,), "0", 24))
    known = storage_code("FloatStorage", "0", 24)
    for kind, code in (("ComplexFloatStorage", "tensor_type_unsupported"),):
        pickled = pickle_of({"w": Saved((24,), "0", 24)}).replace(
            good, good.replace(known, storage_code(kind, "0", 24))
        )
        with raises(ModelError, code):
            read_state_dict(write(tmp_path / "m.pt", pickled, {"data/0": bytes(96)}))
    pickled = pickle_of({"w": Saved((24,), "0", 24)}).replace(b"ctorch\nFloat", b"cos\nFloat")
    with raises(ModelError, "torch_pickle"):
        read_state_dict(write(tmp_path / "m.pt", pickled, {"data/0": bytes(96)}))


def test_a_tensor_of_many_axes_is_refused(tmp_path: Path) -> None:
    with raises(ModelError, "torch_pickle"):
        read_state_dict(write_one(tmp_path / "m.pt", Saved((1,) * 9, "0", 24)))


def test_a_checkpoint_of_other_things_is_refused(tmp_path: Path) -> None:
    contents: list[Any] = [{}, [], {"epoch": 3}, {"optimizer": {"lr": 0.1}}]
    for content in contents:
        with raises(ModelError, "torch_no_weights"):
            read_state_dict(write(tmp_path / "m.pt", pickle.dumps(content, 2)))


def test_the_format_before_version_1_6_is_named(tmp_path: Path) -> None:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    (path := tmp_path / "m.pt").write_bytes(magic + pickle.dumps(1001, 2))
    assert is_torch_file(path)
    with raises(ModelError, "torch_legacy"):
        read_state_dict(path)


def test_programs_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", pickle.dumps({}, 2), {"constants.pkl": b"", "code/a.py": b""})
    with raises(ModelError, "torch_script"):
        read_state_dict(path)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle_of({"w": Saved((1 << 28,), "0", 1 << 28)}))
        archive.writestr("archive/data/0", bytes(1 << 20))
    with raises(ModelError, "torch_compressed"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["../w", "/etc/w", "archive/../../w", "C:\\w"])
def test_nothing_is_written_for_records_with_paths(tmp_path: Path, name: str) -> None:
    """Records are never extracted; a path can only be the wrong name of a storage."""
    (folder := tmp_path / "in" / "side").mkdir(parents=True)
    path = folder / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        write_record(archive, "data.pkl", pickle_of({"w": Saved((24,), "0", 24)}))
        archive.writestr(name, encode(VALUES, "F32"))
    with pytest.raises(ModelError):
        read_state_dict(path)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]


def test_records_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    path = write_one(tmp_path / "m.pt", Saved((24,), "0", 24))
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")

    def entry(name: bytes) -> int:
        return whole.rindex(name) - 46

    def changed(position: int, layout: str, value: int) -> None:
        content = bytearray(whole)
        struct.pack_into(layout, content, position, value)
        path.write_bytes(bytes(content))
        with raises(ModelError, "torch_damaged"):
            read_state_dict(path)

    changed(entry(b"archive/data/0") + 42, "<I", len(whole) - 4)  # its place
    changed(entry(b"archive/data/0") + 42, "<I", directory - 4)
    changed(entry(b"archive/data/0") + 42, "<I", 0)  # the place of another record
    changed(entry(b"archive/data/0") + 24, "<I", 95)  # its two sizes differ
    for cut in (1, 30, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:cut])
        with raises(ModelError, "torch_damaged"):
            read_state_dict(path)


def test_sizes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    path = write_one(tmp_path / "m.pt", Saved((1 << 20,), "0", 1 << 20), bytes(96))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"archive/data/0") - 46
    struct.pack_into("<II", content, place + 20, 1 << 22, 1 << 22)
    path.write_bytes(bytes(content))
    with raises(ModelError, "torch_damaged"):
        read_state_dict(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_that_occur_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            write_record(archive, "data.pkl", pickle.dumps({}, 2))
    with raises(ModelError, "torch_damaged"):
        read_state_dict(path)


def test_a_huge_pickle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", b"\x80\x02" + b"N0" * (1 << 23) + b"N.")
    with raises(ModelError, "torch_damaged"):
        read_state_dict(path)


def test_other_files_are_told_apart(tmp_path: Path) -> None:
    path = write_one(tmp_path / "weights", Saved((24,), "0", 24))
    assert is_torch_file(path)
    other = tmp_path / "m.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("models/model.onnx", b"")
    assert not is_torch_file(other)
    other.write_bytes(b"PK\x03\x04 and nothing else")
    assert not is_torch_file(other)
    with raises(ModelError, "file_missing"):
        read_state_dict(tmp_path / "missing")
    with raises(ModelError, "file_unreadable"):
        is_torch_file(tmp_path / "missing")
    (pointer := tmp_path / "p.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with raises(ModelError, "lfs_pointer"):
        read_state_dict(pointer)
