"""`streamasr models verify`: check a model, run it on a clip, and print the result."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamasr.cli.console import busy, print_table
from streamasr.cli.engine_options import finder_of
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.config.file import find_config, load_config
from streamasr.core.errors import ConfigError
from streamasr.core.text import printable
from streamasr.doctor.verification import Report
from streamasr.doctor.verify import Clip, built_in_clip, verify
from streamasr.doctor.verify_punctuation import verify_punctuation
from streamasr.engine.config import Hardware
from streamasr.models.bundle import open_bundle
from streamasr.models.family import Role


def run_verify(options: argparse.Namespace) -> int:
    """Verify a model; return 0 if no check failed, else 1.

    Args:
        options: `name` of a model of any role; `clip` and `expect`, in place of the
            built-in clip and its text; `config`, the file of settings, which names the hardware;
            `json`.

    Raises:
        ConfigError: a text was given without a clip, or the settings cannot be used.
        ModelError: the model is missing.
        AudioError: the clip cannot be read.
    """
    if options.expect is not None and options.clip is None:
        raise ConfigError(
            "--expect is the text of --clip FILE: name the file too.", code="clip_missing"
        )
    config = load_config(find_config(options.config))
    finder = finder_of(config)
    bundle = open_bundle(finder.model(options.name))
    chosen = Clip(options.clip, options.expect) if options.clip else built_in_clip()
    is_recogniser = bundle.family.role is Role.RECOGNISER
    aligner = finder.aligner(config.model.aligner, bundle.directory) if is_recogniser else None
    hardware = Hardware.of(config.model)
    with busy("reading the files") as show:
        if bundle.family.role is Role.PUNCTUATION:
            report = verify_punctuation(bundle, hardware, show)
        else:
            report = verify(bundle, aligner, chosen, hardware, show)
    if options.json:
        print(json.dumps({"passed": report.passed, **asdict(report)}, ensure_ascii=False, indent=1))
    else:
        show_report(report, Console(highlight=False))
    return 0 if report.passed else EXIT_INPUT_FAILED


def show_report(report: Report, console: Console) -> None:
    """Print a report as tables."""
    title = f"{report.model}, a {report.family}: {report.directory}"
    console.print(printable(title), soft_wrap=True, markup=False)
    print_table(_check_table(report), console)
    for warning in report.warnings:
        console.print(Text(printable(f"warning: {warning}"), style="yellow"), soft_wrap=True)
    if report.text or report.expected:
        print_table(_text_table(report), console)
    if report.stages:
        print_table(_stage_table(report), console)
        console.print(_memory_line(report.peak_memory), soft_wrap=True)
    verdict = Text("passed", style="bold green") if report.passed else Text("failed", "bold red")
    console.print(Text(printable(f"{report.model}: ")) + verdict)


_MARKS: Final = {True: ("ok", "green"), False: ("failed", "bold red"), None: ("-", "dim")}


def _check_table(report: Report) -> Table:
    table = _table("", "", "")
    for check in report.checks:
        mark, style = _MARKS[check.passed]
        table.add_row(check.name, Text(mark, style), Text(printable(check.detail)))
    return table


def _text_table(report: Report) -> Table:
    table = _table("", "")
    if report.expected is not None:
        table.add_row("spoken", Text(printable(report.expected)))
    if report.word_error_rate is not None or report.expected is None:
        table.add_row("recognised", Text(printable(report.text) or "(nothing)"))
    return table


def _stage_table(report: Report) -> Table:
    table = _table("stage", "s", "x real time")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, stage in report.stages.items():
        rate = "" if stage.times_real_time is None else f"{stage.times_real_time:.1f}"
        table.add_row(name, f"{stage.seconds:.3f}", rate)
    total = sum(stage.seconds for stage in report.stages.values())
    rate = f"{report.audio_s / total:.1f}" if total else ""
    table.add_row(f"all of {report.audio_s:.1f} s", f"{total:.3f}", rate, style="bold")
    return table


def _memory_line(peaks: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in peaks.items())
    return f"peak memory: {sum(peaks.values()) / 2**20:.0f} MiB ({parts})"


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=any(names), header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
