"""What is right and wrong with an installation: facts in, findings out.

`commands/doctor.py` gathers the facts. Each function here judges one subject; a finding that is not
`ok` says what to do.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from streamasr.core.sizes import size_text

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20

OLDEST_PYTHON: Final = (3, 11)

_LITTLE_STATE: Final = 500_000_000
"""Of disk, for the journal and the audio that is not final."""
_STATE_HOUR: Final = 115_000_000
"""Of disk, for each hour of audio that is not final."""

_GETTING: Final = {"0.6B": 5_000_000_000, "1.7B": 12_300_000_000}
"""Of disk, while a released model is fetched and made: its safetensors (1.9 and 4.7 GB), an encoder
in fp32, and the decoder in f16 and q8_0 at once. What stays is less than was fetched."""

PROCESSES_BYTES: Final = 350 * _MIB
"""Of memory, whatever the model: three processes with their libraries (embedded model: 330 MiB)."""

WORK_SHARE: Final = 5
"""And one part in so many of the files' size: what loading and computing takes besides. Recogniser
and aligner of 0.6B, int8 and q8_0, come to 3215 MiB at most, and 3229 MiB are expected."""


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it could, or not what was asked for."""
    PROBLEM = "problem"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    subject: str
    level: Level
    text: str
    advice: str | None = None
    """What to do."""


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(subject, Level.OK, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """See `Level.WARNING`."""
    return Finding(subject, Level.WARNING, text, advice)


def problem(subject: str, text: str, advice: str) -> Finding:
    """See `Level.PROBLEM`."""
    return Finding(subject, Level.PROBLEM, text, advice)


# Software


@dataclass(frozen=True, slots=True)
class Package:
    """A package that is needed."""

    name: str
    installed: str | None
    oldest: str
    """The oldest version that works."""


def requirements(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Names and oldest versions of what is always needed, from a distribution's metadata."""
    pattern = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)\s*$")
    return [match.groups() for line in lines if (match := pattern.match(line))]  # type: ignore[misc]


def judge_software(
    python: tuple[int, int, int], packages: Sequence[Package], own_version: str
) -> Iterator[Finding]:
    """Python and the packages."""
    version = ".".join(map(str, python))
    if python[:2] < OLDEST_PYTHON:
        yield problem(
            "python", f"{version} is too old", "install Python 3.11 or later and install again."
        )
    else:
        yield ok("python", f"{version}, streamasr {own_version}")
    good = []
    for package in packages:
        if package.installed is None:
            yield problem(
                package.name, "not installed", "run `make`, or `pip install streamasr` again."
            )
        elif _numbers(package.installed) < _numbers(package.oldest):
            yield problem(
                package.name,
                f"{package.installed} is too old, {package.oldest} is needed",
                f"run `pip install '{package.name}>={package.oldest}'`.",
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
    """What computes."""

    name: str
    architecture: str
    flags: frozenset[str]
    """Of x86, as in /proc/cpuinfo."""
    n_present: int
    n_allowed: int
    """That this process may run on."""
    n_usable: int
    """Within a container's quota too."""
    threads: str
    """As they are shared out: encoder, decoder, aligner."""


_FEATURES: Final = {
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX_VNNI": "avx_vnni",
}
"""As llama.cpp names them, and as Linux does."""

_NEEDED: Final = ("AVX2", "FMA", "F16C")


def judge_processor(processor: Processor, llama_info: str | None) -> Iterator[Finding]:
    """Instructions that matter, and cores.

    Args:
        processor: what it is.
        llama_info: what llama.cpp was built for, in its words; None if that is not known.
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
            "cores", cores, "the larger models need more than one for live speech; allow more."
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
            "it will be slow: take a small model, or a machine of after 2013.",
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
            )
    return ok("processor", text)


# GPUs


@dataclass(frozen=True, slots=True)
class Accelerators:
    """What there is besides the processor."""

    gpus: tuple[str, ...]
    """Of llama.cpp, with their free memory."""
    gpu_trouble: str | None
    """Why the one that is configured cannot be had."""
    llama_trouble: str | None
    """Why llama.cpp could not be asked."""
    providers: tuple[str, ...]
    """Of onnxruntime."""
    providers_missing: tuple[str, ...]
    """Configured, and not in this build."""
    providers_unknown: tuple[str, ...]
    """Configured, and in no build."""


def judge_accelerators(found: Accelerators) -> Iterator[Finding]:
    """GPUs of llama.cpp and providers of onnxruntime."""
    if found.llama_trouble:
        yield problem("llama.cpp", found.llama_trouble, _BUILD_LLAMA)
    elif found.gpu_trouble:
        yield warning("llama.cpp", found.gpu_trouble, _BUILD_GPU)
    elif found.gpus:
        for number, gpu in enumerate(found.gpus):
            yield ok(f"GPU {number}", gpu)
    else:
        yield ok("llama.cpp", "finds no GPU; decoders run on the CPU")
    listed = ", ".join(found.providers)
    for name in found.providers_unknown:
        yield problem(
            "onnxruntime", f"knows no provider {name}", f"set model.providers to some of {listed}."
        )
    for name in found.providers_missing:
        yield warning(
            "onnxruntime",
            f"this build has no {name}, the CPU takes its place",
            "install a build that has it (onnxruntime-gpu, onnxruntime-openvino), or leave it out "
            "of model.providers.",
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
    """The microphones."""

    inputs: tuple[str, ...]
    trouble: str | None
    """Why they cannot be listed, or the configured one not be found."""
    is_wanted: bool
    """Whether a daemon would listen to one."""


def judge_sound(sound: Sound) -> Iterator[Finding]:
    """Microphones."""
    advice = "plug one in, or set microphone.enabled = false; see `streamasr devices`."
    if sound.trouble and sound.is_wanted:
        yield warning("microphone", sound.trouble, advice)
    elif sound.trouble:
        yield ok("microphone", f"none is wanted ({sound.trouble})")
    elif not sound.inputs and sound.is_wanted:
        yield warning("microphone", "there is no audio input", advice)
    else:
        listed = f"{len(sound.inputs)} inputs: {', '.join(sound.inputs[:3])}"
        yield ok("microphone", listed if sound.inputs else "none, and none is wanted")


# Models


@dataclass(frozen=True, slots=True)
class Model:
    """The one that is configured, or one that is installed."""

    name: str
    trouble: str | None = None
    """Why it cannot be used."""
    warning: str | None = None
    n_bytes: int = 0
    """Of its files."""
    aligner: str | None = None
    """What gives word times with it."""
    is_embedded: bool = False
    hashes: str | None = None
    """What came of comparing them, if that was asked for."""


def judge_configured_model(model: Model, wants_words: bool) -> Iterator[Finding]:
    """The model that is configured."""
    if model.trouble:
        advice = "`streamasr models list` shows what there is; set model.name to one of them."
        yield problem("model", model.trouble, advice)
        return
    text = f"{model.name}, {size_text(model.n_bytes)}"
    if model.hashes:
        text += f", {model.hashes}"
    if model.warning:
        yield warning("model", model.warning, "`streamasr models list` shows others.")
    elif model.is_embedded:
        yield warning(
            "model",
            f"{text}, the embedded one, which knows 95 English words",
            '`streamasr models pull qwen3-asr-0.6b`, then model.name = "qwen3-asr-0.6b".',
        )
    else:
        yield ok("model", text)
    if not wants_words:
        yield ok("word times", "switched off")
    elif model.aligner:
        yield ok("word times", f"by {model.aligner}")
    else:
        yield warning(
            "word times",
            "no aligner is installed: words are spread evenly over their segments",
            "`streamasr models pull qwen3-aligner-0.6b`.",
        )


def judge_installed(models: Sequence[Model]) -> Iterator[Finding]:
    """All others."""
    for model in models:
        if model.trouble:
            advice = f"`streamasr models remove {model.name}`, and get it again."
            yield problem("installed", f"{model.name}: {model.trouble}", advice)
    good = [f"{model.name} ({size_text(model.n_bytes)})" for model in models if not model.trouble]
    if good or not models:
        yield ok("installed", ", ".join(good) or "no models but the embedded one")


# Memory and disk


@dataclass(frozen=True, slots=True)
class Room:
    """Memory and disk."""

    memory_free: int
    """Bytes that can be had without swapping, within a container's limit."""
    model_files: int
    """Bytes of all files of the configured model and its aligner."""
    context: int
    """Bytes of the decoders' cells."""
    state_free: int | None
    """Bytes of disk where the state is kept; None where it is not known."""
    cache_free: int | None
    """And where models are."""


def judge_room(room: Room) -> Iterator[Finding]:
    """Memory and disk."""
    work = PROCESSES_BYTES + room.model_files // WORK_SHARE
    need = room.model_files + room.context + work
    parts = (
        f"files {_size(room.model_files)}, context {_size(room.context)}, processes {_size(work)}"
    )
    text = f"{_size(room.memory_free)} free, {_size(need)} needed ({parts})"
    if room.memory_free < room.context + work + room.model_files // 2:
        yield problem("memory", text, "close other programs, or take a smaller model.")
    elif room.memory_free < need:
        # The decoder's file is mapped: what does not fit is read again and again.
        yield warning("memory", text, "it will be slow: close other programs.")
    else:
        yield ok("memory", text)
    if room.state_free is not None:
        yield _judge_state_room(room.state_free)
    if room.cache_free is not None:
        yield _judge_cache_room(room.cache_free)


def _judge_state_room(free: int) -> Finding:
    text = f"{size_text(free)} free"
    if free < _LITTLE_STATE:
        advice = f"make room: audio that is not final takes {size_text(_STATE_HOUR)} an hour."
        return warning("disk (state)", text, advice)
    return ok("disk (state)", text)


def _judge_cache_room(free: int) -> Finding:
    """Compare what is free with what getting a model takes."""
    text = f"{size_text(free)} free"
    lacking = [f"{size_text(need)} for {name}" for name, need in _GETTING.items() if free < need]
    takes = f"getting a model from safetensors takes {', '.join(lacking)}"
    if len(lacking) == len(_GETTING):
        return warning("disk (models)", text, f"make room: {takes}.")
    return ok("disk (models)", f"{text}; {takes}" if lacking else text)


def _size(n_bytes: int) -> str:
    """A size of memory."""
    if n_bytes < _GIB:
        return f"{n_bytes / _MIB:.0f} MiB"
    return f"{n_bytes / _GIB:.1f} GiB"


def context_bytes(n_cells: int, n_layers: int, n_kv_heads: int, head_width: int) -> int:
    """What keys and values of so many positions take in half precision."""
    return n_cells * n_layers * n_kv_heads * head_width * 2 * 2


# The daemon


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients would connect."""

    address: str
    state: str
    """`free`, `ours` if a daemon of streamasr answers, `taken`, or a sentence."""


def judge_door(door: Door) -> Finding:
    """Port or socket."""
    if door.state == "free":
        return ok("server", f"{door.address} is free; no daemon runs there")
    if door.state == "ours":
        return ok("server", f"a daemon answers at {door.address}")
    if door.state == "taken":
        return problem(
            "server",
            f"{door.address} is used by another program",
            "end it, or set server.port to another one.",
        )
    return problem("server", f"{door.address}: {door.state}", "set server.host and server.port.")


def judge_state(directory: str, trouble: str | None) -> Finding:
    """Where finals and audio are kept."""
    if trouble:
        return problem("state", trouble, "set storage.directory to one that you may write to.")
    return ok("state", f"{directory} can be written")


def judge_models_place(directory: str, trouble: str | None) -> Finding:
    """Where models are installed."""
    if trouble:
        return problem("models", trouble, "set storage.models to one that you may write to.")
    return ok("models", f"{directory} can be written")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What imports that were killed have left."""

    directory: str
    number: int
    n_bytes: int


def judge_leftovers(found: Leftovers) -> Iterator[Finding]:
    """Directories among the models that nobody will finish."""
    if found.number:
        yield warning(
            "leftovers",
            f"{found.number} import{'s' * (found.number != 1)} ended half way and left "
            f"{size_text(found.n_bytes)} in {found.directory}",
            "the next `streamasr models import` or `pull` removes them.",
        )


def judge_unit(unit: Mapping[str, str] | None) -> Iterator[Finding]:
    """The service of the user's systemd.

    Args:
        unit: `LoadState`, `ActiveState` and `UnitFileState`; None without systemd.
    """
    if unit is None:
        return
    load, active = unit.get("LoadState", ""), unit.get("ActiveState", "")
    if load != "loaded":
        yield ok("systemd", "no user unit streamasr.service")
    elif active == "failed":
        advice = "`journalctl --user -u streamasr` says why."
        yield problem("systemd", "streamasr.service has failed", advice)
    else:
        yield ok("systemd", f"streamasr.service is {active}, {unit.get('UnitFileState', '')}")


def judge_configuration(path: str | None, trouble: str | None) -> Finding:
    """The file of settings."""
    if trouble:
        return problem("configuration", trouble, "correct it; `streamasr config --default` helps.")
    return ok("configuration", path or "no file, all at its default")
