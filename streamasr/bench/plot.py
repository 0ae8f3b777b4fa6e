"""Plots of measurements; the only module that imports matplotlib."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamasr.bench.delays import Endpointing, lag_points
from streamasr.bench.latency import Run
from streamasr.bench.recording import Recording
from streamasr.bench.telemetry import Look
from streamasr.bench.update import Kind, UpdateResult
from streamasr.client import v1
from streamasr.core.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS: Final = (".png", ".svg")

_PARTIAL, _FINAL = "#8fb3d9", "#c0392b"
_STAGES: Final = {
    "encode": "#2a6f97",
    "prefill": "#61a5c2",
    "verify": "#f4a261",
    "decode": "#e76f51",
    "punctuate": "#8ab17d",
}
_OTHER_STAGE: Final = "#6c757d"
_SHORT: Final[dict[Kind, str]] = {
    "incremental": "incremental",
    "scratch": "scratch",
}
_BINS: Final = 120
"""Greatest number of intervals in the plot of work."""
_SHORTEST_BIN_S: Final = 2.0
"""Shortest interval, since shorter ones have too few texts for a mean."""


def check_plot(path: Path) -> None:
    """Check before a measurement that its plot can be drawn.

    Raises:
        ConfigError: matplotlib is missing, or the suffix of the file is not a known format.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"{path} is not a .png or .svg file; choose one of these.", code="unknown_format"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the package {error.name} is missing; run `pip install 'streamasr[bench]'`.",
            code="package_missing",
        ) from error


def plot_run(run: Run, rules: Endpointing, title: str, path: Path) -> None:
    """Draw lag, and the cost of an update, over time.

    Raises:
        OutputError: the file cannot be written.
    """
    figure, (upper, lower) = _figure(2, title)
    _draw_lag(upper, run, rules)
    _draw_costs(lower, run)
    lower.sharex(upper)
    lower.set_xlim(0, run.looks[-1].at - run.began)
    lower.set_xlabel("time, s")
    _save(figure, path)


def plot_update(result: UpdateResult, title: str, path: Path) -> None:
    """Draw the cost of an update over the length of the utterance.

    Raises:
        OutputError: the file cannot be written.
    """
    figure, (upper, lower) = _figure(2, title)
    lengths, costs = zip(*result.curve, strict=True)
    upper.plot(lengths, costs, color=_STAGES["encode"], label="incremental")
    rows = [row for row in result.rows if row.kind == "scratch"]
    xs, ys = [row.seconds for row in rows], [row.cost.wall for row in rows]
    upper.plot(xs, ys, color=_STAGES["decode"], marker="o", label="from scratch")
    upper.set_ylabel("cost of one update, s")
    upper.set_xlim(left=0)
    _leave_room(upper, n_columns=2)
    _draw_stages(lower, result)
    lower.set_xlabel("length of the utterance, s")
    _save(figure, path)


def _draw_lag(axes: "Axes", run: Run, rules: Endpointing) -> None:
    partials: list[tuple[float, float]] = []
    finals: list[tuple[float, float]] = []
    for recording in run.recordings:
        for point in lag_points(recording, rules):
            at = recording.began - run.began + point.at
            (finals if point.is_final else partials).append((at, point.lag))
    for points, colour, size, label in (
        (partials, _PARTIAL, 6, "partial behind its audio"),
        (finals, _FINAL, 14, "final behind its endpoint"),
    ):
        if points:
            xs, ys = zip(*points, strict=True)
            axes.scatter(
                xs, [1000 * y for y in ys], s=size, color=colour, label=label, linewidths=0
            )
    axes.set_ylabel("lag, ms")
    _leave_room(axes, n_columns=2)


def _draw_costs(axes: "Axes", run: Run) -> None:
    """Draw the work of each stage for each text, stacked."""
    bins = min(_BINS, int((run.looks[-1].at - run.looks[0].at) / _SHORTEST_BIN_S))
    looks = edges_of_work(run.recordings, thinned(run.looks, max(1, bins)))
    if len(looks) == 1:  # without texts
        return
    stages = sorted({stage for look in looks for stage in look.work}, key=_stage_order)
    edges = [look.at - run.began for look in looks]
    base = [0.0] * (len(looks) - 1)
    for stage in stages:
        costs = [cost_of_update(run.recordings, a, b, stage) for a, b in pairwise(looks)]
        top = [low + high for low, high in zip(base, costs, strict=True)]
        colour = _STAGES.get(stage, _OTHER_STAGE)
        axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=stage)
        base = top
    axes.set_ylabel("cost of an update, ms")
    _leave_room(axes, n_columns=len(stages))


def _draw_stages(axes: "Axes", result: UpdateResult) -> None:
    """Draw a bar for each kind and length, with stacked stages."""
    rows = [row for row in result.rows if not row.kind.startswith("final")]
    lengths = sorted({row.seconds for row in rows})
    kinds = list(_SHORT)
    width = 0.8 / len(kinds)
    stages = [stage for stage in _STAGES if any(getattr(row.cost, stage) for row in rows)]
    for row in rows:
        x = lengths.index(row.seconds) + (kinds.index(row.kind) - 1) * width
        bottom = 0.0
        for stage in stages:
            height = getattr(row.cost, stage)
            is_first = row is rows[0]
            axes.bar(
                x,
                height,
                width * 0.9,
                bottom=bottom,
                color=_STAGES[stage],
                label=stage if is_first else None,
            )
            bottom += height
        axes.text(x, bottom, f" {_SHORT[row.kind]}", rotation=90, ha="center", va="bottom", size=7)
    axes.set_xticks(range(len(lengths)), [f"{length:g}" for length in lengths])
    axes.set_ylabel("by stage, s")
    _leave_room(axes, n_columns=len(stages))


def thinned(looks: Sequence[Look], n: int) -> list[Look]:
    """Return at most `n` + 1 looks at equal distances, with the first and the last."""
    if len(looks) <= n + 1:
        return list(looks)
    return [looks[round(i * (len(looks) - 1) / n)] for i in range(n + 1)]


def edges_of_work(recordings: Sequence[Recording], looks: Sequence[Look]) -> list[Look]:
    """Return looks with a text between any two, so that all work belongs to some text."""
    edges = [looks[0]]
    for look in looks[1:]:
        if _n_texts(recordings, edges[-1], look):
            edges.append(look)
    return edges


def cost_of_update(recordings: Sequence[Recording], before: Look, after: Look, stage: str) -> float:
    """Return the milliseconds of a stage between two looks, for each partial and final."""
    n_texts = _n_texts(recordings, before, after)
    done = after.work.get(stage, 0.0) - before.work.get(stage, 0.0)
    return 1000 * done / n_texts if n_texts else 0.0


def _n_texts(recordings: Sequence[Recording], before: Look, after: Look) -> int:
    return sum(
        isinstance(one.message, v1.Partial | v1.Final) and before.at < one.at <= after.at
        for recording in recordings
        for one in recording.received
    )


def _leave_room(axes: "Axes", n_columns: int) -> None:
    """Begin at 0, and leave space for the legend."""
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left", ncols=n_columns)


def _stage_order(stage: str) -> tuple[int, str]:
    known = list(_STAGES)
    return (known.index(stage) if stage in known else len(known)), stage


def _figure(n_rows: int, title: str) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2 * n_rows), layout="constrained", dpi=150)
    rows = [figure.add_subplot(n_rows, 1, row + 1) for row in range(n_rows)]
    for axes in rows:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e9ecef", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure, rows


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", code="file_not_written"
        ) from error
