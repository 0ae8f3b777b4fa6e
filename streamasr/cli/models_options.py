"""The arguments of `streamasr models`. Read whenever the program starts, so it imports nothing."""

import argparse
from pathlib import Path
from typing import Final, TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001

ENCODERS: Final = ("fp32", "fp16", "int8")
DECODERS: Final = ("q4_k", "q8_0", "f16", "keep")


def add_models(commands: _Commands, common: argparse.ArgumentParser) -> None:
    """Add `models` and what it can do.

    Args:
        commands: those of the program.
        common: options that each of them has.
    """
    parser = commands.add_parser(
        "models",
        help="get, import, check and remove models",
        description="Get, import, check and remove models. Only `pull` uses the network.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="WHAT")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--config", type=Path, metavar="FILE", help="see `streamasr config --path`"
    )
    shared = [common, settings]
    _add_list(actions, shared)
    _add_pull(actions, shared)
    _add_import(actions, shared)
    _add_verify(actions, shared)
    _add_remove(actions, shared)
    _add_path(actions, shared)


def _add_list(actions: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "list",
        parents=shared,
        help="show the models that are installed or known",
        description="Show the models that are installed, and those that `pull` can fetch.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="all that is known of these; default: a table"
    )
    parser.add_argument("--json", action="store_true", help="for programs, in place of a table")


def _add_pull(actions: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "pull",
        parents=shared,
        help="fetch known models and import them",
        description="Fetch known models and import them. What is interrupted goes on where it "
        "stopped when the same command is given again.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="see `streamasr models list`")
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="the hub or a mirror of it; default: HF_ENDPOINT, then download.endpoint",
    )
    _add_precision(parser)
    parser.add_argument(
        "--keep-download", action="store_true", help="keep the files as they were published"
    )
    parser.add_argument(
        "--accept-changed",
        action="store_true",
        help="take files that differ from those of the first download",
    )


def _add_import(actions: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "import",
        parents=shared,
        help="make a model of files that you have",
        description="Make a model of files that you have, in any of the forms in which Qwen3-ASR "
        "and Qwen3-ForcedAligner are published. They are only read.",
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a file, a zip or a directory, told by content"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--name", metavar="NAME", help="what it is called; default: as SOURCE is")
    where.add_argument(
        "--output", type=Path, metavar="DIR", help="make this directory instead of installing it"
    )
    _add_precision(parser)


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder",
        choices=ENCODERS,
        help="precision of an encoder that has to be made; default: fp16 for quantised sources, "
        "fp32 for others",
    )
    parser.add_argument(
        "--decoder",
        choices=DECODERS,
        help="precision of the decoder; default: keep that of a GGUF, q8_0 for safetensors",
    )


def _add_verify(actions: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "verify",
        parents=shared,
        help="check a model's files, and whether it recognises a known clip",
        description="Check the hashes of a model's files, load it, let it recognise a clip of "
        "which the text is known, and show its speed and memory.",
    )
    parser.add_argument("name", metavar="NAME|PATH")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="default: one that is built in")
    parser.add_argument("--expect", metavar="TEXT", help="what is said in that clip")
    parser.add_argument("--json", action="store_true", help="for programs, in place of a table")


def _add_remove(actions: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "remove",
        parents=shared,
        help="remove installed models, and what was fetched of them",
        description="Remove installed models, and what was fetched of them. The files that they "
        "were imported from stay.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME")


def _add_path(actions: _Commands, shared: list[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "path",
        parents=shared,
        help="show where a model is installed",
        description="Print the directory of an installed model.",
    )
    parser.add_argument("name", metavar="NAME")
