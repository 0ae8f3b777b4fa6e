"""Device of a decoder, and the sentence if it cannot be used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.decoder.placement import (
    ALL_LAYERS,
    ON_CPU,
    Gpu,
    Placement,
    find_gpu,
    open_where_it_works,
    place,
)
from tests.support.errors import raises

GPUS = [
    Gpu(0, "CUDA0", "NVIDIA GeForce RTX 5050", is_integrated=False, free=7 << 30, total=8 << 30),
    Gpu(1, "CUDA1", "NVIDIA A2", is_integrated=False, free=1 << 30, total=16 << 30),
    Gpu(3, "Vulkan0", "AMD Radeon 780M", is_integrated=True, free=9 << 30, total=16 << 30),
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (0, 0),
        (2, 2),
        ("CUDA1", 1),
        ("cuda0", 0),
        ("vulkan0", 2),
        ("radeon", 2),
        ("nvidia", 0),
        ("A2", 1),
    ],
)
def test_a_gpu_is_named_by_place_name_or_description(wanted: str | int, found: int) -> None:
    assert place(ALL_LAYERS, wanted, GPUS) == (Placement(ALL_LAYERS, GPUS[found]), None)


@pytest.mark.parametrize("wanted", [3, -1, "CUDA2", "intel"])
def test_a_gpu_that_is_not_there_is_answered_with_those_that_are(wanted: str | int) -> None:
    placement, why = place(10, wanted, GPUS)
    assert placement == ON_CPU
    assert why == (
        f"no GPU matches {wanted}: llama.cpp lists 0: CUDA0 (NVIDIA GeForce RTX 5050), "
        "1: CUDA1 (NVIDIA A2), 2: Vulkan0 (AMD Radeon 780M); the decoder runs on the CPU."
    )


def test_a_machine_without_gpu_is_fine_unless_one_was_asked_for() -> None:
    assert place(ALL_LAYERS, None, []) == (ON_CPU, None)
    assert place(0, "CUDA0", []) == (ON_CPU, None)
    for n_layers, wanted in ((12, None), (ALL_LAYERS, 3), (ALL_LAYERS, "CUDA0")):
        placement, why = place(n_layers, wanted, [])
        assert placement == ON_CPU
        assert why
        assert "this build of llama.cpp finds none" in why


def test_with_nothing_said_llama_cpp_chooses_among_its_gpus() -> None:
    assert place(ALL_LAYERS, None, GPUS) == (Placement(ALL_LAYERS), None)
    assert place(0, None, GPUS) == (ON_CPU, None)


@given(
    n_layers=st.integers(-1, 200),
    wanted=st.none() | st.integers() | st.text(max_size=8),
    gpus=st.lists(st.sampled_from(GPUS), max_size=3),
)
def test_whatever_is_asked_for_there_is_a_place_and_a_reason_for_another(
    n_layers: int, wanted: str | int | None, gpus: list[Gpu]
) -> None:
    placement, why = place(n_layers, wanted, gpus)
    assert placement.gpu is None or placement.gpu in gpus
    if why is not None:
        assert placement == ON_CPU
    if placement.is_on_gpu:
        assert (placement.n_layers, bool(gpus)) == (n_layers, True)
        assert placement.gpu == (None if wanted is None else find_gpu(wanted, gpus))


# Falling back


def test_what_works_is_made_where_it_is_wanted() -> None:
    warnings: list[str] = []
    for wanted in (ON_CPU, Placement(ALL_LAYERS), Placement(4, GPUS[0])):
        assert open_where_it_works(wanted, lambda placement: placement, warnings.append) == wanted
    assert warnings == []


def test_what_fails_on_a_gpu_is_made_on_the_cpu_with_one_sentence() -> None:
    warnings: list[str] = []

    def make(placement: Placement) -> Placement:
        if placement.is_on_gpu:
            raise ModelError("out of memory.")
        return placement

    assert open_where_it_works(Placement(4, GPUS[1]), make, warnings.append) == ON_CPU
    assert warnings == [
        "the GPU CUDA1 (NVIDIA A2) cannot be used, so the decoder runs on the CPU: out of memory."
    ]


def test_a_file_that_works_nowhere_is_not_blamed_on_the_gpu() -> None:
    warnings: list[str] = []

    def make(placement: Placement) -> None:
        raise ModelError(f"broken on {placement}.", code="broken")

    for placement in (Placement(ALL_LAYERS), ON_CPU):
        with raises(ModelError, "broken") as caught:
            open_where_it_works(placement, make, warnings.append)
        assert str(caught.value) == "broken on the CPU."
    assert warnings == []
