"""The probe of a GPU, in a process that may crash or hang."""

import os
import threading
from pathlib import Path

import pytest

from streamasr.core.errors import ModelError
from streamasr.decoder.placement import ALL_LAYERS, Placement
from streamasr.engine.gpu_probe import GpuProbe, run_probe
from tests.support.errors import raises


def crash(_: GpuProbe) -> None:
    os.abort()


def leave(_: GpuProbe) -> None:
    os._exit(3)


def hang(_: GpuProbe) -> None:
    threading.Event().wait()


def refuse(probe: GpuProbe) -> None:
    raise ModelError(f"no room for {probe.decoder.name}.", code="no_room")


@pytest.fixture
def probe(bundle: Path) -> GpuProbe:
    return GpuProbe(bundle / "decoder.gguf", Placement(ALL_LAYERS))


def test_a_decoder_that_works_passes(probe: GpuProbe) -> None:
    run_probe(probe)


def test_a_file_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    (tmp_path / "decoder.gguf").write_bytes(b"GGUF nonsense")
    with raises(ModelError, "decoder_unloadable"):
        run_probe(GpuProbe(tmp_path / "decoder.gguf", Placement(ALL_LAYERS)))


def test_the_error_of_the_child_is_raised(probe: GpuProbe) -> None:
    with raises(ModelError, "no_room") as caught:
        run_probe(probe, refuse)
    assert str(caught.value) == "no room for decoder.gguf."


def test_a_crash_is_reported(probe: GpuProbe) -> None:
    with raises(ModelError, "gpu_probe_crashed") as caught:
        run_probe(probe, crash)
    assert "was killed by signal 6" in str(caught.value)
    with raises(ModelError, "gpu_probe_crashed") as caught:
        run_probe(probe, leave)
    assert "ended with code 3" in str(caught.value)


def test_a_child_that_hangs_is_ended(probe: GpuProbe) -> None:
    with raises(ModelError, "gpu_probe_hung"):
        run_probe(probe, hang, timeout_s=0.5)


def show_title(_: GpuProbe) -> None:
    title = Path("/proc/self/cmdline").read_text().rstrip("\0 ")
    raise ModelError(f"{title} and {Path('/proc/self/comm').read_text().strip()}")


def test_its_process_has_a_name(probe: GpuProbe) -> None:
    with pytest.raises(ModelError) as caught:
        run_probe(probe, show_title)
    assert str(caught.value) == "streamasr: gpu probe and streamasr: gpu"
