"""Judgement of a machine and its software: from facts to findings; pure.

`machine.py` gathers the facts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr.doctor.finding import Finding, ok, problem, warning

OLDEST_PYTHON: Final = (3, 11)

# Software


@dataclass(frozen=True, slots=True)
class Package:
    """A package that the program requires."""

    name: str
    installed: str | None
    oldest: str
    """Oldest version that works."""


def requirements(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and oldest versions of required packages, from a distribution's metadata."""
    pattern = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)\s*$")
    return [match.groups() for line in lines if (match := pattern.match(line))]  # type: ignore[misc]


def judge_software(
    python: tuple[int, int, int], packages: Sequence[Package], own_version: str
) -> Iterator[Finding]:
    """Judge Python and the packages."""
    version = ".".join(map(str, python))
    if python[:2] < OLDEST_PYTHON:
        yield problem(
            "python",
            f"{version} is too old",
            "install Python 3.11 or later, and streamasr again.",
            "python_too_old",
        )
    else:
        yield ok("python", f"{version}, streamasr {own_version}")
    good = []
    for package in packages:
        if package.installed is None:
            yield problem(
                package.name,
                "not installed",
                "run `make`, or `pip install streamasr` again.",
                "package_missing",
            )
        elif _numbers(package.installed) < _numbers(package.oldest):
            yield problem(
                package.name,
                f"{package.installed} is too old, {package.oldest} is needed",
                f"run `pip install '{package.name}>={package.oldest}'`.",
                "package_too_old",
            )
        else:
            good.append(f"{package.name} {package.installed}")
    if good:
        yield ok("packages", ", ".join(good))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


# The processor


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor and its cores."""

    name: str
    architecture: str
    flags: frozenset[str]
    """Instruction sets of x86, as in /proc/cpuinfo."""
    n_present: int
    n_allowed: int
    """Cores that this process may run on."""
    n_usable: int
    """Cores within a container's quota."""
    threads: str
    """Threads of each stage of the configured model."""


_FEATURES: Final = {
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX_VNNI": "avx_vnni",
}
"""Instruction sets by their names in llama.cpp, with their names in Linux."""

_NEEDED: Final = ("AVX2", "FMA", "F16C")


def judge_processor(processor: Processor, llama_info: str | None) -> Iterator[Finding]:
    """Judge the instruction sets that matter, and the cores.

    Args:
        processor: facts about it.
        llama_info: build features of llama.cpp, as it reports them; None if unknown.
    """
    if processor.architecture in {"x86_64", "AMD64"}:
        yield _judge_instructions(processor, llama_info)
    else:
        yield ok("processor", f"{processor.name} ({processor.architecture})")
    cores = f"{processor.n_usable} of {processor.n_present}; threads: {processor.threads}"
    if processor.n_usable < processor.n_allowed:
        yield ok("cores", f"{cores}; a container's quota allows no more")
    elif processor.n_usable == 1:
        yield warning(
            "cores",
            cores,
            "larger models need more than one core for live speech; allow more.",
            "one_core",
        )
    else:
        yield ok("cores", cores)


def _judge_instructions(processor: Processor, llama_info: str | None) -> Finding:
    has = [name for name, flag in _FEATURES.items() if flag in processor.flags]
    missing = [name for name in _NEEDED if name not in has]
    if missing:
        return warning(
            "processor",
            f"{processor.name} has no {', '.join(missing)}",
            "recognition will be slow: use a small model, or a machine built after 2013.",
            "instructions_missing",
        )
    text = f"{processor.name}: {', '.join(has)}"
    if llama_info is not None:
        built = set(re.findall(r"(\w+) = 1", llama_info))
        if unused := [name for name in _NEEDED if name not in built]:
            return warning(
                "processor",
                f"{text}; llama.cpp was built without {', '.join(unused)}",
                "build it on this machine: `pip install --force-reinstall --no-binary "
                "llama-cpp-python llama-cpp-python`.",
                "llama_build_slow",
            )
    return ok("processor", text)


# GPUs


@dataclass(frozen=True, slots=True)
class Accelerators:
    """Accelerators besides the processor."""

    gpus: tuple[str, ...]
    """GPUs that llama.cpp finds, with their free memory."""
    gpu_trouble: str | None
    """Reason why the configured GPU cannot be used."""
    llama_trouble: str | None
    """Reason why llama.cpp did not answer."""
    providers: tuple[str, ...]
    """Execution providers of this build of onnxruntime."""
    providers_missing: tuple[str, ...]
    """Configured providers that this build lacks."""
    providers_unknown: tuple[str, ...]
    """Configured providers that no build has."""
    has_decoder: bool = True
    """Whether the configured model has a part for llama.cpp."""


def judge_accelerators(found: Accelerators) -> Iterator[Finding]:
    """Judge the GPUs of llama.cpp and the providers of onnxruntime."""
    if found.llama_trouble:
        yield problem("llama.cpp", found.llama_trouble, _BUILD_LLAMA, "llama_not_loaded")
    elif found.gpu_trouble:
        yield warning("llama.cpp", found.gpu_trouble, _BUILD_GPU, "gpu_not_available")
    elif found.gpus:
        for number, gpu in enumerate(found.gpus):
            yield ok(f"GPU {number}", gpu)
    else:
        where = "decoders run on the CPU" if found.has_decoder else "the model does not need one"
        yield ok("llama.cpp", f"finds no GPU; {where}")
    listed = ", ".join(found.providers)
    for name in found.providers_unknown:
        yield problem(
            "onnxruntime",
            f"unknown execution provider {name}",
            f"set model.providers to some of {listed}.",
            "provider_unknown",
        )
    for name in found.providers_missing:
        yield warning(
            "onnxruntime",
            f"this build has no {name}, the CPU takes its place",
            "install a build that has it (onnxruntime-gpu, onnxruntime-openvino), or leave it out "
            "of model.providers.",
            "provider_not_available",
        )
    if not found.providers_unknown and not found.providers_missing:
        yield ok("onnxruntime", listed)


_BUILD_LLAMA: Final = (
    "install it again: `pip install --force-reinstall --no-binary llama-cpp-python "
    "'llama-cpp-python>=0.3.36'`."
)
_BUILD_GPU: Final = (
    "set model.gpu to one that is there, or build llama-cpp-python for it "
    "(CMAKE_ARGS=-DGGML_CUDA=on or -DGGML_VULKAN=on)."
)


# Sound


@dataclass(frozen=True, slots=True)
class Sound:
    """The audio inputs."""

    inputs: tuple[str, ...]
    trouble: str | None
    """Reason why they cannot be listed, or the configured one not be found."""
    is_wanted: bool
    """Whether the daemon would listen to a microphone."""


def judge_sound(sound: Sound) -> Iterator[Finding]:
    """Judge the microphones."""
    advice = "connect one, or set microphone.enabled = false; see `streamasr devices`."
    if sound.trouble and sound.is_wanted:
        yield warning("microphone", sound.trouble, advice, "microphone_not_available")
    elif sound.trouble:
        yield ok("microphone", f"not used ({sound.trouble})")
    elif not sound.inputs and sound.is_wanted:
        yield warning("microphone", "no audio input was found", advice, "microphone_missing")
    else:
        listed = f"{len(sound.inputs)} inputs: {', '.join(sound.inputs[:3])}"
        yield ok("microphone", listed if sound.inputs else "none, and not used")
