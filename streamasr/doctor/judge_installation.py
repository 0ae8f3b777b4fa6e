"""Judgement of models, memory, disk, settings and the daemon: from facts to findings; pure.

`installation.py` gathers the facts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr.core.errors import ConfigError
from streamasr.core.sizes import size_text
from streamasr.doctor.finding import Finding, ok, problem, warning

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20

_LITTLE_STATE: Final = 500_000_000
"""Bytes of disk that suffice for the journal and for audio without a final."""
_STATE_HOUR: Final = 115_000_000
"""Bytes of disk for each hour of audio without a final."""

_GETTING: Final = {"0.6B": 5_000_000_000, "1.7B": 12_300_000_000}
"""Bytes of disk while a released model is downloaded and converted: its safetensors (1.9 and 4.7
GB), an encoder in fp32, and the decoder in f16 and q8_0 at once. The result is smaller than the
download."""

PROCESSES_BYTES: Final = 350 * _MIB
"""Bytes of memory for any model: three processes with their libraries (embedded model: 330 MiB)."""

WORK_SHARE: Final = 5
"""Loading and computing take one part in so many of the files' size in addition. Recogniser and
aligner of 0.6B, int8 and q8_0, take 3215 MiB at most, and this formula gives 3229 MiB."""


# Models


@dataclass(frozen=True, slots=True)
class Model:
    """The configured model, or an installed one."""

    name: str
    trouble: str | None = None
    """Reason why it cannot be used."""
    code: str | None = None
    """Code of that error."""
    warning: str | None = None
    n_bytes: int = 0
    """Size of its files."""
    aligner: str | None = None
    """Name of the aligner that gives word times with it."""
    has_word_times: bool = False
    """Whether its family gives word times without an aligner."""
    punctuates: bool = True
    """Its texts have punctuation."""
    punctuation: str | None = None
    """Name of the model that punctuates them, if they have none."""
    wants_punctuation: bool = True
    """Whether the settings leave it to such a model."""
    is_embedded: bool = False
    hashes: str | None = None
    """Result of comparing them, if that was asked for."""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """Names of models that can be downloaded."""

    recogniser: str
    aligner: str
    punctuation: str


def judge_configured_model(
    model: Model, wants_words: bool, suggestions: Suggestions
) -> Iterator[Finding]:
    """Judge the configured model."""
    if model.trouble:
        advice = "`streamasr models list` shows all models; set model.name to one of them."
        yield problem("model", model.trouble, advice, model.code or "model_unusable")
        return
    text = f"{model.name}, {size_text(model.n_bytes)}"
    if model.hashes:
        text += f", {model.hashes}"
    if model.warning:
        advice = "`streamasr models list` shows others."
        yield warning("model", model.warning, advice, "model_weak")
    elif model.is_embedded:
        yield warning(
            "model",
            f"{text}, an embedded one, which knows 95 English words and the Mandarin numerals",
            f"`streamasr models pull {suggestions.recogniser}`, then set model.name = "
            f'"{suggestions.recogniser}".',
            "model_embedded",
        )
    else:
        yield ok("model", text)
    if not wants_words:
        yield ok("word times", "switched off")
    elif model.aligner:
        yield ok("word times", f"by {model.aligner}")
    elif model.has_word_times:
        yield ok("word times", "by the model itself")
    else:
        yield warning(
            "word times",
            "no aligner is installed: words are spread evenly over their segments",
            f"`streamasr models pull {suggestions.aligner}`.",
            "aligner_missing",
        )
    if not model.punctuates:
        yield _judge_punctuation(model, suggestions)


def _judge_punctuation(model: Model, suggestions: Suggestions) -> Finding:
    if not model.wants_punctuation:
        return ok("punctuation", "switched off")
    if model.punctuation:
        return ok("punctuation", f"by {model.punctuation}")
    return warning(
        "punctuation",
        f"{model.name} writes none, and no punctuation model is installed",
        f"`streamasr models pull {suggestions.punctuation}`.",
        "punctuation_missing",
    )


def judge_installed(models: Sequence[Model]) -> Iterator[Finding]:
    """Judge the installed models."""
    for model in models:
        if model.trouble:
            advice = f"`streamasr models remove {model.name}`, and get it again."
            text = f"{model.name}: {model.trouble}"
            yield problem("installed", text, advice, model.code or "model_unusable")
    good = [f"{model.name} ({size_text(model.n_bytes)})" for model in models if not model.trouble]
    if good or not models:
        yield ok("installed", ", ".join(good) or "only the embedded models")


# Memory and disk


@dataclass(frozen=True, slots=True)
class Room:
    """Memory and disk."""

    memory_free: int
    """Bytes available without swapping, within a container's limit."""
    model_files: int
    """Bytes of all files of the configured model, its aligner and its punctuation model."""
    context: int
    """Bytes of the decoders' contexts."""
    state_free: int | None
    """Bytes free on the disk of the state directory; None where unknown."""
    cache_free: int | None
    """Bytes free on the disk of the models; None where unknown."""


def judge_room(room: Room) -> Iterator[Finding]:
    """Judge memory and disk."""
    work = PROCESSES_BYTES + room.model_files // WORK_SHARE
    need = room.model_files + room.context + work
    parts = (
        f"files {_size(room.model_files)}, context {_size(room.context)}, processes {_size(work)}"
    )
    text = f"{_size(room.memory_free)} free, {_size(need)} needed ({parts})"
    if room.memory_free < room.context + work + room.model_files // 2:
        advice = "close other programs, or use a smaller model."
        yield problem("memory", text, advice, "memory_too_small")
    elif room.memory_free < need:
        # The decoder's file is mapped: pages that do not fit are read again and again.
        advice = "recognition will be slow: close other programs."
        yield warning("memory", text, advice, "memory_tight")
    else:
        yield ok("memory", text)
    if room.state_free is not None:
        yield _judge_state_room(room.state_free)
    if room.cache_free is not None:
        yield _judge_cache_room(room.cache_free)


def _judge_state_room(free: int) -> Finding:
    text = f"{size_text(free)} free"
    if free < _LITTLE_STATE:
        advice = f"free some space: audio without a final takes {size_text(_STATE_HOUR)} an hour."
        return warning("disk (state)", text, advice, "disk_tight")
    return ok("disk (state)", text)


def _judge_cache_room(free: int) -> Finding:
    """Compare the free space with the space that downloading a model takes."""
    text = f"{size_text(free)} free"
    lacking = [f"{size_text(need)} for {name}" for name, need in _GETTING.items() if free < need]
    takes = f"downloading a model as safetensors takes {', '.join(lacking)}"
    if len(lacking) == len(_GETTING):
        return warning("disk (models)", text, f"free some space: {takes}.", "disk_tight")
    return ok("disk (models)", f"{text}; {takes}" if lacking else text)


def _size(n_bytes: int) -> str:
    """Return a size of memory for people."""
    if n_bytes < _GIB:
        return f"{n_bytes / _MIB:.0f} MiB"
    return f"{n_bytes / _GIB:.1f} GiB"


def context_bytes(n_cells: int, n_layers: int, n_kv_heads: int, head_width: int) -> int:
    """Return the bytes of keys and values of so many positions in half precision."""
    return n_cells * n_layers * n_kv_heads * head_width * 2 * 2


# The daemon


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address that clients connect to."""

    address: str
    state: str
    """`free`, `ours` if a daemon of streamasr answers, `taken`, or an error."""


def judge_endpoint(endpoint: Endpoint) -> Finding:
    """Judge the port or socket of the daemon."""
    if endpoint.state == "free":
        return ok("server", f"{endpoint.address} is free; no daemon is running there")
    if endpoint.state == "ours":
        return ok("server", f"a daemon answers at {endpoint.address}")
    if endpoint.state == "taken":
        return problem(
            "server",
            f"{endpoint.address} is used by another program",
            "end it, or set server.port to another one.",
            "address_taken",
        )
    return problem(
        "server",
        f"{endpoint.address}: {endpoint.state}",
        "set server.host and server.port.",
        "address_unusable",
    )


def judge_state(directory: str, trouble: str | None) -> Finding:
    """Judge the directory of finals and audio."""
    if trouble:
        advice = "set storage.directory to one that you may write to."
        return problem("state", trouble, advice, "state_not_writable")
    return ok("state", f"{directory} is writable")


def judge_models_place(directory: str, trouble: str | None) -> Finding:
    """Judge the directory of installed models."""
    if trouble:
        advice = "set storage.models to one that you may write to."
        return problem("models", trouble, advice, "models_not_writable")
    return ok("models", f"{directory} is writable")


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Unfinished models of imports that were killed."""

    directory: str
    number: int
    n_bytes: int


def judge_leftovers(found: Leftovers) -> Iterator[Finding]:
    """Judge the unfinished models that no process is working on."""
    if found.number:
        yield warning(
            "leftovers",
            f"{found.number} interrupted import{'s' * (found.number != 1)} left "
            f"{size_text(found.n_bytes)} in {found.directory}",
            "the next `streamasr models import` or `pull` removes them.",
            "imports_unfinished",
        )


def judge_unit(unit: Mapping[str, str] | None) -> Iterator[Finding]:
    """Judge the service in the user's systemd.

    Args:
        unit: `LoadState`, `ActiveState` and `UnitFileState`; None without systemd.
    """
    if unit is None:
        return
    load, active = unit.get("LoadState", ""), unit.get("ActiveState", "")
    if load != "loaded":
        yield ok("systemd", "no user unit streamasr.service")
    elif active == "failed":
        advice = "`journalctl --user -u streamasr` shows the reason."
        yield problem("systemd", "streamasr.service has failed", advice, "service_failed")
    else:
        yield ok("systemd", f"streamasr.service is {active}, {unit.get('UnitFileState', '')}")


def judge_configuration(path: str | None, trouble: ConfigError | None) -> Finding:
    """Judge the file of settings."""
    if trouble:
        advice = "correct it; `streamasr config --default` shows all settings."
        return problem("configuration", str(trouble), advice, trouble.code)
    return ok("configuration", path or "no file; all settings have their defaults")
