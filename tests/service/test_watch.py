"""When the service manager is told what; without any time passing."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamasr.decoder.llama import LlamaContext, LlamaModel, Rows
from streamasr.service.supervision import Vitals, Watch, take_watchdog

WATCHDOG_S = 8.0
LOOK_S = WATCHDOG_S / 8


def tellings(pulses: list[int | None]) -> list[float]:
    """When the watchdog is told, if there is a look at one pulse after the other."""
    watch = Watch(WATCHDOG_S)
    times = [index * LOOK_S for index in range(len(pulses))]
    looks = zip(times, pulses, strict=True)
    return [t for t, pulse in looks if "WATCHDOG" in watch.look(t, Vitals("well", pulse))]


def test_an_idle_daemon_tells_at_half_of_the_time() -> None:
    assert tellings([None] * 13) == [0.0, 4.0, 8.0, 12.0]


def test_so_does_one_that_works() -> None:
    assert tellings(list(range(13))) == [0.0, 4.0, 8.0, 12.0]


def test_one_whose_decoder_stands_still_falls_silent() -> None:
    assert tellings([None, None, *[7] * 20]) == [0.0, 4.0]


def test_a_decoder_that_gets_on_again_is_believed_at_the_next_look() -> None:
    assert tellings([None, *[7] * 10, 8, 8]) == [0.0, 4.0, 11.0]


Pulses = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=20, max_size=80)


@given(Pulses)
def test_the_watchdog_is_never_told_of_a_decoder_that_stood_still_since_it_was_last_told(
    pulses: list[int | None],
) -> None:
    told = [round(t / LOOK_S) for t in tellings(pulses)]
    for now in told[1:]:
        before = max(other for other in told if other < now)
        assert pulses[now] is None or pulses[now] != pulses[before]


@given(st.lists(st.integers(0, 2), min_size=30, max_size=80))
def test_a_decoder_that_moves_within_three_looks_is_never_ended(steps: list[int]) -> None:
    pulses: list[int | None] = []
    for step in steps:
        pulses += [len(pulses)] * (step + 1)
    told = [0.0, *tellings(pulses), (len(pulses) - 1) * LOOK_S]
    gaps = [after - before for before, after in itertools.pairwise(told)]
    assert max(gaps) < WATCHDOG_S


def test_a_status_is_told_once() -> None:
    watch = Watch(None)
    assert watch.look(0, Vitals("loading", None)) == {"STATUS": "loading"}
    assert watch.look(1, Vitals("loading", None)) == {}
    assert watch.look(2, Vitals("ready", 7)) == {"STATUS": "ready"}
    assert watch.look(99, Vitals("ready", 7)) == {}


def test_the_status_says_that_the_decoder_stands_still() -> None:
    watch = Watch(WATCHDOG_S)
    vitals = Vitals("ready", 7)
    assert watch.look(0, vitals) == {"STATUS": "ready", "WATCHDOG": "1"}
    assert watch.look(5, vitals) == {"STATUS": "the decoder stands still"}
    assert watch.look(6, dataclasses.replace(vitals, pulse=8)) == {
        "STATUS": "ready",
        "WATCHDOG": "1",
    }


def test_a_watchdog_is_for_one_process_and_not_for_its_children() -> None:
    environ = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    assert take_watchdog(environ, 7) == 30.0
    assert environ == {}
    assert take_watchdog({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    assert take_watchdog({"WATCHDOG_USEC": "30000000"}, 7) == 30.0


def test_what_is_no_time_is_no_watchdog() -> None:
    for wrong in ("", "0", "-1", "soon", "1.5"):
        assert take_watchdog({"WATCHDOG_USEC": wrong}, 7) is None


def test_the_pulse_beats_many_times_within_one_batch(bundle: Path) -> None:
    with (
        LlamaModel(bundle / "decoder.gguf") as model,
        LlamaContext(model, n_ctx=64, n_threads=1) as context,
    ):
        context.read([Rows(0, np.arange(32, dtype=np.int32), 1)])
        assert context.n_operations > 20
