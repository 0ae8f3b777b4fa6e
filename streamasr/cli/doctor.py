"""`streamasr doctor`: check this installation and this machine."""

import argparse
from typing import TYPE_CHECKING

from streamasr.cli.arguments import add_config, add_json, add_verbose
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from streamasr.doctor.finding import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Check versions, processor, GPUs, microphones, models, memory, disk, settings and the "
        "daemon; exits with 1 if there is a problem."
    )
    add_verbose(parser)
    add_config(parser)
    parser.add_argument("--deep", action="store_true", help="compare the hashes of the model too")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Show all findings; return 1 if there is a problem, else 0.

    Args:
        options: `config`, a file of settings; `deep`, to compare hashes too; `json`.

    Raises:
        ConfigError: the user has no home directory, so nothing can be examined.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from streamasr.cli.console import busy
    from streamasr.cli.engine_options import finder_of
    from streamasr.doctor.examination import examine
    from streamasr.doctor.finding import Level

    with busy("examining this machine"):
        findings = list(examine(options.config, finder_of, is_deep=options.deep))
    if options.json:
        shown = [{**asdict(finding), "level": finding.level.value} for finding in findings]
        print(json.dumps({"findings": shown}, ensure_ascii=False, indent=1))
    else:
        show(findings, Console(highlight=False))
    has_problem = any(finding.level is Level.PROBLEM for finding in findings)
    return EXIT_INPUT_FAILED if has_problem else 0


def show(findings: "list[Finding]", console: "Console") -> None:
    """Print a line for each finding with its advice below, and a summary."""
    from rich.table import Table
    from rich.text import Text

    from streamasr.cli.console import print_table
    from streamasr.core.text import printable
    from streamasr.doctor.finding import Level

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    styles = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
    for finding in findings:
        text = Text(printable(finding.text))
        if finding.advice:
            text.append(f"\n→ {printable(finding.advice)}", style="cyan")
        mark = Text(finding.level.value, styles[finding.level])
        table.add_row(mark, Text(printable(finding.subject)), text)
    print_table(table, console)
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    console.print(
        f"{_count(counts[Level.PROBLEM], 'problem')}, {_count(counts[Level.WARNING], 'warning')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"
