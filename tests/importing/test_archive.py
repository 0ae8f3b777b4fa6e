"""Zips of models: what is taken out of them, and what is refused without leaving a trace."""

import random
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamasr.core.errors import ConfigError, ModelError
from streamasr.core.sizes import size_text
from streamasr.importing import archive as module
from streamasr.importing.archive import name_other_archive, unpack
from tests.sources.foreign import write_bomb, write_climbing_zip, write_linking_zip

WEIGHTS = random.Random(0).randbytes(3 << 20)


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A directory to unpack into, deep enough to climb out of."""
    directory = tmp_path / "a" / "b" / "c"
    directory.mkdir(parents=True)
    return directory


def refused(path: Path, inside: Path, why: str) -> None:
    """Unpack what must not be: one line, and nothing new outside of the directory."""
    root = inside.parents[2]
    before = {each for each in root.rglob("*") if inside not in each.parents}
    with pytest.raises(ModelError, match=why) as raised:
        unpack(path, inside)
    assert "\n" not in str(raised.value)
    assert {each for each in root.rglob("*") if inside not in each.parents} == before


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_a_model_needs_is_unpacked_and_nothing_else(tmp_path: Path, method: int) -> None:
    wanted = {
        "M/encoder.onnx": b"graph",
        "M/encoder.onnx.data": WEIGHTS,
        "M/llm.gguf": WEIGHTS,
        "M/deep/er/model.safetensors": b"weights",
        "M/config.json": b"{}",
        "M/merges.txt": b"a b",
        "LICENSE": b"yes",
        "M/README.md": b"# M",
    }
    rest = {
        "M/start.exe": b"MZ",
        "M/run.py": b"import os",
        "M/inner.zip": b"PK\x03\x04",
        "M/lib.so": b"\x7fELF",
        "M/._llm.gguf": b"left by a Mac",
        "__MACOSX/M/llm.gguf": b"left by a Mac",
        ".git/config.json": b"{}",
        "M/notes.md": b"",
    }
    path = write_zip(tmp_path / "m.zip", wanted | {"M/": b"", "M/empty/": b""} | rest, method)
    unpack(path, tmp_path / "new" / "out")
    assert files(tmp_path / "new" / "out") == wanted


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS, "b.onnx": b"12345"})
    told: list[tuple[str, int, int]] = []
    unpack(path, tmp_path / "out", lambda *step: told.append(step))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert told[-1] == ("unpacking b.onnx", len(WEIGHTS) + 5, len(WEIGHTS) + 5)


def test_members_with_64_bit_sizes_are_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "m.zip", "w") as archive,
        archive.open("a.gguf", "w", force_zip64=True) as member,
    ):
        member.write(WEIGHTS)
    unpack(tmp_path / "m.zip", tmp_path / "out")
    assert files(tmp_path / "out") == {"a.gguf": WEIGHTS}


def test_folders_may_be_divided_by_backslashes(tmp_path: Path) -> None:
    members = {"M\\": b"", "M\\llm.gguf": WEIGHTS, "M\\deep\\config.json": b"{}"}
    unpack(write_zip(tmp_path / "m.zip", members), tmp_path / "out")
    assert files(tmp_path / "out") == {"M/llm.gguf": WEIGHTS, "M/deep/config.json": b"{}"}


def test_unpacked_files_are_plain_ones(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a.gguf")
    entry.external_attr = (stat.S_IFREG | 0o6777) << 16
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(entry, b"x")
    unpack(tmp_path / "m.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "a.gguf").stat().st_mode & 0o7111


@pytest.mark.parametrize(
    "name",
    [
        "../climbed.onnx",
        "a/../../climbed.onnx",
        "a/..",
        "..",
        "/etc/climbed.onnx",
        "//host/share/climbed.onnx",
        "C:/climbed.onnx",
        "C:climbed.onnx",
        "..\\climbed.onnx",
        "a\\..\\..\\climbed.onnx",
        "\\\\host\\share\\climbed.onnx",
        "C:\\climbed.onnx",
        "a\\/b.onnx",
        "./a.onnx",
        "a//b.onnx",
        "a/./b.onnx",
        "a.onnx\0.txt",
        "a\n.onnx",
        "a\x1b[2J.onnx",
        "a:stream.onnx",
        "/",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, inside: Path, name: str) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.gguf", b"x")
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"x")
    refused(path, inside, "a member with an unsafe name")
    assert files(inside) == {}


def test_names_that_lead_elsewhere_are_refused_even_where_no_model_needs_them(
    tmp_path: Path, inside: Path
) -> None:
    refused(write_climbing_zip(tmp_path / "a.zip"), inside, "unsafe name")
    path = write_zip(tmp_path / "b.zip", {"a.gguf": b"x", "../run.sh": b"x"})
    refused(path, inside, "unsafe name")


@pytest.mark.parametrize("name", ["n" * 300 + ".gguf", "d/" * 20 + "a.gguf"])
def test_names_beyond_measure_are_refused(tmp_path: Path, inside: Path, name: str) -> None:
    refused(write_zip(tmp_path / "m.zip", {name: b"x"}), inside, "too long")


def test_links_and_devices_are_refused(tmp_path: Path, inside: Path) -> None:
    refused(write_linking_zip(tmp_path / "l.zip"), inside, "a link or a device")
    for number, kind in enumerate((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK)):
        entry = zipfile.ZipInfo("a.gguf")
        entry.external_attr = (kind | 0o666) << 16
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, b"x")
        refused(path, inside, "a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("a.gguf", "a.gguf"), "two members of one name"),
        (("a.gguf", "A.GGUF"), "two members of one name"),
        (("a/b.gguf", "a\\b.gguf"), "two members of one name"),
        (("\u00e9.gguf", "e\u0301.gguf"), "two members of one name"),
        (("a.gguf", "a.gguf/b.gguf"), "a file and a folder of one name"),
    ],
)
def test_two_members_for_one_place_are_refused(
    tmp_path: Path, inside: Path, names: tuple[str, str], why: str
) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    refused(tmp_path / "m.zip", inside, why)


def test_encrypted_members_are_refused(tmp_path: Path, inside: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": b"x" * 50}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    refused(path, inside, "is encrypted: unpack it and name the folder")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.process
def test_other_ways_of_packing_are_refused(tmp_path: Path, inside: Path, method: int) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS}, method)
    refused(path, inside, "in a way that cannot be read here")


def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path, inside: Path) -> None:
    refused(write_bomb(tmp_path / "m.zip"), inside, r"claims to hold 1..\.. MB")
    assert files(inside) == {}


def test_a_description_as_large_as_weights_is_refused(tmp_path: Path, inside: Path) -> None:
    members = {"a.gguf": WEIGHTS, "big.json": bytes(65 << 20)}
    refused(write_zip(tmp_path / "m.zip", members), inside, r"holds big\.json of 68\.. MB")


def test_many_members_that_share_their_content_are_refused(tmp_path: Path, inside: Path) -> None:
    """A bomb whose members overlap: one stream, a thousand names."""
    path = write_zip(tmp_path / "m.zip", {"0000.gguf": bytes(1 << 20)})
    data = path.read_bytes()
    begin, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    names = [f"{number:04}.gguf".encode() for number in range(1000)]
    central = b"".join(data[begin:end].replace(b"0000.gguf", name) for name in names)
    ending = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1000, 1000, len(central), begin, 0)
    path.write_bytes(data[:begin] + central + ending)
    refused(path, inside, r"claims to hold 1\.. GB")


def test_a_member_that_is_larger_or_smaller_than_it_says_is_refused(
    tmp_path: Path, inside: Path
) -> None:
    for number, claimed in enumerate((len(WEIGHTS) // 2, 2 * len(WEIGHTS))):
        path = write_zip(tmp_path / f"{number}.zip", {"a.gguf": WEIGHTS})
        data = bytearray(path.read_bytes())
        for signature, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
            begin = data.index(signature) + place
            data[begin : begin + 4] = claimed.to_bytes(4, "little")
        path.write_bytes(data)
        shutil.rmtree(inside)
        inside.mkdir()
        refused(path, inside, "damaged or cut short")
        assert sum(map(len, files(inside).values())) <= claimed


def test_a_list_of_members_beyond_measure_is_refused(
    tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "m.zip", {f"{number}.gguf": b"" for number in range(100)})
    monkeypatch.setattr(module, "_MAX_MEMBERS", 99)
    refused(path, inside, "has 100 members")
    monkeypatch.setattr(module, "_MAX_READ_BYTES", 2000)
    refused(path, inside, "its list of members is longer than any")


@pytest.mark.parametrize("members", [{}, {"a.txt": b"x", "inner.zip": b"PK"}])
def test_an_archive_without_a_model_is_refused(
    tmp_path: Path, inside: Path, members: dict[str, bytes]
) -> None:
    refused(write_zip(tmp_path / "m.zip", members), inside, "holds no model")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_refused(tmp_path: Path, inside: Path, method: int) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS}, method)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, inside, "damaged or cut short")


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"nothing of the kind", b"\0" * 1000])
def test_what_is_no_zip_is_refused(tmp_path: Path, inside: Path, head: bytes) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(head)
    refused(path, inside, "is no zip, or it is damaged")
    refused(tmp_path / "none.zip", inside, "cannot be read: No such file")
    refused(tmp_path, inside, "is no file")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"BZh9", "a bzip2 archive"),
        (b"\xfd7zXZ\x00", "an xz archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
        (bytes(257) + b"ustar\x00", "a tar archive"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, inside: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(head + bytes(500))
    assert name_other_archive(path) == kind
    refused(path, inside, f"is {kind}, and only zips can be read here: unpack it")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_nothing_is_unpacked_where_there_is_no_room(
    tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 0, 1 << 20))
    hidden = inside / ".m.1234.streamasr-partial"
    hidden.mkdir()
    with pytest.raises(ConfigError) as caught:
        unpack(path, hidden / ".unpacked")
    assert str(caught.value) == (
        f"unpacking m.zip takes {size_text(len(WEIGHTS))}, 67.1 MB shall stay free, and there are "
        f"1.0 MB in {inside}."
    )
    assert not [*hidden.iterdir()]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be unpacked into"):
        unpack(path, tmp_path / "file")


def test_files_that_are_there_already_are_never_written_over(tmp_path: Path, inside: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS})
    (inside / "a.gguf").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="File exists"):
        unpack(path, inside)
    assert (tmp_path / "target").read_bytes() == b"mine"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("whole")
    members = {"M/a.gguf": WEIGHTS[:3000], "M/b.onnx": bytes(3000), "M/c.json": b"{}"}
    return write_zip(directory / "m.zip", members).read_bytes()


def check_any(content: bytes, directory: Path) -> None:
    """Whatever the bytes are: it is unpacked as it is, or refused; nothing else comes of it."""
    path = directory / "m.zip"
    path.write_bytes(content)
    inside = directory / "a" / "b"
    try:
        unpack(path, inside)
    except ModelError:
        pass
    else:
        with zipfile.ZipFile(path) as archive:
            assert all(zlib.crc32(data) for data in files(inside).values())
            assert files(inside).keys() <= set(archive.namelist())
    assert {each for each in directory.iterdir() if each.name != "a"} == {path}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.integers(0, 1 << 30), st.integers(1, 6))
@pytest.mark.process
def test_damaged_archives_do_no_harm(tmp_path: Path, whole: bytes, seed: int, n_bytes: int) -> None:
    chance = random.Random(seed)
    damaged = bytearray(whole)
    for _ in range(n_bytes):
        damaged[chance.randrange(len(damaged) - 300, len(damaged))] = chance.randrange(256)
    with TemporaryDirectory(dir=tmp_path) as directory:
        check_any(bytes(damaged), Path(directory))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.floats(0, 1, exclude_max=True))
def test_archives_that_are_cut_short_are_refused(tmp_path: Path, whole: bytes, part: float) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ModelError, match="damaged or cut short"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
