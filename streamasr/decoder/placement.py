"""Where a decoder runs: on the processor, or with some or all of its layers on a GPU."""

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
    """Its place among all devices of llama.cpp, the processor among them."""
    name: str
    """As `CUDA0` or `Vulkan1`."""
    description: str
    is_integrated: bool
    """Whether it shares the memory of the processor."""
    free: int
    """Bytes of its memory that nothing uses."""
    total: int

    def __str__(self) -> str:
        return f"{self.name} ({self.description})"


@dataclass(frozen=True, slots=True)
class Placement:
    """What of a decoder runs on which GPU."""

    n_layers: int = 0
    """`ALL_LAYERS`, or so many of the last ones; 0 keeps everything on the processor."""
    gpu: Gpu | None = None
    """None leaves the choice to llama.cpp."""

    @property
    def is_on_gpu(self) -> bool:
        """Whether any of it is."""
        return self.n_layers != 0

    def __str__(self) -> str:
        if not self.is_on_gpu:
            return "the CPU"
        return f"the GPU {self.gpu}" if self.gpu else "the GPU"


ON_CPU: Final = Placement()


def place(
    n_layers: int, wanted: str | int | None, gpus: Sequence[Gpu]
) -> tuple[Placement, str | None]:
    """Find the place that was asked for.

    Args:
        n_layers: see `Placement`.
        wanted: a GPU by its place in `gpus`, its name, or a part of its description; None for any.
        gpus: those that there are.

    Returns:
        The place, and a sentence where it is not the one that was asked for. With nothing said, a
        machine without GPU is no trouble: its processor is meant.
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
    return ON_CPU, f"there is no GPU {wanted}: {there}; the decoder runs on the CPU."


MORE: Final = " (`streamasr doctor` says more)"
_NO_GPU: Final = f"this build of llama.cpp finds none{MORE}"


def find_gpu(wanted: str | int, gpus: Sequence[Gpu]) -> Gpu | None:
    """A GPU by its place in the list, its name, or a part of its description; the first that fits.

    Names are in any case, and a name comes before a description.
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
    """Make something where it is wanted, or else on the processor, with a warning.

    Args:
        wanted: tried first.
        make: raises `ModelError` where it does not work.
        warn: told why it is the processor.

    Raises:
        ModelError: it does not work on the processor either.
    """
    if not wanted.is_on_gpu:
        return make(ON_CPU)
    try:
        return make(wanted)
    except ModelError as error:
        why = str(error)
    made = make(ON_CPU)  # where this raises the GPU was not at fault, and need not be named
    warn(f"{wanted} cannot be used, so the decoder runs on the CPU: {why}")
    return made
