"""Results of `streamasr bench` as tables."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from streamasr.bench.delays import Summary
from streamasr.bench.figures import Spread, Trend
from streamasr.bench.file import FileResult
from streamasr.bench.latency import LatencyResult
from streamasr.bench.report import LiveRow
from streamasr.bench.soak import SoakResult
from streamasr.bench.throughput import DecodeRow
from streamasr.bench.update import UpdateResult

_MIB: Final = 2**20
_NONE: Final = "–"
_STAGES: Final = ("encode", "prefill", "verify", "decode", "punctuate")
"""Stages of a pass; no family has all of them."""


def delay_table(summary: Summary) -> Table:
    """Return the delays between audio and text."""
    table = _table("ms", "n", "p50", "p95", "p99", "worst")
    for name, values in (
        ("first partial after speech onset", summary.first_partial),
        ("partial after its audio", summary.partial),
        ("word stable after its end", summary.commit),
        ("final after the endpoint", summary.final_after_endpoint),
        ("final after speech end", summary.final_after_speech),
        ("final after a cut", summary.final_after_cut),
        ("final after the end of audio", summary.final_after_stop),
        ("words after their final", summary.words),
        ("lag of finals", summary.lag),
        ("audio sent late", summary.sender_delay),
    ):
        if values:
            table.add_row(name, str(values.n), *_milliseconds(values))
    return table


def latency_table(result: LatencyResult) -> Table:
    """Return the other results of sessions."""
    summary, used = result.summary, result.consumption
    table = _table("", "")
    rows = [
        ("audio", _played(result)),
        ("finals, partials, gaps", f"{summary.segments}, {summary.partials}, {summary.gaps}"),
        ("word times", summary.word_times),
        ("partial flicker", _flicker(summary)),
        ("stability violations", str(summary.stability.violations)),
        ("lag slope, ms per min", _slope(summary.lag_slope)),
    ]
    rows += [
        (f"work: {stage}", f"{seconds / summary.audio_s:.3f} s per s of audio")
        for stage, seconds in used.work.items()
        if seconds  # not all families have all stages
    ]
    for row in rows:
        table.add_row(*row)
    return table


def process_table(result: LatencyResult) -> Table:
    """Return the cost of each process; shared memory counts once, but not in the resident peak."""
    used = result.consumption
    table = _table("process", "CPU s per s of audio", "MiB", "resident at most")
    for name, seconds in used.cpu.items():
        table.add_row(
            name,
            f"{seconds / result.summary.audio_s:.3f}",
            f"{used.memory[name] / _MIB:.0f}",
            f"{used.peak[name] / _MIB:.0f}",
        )
    return table


def update_table(result: UpdateResult) -> Table:
    """Return the cost of updates by length and stage."""
    stages = [name for name in _STAGES if any(getattr(row.cost, name) for row in result.rows)]
    table = _table("ms", "s", "n", "total", "worst", *stages, "tokens")
    for row in result.rows:
        table.add_row(
            row.kind.replace("_", ", "),
            f"{row.seconds:g}",
            str(row.n),
            _ms(row.cost.wall),
            _ms(row.worst),
            *(_ms(getattr(row.cost, name)) for name in stages),
            f"{row.n_tokens:g}",
        )
    return table


def ratio_table(result: UpdateResult) -> Table:
    """Return ratios of costs."""
    table = _table("ratio of medians", "")
    for name, value in result.ratios.items():
        table.add_row(
            name.replace("_", ", ").replace("@", " at ").replace(":", " : "), f"{value:.2f}"
        )
    return table


def decoding_table(rows: Sequence[DecodeRow]) -> Table:
    """Return the throughput of the decoder."""
    table = _table("decoding", "tokens", "apart, tokens/s", "together, tokens/s", "gain")
    for row in rows:
        gain = _NONE if row.gain is None else f"{row.gain:.2f}"
        table.add_row(
            f"{row.sessions} sessions",
            str(row.n_tokens),
            f"{row.apart:.1f}",
            f"{row.together:.1f}",
            gain,
        )
    return table


def live_table(rows: Sequence[LiveRow]) -> Table:
    """Return the delays of finals by the number of live sessions."""
    table = _table(
        "final after speech end, ms", "n", "p50", "p95", "worst", "partials", "lag, ms per min"
    )
    for row in rows:
        summary = row.latency.summary
        after = summary.final_after_speech
        table.add_row(
            f"{row.sessions} live sessions",
            str(after.n if after else 0),
            *((_ms(after.p50), _ms(after.p95), _ms(after.worst)) if after else (_NONE,) * 3),
            str(summary.partials),
            _slope(summary.lag_slope),
        )
    return table


def file_table(results: Sequence[FileResult]) -> Table:
    """Return real-time factors: seconds for each second of audio."""
    table = _table("for each s of audio, s", *(one.file for one in results))
    table.add_row("(audio)", *(f"{one.audio_s:.1f}" for one in results))
    table.add_row("all of it", *(_share(one.wall_s, one) for one in results))
    for stage in dict.fromkeys(stage for one in results for stage in one.work):
        if any(one.work.get(stage) for one in results):
            cells = (_share(one.work.get(stage, 0.0), one) for one in results)
            table.add_row(f"work: {stage}", *cells)
    for name in dict.fromkeys(name for one in results for name in one.cpu):
        cells = (_share(one.cpu.get(name, 0.0), one) for one in results)
        table.add_row(f"CPU: {name}", *cells)
    return table


def _share(seconds: float, one: FileResult) -> str:
    return f"{seconds / one.audio_s:.3f}" if one.audio_s else _NONE


def soak_table(result: SoakResult) -> Table:
    """Return growth of memory and delay over a long run."""
    growth = result.growth
    share = _NONE if growth.share is None else f"{growth.share:+.1%}"
    table = _table("", "")
    table.add_row(
        "memory, second and last quarter",
        f"{growth.second_quarter / _MIB:.1f} MiB, {growth.last_quarter / _MIB:.1f} MiB ({share})",
    )
    table.add_row("most speech whose text was owed", f"{result.worst_lag:.1f} s")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, show_header=any(columns))
    for number, name in enumerate(columns):
        is_text = number == 0 or not name
        table.add_column(name, justify="left" if is_text else "right", header_style="dim")
    return table


def _milliseconds(values: Spread) -> list[str]:
    return [_ms(one) for one in (values.p50, values.p95, values.p99, values.worst)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}" if seconds >= 0.01 else f"{seconds * 1000:.1f}"


def _slope(trend: Trend | None) -> str:
    return _NONE if trend is None else f"{1000 * trend.slope:+.1f} ± {1000 * trend.error:.1f}"


def _flicker(summary: Summary) -> str:
    stability = summary.stability
    if summary.flicker is None:
        return _NONE
    return (
        f"{summary.flicker:.2f} ({stability.changed} words changed for {stability.final} in finals)"
    )


def _played(result: LatencyResult) -> str:
    summary = result.summary
    sessions = "1 session" if summary.sessions == 1 else f"{summary.sessions} sessions"
    return f"{summary.audio_s:.1f} s in {result.wall_s:.1f} s, {sessions}"
