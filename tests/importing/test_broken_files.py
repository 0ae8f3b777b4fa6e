"""Every form of the families of FunASR with damaged, cut or missing files: one clear sentence each.

The same random damage is done on every run. Nothing but the expected errors may be raised, soon.
"""

import random
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError, ModelError, StreamASRError
from streamasr.importing.pack import import_model
from streamasr.importing.source import open_sources
from tests.sources import ct_punc
from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights
from tests.sources.onnx_release import pack
from tests.sources.paraformer.weights import Sizes
from tests.support.errors import raises
from tests.support.paraformer_forms import FORMS, weights_of

Write = Callable[[Path], Path]

PUNCTUATION = random_weights(Shape(), len(WORDS), len(MARKS), 2)


def _writer(name: str) -> Write:
    form = FORMS[name]
    return lambda to: form.write(weights_of(form, Sizes()), to)


WRITERS: dict[str, Write] = {
    **{name: _writer(name) for name in FORMS if name != "original to int8"},
    "ct-punc export": lambda to: ct_punc.write_funasr_folder(to, PUNCTUATION, Shape()),
    "ct-punc sherpa-onnx": lambda to: ct_punc.write_sherpa_folder(to, PUNCTUATION, Shape()),
    "ct-punc original": lambda to: ct_punc.write_original(to, PUNCTUATION, Shape()),
}
WEIGHTS = {".onnx", ".pt", ".gguf"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

N_DAMAGED = 8
"""Damaged copies of each form."""
LONGEST_S = 30
"""Time that an import may take; half a second is usual."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes a form, only once."""

    @cache
    def write(name: str) -> Path:
        folder = tmp_path_factory.mktemp("forms") / "files"
        WRITERS[name](folder)
        return folder

    return write


@pytest.mark.parametrize("name", WRITERS)
def test_weights_that_are_git_lfs_pointers_or_empty_are_named(
    folder_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    names = [path.name for path in folder_of(name).iterdir() if path.suffix in WEIGHTS]
    for number, weights in enumerate(names):
        folder = shutil.copytree(folder_of(name), tmp_path / str(number))
        for content, code in ((POINTER, "lfs_pointer"), ("", "file_empty")):
            (folder / weights).write_text(content)
            for path in (folder, folder / weights):
                with raises(ModelError, code) as caught:
                    open_sources(path)
                assert weights in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_weights_that_are_cut_short_are_refused(
    folder_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(folder_of(name), tmp_path / "files")
    for path in folder.iterdir():
        if path.suffix not in WEIGHTS:
            continue
        whole = path.read_bytes()
        for left in (0.1, 0.5, 0.9):
            path.write_bytes(whole[: int(left * len(whole))])
            with pytest.raises(ModelError) as caught:
                import_model(folder, tmp_path / "bundle")
            assert path.name in str(caught.value)
        path.write_bytes(whole)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_raise_only_the_expected_errors(
    folder_of: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    rng = random.Random(name)
    for number in range(N_DAMAGED):
        folder = shutil.copytree(folder_of(name), tmp_path / f"files{number}")
        source = folder
        if number == 0:
            source = pack(folder, tmp_path / "files.zip", "some/folder")
            source.write_bytes(damage(source.read_bytes(), rng))
        else:
            path = rng.choice(sorted(folder.iterdir()))
            path.write_bytes(damage(path.read_bytes(), rng))
        began = time.monotonic()
        error = error_of(source, tmp_path / f"bundle{number}")
        assert (error is None) == (tmp_path / f"bundle{number}").exists()
        assert len(str(error)) < 1000
        assert time.monotonic() - began < LONGEST_S


def error_of(source: Path, bundle: Path) -> StreamASRError | None:
    """Import a source and return the expected error, if any; others are raised."""
    try:
        import_model(source, bundle)
    except (ModelError, ConfigError) as error:
        return error
    return None


def damage(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite, move, remove or insert some bytes, mostly where the structure is."""
    data = bytearray(content)

    def place() -> int:
        edge = min(len(data), 5000)
        side = rng.randrange(3)
        if side == 0:
            return rng.randrange(edge)
        return rng.randrange(len(data)) if side == 1 else len(data) - 1 - rng.randrange(edge)

    match rng.randrange(6):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            for _ in range(rng.randint(1, 8)):
                data[place()] ^= 1 << rng.randrange(8)
        case 2:
            at = place()
            data[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\x7f\xff\xff\xff", b"\xc3("])
        case 3:
            at, other, length = place(), place(), rng.randint(1, 200)
            data[at : at + length] = data[other : other + length]
        case 4:
            at = place()
            del data[at : at + rng.randint(1, 100)]
        case _:
            at = place()
            data[at:at] = rng.randbytes(rng.randint(1, 50))
    return bytes(data)
