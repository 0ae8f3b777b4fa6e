"""What was measured on, and with what."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from streamasr import __version__
from streamasr.models.bundle import Bundle, read_bundle
from streamasr.models.family import Role

SCRIPTED: Final = "scripted_tokens_per_second"
"""Fact of a model whose weights mean nothing: its decoder says so many tokens for each second of
audio, whatever they are, so that its timing is that of real speech."""

_PACKAGES: Final = ("llama-cpp-python", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer and its software."""

    processor: str
    cores: int
    """That this process may use."""
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    """Versions by name."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that was measured."""

    name: str
    decoder_mib: float
    encoder_mib: float
    aligner_mib: float | None
    """None where there is none."""
    scripted: float | None
    """Tokens for each second of audio of a decoder that follows a script; None of a real one."""


def this_machine() -> Machine:
    """The one that we run on."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(Path("/proc/cpuinfo").read_text("utf-8", "replace")),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={"streamasr": __version__, **{name: _version(name) for name in _PACKAGES}},
    )


def model_facts(directory: Path) -> ModelFacts:
    """What there is to know about a model.

    Raises:
        ModelError: it cannot be read.
    """
    bundle = read_bundle(directory, Role.RECOGNISER)
    scripted = bundle.facts.get(SCRIPTED)
    return ModelFacts(
        name=bundle.name,
        decoder_mib=_mib(bundle.decoder),
        encoder_mib=sum(map(_mib, sorted(directory.glob("encoder*.onnx*")))),
        aligner_mib=_aligner_mib(bundle),
        scripted=float(scripted) if isinstance(scripted, int | float) else None,
    )


def _aligner_mib(bundle: Bundle) -> float | None:
    if bundle.aligner is None:
        return None
    return sum(_mib(path) for path in sorted(bundle.aligner.iterdir()))


def _mib(path: Path) -> float:
    return round(path.stat().st_size / 2**20, 1) if path.exists() else 0.0


def _processor(cpuinfo: str) -> str:
    """Its name as Linux has it; on some architectures there is none."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    names = (value.strip() for key, _, value in lines if key.strip() == "model name")
    return next(names, platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
