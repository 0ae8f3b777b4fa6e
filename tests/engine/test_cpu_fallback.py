"""Fallback of workers to the CPU."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.engine.aligner import aligner_fallback
from streamasr.engine.cpu_fallback import DEATHS_PER_REQUEST, FAILED_STARTS, Death, is_hopeless
from streamasr.engine.encoder import encoder_fallback
from streamasr.engine.worker_config import AlignerConfig, EncoderConfig
from streamasr.models.onnx import CPU

CUDA = "CUDAExecutionProvider"
MODEL = Path("model")


@given(st.integers(1, 100), st.integers(0, 100))
def test_a_child_that_was_never_ready_is_hopeless(in_a_row: int, over_request: int) -> None:
    assert is_hopeless(Death(False, in_a_row, over_request))


@given(st.integers(1, FAILED_STARTS - 1), st.integers(0, DEATHS_PER_REQUEST - 1))
def test_a_few_deaths_in_operation_are_chance(in_a_row: int, over_request: int) -> None:
    assert not is_hopeless(Death(True, in_a_row, over_request))


def test_many_deaths_in_operation_are_not() -> None:
    assert is_hopeless(Death(True, FAILED_STARTS, 0))
    assert is_hopeless(Death(True, 1, DEATHS_PER_REQUEST))


@pytest.mark.parametrize("providers", [(), (CPU,)])
def test_the_cpu_has_no_fallback(providers: tuple[str, ...]) -> None:
    assert encoder_fallback(EncoderConfig(MODEL, 1, providers)) is None
    assert aligner_fallback(AlignerConfig(MODEL, 1, providers)) is None


def test_an_encoder_leaves_its_provider_and_nothing_else() -> None:
    fallback = encoder_fallback(EncoderConfig(MODEL, 3, (CUDA, CPU), 4, False))
    assert fallback
    assert fallback.config == EncoderConfig(MODEL, 3, (CPU,), 4, False)
    assert fallback.warning("signal SIGSEGV") == (
        f"{CUDA} cannot be used, so the CPU is: the process died (signal SIGSEGV)."
    )


@pytest.mark.parametrize(
    ("providers", "n_layers", "avoided"),
    [((CUDA,), 0, CUDA), ((CPU,), -1, "the GPU"), ((CUDA, CPU), 5, f"{CUDA} or the GPU")],
)
def test_an_aligner_leaves_both(providers: tuple[str, ...], n_layers: int, avoided: str) -> None:
    fallback = aligner_fallback(AlignerConfig(MODEL, 3, providers, n_layers, 1))
    assert fallback
    assert fallback.config == AlignerConfig(MODEL, 3, (CPU,), 0, None)
    assert fallback.avoided == avoided
