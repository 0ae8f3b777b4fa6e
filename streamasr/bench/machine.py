"""The machine of a measurement, and the model."""

import os
import platform
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamasr import __version__
from streamasr.core.versions import installed_version
from streamasr.models.bundle import Bundle, read_bundle
from streamasr.models.family import Role

SCRIPTED: Final = "scripted_tokens_per_second"
"""Key in the description of a model with random weights: its decoder generates so many tokens for
each second of audio, so that its timing is that of real speech."""

_WEIGHTS: Final = (".onnx", ".data", ".gguf", ".npy")
_PACKAGES: Final = ("llama-cpp-python", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer and its software."""

    processor: str
    cores: int
    """Cores that this process may use."""
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    """Versions by name."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that was measured."""

    name: str
    family: str
    weights_mib: dict[str, float]
    """Sizes of the parts by the beginning of their files' names: `encoder`, `decoder`, `model`;
    without those of less than 50 kB."""
    aligner_mib: float | None
    """None without an aligner."""
    scripted: float | None
    """Tokens for each second of audio, of a decoder that follows a script; else None."""


def this_machine() -> Machine:
    """Return facts about this machine."""
    versions = {name: installed_version(name) or "not installed" for name in _PACKAGES}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(Path("/proc/cpuinfo").read_text("utf-8", "replace")),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={"streamasr": __version__, **versions},
    )


def model_facts(directory: Path) -> ModelFacts:
    """Return facts about a model.

    Raises:
        ModelError: the directory is not a recogniser.
    """
    bundle = read_bundle(directory, Role.RECOGNISER)
    scripted = bundle.facts.get(SCRIPTED)
    return ModelFacts(
        name=bundle.name,
        family=bundle.family.name,
        weights_mib=_weights(directory),
        aligner_mib=_aligner_mib(bundle),
        scripted=float(scripted) if isinstance(scripted, int | float) else None,
    )


def _weights(directory: Path) -> dict[str, float]:
    sizes: Counter[str] = Counter()
    for path in sorted(directory.iterdir()):
        if path.suffix in _WEIGHTS:
            sizes[re.split(r"[._]", path.name)[0]] += path.stat().st_size
    rounded = {part: round(size / 2**20, 1) for part, size in sizes.items()}
    return {part: size for part, size in rounded.items() if size}


def _aligner_mib(bundle: Bundle) -> float | None:
    if bundle.aligner is None:
        return None
    return sum(_mib(path) for path in sorted(bundle.aligner.iterdir()))


def _mib(path: Path) -> float:
    return round(path.stat().st_size / 2**20, 1) if path.exists() else 0.0


def _processor(cpuinfo: str) -> str:
    """Return the name of the processor in /proc/cpuinfo, or the architecture."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    names = (value.strip() for key, _, value in lines if key.strip() == "model name")
    return next(names, platform.machine())
