"""Arguments that several commands share, and the types of their values.

Every command is loaded to show its help, so this module imports nothing but argparse.
"""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

Group: TypeAlias = "argparse._ActionsContainer"  # noqa: SLF001
"""A parser or a group of its arguments."""

ENCODER_WINDOWS: Final = (1, 2, 4, 8)


def add_verbose(parser: Group) -> None:
    """Add `--verbose`, which every command has."""
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log to stderr; twice for everything"
    )


def add_config(parser: Group) -> None:
    """Add `--config`."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="see `streamasr config --path`")


def add_json(parser: Group) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def add_model(parser: Group) -> None:
    """Add `--model`."""
    parser.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="see `streamasr models list`; default: that of the settings, at first the embedded "
        "tiny",
    )


def add_aligner(parser: Group) -> None:
    """Add `--aligner`."""
    parser.add_argument(
        "--aligner",
        metavar="NAME|PATH",
        help="forced aligner that gives word times; `none` goes without, and spreads words evenly "
        "where the model does not time them itself; default: the model's own times, its own "
        "aligner, or an installed one",
    )


def add_punctuation(parser: Group) -> None:
    """Add `--punctuation`."""
    parser.add_argument(
        "--punctuation",
        metavar="NAME|PATH",
        help="model that punctuates the texts of recognisers that do not; `none` leaves them "
        "without punctuation; default: an installed one",
    )


def add_languages(parser: Group) -> None:
    """Add `--language` and `--languages`."""
    parser.add_argument(
        "--language",
        metavar="L",
        help="spoken language, by name or code; default: detected; a model that cannot be told "
        "the language only marks its texts with it",
    )
    parser.add_argument(
        "--languages",
        type=names,
        metavar="L,L,...",
        help="languages that the detection chooses among; default: all that the model knows",
    )


def add_threads(parser: Group) -> None:
    """Add `--threads`."""
    parser.add_argument(
        "--threads", type=count, metavar="N", help="threads of each stage; default: one per core"
    )


def add_gpu(parser: Group) -> None:
    """Add `--gpu-layers` and `--gpu`."""
    parser.add_argument(
        "--gpu-layers",
        type=layers,
        metavar="N",
        help="layers of the decoder that run on a GPU, if there is one; -1, the default: all; 0: "
        "none",
    )
    parser.add_argument(
        "--gpu",
        type=number_or_name,
        metavar="NAME|N",
        help="GPU to use, see `streamasr doctor`; default: llama.cpp's choice",
    )


def add_no_reuse(parser: Group) -> None:
    """Add the hidden `--no-reuse`: the baseline of measurements, which caches nothing."""
    parser.add_argument("--no-reuse", action="store_true", help=argparse.SUPPRESS)


def add_switch(parser: Group, name: str, text: str) -> None:
    """Add an option and its negation; its value is None where neither is given."""
    parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None, help=text)


# Types of values


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None


def not_negative(text: str) -> float:
    """Read a finite number from 0."""
    value = number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def positive(text: str) -> float:
    """Read a finite number above 0."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def seconds(text: str) -> float:
    """Read a time in seconds from 0."""
    value = number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return value


def length(text: str) -> float:
    """Read a time in seconds above 0."""
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds above 0")
    return value


def count(text: str) -> int:
    """Read a whole number from 1."""
    value = number(text)
    if not 1 <= value < float("inf") or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(value)


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers from 1, separated by commas."""
    return tuple(count(part) for part in text.split(","))


def lengths(text: str) -> tuple[float, ...]:
    """Read numbers above 0, separated by commas."""
    return tuple(positive(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Read names, separated by commas."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names, separated by commas")
    return found


def layers(text: str) -> int:
    """Read a number of layers; -1 for all."""
    value = number(text)
    if not -1 <= value <= 10_000 or value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a number of layers, nor -1 for all")
    return int(value)


def number_or_name(text: str) -> int | str:
    """Read the index of a device, or a name."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text


# Values for the settings, which the command line overrides


def given(**values: object) -> dict[str, object]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def absolute(path: Path | None) -> str | None:
    """Return a path counted from here, not from the directory of the file of settings."""
    return None if path is None else str(path.absolute())
