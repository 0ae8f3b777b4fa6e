"""Trying a decoder in a process of its own, which may crash or hang."""

import os
import threading
from pathlib import Path

import pytest

from streamasr.core.errors import ModelError
from streamasr.decoder.placement import ALL_LAYERS, Placement
from streamasr.engine.gpu_probe import GpuProbe, try_apart


def crash(_: GpuProbe) -> None:
    os.abort()


def leave(_: GpuProbe) -> None:
    os._exit(3)


def hang(_: GpuProbe) -> None:
    threading.Event().wait()


def refuse(trial: GpuProbe) -> None:
    raise ModelError(f"no room for {trial.decoder.name}.")


@pytest.fixture
def trial(bundle: Path) -> GpuProbe:
    return GpuProbe(bundle / "decoder.gguf", Placement(ALL_LAYERS))


def test_a_decoder_that_works_passes(trial: GpuProbe) -> None:
    try_apart(trial)


def test_a_file_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    (tmp_path / "decoder.gguf").write_bytes(b"GGUF nonsense")
    with pytest.raises(ModelError, match=r"llama\.cpp cannot load .*decoder\.gguf"):
        try_apart(GpuProbe(tmp_path / "decoder.gguf", Placement(ALL_LAYERS)))


def test_what_the_child_says_is_told(trial: GpuProbe) -> None:
    with pytest.raises(ModelError, match=r"^no room for decoder\.gguf\.$"):
        try_apart(trial, refuse)


def test_a_crash_is_told(trial: GpuProbe) -> None:
    with pytest.raises(ModelError, match="was killed by signal 6"):
        try_apart(trial, crash)
    with pytest.raises(ModelError, match="ended with code 3"):
        try_apart(trial, leave)


def test_a_child_that_hangs_is_ended(trial: GpuProbe) -> None:
    with pytest.raises(ModelError, match=r"gave no answer within 0\.5 s"):
        try_apart(trial, hang, timeout_s=0.5)
