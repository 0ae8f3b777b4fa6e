"""The one binding to llama.cpp, on the low-level interface of llama-cpp-python.

`LlamaModel` is a GGUF file in memory: weights and vocabulary. `LlamaContext` holds sequences
of a model: the KV cells of what each has read so far. Text goes in as batches of tokens, audio as
batches of embeddings, both into the same sequences; a llama.cpp batch holds one or the other, of
any number of sequences.

Every return code is checked: a model that llama.cpp refuses is a `ModelError`, a refused batch
a `DecodeError`. The calls release the interpreter lock; a context belongs to one thread at a time,
only `abort` may be set from another.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import DecodeError, ModelError
from streamasr.core.units import Float32Array
from streamasr.decoder.placement import ON_CPU, Gpu, Placement

logger = logging.getLogger(__name__)

OLDEST_LLAMA_CPP_PYTHON: Final = (0, 3, 36)
"""Older releases have other parameter structs and do not know the `qwen3vl` architecture well."""

_GGML_LOG_ERROR: Final = 4
_ROPE_TYPES_WITH_PLANES: Final = (8, 40)  # multi-axis and interleaved multi-axis rotary positions
_N_PLANES: Final = 4

_DEDICATED_GPU, _INTEGRATED_GPU = 1, 2  # of ggml_backend_dev_type

_N_TESTED: Final = 16
"""Rows of embeddings in a self-test: enough for the kernels that take many at once."""

_NO_SLOT = 1
_ABORTED = 2

IntArray = npt.NDArray[np.int32]


class Aborted(Exception):  # noqa: N818 - an outcome that the caller asked for, not an error
    """The running decode was stopped through `LlamaContext.abort`."""


class NoRoomError(DecodeError):
    """All cells of the context are taken; where some are given up there is room."""


class LlamaModel:
    """A GGUF language model: its weights, memory-mapped and read-only, and its vocabulary."""

    def __init__(self, path: Path, placement: Placement = ON_CPU) -> None:
        """Load `path`.

        Args:
            path: the GGUF file.
            placement: where it is to be computed.

        Raises:
            ModelError: the file is missing, is no GGUF, or llama.cpp cannot run it.
        """
        if not path.is_file():
            raise ModelError(f"{path} does not exist; a model needs its decoder as a GGUF file.")
        self._lib = load_library()
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = placement.n_layers
        devices = _device_list(placement)
        parameters.devices = ctypes.cast(devices, ctypes.c_void_p)
        with _native_log.collect_errors() as complaints:
            self._model = self._lib.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            why = complaints[-1] if complaints else "it gave no reason"
            raise ModelError(f"llama.cpp cannot load {path}: {why}")
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self.path = path
        self.placement = placement
        self.n_embd: int = self._lib.llama_model_n_embd(self._model)
        self.n_vocab: int = self._lib.llama_vocab_n_tokens(self._vocabulary)
        self.n_ctx_train: int = self._lib.llama_model_n_ctx_train(self._model)
        rope_type = self._lib.llama_model_rope_type(self._model)
        self.n_planes: int = _N_PLANES if rope_type in _ROPE_TYPES_WITH_PLANES else 1
        logger.debug("loaded %s: n_embd %d, n_vocab %d", path, self.n_embd, self.n_vocab)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Turn text into tokens.

        Args:
            text: any text.
            special: whether the texts of control tokens stand for them. Off for text that comes
                from people, which must not be able to end a turn of the prompt.
        """
        data = text.encode(errors="replace")  # an argument of the shell may not be UTF-8
        room = len(data) + 8
        tokens = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(
            self._vocabulary, data, len(data), tokens, room, False, special
        )
        if count < 0:
            raise DecodeError(f"llama.cpp needs {-count} tokens for {len(data)} bytes of text.")
        return list(tokens[:count])

    def special_token(self, text: str) -> int:
        """Find the id of a token by its text, as `<|im_end|>`.

        Raises:
            ModelError: the vocabulary has no single token with this text.
        """
        tokens = self.tokenize(text, special=True)
        if len(tokens) != 1:
            raise ModelError(
                f"{self.path} has no token {text} in its vocabulary, so it is not a Qwen3-ASR "
                "decoder; `streamasr models list` shows those that are."
            )
        return tokens[0]

    def piece(self, token: int) -> bytes:
        """The bytes of a token: perhaps part of a character, none for a control token."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._lib.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Whether the vocabulary marks this token as the end of an answer."""
        return bool(self._lib.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        """Give the memory back. Contexts must be closed before."""
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a sequence reads in a batch, behind what it has read before."""

    sequence: int
    data: IntArray | Float32Array
    """(n,) int32 tokens, or (n, n_embd) float32 embeddings in their place."""
    n_outputs: int = 0
    """How many of the last rows give logits, or hidden states."""

    @property
    def holds_tokens(self) -> bool:
        """Whether the rows are tokens."""
        return self.data.dtype.kind == "i"


class LlamaContext:
    """Some sequences of a model: what each has read so far, and what follows it.

    The sequences share one pool of cells, and cells that are copied are stored once.

    Attributes:
        abort: set it from any thread to make the running `read` raise `Aborted` soon.
        n_operations: rises while `read` computes on the CPU, with each node of the graph.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        n_threads: int,
        n_sequences: int = 1,
        n_batch: int = 512,
        hidden_states: bool = False,
    ) -> None:
        """Make room for `n_ctx` positions of all sequences together.

        Args:
            model: stays open as long as this context.
            n_ctx: cells: positions of prompts and answers together.
            n_threads: for prompts and for single tokens alike.
            n_sequences: they are numbered from 0.
            n_batch: the most rows that llama.cpp computes at a time; it takes memory for each.
            hidden_states: outputs are the normalised hidden states instead of logits.

        Raises:
            ModelError: llama.cpp has no memory for it, or refuses the model.
        """
        self.model = model
        self.n_ctx = n_ctx
        self.abort = threading.Event()
        self.n_operations = 0
        self._lengths = [0] * n_sequences
        self._lib = load_library()
        self._hidden_states = hidden_states
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = n_ctx
        parameters.n_batch = n_ctx
        parameters.n_ubatch = min(n_batch, n_ctx)
        parameters.n_seq_max = n_sequences
        parameters.kv_unified = True
        parameters.n_threads = n_threads
        parameters.n_threads_batch = n_threads
        parameters.embeddings = hidden_states
        parameters.no_perf = True
        # Flash attention on a CPU adds up in half precision: logits are 17 times further from the
        # reference, for 13 % of the time of a prompt and none of a token's.
        parameters.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # The callback object must live as long as the context that calls it.
        self._abort_callback = self._lib.ggml_abort_callback(self._is_aborted)
        parameters.abort_callback = self._abort_callback
        with _native_log.collect_errors() as complaints:
            self._context = self._lib.llama_init_from_model(model._model, parameters)  # noqa: SLF001
        if not self._context:
            why = complaints[-1] if complaints else "it gave no reason"
            raise ModelError(f"llama.cpp cannot make a context of {n_ctx} positions: {why}")
        self._memory = self._lib.llama_get_memory(self._context)

    def length(self, sequence: int) -> int:
        """How many positions a sequence has read."""
        return self._lengths[sequence]

    def read(self, batch: Sequence[Rows]) -> list[Float32Array]:
        """Let sequences read, all of them tokens or all of them embeddings, each once at most.

        Nothing is read where this raises.

        Returns:
            The outputs in the order of the rows: (n_vocab,) logits, or (n_embd,) hidden states.
            They are llama.cpp's own memory, which the next call overwrites.

        Raises:
            NoRoomError: the cells are all taken.
            DecodeError: llama.cpp refused, or the embeddings are not finite or have another width.
            Aborted: `abort` was set.
        """
        batch = [rows for rows in batch if len(rows.data)]
        if not batch:
            return []
        count = sum(len(rows.data) for rows in batch)
        if count > self.n_ctx:
            raise NoRoomError(f"{count} positions do not fit into a context of {self.n_ctx}.")
        wanted = np.concatenate([_last(len(rows.data), rows.n_outputs) for rows in batch])
        native, keep = self._native_batch(batch, wanted)
        with _native_log.collect_errors() as complaints:
            code = self._lib.llama_decode(self._context, native)
        del keep
        if code != 0:
            for rows in batch:
                self._forget_failed(rows.sequence)
            raise _failure(code, count, complaints)
        for rows in batch:
            self._lengths[rows.sequence] += len(rows.data)
        return [self._output(int(row)) for row in np.flatnonzero(wanted)]

    def truncate(self, sequence: int, length: int) -> None:
        """Forget every position of a sequence from `length` on."""
        if length >= self._lengths[sequence]:
            return
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
            # A part of the cells cannot be removed: nothing must be believed of the rest.
            self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._lengths[sequence] = 0
            raise DecodeError(f"llama.cpp cannot forget the positions from {length} on.")
        self._lengths[sequence] = length

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a sequence have the first `length` positions of another; nothing is computed."""
        self.truncate(target, 0)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        reached: int = self._lib.llama_memory_seq_pos_max(self._memory, target) + 1
        if reached != length:
            self._lib.llama_memory_seq_rm(self._memory, target, -1, -1)
            raise DecodeError(f"llama.cpp copied {reached} positions instead of {length}.")
        self._lengths[target] = length

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_aborted(self, _: object) -> bool:
        """Asked by llama.cpp before each operation."""
        self.n_operations += 1
        return self.abort.is_set()

    def _native_batch(
        self, batch: Sequence[Rows], wanted: npt.NDArray[np.int8]
    ) -> tuple[Any, tuple[object, ...]]:
        """A llama.cpp batch over numpy memory, and what must stay alive while it is used.

        Tokens have one position each. Embeddings have one for each plane of a multi-axis rotary
        model, plane after plane; the planes of speech run alike, and the last one stays zero.
        """
        tokens, embeddings = self._joined(batch)
        lengths = [len(rows.data) for rows in batch]
        count = sum(lengths)
        n_planes = 1 if embeddings is None else self.model.n_planes
        positions = np.zeros((n_planes, count), dtype=np.int32)
        positions[: max(1, n_planes - 1)] = np.concatenate(
            [np.arange(len(rows.data)) + self._lengths[rows.sequence] for rows in batch]
        )
        n_sequences = np.ones(count, dtype=np.int32)
        ids = np.array([rows.sequence for rows in batch], dtype=np.int32)
        addresses = ids.ctypes.data + ids.itemsize * np.arange(len(ids), dtype=np.uintp)
        sequences = np.repeat(addresses, lengths)
        native = self._lib.llama_batch(
            n_tokens=count,
            token=_pointer(tokens, ctypes.c_int32),
            embd=_pointer(embeddings, ctypes.c_float),
            pos=_pointer(positions, ctypes.c_int32),
            n_seq_id=_pointer(n_sequences, ctypes.c_int32),
            seq_id=_pointer(sequences, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(wanted, ctypes.c_int8),
        )
        return native, (tokens, embeddings, positions, n_sequences, ids, sequences, wanted)

    def _joined(self, batch: Sequence[Rows]) -> tuple[IntArray | None, Float32Array | None]:
        """All tokens or all embeddings of a batch, one after the other."""
        if batch[0].holds_tokens:
            return np.concatenate([rows.data for rows in batch]).astype(np.int32), None
        for rows in batch:
            if not np.isfinite(rows.data).all():
                raise DecodeError(
                    "the encoder gave numbers that are not finite, as some in fp16 do; take a "
                    "model whose encoder is int8 or fp32."
                )
            if rows.data.ndim != 2 or rows.data.shape[1] != self.model.n_embd:
                raise DecodeError(
                    f"the encoder gives embeddings of shape {rows.data.shape}, the decoder "
                    f"{self.model.path.name} needs rows of {self.model.n_embd}; they are not a "
                    "pair."
                )
        return None, np.concatenate([rows.data for rows in batch]).astype(np.float32)

    def _forget_failed(self, sequence: int) -> None:
        """Take out what an interrupted batch may have left behind."""
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, self._lengths[sequence], -1):
            self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._lengths[sequence] = 0

    def _output(self, row: int) -> Float32Array:
        if self._hidden_states:
            read, width = self._lib.llama_get_embeddings_ith, self.model.n_embd
        else:
            read, width = self._lib.llama_get_logits_ith, self.model.n_vocab
        pointer = read(self._context, row)
        if not pointer:
            raise DecodeError(f"llama.cpp has no output for row {row} of the batch.")
        output: Float32Array = np.ctypeslib.as_array(pointer, shape=(width,))
        return output


def _last(count: int, n_outputs: int) -> npt.NDArray[np.int8]:
    """Marks the rows that give outputs."""
    wanted = np.zeros(count, dtype=np.int8)
    wanted[count - n_outputs :] = 1
    return wanted


def _failure(code: int, count: int, complaints: Sequence[str]) -> Exception:
    if code == _ABORTED:
        return Aborted()
    if code == _NO_SLOT:
        return NoRoomError(f"llama.cpp has no free cells for a batch of {count}.")
    why = complaints[-1] if complaints else "it gave no reason"
    return DecodeError(f"llama.cpp answered {code} for a batch of {count}: {why}")


def check_finite(output: Float32Array) -> None:
    """Refuse an output with anything but numbers in it.

    Raises:
        DecodeError: there is.
    """
    if not np.isfinite(output).all():
        raise DecodeError(
            "the decoder computed numbers that are not finite; this model or this build of "
            "llama.cpp is broken on this machine."
        )


def self_test(context: LlamaContext) -> None:
    """Let a context that is still empty read tokens, embeddings, and tokens behind them.

    Embeddings are what breaks on some GPUs: half precision overflows, or a kernel for many rows at
    once is wrong.

    Raises:
        ModelError: outputs are not finite, or say nothing.
    """
    model = context.model
    embeddings = np.random.default_rng(0).standard_normal((_N_TESTED, model.n_embd))
    tokens = np.linspace(0, model.n_vocab - 1, 4, dtype=np.int32)
    try:
        context.read([Rows(0, tokens)])
        outputs = [
            np.array(context.read([Rows(0, data, 1)]))
            for data in (embeddings.astype(np.float32), tokens)
        ]
        context.truncate(0, 0)
    except DecodeError as error:
        raise ModelError(f"{model.path} does not run on {model.placement}: {error}") from error
    if not all(np.isfinite(output).all() for output in outputs):
        raise ModelError(_nonsense(model, "numbers that are not finite"))
    if not all(np.ptp(output) for output in outputs):
        raise ModelError(_nonsense(model, "the same number for every token"))


def _nonsense(model: LlamaModel, what: str) -> str:
    if model.placement.is_on_gpu:
        causes = (
            "half precision overflows with the Vulkan drivers of some GPUs: set "
            "GGML_VK_DISABLE_F16=1, on AMD GGML_VK_DISABLE_COOPMAT=1 too, or use the CPU with "
            "model.gpu_layers = 0. Else the file is damaged"
        )
    else:
        causes = "the file is damaged, or was quantised too far: get the model again"
    return f"{model.path}: on {model.placement} the decoder computes {what}; {causes}."


def find_gpus() -> list[Gpu]:
    """The GPUs that this build of llama.cpp can use, in its order.

    Raises:
        ModelError: llama-cpp-python cannot be loaded.
    """
    load_library()
    ggml = _ggml()
    gpus = []
    for index in range(ggml.ggml_backend_dev_count()):
        device = ggml.ggml_backend_dev_get(index)
        kind = ggml.ggml_backend_dev_type(device)
        if kind not in {_DEDICATED_GPU, _INTEGRATED_GPU}:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        gpus.append(
            Gpu(
                index,
                ggml.ggml_backend_dev_name(device).decode(errors="replace"),
                ggml.ggml_backend_dev_description(device).decode(errors="replace"),
                kind == _INTEGRATED_GPU,
                free.value,
                total.value,
            )
        )
    return gpus


def system_info() -> str:
    """What llama.cpp says about the processor and how it was built for it.

    Raises:
        ModelError: llama-cpp-python cannot be loaded.
    """
    info: bytes = load_library().llama_print_system_info()
    return info.decode(errors="replace").strip(" |")


def _device_list(placement: Placement) -> Any:
    """For llama.cpp: a list that ends with a null; no list where it may choose, none for the CPU.

    Without layers on a GPU, one that is there would still be used for long batches.
    """
    if not placement.is_on_gpu:
        return (ctypes.c_void_p * 1)(None)
    if placement.gpu is None:
        return None
    return (ctypes.c_void_p * 2)(_ggml().ggml_backend_dev_get(placement.gpu.device), None)


@functools.cache
def _ggml() -> Any:
    """The library below llama.cpp, which knows devices. llama-cpp-python does not bind them."""
    from llama_cpp import _ggml as module

    ggml = module.libggml
    for name, result, arguments in (
        ("count", ctypes.c_size_t, []),
        ("get", ctypes.c_void_p, [ctypes.c_size_t]),
        ("type", ctypes.c_int, [ctypes.c_void_p]),
        ("name", ctypes.c_char_p, [ctypes.c_void_p]),
        ("description", ctypes.c_char_p, [ctypes.c_void_p]),
        ("memory", None, [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]),
    ):
        function = getattr(ggml, f"ggml_backend_dev_{name}")
        function.restype, function.argtypes = result, arguments
    return ggml


@functools.cache
def load_library() -> Any:  # llama-cpp-python has no usable types for its ctypes layer
    """Import llama-cpp-python's low-level module, once, and send its log to ours.

    Raises:
        ModelError: it is missing, cannot be loaded, or is too old.
    """
    try:
        check_version(importlib.metadata.version("llama-cpp-python"))
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            "llama-cpp-python is not installed; run `make` or `pip install -r requirements.txt`."
        ) from error
    # llama.cpp's OpenMP threads wait at hundreds of barriers for each token, spinning for 3 ms by
    # default: where others need the cores, each waits for one that has none. Sleeping at once is
    # slow too: 71 ms a token instead of 42 at full size on 2 free cores. Spinning for some 30 us
    # first costs little on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # of GNU's library
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # of LLVM's, which knows milliseconds only
    try:
        from llama_cpp import llama_cpp as library
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"llama-cpp-python is installed but cannot be loaded ({error}); install it again "
            "with `make` or `pip install --force-reinstall -r requirements.txt`."
        ) from error
    library.llama_log_set(_native_log.callback(library), None)
    library.llama_backend_init()
    return library


def check_version(installed: str) -> None:
    """Refuse a llama-cpp-python older than `OLDEST_LLAMA_CPP_PYTHON`.

    Raises:
        ModelError: it is too old.
    """
    numbers = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", installed)
    if numbers is None or tuple(map(int, numbers.groups("0"))) < OLDEST_LLAMA_CPP_PYTHON:
        oldest = ".".join(map(str, OLDEST_LLAMA_CPP_PYTHON))
        raise ModelError(
            f"llama-cpp-python {installed} is too old, streamasr needs {oldest} or later; "
            f"run `pip install 'llama-cpp-python>={oldest}'`."
        )


class _NativeLog:
    """Where llama.cpp's log lines go: the program's log, and to whoever collects errors."""

    def __init__(self) -> None:
        self._callback: Any = None
        self._local = threading.local()
        self._part = ""

    def callback(self, library: Any) -> Any:
        self._callback = library.llama_log_callback(self._receive)
        return self._callback

    @contextlib.contextmanager
    def collect_errors(self) -> Any:
        """Collect the error lines that this thread causes."""
        lines: list[str] = []
        self._local.errors = lines
        try:
            yield lines
        finally:
            self._local.errors = None

    def _receive(self, level: int, text: bytes, _: object) -> None:
        line = text.decode(errors="replace").strip()
        if not line or line == ".":
            return
        logger.debug("llama.cpp: %s", line)
        errors: list[str] | None = getattr(self._local, "errors", None)
        if level == _GGML_LOG_ERROR and errors is not None:
            errors.append(line)


_native_log = _NativeLog()


def _pointer(array: npt.NDArray[Any] | None, kind: Any) -> Any:
    return None if array is None else array.ctypes.data_as(ctypes.POINTER(kind))
