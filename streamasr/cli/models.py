"""`streamasr models`: list, get, import, verify and remove models."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamasr.cli.arguments import Commands, add_config, add_json, add_verbose
from streamasr.cli.exit_codes import EXIT_CONFIG, EXIT_INPUT_FAILED, EXIT_INTERRUPTED
from streamasr.cli.stderr import complain, note, warn
from streamasr.core.errors import ConfigError, ModelError, StreamASRError

if TYPE_CHECKING:
    from streamasr.catalogue.known import KnownModel
    from streamasr.config.sections import Settings
    from streamasr.importing.options import ImportOptions
    from streamasr.models.bundle import Bundle

ENCODERS: Final = ("fp32", "fp16", "int8")
DECODERS: Final = ("q4_k", "q8_0", "f16", "keep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the command and their arguments."""
    parser.description = "Get, import, check and remove models. Only `pull` uses the network."
    actions = parser.add_subparsers(dest="action", required=True, metavar="WHAT")
    _add_list(actions)
    _add_pull(actions)
    _add_import(actions)
    _add_verify(actions)
    _add_remove(actions)
    _add_path(actions)


def _add(actions: Commands, name: str, line: str, description: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=line, description=description)
    add_verbose(parser)
    add_config(parser)
    return parser


def _add_list(actions: Commands) -> None:
    parser = _add(
        actions,
        "list",
        "show the models that are installed or known",
        "Show the installed models, and those that `pull` can get.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="show all facts about these; default: a table"
    )
    add_json(parser)


def _add_pull(actions: Commands) -> None:
    parser = _add(
        actions,
        "pull",
        "download known models and import them",
        "Download known models and import them. An interrupted download continues where it "
        "stopped when the same command is given again.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="see `streamasr models list`")
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="the hub or a mirror of it; default: HF_ENDPOINT, then download.endpoint",
    )
    _add_precision(parser)
    parser.add_argument("--keep-download", action="store_true", help="keep the downloaded files")
    parser.add_argument(
        "--accept-changed",
        action="store_true",
        help="accept files that differ from those of the first download",
    )


def _add_import(actions: Commands) -> None:
    parser = _add(
        actions,
        "import",
        "install a model from files that you have",
        "Install a model from files that you have, in any form in which models of a supported "
        "family are published. The files are only read.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a file, a zip or a directory")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--name", metavar="NAME", help="name of the model; default: that of SOURCE")
    where.add_argument(
        "--output", type=Path, metavar="DIR", help="write the model to DIR instead of installing it"
    )
    _add_precision(parser)


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder",
        choices=ENCODERS,
        help="precision of an encoder that is converted; default: fp16 for quantised sources, "
        "fp32 for others",
    )
    parser.add_argument(
        "--decoder",
        choices=DECODERS,
        help="precision of the decoder; default: keep that of a GGUF, q8_0 for safetensors",
    )


def _add_verify(actions: Commands) -> None:
    parser = _add(
        actions,
        "verify",
        "check a model's files, and whether it recognises a known clip",
        "Check the hashes of a model's files, load it, let it recognise a clip whose text is "
        "known, and show its speed and memory.",
    )
    parser.add_argument("name", metavar="NAME|PATH")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="default: the built-in clip")
    parser.add_argument("--expect", metavar="TEXT", help="text that is spoken in that clip")
    add_json(parser)


def _add_remove(actions: Commands) -> None:
    parser = _add(
        actions,
        "remove",
        "remove installed models and their downloads",
        "Remove installed models and their downloaded files. Files that you imported them from "
        "stay.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME")


def _add_path(actions: Commands) -> None:
    parser = _add(
        actions,
        "path",
        "show the directory of a model",
        "Print the directory of an installed model.",
    )
    parser.add_argument("name", metavar="NAME")


def run(options: argparse.Namespace) -> int:
    """Run the action; return the exit code.

    Raises:
        StreamASRError: the action failed; the class decides the exit code.
    """
    from streamasr.config.file import find_config, load_config

    if options.action == "verify":
        from streamasr.cli.verify import run_verify

        return run_verify(options)
    config = load_config(find_config(options.config))
    match options.action:
        case "list":
            return _list(config, options.names, as_json=options.json)
        case "pull":
            return _pull(options, config)
        case "import":
            return _import(options, config)
        case "remove":
            return _each(options.names, lambda name: _remove(config.storage.models, name))
        case "path":
            print(_path(config, options.name))
            return 0
        case other:
            raise AssertionError(other)


def _each(names: Sequence[str], act: Callable[[str], None]) -> int:
    """Do something with each model, also after one has failed; return the exit code."""
    code = 0
    for name in dict.fromkeys(names):
        try:
            act(name)
        except (ConfigError, ModelError) as error:
            complain(error)
            code = EXIT_CONFIG
        except StreamASRError as error:
            complain(error)
            code = code or EXIT_INPUT_FAILED
    return code


def _list(config: "Settings", names: Sequence[str], *, as_json: bool) -> int:
    from streamasr.catalogue.known import find_known
    from streamasr.catalogue.listing import described, list_models

    rows = list_models(config.storage.models, config.models)
    if names:
        listed = {row.name: row for row in rows}
        for name in names:
            if name not in listed:
                find_known(name, config.models)  # which suggests a similar name
        rows = [listed[name] for name in dict.fromkeys(names)]
    if as_json:
        import json

        print(json.dumps([described(row) for row in rows], ensure_ascii=False, indent=1))
        return 0
    from streamasr.cli.models_table import details, show_list

    if names:
        print("\n\n".join(map(details, rows)))
    else:
        show_list(rows, config.storage.models)
    return 0


# Getting models


def _pull(options: argparse.Namespace, config: "Settings") -> int:
    from streamasr.catalogue.known import find_known
    from streamasr.models.embedded import EMBEDDED

    # Names are checked before anything is downloaded.
    known = {
        name: find_known(name, config.models) for name in options.names if name not in EMBEDDED
    }
    try:
        return _each(options.names, lambda name: _pull_one(options, config, name, known))
    except KeyboardInterrupt:
        note("stopped; the downloaded files are kept, and the same command continues from there.")
        return EXIT_INTERRUPTED


def _pull_one(
    options: argparse.Namespace, config: "Settings", name: str, known: "Mapping[str, KnownModel]"
) -> None:
    from streamasr.catalogue.installed import find_installed, place_of
    from streamasr.models.embedded import EMBEDDED

    models = config.storage.models
    if name in EMBEDDED:
        print(f"{name} is embedded; it need not be downloaded.")
        return
    place = place_of(models, name)
    found = find_installed(models, name)
    if found and found.problem:
        raise ModelError(
            f"{name} is installed, but broken ({found.problem}); remove it first, with "
            f"`streamasr models remove {name}`.",
            code="installed_but_broken",
        )
    wanted = _import_options(options, name)
    if found:
        from streamasr.catalogue.install import check_options

        check_options(found, wanted)
        print(f"{name} is installed already, in {place}.")
        return
    from streamasr.catalogue.places import download_place
    from streamasr.catalogue.pull import PullOptions, pull_model
    from streamasr.catalogue.timeouts import Policy
    from streamasr.cli.console import StepProgress

    settings = config.download
    how = PullOptions(
        settings.endpoint,
        Policy(silence_s=settings.timeout_s, attempts=settings.attempts),
        options.endpoint,
        accept_changed=options.accept_changed,
        keep_download=options.keep_download,
    )
    _warn_of(pull_model(known[name], models, wanted, how, StepProgress))
    if options.keep_download:
        print(f"The downloaded files are kept in {download_place(models, name)}.")
    _announce(name, place, options.config)


def _import(options: argparse.Namespace, config: "Settings") -> int:
    from streamasr.catalogue.install import install_files
    from streamasr.catalogue.known import usable_name
    from streamasr.cli.console import StepProgress
    from streamasr.importing.origin import canonical_path
    from streamasr.importing.pack import default_name, import_model

    if options.output is not None:
        where = options.output
        with StepProgress() as steps:
            wanted = _import_options(options, default_name(where))
            made = import_model(options.source, where, wanted, steps.show, notice=steps.note)
        _warn_of(made)
        print(f"Wrote {where}; use it with `streamasr transcribe --model {where} FILE`.")
        return 0
    name = options.name or usable_name(default_name(canonical_path(options.source)))
    done = install_files(
        options.source,
        config.storage.models,
        _import_options(options, name),
        StepProgress,
        _say_waiting,
    )
    if done.made is None:
        print(f"{name} is installed already, in {done.place}, from the same files.")
    else:
        _warn_of(done.made)
        _announce(name, done.place, options.config)
    return 0


def _say_waiting() -> None:
    note("another process is importing; waiting for it")


def _warn_of(made: "Bundle") -> None:
    """Print the warnings about a new model and its aligner."""
    from streamasr.models.bundle import open_bundle

    for each in (made, open_bundle(made.aligner) if made.aligner else None):
        if each is not None and each.warning:
            warn(each.warning)


def _import_options(options: argparse.Namespace, name: str) -> "ImportOptions":
    from streamasr.importing.options import ImportOptions

    return ImportOptions(encoder=options.encoder, decoder=options.decoder, name=name)


def _announce(name: str, place: Path, config: Path | None) -> None:
    from streamasr.catalogue.installed import size_on_disk
    from streamasr.config.file import config_places, find_config
    from streamasr.core.sizes import size_text
    from streamasr.models.bundle import open_bundle
    from streamasr.models.family import Role

    print(f"{name} is installed in {place} ({size_text(size_on_disk(place))}).")
    family = open_bundle(place).family
    role = family.role
    if role is Role.RECOGNISER:
        settings = find_config(config) or config_places()[0]
        print(f"Try it with `streamasr transcribe --model {name} FILE`.")
        print(f'To make it the default, set model.name = "{name}" in {settings}.')
        if family.recognition and not family.recognition.traits.punctuates:
            _suggest_punctuation(name, place.parent)
    elif role is Role.ALIGNER:
        print("It gives the times of words from now on, to models without an aligner of their own.")
    else:
        print("It punctuates texts from now on, of models that write none of their own.")


def _suggest_punctuation(name: str, models: Path) -> None:
    """Name a model that punctuates the texts of a new one, unless there is one already."""
    from streamasr.catalogue.installed import list_installed
    from streamasr.catalogue.listing import suggested
    from streamasr.models.family import Role

    installed = (each.bundle for each in list_installed(models) if each.bundle)
    if not any(each.family.role is Role.PUNCTUATION for each in installed):
        other = suggested(Role.PUNCTUATION)
        print(f"{name} writes no punctuation; `streamasr models pull {other}` adds it.")


# Installed models


def _remove(models: Path, name: str) -> None:
    from streamasr.catalogue.installed import (
        find_installed,
        place_of,
        remove_installed,
        size_on_disk,
    )
    from streamasr.catalogue.places import download_place, forget_download, sole_download
    from streamasr.core.sizes import size_text
    from streamasr.models.embedded import EMBEDDED

    if name in EMBEDDED:
        raise ModelError(f"{name} is embedded and cannot be removed.", code="model_embedded")
    place_of(models, name)
    freed = linked = 0
    if was_fetched := download_place(models, name).is_dir():
        with sole_download(models, name):
            # Files that are linked into the model count with the model.
            freed = size_on_disk(download_place(models, name), n_links=1)
            forget_download(models, name)
    what = f"The download of {name}"
    if (found := find_installed(models, name)) or not was_fetched:
        what = name
        n_bytes = found.n_bytes if found else 0
        own = remove_installed(models, name)
        freed, linked = freed + own, n_bytes - own
    stays = f"; {size_text(linked)} stay, as those files are in another place too" if linked else ""
    print(f"{what} is removed, which frees {size_text(freed)}{stays}.")


def _path(config: "Settings", name: str) -> Path:
    from streamasr.catalogue.installed import need_installed
    from streamasr.models.embedded import EMBEDDED

    if name in EMBEDDED:
        return EMBEDDED[name]
    return need_installed(config.storage.models, name, config.models).directory
