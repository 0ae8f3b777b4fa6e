"""The processors that are there, and how the stages share them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.engine.cores import MAX_THREADS, Threads, cores_of_quota, share_cores


@given(st.integers(0, 1000))
def test_each_stage_has_a_thread_at_least_and_no_more_than_help(n_cores: int) -> None:
    threads = share_cores(n_cores)
    for n in (threads.encoder, threads.decoder, threads.aligner):
        assert 1 <= n <= max(1, min(n_cores, MAX_THREADS))


@pytest.mark.parametrize(
    ("n_cores", "threads"),
    [
        (1, Threads(1, 1, 1)),
        (2, Threads(2, 2, 2)),
        (4, Threads(4, 4, 2)),
        (8, Threads(8, 8, 4)),
        (64, Threads(8, 8, 4)),
    ],
)
def test_cores_are_shared_as_documented(n_cores: int, threads: Threads) -> None:
    assert share_cores(n_cores) == threads


@pytest.mark.parametrize(
    ("quota", "n_cores"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("", 8),
        ("100000 0", 8),
        ("many", 8),
    ],
)
def test_a_container_has_the_cores_of_its_quota(quota: str, n_cores: int) -> None:
    assert cores_of_quota(quota, 8) == n_cores
