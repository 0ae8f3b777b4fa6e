"""Probe of a GPU: a process of its own that runs a decoder on it, before the main process does.

A broken driver may crash or hang the process that loads a model. So a child loads the decoder
first, lets it compute a little, and reports the result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError, StreamASRError
from streamasr.decoder.placement import Placement
from streamasr.engine.child import show_as
from streamasr.engine.child_process import start

TIMEOUT_S: Final = 180.0
"""For a large model from a cold disk, and a driver that compiles its kernels first."""

_N_CTX: Final = 512
_NAME: Final = "gpu probe"


@dataclass(frozen=True, slots=True)
class GpuProbe:
    """Decoder and device of a probe."""

    decoder: Path
    placement: Placement
    n_threads: int = 1


def load_once(probe: GpuProbe) -> None:
    """Load a decoder and let it compute, in the child.

    Raises:
        ModelError: the decoder cannot be loaded, or computes nonsense.
    """
    from streamasr.decoder.llama import LlamaContext, LlamaModel, self_test

    with (
        LlamaModel(probe.decoder, probe.placement) as model,
        LlamaContext(model, n_ctx=_N_CTX, n_threads=probe.n_threads) as context,
    ):
        self_test(context)


def run_probe(
    probe: GpuProbe, attempt: Callable[[GpuProbe], None] = load_once, timeout_s: float = TIMEOUT_S
) -> None:
    """Run a probe in a child.

    Args:
        probe: decoder and device.
        attempt: a module-level function, which runs in the child.
        timeout_s: seconds after which the child counts as hung.

    Raises:
        ModelError: the attempt failed, or the child crashed or hung.
    """
    connection, child = start(_report, attempt, probe)
    try:
        if not connection.poll(timeout_s):
            message = f"a process that tried it did not answer within {timeout_s:g} s."
            raise ModelError(message, code="gpu_probe_hung")
        failure: tuple[str, str] | None = connection.recv()
    except EOFError as error:
        child.join()
        code = child.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        message = f"a process that tried it {how}."
        raise ModelError(message, code="gpu_probe_crashed") from error
    finally:
        child.kill()
        child.join()
        connection.close()
        child.close()
    if failure is not None:
        message, error_code = failure
        raise ModelError(message, code=error_code)


def _report(connection: Connection, attempt: Callable[[GpuProbe], None], probe: GpuProbe) -> None:
    show_as(_NAME)
    try:
        attempt(probe)
    except StreamASRError as error:
        connection.send((str(error), error.code))
    else:
        connection.send(None)
