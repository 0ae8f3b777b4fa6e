"""Device of a decoder: the processor, or a GPU for some or all of its layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from streamasr.core.errors import ModelError

ALL_LAYERS: Final = -1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as llama.cpp lists it."""

    device: int
    """Index among all devices of llama.cpp, including the processor."""
    name: str
    """For example `CUDA0` or `Vulkan1`."""
    description: str
    is_integrated: bool
    """It shares the memory of the processor."""
    free: int
    """Bytes of its memory that are not in use."""
    total: int

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


@dataclass(frozen=True, slots=True)
class Placement:
    """Layers of a decoder that run on a GPU, and which GPU."""

    n_layers: int = 0
    """`ALL_LAYERS`, or the number of the last ones; 0 keeps everything on the processor."""
    gpu: Gpu | None = None
    """None leaves the choice to llama.cpp."""

    @property
    def is_on_gpu(self) -> bool:
        """Tell whether any layer runs on a GPU."""
        return self.n_layers != 0

    def __str__(self) -> str:
        if not self.is_on_gpu:
            return "the CPU"
        return f"the GPU {self.gpu}" if self.gpu else "the GPU"


ON_CPU: Final = Placement()


def place(
    n_layers: int, wanted: str | int | None, gpus: Sequence[Gpu]
) -> tuple[Placement, str | None]:
    """Find the device that was asked for.

    Args:
        n_layers: see `Placement`.
        wanted: a GPU by its index in `gpus`, its name, or a part of its description; None for any.
        gpus: those of this machine.

    Returns:
        The placement, and a sentence where it is not the one that was asked for. On a machine
        without a GPU, all layers of any GPU means the processor, without a sentence.
    """
    if n_layers == 0:
        return ON_CPU, None
    if wanted is None:
        if gpus:
            return Placement(n_layers), None
        why = f"{n_layers} layers were to run on a GPU, but {_NO_GPU}." if n_layers > 0 else None
        return ON_CPU, why
    if gpu := find_gpu(wanted, gpus):
        return Placement(n_layers, gpu), None
    listed = ", ".join(f"{number}: {gpu}" for number, gpu in enumerate(gpus))
    there = f"llama.cpp lists {listed}" if gpus else _NO_GPU
    return ON_CPU, f"no GPU matches {wanted}: {there}; the decoder runs on the CPU."


MORE: Final = " (`streamasr doctor` gives details)"
_NO_GPU: Final = f"this build of llama.cpp finds none{MORE}"


def find_gpu(wanted: str | int, gpus: Sequence[Gpu]) -> Gpu | None:
    """Find a GPU by its index in the list, its name, or a part of its description.

    Case is ignored, names come before descriptions, and the first match wins.
    """
    if isinstance(wanted, int):
        return gpus[wanted] if 0 <= wanted < len(gpus) else None
    sought = wanted.casefold()
    named = [gpu for gpu in gpus if gpu.name.casefold() == sought]
    described = [gpu for gpu in gpus if sought in gpu.description.casefold()]
    return next(iter([*named, *described]), None)


def open_where_it_works(
    wanted: Placement, make: Callable[[Placement], T], warn: Callable[[str], None]
) -> T:
    """Make something on the device that is wanted, or else on the processor, with a warning.

    Args:
        wanted: the device to try first.
        make: raises `ModelError` where it does not work.
        warn: receives the reason for the processor.

    Raises:
        ModelError: `make` fails on the processor, too.
    """
    if not wanted.is_on_gpu:
        return make(ON_CPU)
    try:
        return make(wanted)
    except ModelError as error:
        why = str(error)
    made = make(ON_CPU)  # where this raises, the GPU was not at fault, and is not named
    warn(f"{wanted} cannot be used, so the decoder runs on the CPU: {why}")
    return made
