"""Zips of models: the members that are extracted, and archives that are refused without a trace."""

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
from tests.support.errors import raises
from tests.support.examples import examples

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
    """Create a destination, deep enough in folders for members that lead out of it."""
    directory = tmp_path / "a" / "b" / "c"
    directory.mkdir(parents=True)
    return directory


def refused(path: Path, inside: Path, code: str, value: str = "") -> None:
    """Check that an archive is refused in one line, and nothing is written outside of `inside`."""
    root = inside.parents[2]
    before = {each for each in root.rglob("*") if inside not in each.parents}
    with raises(ModelError, code) as caught:
        unpack(path, inside)
    assert value in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {each for each in root.rglob("*") if inside not in each.parents} == before


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_files_that_a_model_needs_are_unpacked(tmp_path: Path, method: int) -> None:
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


def test_progress_is_reported_in_bytes(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS, "b.onnx": b"12345"})
    steps: list[tuple[str, int, int]] = []
    unpack(path, tmp_path / "out", lambda *step: steps.append(step))
    assert [done for _, done, _ in steps] == sorted({done for _, done, _ in steps})
    assert steps[-1] == ("unpacking b.onnx", len(WEIGHTS) + 5, len(WEIGHTS) + 5)


def test_members_with_64_bit_sizes_are_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "m.zip", "w") as archive,
        archive.open("a.gguf", "w", force_zip64=True) as member,
    ):
        member.write(WEIGHTS)
    unpack(tmp_path / "m.zip", tmp_path / "out")
    assert files(tmp_path / "out") == {"a.gguf": WEIGHTS}


def test_folders_may_be_separated_by_backslashes(tmp_path: Path) -> None:
    members = {"M\\": b"", "M\\llm.gguf": WEIGHTS, "M\\deep\\config.json": b"{}"}
    unpack(write_zip(tmp_path / "m.zip", members), tmp_path / "out")
    assert files(tmp_path / "out") == {"M/llm.gguf": WEIGHTS, "M/deep/config.json": b"{}"}


def test_unpacked_files_have_no_special_permissions(tmp_path: Path) -> None:
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
def test_names_that_lead_out_of_the_directory_are_refused(
    tmp_path: Path, inside: Path, name: str
) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.gguf", b"x")
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"x")
    refused(path, inside, "archive_unsafe_name")
    assert files(inside) == {}


def test_unsafe_names_are_refused_even_for_files_that_no_model_needs(
    tmp_path: Path, inside: Path
) -> None:
    refused(write_climbing_zip(tmp_path / "a.zip"), inside, "archive_unsafe_name")
    path = write_zip(tmp_path / "b.zip", {"a.gguf": b"x", "../run.sh": b"x"})
    refused(path, inside, "archive_unsafe_name", "../run.sh")


@pytest.mark.parametrize("name", ["n" * 300 + ".gguf", "d/" * 20 + "a.gguf"])
def test_names_that_are_too_long_are_refused(tmp_path: Path, inside: Path, name: str) -> None:
    refused(write_zip(tmp_path / "m.zip", {name: b"x"}), inside, "archive_name_too_long")


def test_links_and_devices_are_refused(tmp_path: Path, inside: Path) -> None:
    refused(write_linking_zip(tmp_path / "l.zip"), inside, "archive_special_member")
    for number, kind in enumerate((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK)):
        entry = zipfile.ZipInfo("a.gguf")
        entry.external_attr = (kind | 0o666) << 16
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, b"x")
        refused(path, inside, "archive_special_member", "a.gguf")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("a.gguf", "a.gguf"), "'a.gguf'"),
        (("a.gguf", "A.GGUF"), "'A.GGUF'"),
        (("a/b.gguf", "a\\b.gguf"), "'a"),
        (("\u00e9.gguf", "e\u0301.gguf"), ".gguf'"),
        (("a.gguf", "a.gguf/b.gguf"), "a file and a folder"),
    ],
)
def test_two_members_with_the_same_path_are_refused(
    tmp_path: Path, inside: Path, names: tuple[str, str], value: str
) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    refused(tmp_path / "m.zip", inside, "archive_duplicate_name", value)


def test_encrypted_members_are_refused(tmp_path: Path, inside: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": b"x" * 50}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + flags] |= 1
    path.write_bytes(data)
    refused(path, inside, "archive_encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.process
def test_other_compression_methods_are_refused(tmp_path: Path, inside: Path, method: int) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS}, method)
    refused(path, inside, "archive_compression", f"method {method}")


def test_a_zip_bomb_is_refused_before_anything_is_written(tmp_path: Path, inside: Path) -> None:
    refused(write_bomb(tmp_path / "m.zip"), inside, "archive_bomb", " MB; a ratio above 16")
    assert files(inside) == {}


def test_a_text_file_as_large_as_weights_is_refused(tmp_path: Path, inside: Path) -> None:
    members = {"a.gguf": WEIGHTS, "big.json": bytes(65 << 20)}
    path = write_zip(tmp_path / "m.zip", members)
    refused(path, inside, "archive_text_too_large", "big.json of 68.")


def test_many_members_that_share_their_content_are_refused(tmp_path: Path, inside: Path) -> None:
    """Build a zip bomb whose members overlap: one stream, a thousand names."""
    path = write_zip(tmp_path / "m.zip", {"0000.gguf": bytes(1 << 20)})
    data = path.read_bytes()
    begin, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    names = [f"{number:04}.gguf".encode() for number in range(1000)]
    central = b"".join(data[begin:end].replace(b"0000.gguf", name) for name in names)
    ending = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1000, 1000, len(central), begin, 0)
    path.write_bytes(data[:begin] + central + ending)
    refused(path, inside, "archive_bomb", " GB; a ratio above 16")


def test_a_member_that_is_larger_or_smaller_than_stated_is_refused(
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
        refused(path, inside, "archive_damaged")
        assert sum(map(len, files(inside).values())) <= claimed


def test_a_list_of_members_that_is_too_long_is_refused(
    tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "m.zip", {f"{number}.gguf": b"" for number in range(100)})
    monkeypatch.setattr(module, "_MAX_MEMBERS", 99)
    refused(path, inside, "archive_too_many_members", "100 members")
    monkeypatch.setattr(module, "_MAX_READ_BYTES", 2000)
    refused(path, inside, "archive_damaged", "its list of members exceeds 2,000 bytes")


@pytest.mark.parametrize("members", [{}, {"a.txt": b"x", "inner.zip": b"PK"}])
def test_an_archive_without_a_model_is_refused(
    tmp_path: Path, inside: Path, members: dict[str, bytes]
) -> None:
    refused(write_zip(tmp_path / "m.zip", members), inside, "archive_without_model")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_refused(tmp_path: Path, inside: Path, method: int) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS}, method)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, inside, "archive_damaged")


@pytest.mark.parametrize("head", [b"", b"PK\x03\x04", b"nothing of the kind", b"\0" * 1000])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, inside: Path, head: bytes) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(head)
    refused(path, inside, "archive_damaged")
    refused(tmp_path / "none.zip", inside, "file_unreadable", "No such file")
    refused(tmp_path, inside, "not_a_regular_file")


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
def test_an_archive_of_another_format_is_refused_with_its_format(
    tmp_path: Path, inside: Path, head: bytes, kind: str
) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(head + bytes(500))
    assert name_other_archive(path) == kind
    refused(path, inside, "archive_format", f"is {kind}, ")


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_nothing_is_unpacked_onto_a_full_disk(
    tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 0, 1 << 20))
    hidden = inside / ".m.1234.streamasr-partial"
    hidden.mkdir()
    with raises(ConfigError, "disk_full") as caught:
        unpack(path, hidden / ".unpacked")
    assert str(caught.value) == (
        f"{inside} has 1.0 MB free; unpacking m.zip needs {size_text(len(WEIGHTS))}, and 67.1 MB "
        "must stay free. Free some space."
    )
    assert not [*hidden.iterdir()]


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS})
    (tmp_path / "file").touch()
    with raises(ConfigError, "archive_not_extracted") as caught:
        unpack(path, tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


def test_existing_files_are_never_overwritten(tmp_path: Path, inside: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"a.gguf": WEIGHTS})
    (inside / "a.gguf").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_bytes(b"mine")
    with raises(ConfigError, "archive_not_extracted") as caught:
        unpack(path, inside)
    assert "File exists" in str(caught.value)
    assert (tmp_path / "target").read_bytes() == b"mine"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("sound")
    members = {"M/a.gguf": WEIGHTS[:3000], "M/b.onnx": bytes(3000), "M/c.json": b"{}"}
    return write_zip(directory / "m.zip", members).read_bytes()


def check_any(content: bytes, directory: Path) -> None:
    """Check that any bytes are either unpacked correctly or refused, with no other effect."""
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(300))
@given(st.integers(0, 1 << 30), st.integers(1, 6))
@pytest.mark.process
def test_damaged_archives_are_harmless(
    tmp_path: Path, sound: bytes, seed: int, n_bytes: int
) -> None:
    chance = random.Random(seed)
    damaged = bytearray(sound)
    for _ in range(n_bytes):
        damaged[chance.randrange(len(damaged) - 300, len(damaged))] = chance.randrange(256)
    with TemporaryDirectory(dir=tmp_path) as directory:
        check_any(bytes(damaged), Path(directory))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(200))
@given(st.floats(0, 1, exclude_max=True))
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, sound: bytes, part: float) -> None:
    path = tmp_path / "m.zip"
    path.write_bytes(sound[: int(part * len(sound))])
    with raises(ModelError, "archive_damaged"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
