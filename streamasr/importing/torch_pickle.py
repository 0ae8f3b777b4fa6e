"""Reader for the pickle in a PyTorch checkpoint.

It builds numbers, strings, containers and descriptions of tensors, and nothing else.

A pickle is a program that can call any function. `pickle.Unpickler` with a list of allowed names
would still let a file allocate memory of any size, and hash nested tuples for ever. This machine
knows the instructions that `torch.save` writes; its memory and time are proportional to the length
of the pickle, because it copies nothing, hashes only strings and integers, and calls only the
functions of `_CALLS`.

Source: `pickletools` of Python, for the instructions; torch/_utils.py and torch/serialization.py of
PyTorch 2.13, for the names.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 64
"""Open marks; PyTorch needs three."""


MAX_AXES: Final = 8
"""Of a tensor; a convolution's weight has 4."""


class PickleError(Exception):
    """The pickle is damaged, or does more than a checkpoint needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Reference to the values of tensors."""

    dtype: str
    """PyTorch's name of the class, such as `HalfStorage`."""
    key: str
    """Name of the record with the values."""
    numel: int


@dataclass(frozen=True, slots=True, eq=False)
class Strided:
    """Description of a tensor in a storage; nothing of it has been checked but the types."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    """Name of a class or function, which is never looked up."""

    name: str


def _rebuild_tensor(*arguments: Any) -> Strided:
    """Describe a tensor: storage, offset, size, stride, and others without importance."""
    if len(arguments) not in (4, 6, 7):
        raise PickleError("it describes a tensor by an unknown number of values")
    storage, offset, shape, strides = arguments[:4]
    is_valid = (
        isinstance(storage, Storage)
        and _are_whole((offset,))
        and isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) <= MAX_AXES  # before anything is copied
        and len(strides) <= MAX_AXES
        and _are_whole((*shape, *strides))
    )
    if not is_valid:
        raise PickleError("it describes a tensor by values of wrong types")
    return Strided(storage, offset, shape, strides)


def _rebuild_parameter(*arguments: Any) -> Strided:
    """Describe a parameter: its tensor, and others without importance."""
    if not arguments or not isinstance(arguments[0], Strided):
        raise PickleError("it describes a parameter without its tensor")
    return arguments[0]


def _new_dict(*arguments: Any) -> dict[Any, Any]:
    """Make an empty dictionary; its entries follow."""
    if arguments:
        raise PickleError("it makes a dictionary from unknown values")
    return {}


def _new_size(*arguments: Any) -> tuple[Any, ...]:
    """Make a `torch.Size`."""
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise PickleError("it makes a size from unknown values")
    return arguments[0]


_CALLS: Final[dict[str, Callable[..., Any]]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "collections.OrderedDict": _new_dict,
    "torch.Size": _new_size,
}
_STORAGES: Final = ("torch.", "torch.cuda.", "torch.storage.")


def _put(target: Any, key: Any, value: Any) -> None:
    if not isinstance(target, dict):
        raise PickleError("it puts entries into a value that is not a dictionary")
    if not isinstance(key, str | int | float | bool | None):
        raise PickleError("it uses a key of a dictionary that is not a string or number")
    target[key] = value


def _are_whole(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int for value in values)


def load(data: bytes) -> Any:
    """Interpret a pickle.

    Returns:
        Numbers, strings, lists, tuples, dictionaries, and `Strided` for tensors.

    Raises:
        PickleError: the pickle is damaged or cut short, or contains anything else.
    """
    return _Machine(data).run()


class _Machine:
    """Stack machine of pickle, protocols 2 to 5."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.take(1)[0]
            if code == ord("."):
                break
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise PickleError(f"it uses the instruction {bytes([code])!r}, which is not known")
            instruction(self)
        if len(self._stack) != 1 or self._marks:
            raise PickleError("it ends with an incomplete value")
        return self._stack[0]

    # Input

    def take(self, count: int) -> bytes:
        end = self._position + count
        if count < 0 or end > len(self._data):
            raise PickleError("it is cut short")
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self._data.find(b"\n", self._position, self._position + 1000)
        if end < 0:
            raise PickleError("it contains a name without an end")
        line = self.take(end - self._position)
        self._position += 1
        return line.decode("utf-8", "replace")

    def text(self, count: int) -> None:
        try:
            self.push(self.take(count).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise PickleError("it contains a text that is not UTF-8") from error

    # Stack

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) <= floor:
            raise PickleError("it takes a value from an empty stack")
        return self._stack.pop()

    def top(self) -> Any:
        self.push(value := self.pop())
        return value

    def mark(self) -> None:
        if len(self._marks) >= MAX_DEPTH:
            raise PickleError(f"it is nested more than {MAX_DEPTH} levels deep")
        self._marks.append(len(self._stack))

    def pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleError("it ends a list without a begin")
        begin = self._marks.pop()
        values = self._stack[begin:]
        del self._stack[begin:]
        return values

    @property
    def n_stored(self) -> int:
        """Number of stored values, which is the key of the next one."""
        return len(self._memo)

    # Instructions that need more than a line

    def ignore_frame(self) -> None:
        self.take(8)

    def check_protocol(self) -> None:
        if not 2 <= (version := self.take(1)[0]) <= 5:
            raise PickleError(f"it has version {version}")

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.take(1)[0]), "little", signed=True))

    def make_tuple(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(values[::-1]))

    def set_items(self) -> None:
        pairs = self.pop_to_mark()
        if len(pairs) % 2:
            raise PickleError("it has a key of a dictionary without a value")
        target = self.top()
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            _put(target, key, value)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        _put(self.top(), key, value)

    def append(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise PickleError("it appends to a value that is not a list")
        target.extend(values)

    def memoise(self, key: int) -> None:
        self._memo[key] = self.top()

    def recall(self, key: int) -> None:
        if key not in self._memo:
            raise PickleError("it refers to a value that it has not stored")
        self.push(self._memo[key])

    def name_class(self) -> None:
        module = self.line()
        self.push(_Global(f"{module}.{self.line()}"))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("it names a class by a value that is not a string")
        self.push(_Global(f"{module}.{name}"))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise PickleError("it calls a function without arguments")
        if not isinstance(function, _Global) or function.name not in _CALLS:
            self.refuse(function)
        self.push(_CALLS[function.name](*arguments))

    def build(self) -> None:
        """Ignore attributes of a dictionary: PyTorch stores the versions of modules so."""
        self.pop()
        if not isinstance(target := self.top(), dict):
            self.refuse(target)

    def refuse(self, value: Any) -> NoReturn:
        name = value.name if isinstance(value, _Global) else "a value"
        raise PickleError(f"it uses {name[:100]!r}, which weights do not need")

    def persistent(self) -> None:
        """Replace the identity of a storage by a reference to it."""
        identity = self.pop()
        is_valid = (
            isinstance(identity, tuple)
            and len(identity) in (5, 6)  # the sixth is of views, in old versions
            and identity[0] == "storage"
            and isinstance(identity[1], _Global)
            and isinstance(identity[2], str)
            and _are_whole((identity[4],))
        )
        if not is_valid:
            raise PickleError("it refers to values in an unknown way")
        module, _, kind = identity[1].name.rpartition(".")
        if f"{module}." not in _STORAGES:
            self.refuse(identity[1])
        self.push(Storage(kind, identity[2], identity[4]))


Instruction = Callable[[_Machine], None]

_INSTRUCTIONS: Final[dict[int, Instruction]] = {
    ord(code): instruction
    for code, instruction in {
        "\x80": _Machine.check_protocol,
        "\x95": _Machine.ignore_frame,
        # constants
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": _Machine.long,
        "G": lambda m: m.push(m.number(">d")),
        "X": lambda m: m.text(m.number("<I")),
        "\x8c": lambda m: m.text(m.number("<B")),
        "\x8d": lambda m: m.text(m.number("<Q")),
        "T": lambda m: m.text(m.number("<i")),
        "U": lambda m: m.text(m.number("<B")),
        # containers
        "}": lambda m: m.push({}),
        "]": lambda m: m.push([]),
        ")": lambda m: m.push(()),
        "(": _Machine.mark,
        "t": lambda m: m.push(tuple(m.pop_to_mark())),
        "l": lambda m: m.push(m.pop_to_mark()),
        "\x85": lambda m: m.make_tuple(1),
        "\x86": lambda m: m.make_tuple(2),
        "\x87": lambda m: m.make_tuple(3),
        "s": _Machine.set_item,
        "u": _Machine.set_items,
        "a": lambda m: m.append([m.pop()]),
        "e": lambda m: m.append(m.pop_to_mark()),
        # memory
        "q": lambda m: m.memoise(m.number("<B")),
        "r": lambda m: m.memoise(m.number("<I")),
        "\x94": lambda m: m.memoise(m.n_stored),
        "h": lambda m: m.recall(m.number("<B")),
        "j": lambda m: m.recall(m.number("<I")),
        # classes, calls and storages
        "c": _Machine.name_class,
        "\x93": _Machine.stack_global,
        "R": _Machine.reduce,
        "b": _Machine.build,
        "Q": _Machine.persistent,
    }.items()
}
"""Instructions by code."""
