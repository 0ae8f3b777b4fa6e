"""Trying a decoder on a GPU in a process of its own, before the program stakes itself on it.

A broken driver does not always fail politely: it may crash or hang whoever loads a model. The child
loads the decoder, lets it compute a little, and says how it went.
"""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError, StreamASRError
from streamasr.decoder.placement import Placement

TIMEOUT_S: Final = 180.0
"""For a large model from a cold disk, and a driver that compiles its kernels first."""

_N_CTX: Final = 512


@dataclass(frozen=True, slots=True)
class GpuProbe:
    """What is tried where."""

    decoder: Path
    placement: Placement
    n_threads: int = 1


def load_once(trial: GpuProbe) -> None:
    """In the child: load a decoder and let it compute.

    Raises:
        ModelError: it cannot be loaded, or computes nonsense.
    """
    from streamasr.decoder.llama import LlamaContext, LlamaModel, self_test

    with (
        LlamaModel(trial.decoder, trial.placement) as model,
        LlamaContext(model, n_ctx=_N_CTX, n_threads=trial.n_threads) as context,
    ):
        self_test(context)


def try_apart(
    trial: GpuProbe, attempt: Callable[[GpuProbe], None] = load_once, timeout_s: float = TIMEOUT_S
) -> None:
    """Have a child try it.

    Args:
        trial: what is tried.
        attempt: a module-level function, which runs in the child.
        timeout_s: so long it may take.

    Raises:
        ModelError: it failed, crashed or hung.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(
        target=_report, args=(theirs, attempt, trial), name="streamasr trial", daemon=True
    )
    child.start()
    theirs.close()
    try:
        if not ours.poll(timeout_s):
            raise ModelError(f"a process that tried it gave no answer within {timeout_s:g} s.")
        complaint: str | None = ours.recv()
    except EOFError as error:
        child.join()
        code = child.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise ModelError(f"a process that tried it {how}.") from error
    finally:
        child.kill()
        child.join()
        ours.close()
    if complaint is not None:
        raise ModelError(complaint)


def _report(connection: Connection, attempt: Callable[[GpuProbe], None], trial: GpuProbe) -> None:
    try:
        attempt(trial)
    except StreamASRError as error:
        connection.send(str(error))
    else:
        connection.send(None)
