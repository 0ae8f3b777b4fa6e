"""Facts about this machine and its software.

Native libraries are asked in a process of their own: one that was built for another machine ends
the process that loads it.
"""

import contextlib
import importlib.metadata
import multiprocessing
import os
import platform
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooLateError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamasr.config.sections import MicrophoneConfig, ModelConfig
from streamasr.core.errors import AudioError, ModelError
from streamasr.core.versions import installed_version
from streamasr.decoder.placement import MORE, Gpu, place
from streamasr.doctor.judge_machine import (
    Accelerators,
    Package,
    Processor,
    Sound,
    requirements,
)
from streamasr.engine.cores import available_cores
from streamasr.models.onnx import load_onnxruntime

_TIMEOUT_S: Final = 60.0


# Software


def find_packages() -> list[Package]:
    """Return the required packages with their installed versions."""
    try:
        lines = importlib.metadata.requires("streamasr") or []
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        return []
    return [Package(name, installed_version(name), oldest) for name, oldest in requirements(lines)]


def find_processor(threads: str) -> Processor:
    """Return facts about the processor.

    Args:
        threads: of the stages of the configured model, for people.
    """
    cpuinfo = ""
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    n_cores = available_cores()
    return Processor(
        name=_field(cpuinfo, "model name") or platform.machine(),
        architecture=platform.machine(),
        flags=frozenset(_field(cpuinfo, "flags").split()),
        n_present=os.cpu_count() or n_cores,
        n_allowed=len(os.sched_getaffinity(0)),
        n_usable=n_cores,
        threads=threads,
    )


def _field(cpuinfo: str, name: str) -> str:
    """Return a field of the first processor in /proc/cpuinfo; empty if it is missing."""
    match = re.search(rf"^{name}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


# Native libraries


@dataclass(frozen=True, slots=True)
class Native:
    """Facts that native libraries report."""

    system_info: str | None = None
    gpus: tuple[Gpu, ...] = ()
    llama_trouble: str | None = None
    providers: tuple[str, ...] = ()
    known_providers: tuple[str, ...] = ()


def probe_native() -> Native:
    """Load the native libraries and ask them; runs in a child."""
    ort = load_onnxruntime()

    from streamasr.decoder.native import find_gpus, system_info

    providers = tuple(ort.get_available_providers()), tuple(ort.get_all_providers())
    try:
        return Native(system_info(), tuple(find_gpus()), None, *providers)
    except ModelError as error:
        return Native(None, (), str(error), *providers)


def ask_native(probe: Callable[[], Native]) -> Native:
    """Run a probe in a child, and report its crash as a fact."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn)
    try:
        return pool.submit(probe).result(_TIMEOUT_S)
    except BrokenProcessPool:
        why = "the library crashes the process that loads it: it was built for another machine"
        return Native(llama_trouble=why)
    except TooLateError:
        for child in multiprocessing.active_children():
            child.kill()
        return Native(llama_trouble=f"the library gave no answer within {_TIMEOUT_S:.0f} s")
    except ImportError as error:
        return Native(llama_trouble=f"a native library cannot be loaded: {error}")
    finally:
        pool.shutdown(cancel_futures=True)


def accelerators(native: Native, model: ModelConfig, *, has_decoder: bool) -> Accelerators:
    """Compare the GPUs and providers of this machine with the configured ones.

    Args:
        native: facts that the native libraries gave.
        model: settings of the model.
        has_decoder: whether the model has a part for llama.cpp.
    """
    missing = [name for name in model.providers if name not in native.providers]
    _, why = place(model.gpu_layers, model.gpu, native.gpus)
    gpus = (
        f"{gpu}, {gpu.free / 2**30:.1f} of {gpu.total / 2**30:.1f} GiB free" for gpu in native.gpus
    )
    known = native.known_providers
    return Accelerators(
        gpus=tuple(gpus),
        gpu_trouble=why and why.replace(MORE, ""),  # which refers to this command
        llama_trouble=native.llama_trouble,
        providers=native.providers,
        providers_missing=tuple(name for name in missing if name in known),
        providers_unknown=tuple(name for name in missing if name not in known) if known else (),
        has_decoder=has_decoder,
    )


def find_sound(settings: MicrophoneConfig) -> Sound:
    """Return the audio inputs, and whether the configured one is among them."""
    from streamasr.audio.microphone import find_input
    from streamasr.audio.portaudio import PortAudio

    is_wanted = settings.enabled and settings.input is None
    names: tuple[str, ...] = ()
    try:
        inputs = PortAudio().find_inputs()
        names = tuple(device.name for device in inputs)
        if inputs and is_wanted:
            find_input(inputs, settings.device)
    except AudioError as error:
        return Sound(names, str(error), is_wanted)
    return Sound(names, None, is_wanted)


# Memory and disk


def memory_free(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes available without swapping, within the limit of a control group."""
    free = 0
    with contextlib.suppress(OSError, ValueError):
        match = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text("ascii"), re.MULTILINE)
        free = int(match[1]) * 1024 if match else 0
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text("ascii"))  # `max` is not a number
        used = int((group / "memory.current").read_text("ascii"))
        stat = (group / "memory.stat").read_text("ascii")
        cached = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
        free = min(free, limit - used + (int(cached[1]) if cached else 0))
    return max(0, free)


def disk_free(directory: Path) -> int | None:
    """Return the bytes free on the disk of a directory, which need not exist; None if unknown."""
    try:
        return shutil.disk_usage(_existing(directory)).free
    except OSError:
        return None


def write_trouble(directory: Path) -> str | None:
    """Return the reason why a directory cannot be written or made; else None."""
    try:
        place = _existing(directory)
        if not place.is_dir():
            return f"{place} is not a directory"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"{place} cannot be written"
    except OSError as error:
        return f"{directory} cannot be examined: {error.strerror}"
    return None


def _existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
