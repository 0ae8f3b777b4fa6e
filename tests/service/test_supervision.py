"""Messages to the service manager over time; without any time passing."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows
from streamasr.service.supervision import KeepAlive, Vitals, take_watchdog

WATCHDOG_S = 8.0
INTERVAL_S = WATCHDOG_S / 8


def keep_alives(pulses: list[int | None]) -> list[float]:
    """Return the times of keep-alives, if the pulses are checked one after the other."""
    keep_alive = KeepAlive(WATCHDOG_S)
    times = [index * INTERVAL_S for index in range(len(pulses))]
    checks = zip(times, pulses, strict=True)
    return [t for t, pulse in checks if "WATCHDOG" in keep_alive.check(t, Vitals("well", pulse))]


def test_an_idle_daemon_sends_keep_alives_at_half_of_the_time() -> None:
    assert keep_alives([None] * 13) == [0.0, 4.0, 8.0, 12.0]


def test_a_working_daemon_sends_keep_alives_at_half_of_the_time() -> None:
    assert keep_alives(list(range(13))) == [0.0, 4.0, 8.0, 12.0]


def test_a_daemon_with_a_stalled_decoder_sends_none() -> None:
    assert keep_alives([None, None, *[7] * 20]) == [0.0, 4.0]


def test_progress_after_a_stall_is_reported_at_the_next_check() -> None:
    assert keep_alives([None, *[7] * 10, 8, 8]) == [0.0, 4.0, 11.0]


Pulses = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=20, max_size=80)


@given(Pulses)
def test_no_keep_alive_is_sent_for_a_decoder_that_stalled_since_the_last_one(
    pulses: list[int | None],
) -> None:
    sent = [round(t / INTERVAL_S) for t in keep_alives(pulses)]
    for now in sent[1:]:
        before = max(other for other in sent if other < now)
        assert pulses[now] is None or pulses[now] != pulses[before]


@given(st.lists(st.integers(0, 2), min_size=30, max_size=80))
def test_a_decoder_with_progress_within_three_checks_is_never_ended(steps: list[int]) -> None:
    pulses: list[int | None] = []
    for step in steps:
        pulses += [len(pulses)] * (step + 1)
    sent = [0.0, *keep_alives(pulses), (len(pulses) - 1) * INTERVAL_S]
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    assert max(gaps) < WATCHDOG_S


def test_a_status_is_sent_once() -> None:
    keep_alive = KeepAlive(None)
    assert keep_alive.check(0, Vitals("loading", None)) == {"STATUS": "loading"}
    assert keep_alive.check(1, Vitals("loading", None)) == {}
    assert keep_alive.check(2, Vitals("ready", 7)) == {"STATUS": "ready"}
    assert keep_alive.check(99, Vitals("ready", 7)) == {}


def test_the_status_reports_a_stalled_decoder() -> None:
    keep_alive = KeepAlive(WATCHDOG_S)
    vitals = Vitals("ready", 7)
    assert keep_alive.check(0, vitals) == {"STATUS": "ready", "WATCHDOG": "1"}
    assert keep_alive.check(5, vitals) == {"STATUS": "decoder stalled"}
    assert keep_alive.check(6, dataclasses.replace(vitals, pulse=8)) == {
        "STATUS": "ready",
        "WATCHDOG": "1",
    }


def test_a_watchdog_is_for_one_process_and_not_for_its_children() -> None:
    environ = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    assert take_watchdog(environ, 7) == 30.0
    assert environ == {}
    assert take_watchdog({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    assert take_watchdog({"WATCHDOG_USEC": "30000000"}, 7) == 30.0


def test_an_invalid_time_means_no_watchdog() -> None:
    for wrong in ("", "0", "-1", "soon", "1.5"):
        assert take_watchdog({"WATCHDOG_USEC": wrong}, 7) is None


def test_the_pulse_rises_many_times_within_one_batch(bundle: Path) -> None:
    with (
        LlamaModel(bundle / "decoder.gguf") as model,
        LlamaContext(model, n_ctx=64, n_threads=1) as context,
    ):
        context.read([Rows(0, np.arange(32, dtype=np.int32), 1)])
        assert context.n_operations > 20
