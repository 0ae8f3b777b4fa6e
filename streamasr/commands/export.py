"""`streamasr export`: from a safetensors checkpoint to a model directory."""

import argparse

from rich.console import Console

from streamasr.errors import ConfigError


def run_export(options: argparse.Namespace) -> int:
    """Convert a checkpoint; the exit code.

    Raises:
        ConfigError: a package of the `export` extra is missing, or the destination exists.
        ModelError: the checkpoint cannot be used.
    """
    try:
        from streamasr.importing.bundle import export_checkpoint
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the package {error.name} is missing; `pip install 'streamasr[export]'` brings it."
        ) from error
    console = Console(stderr=True)
    with console.status("reading the checkpoint") as status:
        export_checkpoint(
            options.checkpoint,
            options.destination,
            encoder=options.encoder,
            decoder=options.decoder,
            aligner=options.aligner,
            name=options.name,
            progress=status.update,
        )
    where = options.destination
    console.print(f"Wrote {where}; use it with streamasr transcribe --model {where}")
    return 0
