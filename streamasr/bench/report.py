"""Results of measurements with their circumstances, as JSON and as a description."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streamasr.bench.latency import LatencyResult
from streamasr.bench.machine import Machine, ModelFacts
from streamasr.bench.throughput import DecodeRow


@dataclass(frozen=True, slots=True)
class Setting:
    """Circumstances of a measurement."""

    bench: str
    machine: Machine
    model: ModelFacts | None
    """None where a daemon was measured that we did not start."""
    settings: Mapping[str, Any]
    """Options and audio, by name."""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """Result for a number of live sessions at once."""

    sessions: int
    latency: LatencyResult


@dataclass(frozen=True, slots=True)
class ThroughputResult:
    """Throughput of several sessions."""

    decoding: Sequence[DecodeRow]
    live: Sequence[LiveRow]


def to_json(setting: Setting, result: object) -> str:
    """Return a result as JSON; times in seconds, memory in bytes."""
    return msgspec.json.encode({"setting": setting, "result": result}).decode()


def describe(setting: Setting) -> Iterable[str]:
    """Yield the circumstances of a measurement, line by line."""
    machine, model = setting.machine, setting.model
    yield (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:g} GiB, "
        f"{machine.system}, Python {machine.python}"
    )
    yield ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    if model:
        aligner = (
            "no aligner" if model.aligner_mib is None else f"aligner {model.aligner_mib:g} MiB"
        )
        parts = "".join(f"{part} {size:g} MiB, " for part, size in model.weights_mib.items())
        yield f"model {model.name}, a {model.family}: {parts}{aligner}"
        if model.scripted is not None:
            yield (
                f"Its weights are random and its text follows a script, {model.scripted:g} "
                "tokens for each second of audio: the times are those of real speech, the text "
                "and its stability are not."
            )
    yield ", ".join(f"{name} {_plain(value)}" for name, value in setting.settings.items())


def _plain(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case list() | tuple():
            return " ".join(map(_plain, value))
        case None:
            return "default"
        case _:
            return str(value)
