"""`streamasr demo`: the embedded model transcribes the bundled clip."""

import argparse

from streamasr.cli import transcribe
from streamasr.cli.arguments import add_verbose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Watch the embedded model transcribe the bundled clip: partials, finals, and then the "
        "times of their words."
    )
    add_verbose(parser)


def run(_options: argparse.Namespace) -> int:
    """Transcribe the clip; return the exit code."""
    from streamasr.models import tiny

    arguments = ["--model", tiny.NAME, "--watch", str(tiny.DEMO)]
    print(f"streamasr transcribe --model {tiny.NAME} --watch {tiny.DEMO}\n", flush=True)
    parser = argparse.ArgumentParser()
    transcribe.add_arguments(parser)
    return transcribe.run(parser.parse_args(arguments))
