"""Metrics of a running daemon, and the resources that its processes use."""

import asyncio
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from streamasr.core.errors import ProtocolError
from streamasr.core.processes import Usage, usage

INTERVAL_S: Final = 0.5
"""Seconds between two looks; each costs the daemon about 2 ms."""

_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """State of a daemon at one moment."""

    at: float
    """Time on the clock of the measurement."""
    work: Mapping[str, float]
    """Seconds of work of each stage since the daemon started."""
    lag: float
    """Lag in seconds that the daemon reports."""
    usage: Mapping[str, Usage]
    """Resources of each process by name; empty for a daemon on another machine."""


@dataclass(frozen=True, slots=True)
class Consumption:
    """Resources that a measurement used."""

    work: Mapping[str, float]
    """Seconds of work by stage."""
    cpu: Mapping[str, float]
    """Seconds of processor time by process."""
    memory: Mapping[str, int]
    """Bytes by process, the greatest of all looks."""
    peak: Mapping[str, int]
    """Greatest resident bytes by process, since its start."""


@dataclass(slots=True)
class Telemetry:
    """Looks at a daemon at regular intervals."""

    base: str
    """Address of the daemon, `ws://...`."""
    token: str | None = None
    processes: Callable[[], Mapping[str, int]] = dict
    """Returns the process ids of the daemon by name."""
    looks: list[Look] = field(default_factory=list)

    async def watch(self, clock: Callable[[], float]) -> None:
        """Look until cancelled."""
        while True:
            await self.look(clock)
            await asyncio.sleep(INTERVAL_S)

    async def look(self, clock: Callable[[], float]) -> None:
        """Note the present state.

        Raises:
            ProtocolError: the address serves no metrics.
        """
        work, lag = read_metrics(await asyncio.to_thread(self._fetch))
        used = {name: usage(process) for name, process in self.processes().items()}
        present = {name: one for name, one in used.items() if one is not None}
        self.looks.append(Look(clock(), work, lag, present))

    def _fetch(self) -> str:
        url = self.base.replace("ws", "http", 1).rstrip("/") + "/metrics"
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http or https
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                return str(answer.read().decode())
        except (OSError, ValueError) as error:
            raise ProtocolError(f"{url} serves no metrics: {error}.", code="no_metrics") from error


def read_metrics(text: str) -> tuple[dict[str, float], float]:
    """Return the seconds of work by stage, and the lag, from the text of `/metrics`."""
    work: dict[str, float] = {}
    lag = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "streamasr_work_seconds_total":
                work[sample.labels["stage"]] = sample.value
            elif sample.name == "streamasr_lag_seconds":
                lag = sample.value
    return work, lag


def consumption(looks: list[Look]) -> Consumption:
    """Return the resources used between the first look and the last.

    A process that was replaced meanwhile counts from its start; its use after the last look at it
    is unknown.
    """
    first = looks[0]
    cpu: dict[str, float] = {}
    last = {name: used.cpu_s for name, used in first.usage.items()}
    for look in looks[1:]:
        for name, used in look.usage.items():
            before = last.get(name, 0.0)
            cpu[name] = cpu.get(name, 0.0) + (
                used.cpu_s - before if used.cpu_s >= before else used.cpu_s
            )
            last[name] = used.cpu_s
    names = sorted({name for look in looks for name in look.usage}, key=_main_first)
    return Consumption(
        work={
            stage: seconds - first.work.get(stage, 0.0) for stage, seconds in looks[-1].work.items()
        },
        cpu={name: cpu.get(name, 0.0) for name in names},
        memory={name: max(used.memory for used in _uses(looks, name)) for name in names},
        peak={name: max(used.peak for used in _uses(looks, name)) for name in names},
    )


def _uses(looks: list[Look], name: str) -> Iterator[Usage]:
    return (look.usage[name] for look in looks if name in look.usage)


def _main_first(name: str) -> tuple[bool, str]:
    return name != "main", name
