"""Judgement of facts about a machine and an installation."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import ConfigError
from streamasr.doctor.finding import Finding, Level
from streamasr.doctor.judge_installation import (
    PROCESSES_BYTES,
    WORK_SHARE,
    Endpoint,
    Leftovers,
    Model,
    Room,
    Suggestions,
    context_bytes,
    judge_configuration,
    judge_configured_model,
    judge_endpoint,
    judge_installed,
    judge_leftovers,
    judge_models_place,
    judge_room,
    judge_state,
    judge_unit,
)
from streamasr.doctor.judge_machine import (
    Accelerators,
    Package,
    Processor,
    Sound,
    judge_accelerators,
    judge_processor,
    judge_software,
    judge_sound,
    requirements,
)

GIB = 1 << 30
SUGGESTIONS = Suggestions("large", "times", "marks")
OK, WARNING, PROBLEM = Level.OK, Level.WARNING, Level.PROBLEM


def levels(findings: Iterable[Finding]) -> dict[str, Level]:
    found = list(findings)
    for finding in found:
        assert "\n" not in finding.text
        assert (finding.advice is None) == (finding.level is OK)
        assert (finding.code is None) == (finding.level is OK)
    return {finding.subject: finding.level for finding in found}


# Software


def test_required_packages_are_read_from_the_metadata() -> None:
    lines = ["av>=14", "llama-cpp-python>=0.3.36", "gguf>=0.17; extra == 'export'", "odd"]
    assert requirements(lines) == [("av", "14"), ("llama-cpp-python", "0.3.36")]


def test_packages_that_are_missing_or_old_are_problems() -> None:
    packages = [
        Package("av", "14.2", "14"),
        Package("numpy", "1.25.9", "1.26"),
        Package("soxr", None, "0.5"),
        Package("websockets", "15.0.1.post1", "15"),
    ]
    found = levels(judge_software((3, 11, 0), packages, "0.1"))
    assert found == {"python": OK, "packages": OK, "numpy": PROBLEM, "soxr": PROBLEM}
    assert levels(judge_software((3, 10, 9), [], "0.1")) == {"python": PROBLEM}


# The processor

PROCESSOR = Processor(
    "A processor",
    "x86_64",
    frozenset({"avx2", "fma", "f16c", "avx512f"}),
    n_present=8,
    n_allowed=8,
    n_usable=8,
    threads="8",
)
BUILT = "CPU : AVX2 = 1 | F16C = 1 | FMA = 1 | REPACK = 1"


def test_a_processor_of_this_decade_is_fine() -> None:
    assert levels(judge_processor(PROCESSOR, BUILT)) == {"processor": OK, "cores": OK}
    assert levels(judge_processor(PROCESSOR, None)) == {"processor": OK, "cores": OK}


def test_an_old_processor_is_warned_of() -> None:
    [finding, _] = judge_processor(replace(PROCESSOR, flags=frozenset({"f16c"})), BUILT)
    assert finding.level is WARNING
    assert "has no AVX2, FMA" in finding.text


def test_a_build_that_leaves_instructions_unused_is_warned_of() -> None:
    [finding, _] = judge_processor(PROCESSOR, "CPU : AVX = 1 | FMA = 1 | AVX2 = 0")
    assert finding.level is WARNING
    assert "llama.cpp was built without AVX2, F16C" in finding.text


def test_other_architectures_are_not_judged_by_those_instructions() -> None:
    arm = replace(PROCESSOR, architecture="aarch64", flags=frozenset())
    assert levels(judge_processor(arm, "CPU : NEON = 1")) == {"processor": OK, "cores": OK}


def test_one_core_is_little_and_a_quota_is_named() -> None:
    one = replace(PROCESSOR, n_present=1, n_allowed=1, n_usable=1)
    assert levels(judge_processor(one, BUILT))["cores"] is WARNING
    *_, finding = judge_processor(replace(PROCESSOR, n_usable=2), BUILT)
    assert "a container's quota" in finding.text


# GPUs

NONE = Accelerators((), None, None, ("CPUExecutionProvider",), (), ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"llama.cpp": OK, "onnxruntime": OK}),
        ({"gpus": ("CUDA0", "CUDA1")}, {"GPU 0": OK, "GPU 1": OK, "onnxruntime": OK}),
        ({"gpu_trouble": "no GPU matches 3"}, {"llama.cpp": WARNING, "onnxruntime": OK}),
        ({"llama_trouble": "it crashes"}, {"llama.cpp": PROBLEM, "onnxruntime": OK}),
        ({"providers_missing": ("CUDA",)}, {"llama.cpp": OK, "onnxruntime": WARNING}),
        ({"providers_unknown": ("Abacus",)}, {"llama.cpp": OK, "onnxruntime": PROBLEM}),
    ],
)
def test_accelerators_are_listed_and_those_that_cannot_be_had_named(
    changes: dict[str, tuple[str, ...]], expected: dict[str, Level]
) -> None:
    assert levels(judge_accelerators(replace(NONE, **changes))) == expected  # type: ignore[arg-type]


# Sound


@pytest.mark.parametrize(
    ("sound", "level"),
    [
        (Sound(("USB",), None, is_wanted=True), OK),
        (Sound((), None, is_wanted=True), WARNING),
        (Sound((), None, is_wanted=False), OK),
        (Sound((), "PortAudio is missing.", is_wanted=True), WARNING),
        (Sound((), "PortAudio is missing.", is_wanted=False), OK),
        (Sound(("USB",), "there is no XLR", is_wanted=True), WARNING),
    ],
)
def test_a_microphone_is_missed_only_where_it_is_wanted(sound: Sound, level: Level) -> None:
    assert levels(judge_sound(sound)) == {"microphone": level}


# Models


@pytest.mark.parametrize(
    ("model", "wants_words", "expected"),
    [
        (Model("m", aligner="a"), True, {"model": OK, "word times": OK}),
        (Model("m", has_word_times=True), True, {"model": OK, "word times": OK}),
        (Model("m"), True, {"model": OK, "word times": WARNING}),
        (Model("m"), False, {"model": OK, "word times": OK}),
        (Model("m", warning="4 bits"), False, {"model": WARNING, "word times": OK}),
        (Model("tiny", is_embedded=True), False, {"model": WARNING, "word times": OK}),
        (Model("m", trouble="it is gone"), True, {"model": PROBLEM}),
    ],
)
def test_the_configured_model_is_judged(
    model: Model, wants_words: bool, expected: dict[str, Level]
) -> None:
    assert levels(judge_configured_model(model, wants_words, SUGGESTIONS)) == expected


def test_installed_models_are_listed_and_broken_ones_named() -> None:
    findings = list(judge_installed([Model("a", n_bytes=GIB), Model("b", "it is cut short")]))
    assert [finding.level for finding in findings] == [PROBLEM, OK]
    assert "`streamasr models remove b`" in str(findings[0].advice)
    assert findings[1].text == "a (1.1 GB)"
    assert levels(judge_installed([])) == {"installed": OK}
    assert [finding.level for finding in judge_installed([Model("b", "it is gone")])] == [PROBLEM]


# Memory and disk


WORK = PROCESSES_BYTES + 2 * GIB // WORK_SHARE


@pytest.mark.parametrize(
    ("free", "level"),
    [
        (WORK + 3 * GIB, OK),
        (WORK + 3 * GIB - 1, WARNING),
        (WORK + 2 * GIB, WARNING),
        (WORK + 2 * GIB - 1, PROBLEM),
        (0, PROBLEM),
    ],
)
def test_memory_is_compared_with_what_the_model_needs(free: int, level: Level) -> None:
    room = Room(free, model_files=2 * GIB, context=GIB, state_free=None, cache_free=None)
    [finding] = judge_room(room)
    assert finding.level is level
    assert "files 2.0 GiB, context 1.0 GiB, processes 760 MiB" in finding.text


@given(
    free=st.integers(0, 1 << 45),
    more=st.integers(0, 1 << 45),
    files=st.integers(0, 1 << 40),
    context=st.integers(0, 1 << 40),
)
def test_more_memory_is_never_worse(free: int, more: int, files: int, context: int) -> None:
    order = [PROBLEM, WARNING, OK]
    [less_free] = judge_room(Room(free, files, context, None, None))
    [more_free] = judge_room(Room(free + more, files, context, None, None))
    assert order.index(less_free.level) <= order.index(more_free.level)


def test_little_disk_is_warned_of() -> None:
    room = Room(64 * GIB, GIB, GIB, state_free=100 << 20, cache_free=20 * GIB)
    found = levels(judge_room(room))
    assert found == {"memory": OK, "disk (state)": WARNING, "disk (models)": OK}
    found = levels(judge_room(replace(room, state_free=GIB, cache_free=GIB)))
    assert found == {"memory": OK, "disk (state)": OK, "disk (models)": WARNING}


@pytest.mark.parametrize(
    ("free", "level", "says"),
    [
        (
            4_999_000_000,
            WARNING,
            "downloading a model as safetensors takes 5.0 GB for 0.6B",
        ),
        (
            5_000_000_000,
            OK,
            "5.0 GB free; downloading a model as safetensors takes 12.3 GB for",
        ),
        (12_300_000_000, OK, "12.3 GB free"),
    ],
)
def test_disk_space_is_compared_with_the_size_of_downloads(
    free: int, level: Level, says: str
) -> None:
    *_, finding = judge_room(Room(64 * GIB, GIB, GIB, state_free=None, cache_free=free))
    assert finding.level is level
    assert says in (finding.advice or finding.text)


def test_unfinished_imports_are_warned_of() -> None:
    assert levels(judge_leftovers(Leftovers("/m", 0, 0))) == {}
    [finding] = judge_leftovers(Leftovers("/m", 2, 1_900_000_000))
    assert finding.level is WARNING
    assert finding.text == "2 interrupted imports left 1.9 GB in /m"


def test_a_position_of_the_released_models_takes_112_kib() -> None:
    assert context_bytes(1, 28, 8, 128) == 112 * 1024


# The daemon


@pytest.mark.parametrize(
    ("state", "level"),
    [("free", OK), ("ours", OK), ("taken", PROBLEM), ("no such host", PROBLEM)],
)
def test_the_server_s_address_is_judged(state: str, level: Level) -> None:
    assert levels([judge_endpoint(Endpoint("127.0.0.1:8765", state))]) == {"server": level}


def test_settings_and_state_are_judged() -> None:
    assert levels([judge_configuration(None, None)]) == {"configuration": OK}
    assert levels([judge_configuration("/a", ConfigError("a: no"))]) == {"configuration": PROBLEM}
    assert levels([judge_models_place("/a", None)]) == {"models": OK}
    assert levels([judge_models_place("/a", "/a cannot be written")]) == {"models": PROBLEM}
    assert levels([judge_state("/a", None)]) == {"state": OK}
    assert levels([judge_state("/a", "/a cannot be written")]) == {"state": PROBLEM}


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (None, {}),
        ({}, {"systemd": OK}),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, {"systemd": OK}),
        ({"LoadState": "loaded", "ActiveState": "active"}, {"systemd": OK}),
        ({"LoadState": "loaded", "ActiveState": "failed"}, {"systemd": PROBLEM}),
    ],
)
def test_a_service_that_failed_is_a_problem(
    unit: dict[str, str] | None, expected: dict[str, Level]
) -> None:
    assert levels(judge_unit(unit)) == expected
