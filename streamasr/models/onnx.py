"""Opening and running ONNX graphs: the only module that uses onnxruntime.

onnxruntime is imported when the first graph is opened, not when this module is, so
that only the children that run graphs ever load it.
"""

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.memory import return_freed_memory
from streamasr.core.units import Float32Array

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

NumberType = np.dtype[np.float32] | np.dtype[np.float16] | np.dtype[np.int32] | np.dtype[np.int64]

CPU: Final = "CPUExecutionProvider"

_TYPES: Final[dict[str, NumberType]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """Settings of graphs."""

    providers: tuple[str, ...] = (CPU,)
    """onnxruntime's execution providers, in order of preference. One that cannot be used is
    replaced by the next, and the last by the CPU."""

    threads: int = 0
    """Threads of one operator; 0 lets onnxruntime take one per core."""

    log_level: int = 3
    """onnxruntime's own log: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""

    warn: Callable[[str], None] = logger.warning
    """Receives a sentence where a graph runs otherwise than was asked for."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph."""

    name: str
    dtype: NumberType
    shape: tuple[int | None, ...]
    """One entry per axis; None where any length is accepted."""


class OnnxSession:
    """A graph that is loaded and ready to run.

    Arrays of any numbers go in, and come out as float32, whatever the graph itself works in:
    published encoders exist with float16 inputs and outputs, and others take int32 lengths.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", path: Path) -> None:
        """Wrap an open session; use `open_session`."""
        self._session = session
        self.path = path
        self.inputs = {port.name: port for port in _ports(session.get_inputs(), path)}
        self.outputs = {port.name: port for port in _ports(session.get_outputs(), path)}

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that are in use."""
        return tuple(self._session.get_providers())

    def run(self, output: str, **inputs: npt.NDArray[Any]) -> Float32Array:
        """Compute one output from all inputs, given by name.

        Raises:
            ModelError: onnxruntime cannot run the graph on these inputs.
        """
        return self.run_for([output], inputs)[0]

    def run_for(
        self, outputs: Sequence[str], inputs: Mapping[str, npt.NDArray[Any]]
    ) -> list[Float32Array]:
        """Compute several outputs in one run.

        Args:
            outputs: their names.
            inputs: all of them, by name.

        Raises:
            ModelError: onnxruntime cannot run the graph on these inputs.
        """
        feeds = {
            name: np.ascontiguousarray(value, self.inputs[name].dtype)
            for name, value in inputs.items()
        }
        try:
            results: list[npt.NDArray[Any]] = self._session.run(list(outputs), feeds)
        except _failures() as error:
            message = f"{self.path}: onnxruntime cannot run this graph ({_line(error)})"
            raise ModelError(message, code="graph_does_not_run") from error
        return [result.astype(np.float32, copy=False) for result in results]

    def width(self, output: str, **inputs: tuple[int, ...]) -> int:
        """Return the length of an output's last axis: as stated, or computed once.

        Args:
            output: its name.
            inputs: the shape of every input, in case it must be computed.

        Raises:
            ModelError: the graph does not run on such inputs.
        """
        stated = self.outputs[output].shape[-1]
        if stated is not None:
            return stated
        zeros = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
        return len(self.run(output, **zeros).T)


def open_session(
    path: Path, options: OnnxOptions, *, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> OnnxSession:
    """Load a graph and check that it is the one expected.

    Args:
        path: the `.onnx` file.
        options: threads, execution providers and log level.
        inputs: the number of axes of every input, by name.
        outputs: the number of axes of every output that will be used, by name.

    Raises:
        ModelError: the file is missing or broken, onnxruntime does not know a provider, or the
            graph has other inputs or outputs.
    """
    session = open_any(path, options)
    if session.inputs.keys() != inputs.keys():
        found, wanted = ", ".join(session.inputs), ", ".join(inputs)
        message = f"{path}: the graph takes {found or 'no input'} instead of {wanted}"
        raise ModelError(message, code="graph_inputs")
    for name in outputs:
        if name not in session.outputs:
            message = f"{path}: the graph has no output named {name}"
            raise ModelError(message, code="graph_outputs")
    for ports, ranks in ((session.inputs, inputs), (session.outputs, outputs)):
        for name, rank in ranks.items():
            if (found_rank := len(ports[name].shape)) != rank:
                message = f"{path}: {name} has {found_rank} axes instead of {rank}"
                raise ModelError(message, code="graph_axes")
    return session


def open_any(path: Path, options: OnnxOptions) -> OnnxSession:
    """Load a graph whose inputs and outputs the caller will look at.

    Args:
        path: the `.onnx` file.
        options: threads, execution providers and log level.

    Raises:
        ModelError: the file is missing or broken, onnxruntime does not know a provider, or an
            input or output is not a tensor of numbers.
    """
    session = OnnxSession(_open(path, options), path)
    logger.debug("opened %s with %s", path, ", ".join(session.providers))
    return session


def usable_providers(
    wanted: Sequence[str], known: Collection[str], built_in: Collection[str]
) -> tuple[list[str], list[str]]:
    """Divide the providers that were asked for into those to try and those missing in this build.

    Args:
        wanted: in order of preference.
        known: all that onnxruntime has a name for.
        built_in: those of this build.

    Returns:
        The providers to try, the CPU included, and the missing ones.

    Raises:
        ModelError: no build of onnxruntime has such a provider.
    """
    for name in wanted:
        if name not in known and name not in built_in:
            choices = ", ".join(built_in)
            message = f"onnxruntime has no provider named {name}; this build has {choices}"
            raise ModelError(message, code="unknown_provider")
    there = [name for name in wanted if name in built_in]
    missing = [name for name in wanted if name not in built_in]
    return (there if CPU in there else [*there, CPU]), missing


def accelerators(providers: Sequence[str]) -> list[str]:
    """Return the providers that are not the CPU."""
    return [name for name in providers if name != CPU]


def load_onnxruntime() -> Any:  # it ships no types
    """Import onnxruntime with its telemetry switched off.

    Its Linux wheels report to their makers which graphs run where, under an identifier that they
    leave in the user's cache. These variables, of which releases read one or the other, count only
    during the import; its own function for that comes too late for the first report.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"
    import onnxruntime

    return onnxruntime


def _open(path: Path, options: OnnxOptions) -> "onnxruntime.InferenceSession":
    ort = load_onnxruntime()

    built_in = ort.get_available_providers()
    providers, missing = usable_providers(options.providers, ort.get_all_providers(), built_in)
    if not path.is_file():
        raise ModelError(f"{path} does not exist; get the model again.", code="model_file_missing")
    for name in missing:
        options.warn(
            f"this build of onnxruntime has no {name}, so the next provider or the CPU is used; it "
            f"has {', '.join(built_in)}."
        )
    session = _create_anywhere(path, options, providers)
    return_freed_memory()
    return session


def _create_anywhere(
    path: Path, options: OnnxOptions, providers: list[str]
) -> "onnxruntime.InferenceSession":
    """Create a session with these providers, or else with the CPU alone, with a warning."""
    if providers == [CPU]:
        return _create(path, options, [CPU])
    try:
        session = _create(path, options, providers)
    except ModelError as error:
        session = _create(path, options, [CPU])  # raises if it is the file's fault
        tried = " or ".join(accelerators(providers))
        options.warn(f"onnxruntime cannot use {tried}, so the CPU is used: {error}")
        return session
    for name in providers:
        if name not in (active := session.get_providers()):
            options.warn(f"{name} of onnxruntime does not start here, so {active[0]} is used.")
    return session


def _create(
    path: Path, options: OnnxOptions, providers: list[str]
) -> "onnxruntime.InferenceSession":
    ort = load_onnxruntime()

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.log_severity_level = options.log_level
    # Workers that spin while they wait take the cores that the decoder needs.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), settings, providers=providers)
    except _failures() as error:
        message = f"{path}: onnxruntime cannot load this file ({_line(error)})"
        raise ModelError(message, code="graph_unloadable") from error


def _failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that onnxruntime raises: its own, and those of its Python part."""
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    return (
        failures.EPFail,
        failures.Fail,
        failures.InvalidArgument,
        failures.InvalidGraph,
        failures.InvalidProtobuf,
        failures.NoSuchFile,
        failures.NotImplemented,
        failures.RuntimeException,
        ValueError,
        RuntimeError,
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _ports(arguments: "list[onnxruntime.NodeArg]", path: Path) -> list[Port]:
    """Read names, types and shapes; symbolic lengths come as strings or None."""
    ports = []
    for argument in arguments:
        dtype = _TYPES.get(argument.type)
        if dtype is None:
            message = f"{path}: {argument.name} is a {argument.type}, not a tensor of numbers"
            raise ModelError(message, code="graph_types")
        shape = tuple(length if isinstance(length, int) else None for length in argument.shape)
        ports.append(Port(argument.name, dtype, shape))
    return ports
