"""`streamasr config`: the settings and their values, as a file with comments."""

import argparse

from streamasr.cli.arguments import add_config, add_verbose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = (
        "Print the settings as a file with comments, which can be saved and changed."
    )
    add_verbose(parser)
    add_config(parser)
    parser.add_argument("--default", action="store_true", help="show the defaults only")
    parser.add_argument(
        "--path", action="store_true", help="show the places where the file is looked for"
    )
    parser.add_argument("--markdown", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Print the settings, or the places of the file; return 0.

    Raises:
        ConfigError: the file of settings is wrong.
    """
    from streamasr.config.document import markdown, one_line, toml
    from streamasr.config.file import config_places, find_config, load_config
    from streamasr.config.sections import Settings

    if options.markdown:
        print(markdown(), end="")
    elif options.path:
        for place in [options.config] if options.config else config_places():
            print(one_line(place))
    elif options.default:
        print(toml(Settings()), end="")
    else:
        path = find_config(options.config)
        print(toml(load_config(path), path), end="")
    return 0
