"""Writer of FunASR's folders: a PyTorch checkpoint without torch, and the files beside it."""

import json
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tests.sources.paraformer.weights import Float32Array, Weights, cmvn, token_list

TorchType = Literal["F32", "F16", "BF16", "F64", "I64"]

_STORAGES: Final = {
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
}


@dataclass(frozen=True, slots=True)
class Saved:
    """Tensor to save."""

    shape: tuple[int, ...]
    key: str
    """Record of its storage."""
    numel: int
    kind: TorchType = "F32"
    offset: int = 0
    strides: tuple[int, ...] | None = None
    """None for a contiguous tensor."""


def write_original(
    weights: Weights,
    folder: Path,
    kind: TorchType = "F32",
    *,
    wrapper: str | None = None,
    weights_name: str = "model.pt",
) -> Path:
    """Write a folder and return it.

    Args:
        weights: of the model.
        folder: which must not exist.
        kind: type of the weights.
        wrapper: key under which the weights are, in checkpoints of the training program.
        weights_name: name of the checkpoint.
    """
    folder.mkdir(parents=True)
    write_sidecars(weights, folder)
    tensors = {
        name: Saved(shape, str(number), int(np.prod(shape)), kind)
        for number, (name, shape) in enumerate(weights.shapes.items())
    }
    content = pickle_of(tensors, wrapper)
    with zipfile.ZipFile(folder / weights_name, "w") as archive:
        write_record(archive, "data.pkl", content)
        write_record(archive, "byteorder", b"little")
        for name, tensor in tensors.items():
            write_record(archive, f"data/{tensor.key}", encode(weights.read(name), kind))
        write_record(archive, "version", b"3\n")
    return folder


def write_sidecars(weights: Weights, folder: Path, tokens: Sequence[str] | None = None) -> None:
    """Write config.yaml, am.mvn and tokens.json."""
    (folder / "config.yaml").write_text(_yaml(config_of(weights)), "utf-8")
    (folder / "am.mvn").write_text(am_mvn(), "utf-8")
    shown = tokens or token_list(weights.sizes.vocab)
    (folder / "tokens.json").write_text(json.dumps(shown, ensure_ascii=False, indent=0), "utf-8")


def config_of(weights: Weights) -> dict[str, Any]:
    """Return the content of `config.yaml`."""
    return weights.sizes.config() | {
        "frontend": "WavFrontend",
        "frontend_conf": {
            "fs": 16000,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
            "dither": 0.0,
        },
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }


def _yaml(values: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{name}:\n{_yaml(value, indent + '    ')}")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value)}\n")
    return "".join(lines)


def am_mvn() -> str:
    """Return the normalisation as Kaldi writes a network."""
    shift, scale = cmvn()
    width = len(shift)

    def vector(values: Float32Array) -> str:
        return f"[ {' '.join(f'{value:.6f}' for value in values)} ]"

    return (
        f"<Nnet>\n<Splice> {width} {width}\n[ 0 ]\n"
        f"<AddShift> {width} {width}\n<LearnRateCoef> 0 {vector(shift)}\n"
        f"<Rescale> {width} {width}\n<LearnRateCoef> 0 {vector(scale)}\n</Nnet>\n"
    )


def encode(values: npt.NDArray[Any], kind: TorchType) -> bytes:
    """Return the bytes of a storage."""
    match kind:
        case "F16":
            return values.astype("<f2").tobytes()
        case "BF16":
            return (values.astype("<f4").view(np.uint32) >> 16).astype("<u2").tobytes()
        case "F64":
            return values.astype("<f8").tobytes()
        case "I64":
            return values.astype("<i8").tobytes()
        case _:
            return values.astype("<f4").tobytes()


def write_record(
    archive: zipfile.ZipFile, name: str, content: bytes, folder: str = "archive"
) -> None:
    """Write a record as PyTorch does: not compressed, its content at a multiple of 64 bytes."""
    info = zipfile.ZipInfo(f"{folder}/{name}")
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -begin % 64
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content, zipfile.ZIP_STORED)


# The pickle, instruction by instruction, as `torch.save` writes it (protocol 2)


def pickle_of(tensors: dict[str, Saved], wrapper: str | None = None) -> bytes:
    """Return the pickle of a state dictionary."""
    state = _ordered_dict(
        b"".join(_text(name) + tensor_code(tensor) for name, tensor in tensors.items())
    )
    # `_metadata` is an attribute of the dictionary.
    state += b"}" + _text("_metadata") + _ordered_dict(b"") + b"sb"
    if wrapper is None:
        return b"\x80\x02" + state + b"."
    return b"\x80\x02}(" + _text("epoch") + b"K\x07" + _text(wrapper) + state + b"u."


def tensor_code(tensor: Saved) -> bytes:
    """Return the instructions that rebuild a tensor."""
    storage = storage_code(_STORAGES[tensor.kind], tensor.key, tensor.numel)
    strides = contiguous(tensor.shape) if tensor.strides is None else tensor.strides
    sizes = _tuple(tensor.shape) + _tuple(strides)
    hooks = _ordered_dict(b"", is_filled=False)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage + _number(tensor.offset) + sizes + b"\x89" + hooks)
        + b"tR"
    )


def storage_code(kind: str, key: str, numel: int) -> bytes:
    """Return the instructions that refer to a storage."""
    identity = _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text("cpu")
    return b"(" + identity + _number(numel) + b"tQ"


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of values in the order of their indices."""
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def _ordered_dict(items: bytes, *, is_filled: bool = True) -> bytes:
    filling = b"(" + items + b"u" if is_filled else b""
    return b"ccollections\nOrderedDict\n)R" + filling


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _tuple(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"


def _number(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
