"""`streamasr models import`, of small checkpoints."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from streamasr.models.bundle import open_bundle
from tests.sources.onnx_release import write_onnx_release
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.model_homes import Home


def test_files_are_imported_once_under_their_name(home: Home, checkpoint: Path) -> None:
    assert home.run("import", str(checkpoint)) == 0
    assert home.out.startswith(f"small is installed in {home.models / 'small'} (")
    assert home.run("import", str(checkpoint)) == 0
    assert home.out.startswith("small is installed already, in ")
    assert home.run("import", str(checkpoint), "--name", "other", "--decoder", "f16") == 0
    assert home.left() == {"small", "other"}
    assert home.listed()["other"]["precision"] == "fp32/f16"


def test_of_two_imports_of_the_same_files_one_waits_for_the_other(
    home: Home, checkpoint: Path
) -> None:
    command = [sys.executable, "-m", "streamasr", "models", "import", str(checkpoint)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted(process.communicate()[0].splitlines()[0] for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert answers[0].startswith("small is installed already")
    assert answers[1].startswith("small is installed in ")


def test_files_that_were_moved_are_the_same_files(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(checkpoint, tmp_path / "old")
    assert home.run("import", str(old), "--name", "mine") == 0
    assert home.run("import", str(checkpoint), "--name", "mine") == 78  # a copy is another source
    new = old.rename(tmp_path / "new")
    assert home.run("import", str(new), "--name", "mine") == 0
    assert home.out.startswith("mine is installed already")
    assert home.listed()["mine"]["source"] == str(new)


def test_encoders_of_few_bits_are_warned_of_the_aligners_too(home: Home, tmp_path: Path) -> None:
    shape = Shape(d_model=64, ffn=256, hidden=256)
    for name, n_classes in (("asr", None), ("aligner", 50)):
        checkpoint = write_checkpoint(tmp_path / name, replace(shape, n_classes=n_classes))
        write_onnx_release(checkpoint, tmp_path / "both", "int4")
    assert home.run("import", str(tmp_path / "both")) == 0
    warnings = [line for line in home.err.splitlines() if "warning" in line]
    assert [re.findall(r"encoder of (\S+) has weights of 4 bits", line) for line in warnings] == [
        ["both"],
        ["both-aligner"],
    ]


def test_a_name_that_is_taken_by_another_model_is_refused(
    home: Home, checkpoint: Path, tmp_path: Path
) -> None:
    (home.models / "mine").mkdir(parents=True)
    assert home.run("import", str(checkpoint), "--name", "mine") == 78
    assert "mine is installed already, from other files; choose another --name" in home.err
    for name in ("tiny", "a/b", "..", ""):
        assert home.run("import", str(checkpoint), f"--name={name}") == (78 if name else 0)
    assert not (tmp_path / "b").exists()


def test_a_model_can_be_written_elsewhere(home: Home, checkpoint: Path, tmp_path: Path) -> None:
    place = tmp_path / "my model"
    assert home.run("import", str(checkpoint), "--output", str(place)) == 0
    assert open_bundle(place).name == "my model"
    assert f"Wrote {place}" in home.out
    assert not home.models.exists()
    assert home.run("import", str(checkpoint), "--output", str(place)) == 78


@pytest.mark.parametrize("content", [None, b"", b"RIFF....WAVE", b"PK\x03\x04broken"])
def test_a_directory_without_a_model_is_reported(
    content: bytes | None, home: Home, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    if content is not None:
        source.write_bytes(content)
    assert home.run("import", str(source)) == 78
    assert home.err.startswith("streamasr: ")
    assert not home.models.exists() or home.left() == set()
