"""Reading GGUF: a header with facts and the list of tensors, then the tensors' bytes.

The package `gguf` has a reader, but it makes an array of every single string: seconds for a
vocabulary of 151,936 tokens. It also believes what a file claims. Here every count and length is
held against the file's size before anything is taken, and tensors stay in the file.

Source: docs/gguf.md of https://github.com/ggml-org/ggml; limits beyond it are llama.cpp's own (no
arrays in arrays, tensors one after the other), except that headers may not be larger than
`_MAX_HEADER_BYTES`.
"""

import contextlib
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.tensors import Tensor

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)  # they differ only in that 3 may be big-endian
_DEFAULT_ALIGNMENT: Final = 32  # bytes
_MAX_DIMENSIONS: Final = 4

_MAX_HEADER_BYTES: Final = 1 << 26  # the largest vocabularies take a quarter of it
_MAX_ELEMENTS: Final = 1 << 22  # of all arrays together
_MAX_ENTRIES: Final = 1 << 16  # facts, and tensors

_ENOUGH_BITS: Final = 8

_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_BOOL: Final = 7
_NUMBERS: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    _UINT32: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""Types of facts that have one size."""

_AUDIO_START: Final = "<|audio_start|>"
_ANSWERS: Final = frozenset({"<asr_text>", "<timestamp>"})
"""Tokens of a recogniser's answer and of an aligner's question; each needs its own alone."""
_TEXT_ARCHITECTURES: Final = ("qwen3", "qwen3vl", "qwen3moe", "qwen3vlmoe")
_GET_ONE: Final = "`streamasr models pull {}` gets one that works"
_READABLE: Final = (
    "streamasr reads CrispASR's GGUF of Qwen3-ASR, a text GGUF with its mmproj GGUF, a decoder "
    "with its ONNX graphs, and the original safetensors"
)

_FLOATS: Final[dict[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_NOT_WEIGHTS: Final = ("I8", "I16", "I32", "I64", "F64")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor that stays in its file until it is asked for; a `Tensor`."""

    path: Path
    name: str
    stored_type: str
    """What ggml calls it, such as `F16` or `Q4_K`."""
    shape: tuple[int, ...]
    """As numpy and PyTorch have it; the file lists it the other way round."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as they are stored; types in blocks show as the bytes of each row.

        Raises:
            ModelError: the file is not what it was.
        """
        dtype = _FLOATS.get(self.stored_type, np.dtype("u1"))
        count = self.n_bytes // dtype.itemsize
        try:
            values = np.memmap(self.path, dtype, "r", self.offset, (count,))
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path}: it was removed or cut while it was read") from error
        is_plain = self.stored_type in _FLOATS
        return np.asarray(values).reshape(self.shape if is_plain else (*self.shape[:-1], -1))

    def float32(self) -> Float32Array:
        """Read all values as float32."""
        return to_float32(self, self.stored())

    def rows(self, begin: int, end: int) -> Float32Array:
        """Read some rows of a matrix as float32, without touching the others."""
        return to_float32(self, self.stored()[begin:end])

    def squeezed(self) -> "GGUFTensor":
        """The same tensor without axes of size 1 at its end."""
        shape = self.shape
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        return replace(self, shape=shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """The header of a GGUF: all that it says, and where its tensors are."""

    path: Path
    architecture: str
    """`general.architecture`; empty where the file does not say."""
    metadata: Mapping[str, Any]
    """All facts by name: numbers, booleans, texts and lists of them. Bytes of a text that are not
    UTF-8 show as U+FFFD."""
    tensors: dict[str, GGUFTensor]

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a positive whole number.

        Raises:
            ModelError: it is something else, or missing and there is no default.
        """
        value = self._value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise ModelError(f"{self.path}: {name} must be a positive number, not {_short(value)}")
        return value

    def number(self, name: str) -> float:
        """Return a number above 0.

        Raises:
            ModelError: it is missing or something else.
        """
        value = self._value(name, None)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ModelError(f"{self.path}: {name} must be a positive number, not {_short(value)}")
        return float(value)

    def text(self, *names: str) -> str | None:
        """Return the first of several facts that is there and a text, None where none is."""
        values = (self.metadata.get(name) for name in names)
        return next((value for value in values if isinstance(value, str)), None)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, an empty one where there is none.

        Raises:
            ModelError: it is something else.
        """
        value = self.metadata.get(name, [])
        # All elements of an array have one type.
        if not isinstance(value, list) or (value and not isinstance(value[0], str)):
            raise ModelError(f"{self.path}: {name} must be a list of texts, not {_short(value)}")
        return value

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a fact that would change the arithmetic; it may be missing."""
        if name in self.metadata and self.metadata[name] not in allowed:
            value = _short(self.metadata[name])
            raise ModelError(f"{self.path}: {name} = {value} is not supported")

    def _value(self, name: str, default: Any) -> Any:
        value = self.metadata.get(name, default)
        if value is None:
            raise ModelError(f"{self.path}: {name} is missing from this GGUF")
        return value


def _short(value: Any) -> str:
    text = repr(value[:3]) if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def to_float32(tensor: Tensor, stored: npt.NDArray[Any]) -> Float32Array:
    """Turn stored values, or some rows of them, into float32.

    Args:
        tensor: the one that they are from, of whatever source.
        stored: whole rows of what it has stored.

    Raises:
        ModelError: values of its type cannot be read.
    """
    match tensor.stored_type:
        case "F32" | "F16":
            return stored.astype(np.float32, copy=False)
        case "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
    if tensor.stored_type not in _NOT_WEIGHTS:
        import gguf

        kind = gguf.GGMLQuantizationType[tensor.stored_type]
        with contextlib.suppress(NotImplementedError):
            return np.asarray(gguf.quants.dequantize(stored, kind), np.float32)
    raise ModelError(
        f"{tensor.path}: {tensor.name} is stored as {tensor.stored_type}, which cannot be read here"
    )


def read_gguf(path: Path) -> GGUFFile:
    """Read the header of a GGUF file; memory and time follow the header's size, not claims.

    Raises:
        ModelError: it cannot be read, is no GGUF, is cut short, or contradicts itself.
    """
    try:
        if not path.exists():
            raise ModelError(f"{path}: there is no such file")
        if not path.is_file():
            raise ModelError(f"{path}: this is not a file")
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(f"{path}: this is not a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data, path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error


class _Cursor:
    """A place in a header, and reading on from it within its bounds."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.path = path
        self.position = 0
        self.file_size = len(data)
        self._data = data
        self._end = min(len(data), _MAX_HEADER_BYTES)
        self._elements_left = _MAX_ELEMENTS

    def take(self, count: int) -> bytes:
        begin = self.position
        if count > self._end - begin:
            raise self._no_room()
        self.position = begin + count
        return self._data[begin : self.position]

    def numbers(self, dtype: np.dtype[Any], count: int) -> list[Any]:
        self._count(count)
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return values

    def number(self, dtype: np.dtype[Any]) -> Any:
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def name(self, what: str) -> str:
        """Read a text that must be UTF-8: a key or a tensor's name."""
        data = self.take(self.uint64())
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.path}: {what} has a name that is not UTF-8") from error

    def texts(self, count: int) -> list[str]:
        """Read texts in one plain loop: there are 300,000 in the header of a language model."""
        self._count(count)
        data, position, end = self._data, self.position, self._end
        read_length = struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            begin = position + 8
            if begin > end:
                raise self._no_room()
            position = begin + read_length(data, position)[0]
            if position > end:
                raise self._no_room()
            found.append(str(data[begin:position], "utf-8", "replace"))
        self.position = position
        return found

    def _count(self, count: int) -> None:
        # The file's size bounds what is to come too; that is seen when it is read.
        self._elements_left -= count
        if self._elements_left < 0:
            raise ModelError(f"{self.path}: its header has more entries than any model's")

    def _no_room(self) -> ModelError:
        if self._end < self.file_size:
            return ModelError(f"{self.path}: its header is longer than any model's")
        return ModelError(
            f"{self.path}: this GGUF is cut short or broken, it ends within its header; "
            "get it again."
        )


def _read(cursor: _Cursor) -> GGUFFile:
    path = cursor.path
    cursor.take(len(_MAGIC))
    _check_version(cursor.uint32(), path)
    n_tensors, n_facts = cursor.uint64(), cursor.uint64()
    if max(n_tensors, n_facts) > _MAX_ENTRIES:
        raise ModelError(f"{path}: its header has more entries than any model's")
    metadata: dict[str, Any] = {}
    for _ in range(n_facts):
        name = cursor.name("an entry of its header")
        if name in metadata:
            raise ModelError(f"{path}: its header has {name} twice")
        metadata[name] = _read_value(cursor, name)
    architecture = metadata.get("general.architecture", "")
    if not isinstance(architecture, str):
        raise ModelError(f"{path}: general.architecture must be a text, not {architecture!r}")
    tensors = _read_tensors(cursor, n_tensors, _alignment(metadata, path))
    return GGUFFile(path, architecture, metadata, tensors)


def _check_version(version: int, path: Path) -> None:
    if version in _VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        raise ModelError(f"{path}: this GGUF is big-endian; a little-endian one is needed")
    raise ModelError(f"{path}: this GGUF has version {version}; versions 2 and 3 can be read")


def _read_value(cursor: _Cursor, name: str) -> Any:
    kind = cursor.uint32()
    if kind == _ARRAY:
        kind, count = cursor.uint32(), cursor.uint64()
        if kind == _STRING:
            return cursor.texts(count)
        if kind in _NUMBERS:
            values = cursor.numbers(_NUMBERS[kind], count)
            return [bool(value) for value in values] if kind == _BOOL else values
    elif kind == _STRING:
        return cursor.texts(1)[0]
    elif kind in _NUMBERS:
        value = cursor.number(_NUMBERS[kind])
        return bool(value) if kind == _BOOL else value
    raise ModelError(f"{cursor.path}: {_short(name)} has a type that GGUF does not have ({kind})")


def _alignment(metadata: Mapping[str, Any], path: Path) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    is_number = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not is_number or alignment < 1 or alignment & (alignment - 1):
        raise ModelError(
            f"{path}: general.alignment must be a power of two, not {_short(alignment)}"
        )
    return int(alignment)


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    path = cursor.path
    tensors: dict[str, GGUFTensor] = {}
    expected = 0  # ggml writes tensors one after the other, and reads no others
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in tensors:
            raise ModelError(f"{path}: tensor {tensor.name} is there twice")
        if tensor.offset != expected:
            raise ModelError(
                f"{path}: this GGUF is broken, {tensor.name} is not in its place; get it again."
            )
        tensors[tensor.name] = tensor
        expected = _aligned(tensor.offset + tensor.n_bytes, alignment)
    start = _aligned(cursor.position, alignment)
    end = max((start + tensor.offset + tensor.n_bytes for tensor in tensors.values()), default=0)
    if end > cursor.file_size:
        missing = end - cursor.file_size
        raise ModelError(
            f"{path}: this GGUF is cut short, {missing:,} bytes are missing; get it again."
        )
    return {name: replace(tensor, offset=start + tensor.offset) for name, tensor in tensors.items()}


def _read_tensor(cursor: _Cursor) -> GGUFTensor:
    path, name = cursor.path, cursor.name("a tensor")
    n_dimensions = cursor.uint32()
    if n_dimensions > _MAX_DIMENSIONS:
        raise ModelError(f"{path}: {_short(name)} has {n_dimensions} axes, more than ggml has")
    shape = tuple(cursor.uint64() for _ in range(n_dimensions))[::-1]
    kind, offset = cursor.uint32(), cursor.uint64()
    if kind not in _types():
        raise ModelError(f"{path}: {_short(name)} has a type that is not known here ({kind})")
    stored_type, block, block_bytes = _types()[kind]
    if 0 in shape or (shape[-1] if shape else 1) % block:
        raise ModelError(f"{path}: {_short(name)} cannot be {stored_type} with a shape of {shape}")
    n_bytes = math.prod(shape) // block * block_bytes
    return GGUFTensor(path, name, stored_type, shape, offset, n_bytes)


@cache
def _types() -> Mapping[int, tuple[str, int, int]]:
    """Tensor types: name, values in a block, bytes of a block."""
    import gguf

    return {
        int(kind): (kind.name, block, n_bytes)
        for kind, (block, n_bytes) in gguf.GGML_QUANT_SIZES.items()
    }


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def precision_rank(file: GGUFFile) -> tuple[bool, float]:
    """Order files of one model by their precision, the one to take first.

    It is the one nearest to 8 bits from above, as that costs no accuracy; else the one with most.
    """
    tensors = file.tensors.values()
    n_weights = sum(math.prod(tensor.shape) for tensor in tensors)
    bits = 8 * sum(tensor.n_bytes for tensor in tensors) / max(1, n_weights)
    return bits < _ENOUGH_BITS, abs(bits - _ENOUGH_BITS)


def projector_type(file: GGUFFile) -> str | None:
    """What kind of encoder an `mmproj` file holds, where it holds one for audio."""
    return file.text("clip.audio.projector_type", "clip.projector_type")


def is_speech_decoder(file: GGUFFile) -> bool:
    """Tell whether a language model has the tokens of a recogniser's or an aligner's prompt."""
    tokens = file.texts("tokenizer.ggml.tokens")
    return _AUDIO_START in tokens and not _ANSWERS.isdisjoint(tokens)


def is_part(file: GGUFFile) -> bool:
    """Tell whether a file holds some of a model's tensors, and others the rest."""
    return file.metadata.get("split.count", 0) not in (0, 1)


def describe(file: GGUFFile) -> str:
    """Say in a sentence what a file is that cannot be used, or not alone, and what could be."""
    architecture = file.architecture
    if is_part(file):
        return (
            f"{file.path} is one part of a model that was split into several files; join them with "
            "llama.cpp's `llama-gguf-split --merge`, and give the whole."
        )
    if (kind := file.text("general.type")) not in (None, "model", "mmproj"):
        return f"{file.path} is no model but its {_plain(kind)}; {_READABLE}."
    match architecture:
        case "clip":
            return _describe_projector(file)
        case "qwen3-asr":
            return (
                f"{file.path} is a Qwen3-ASR in the dialect of qwen3-asr.cpp (architecture "
                f"qwen3-asr), which only that program reads; {_GET_ONE.format('qwen3-asr-0.6b')}."
            )
        case "qwen3asr":
            return f"{file.path} is CrispASR's GGUF of a Qwen3-ASR or Qwen3-ForcedAligner."
        case _ if architecture in _TEXT_ARCHITECTURES:
            return _describe_text(file)
        case "":
            return f"{file.path} does not say what model it is (general.architecture); {_READABLE}."
        case _ if "ctc" in architecture or architecture.startswith(("wav2vec", "hubert")):
            return (
                f"{file.path} is a CTC model ({_plain(architecture)}), which streamasr does not "
                "use; for word times, `streamasr models pull qwen3-aligner-0.6b`."
            )
        case _:
            return (
                f"{file.path} is a model of the architecture {_plain(architecture)}, not a "
                f"Qwen3-ASR; {_GET_ONE.format('qwen3-asr-0.6b')}."
            )


def _describe_projector(file: GGUFFile) -> str:
    kind = projector_type(file)
    if kind == "qwen3a":
        return (
            f"{file.path} is the encoder of a Qwen3-ASR without its language model; put the text "
            "GGUF of the same release beside it."
        )
    what = f"with the projector {_plain(kind)}" if kind else "for images"
    return (
        f"{file.path} is the encoder (mmproj) of another model, {what}; a Qwen3-ASR's has the "
        "projector qwen3a."
    )


def _describe_text(file: GGUFFile) -> str:
    if is_speech_decoder(file):
        return (
            f"{file.path} is the language model of a Qwen3-ASR without its encoder; put the mmproj "
            "GGUF or the two ONNX graphs of the same release beside it."
        )
    return (
        f"{file.path} is a language model for text ({file.architecture}) without the tokens of "
        f"speech, so it cannot recognise any; {_GET_ONE.format('qwen3-asr-0.6b')}."
    )


def _plain(text: str | None) -> str:
    """Text from a file as part of a sentence."""
    shown = "".join(c if c.isprintable() else "?" for c in text or "")
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
