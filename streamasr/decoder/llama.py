"""The one binding to llama.cpp, on the low-level interface of llama-cpp-python.

`LlamaModel` is a GGUF file in memory: weights and vocabulary. `LlamaContext` is one sequence
of a model: the KV cells of what it has read so far. Text goes in as batches of tokens, audio as
batches of embeddings, both into the same sequence; a llama.cpp batch holds one or the other.

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
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from streamasr.errors import DecodeError, ModelError
from streamasr.units import Float32Array

logger = logging.getLogger(__name__)

OLDEST_LLAMA_CPP_PYTHON: Final = (0, 3, 36)
"""Older releases have other parameter structs and do not know the `qwen3vl` architecture well."""

_BATCH_TOKENS: Final = 512  # tokens computed at a time inside llama.cpp (its n_ubatch)
_GGML_LOG_ERROR: Final = 4
_ROPE_TYPES_WITH_PLANES: Final = (8, 40)  # multi-axis and interleaved multi-axis rotary positions
_N_PLANES: Final = 4

_NO_SLOT = 1
_ABORTED = 2

Outputs = Literal["none", "last", "all"]
"""Which positions of a batch give logits (or hidden states)."""


class Aborted(Exception):  # noqa: N818 - an outcome that the caller asked for, not an error
    """The running decode was stopped through `LlamaContext.abort`."""


class LlamaModel:
    """A GGUF language model: its weights, memory-mapped and read-only, and its vocabulary."""

    def __init__(self, path: Path, *, n_gpu_layers: int = 0) -> None:
        """Load `path`.

        Raises:
            ModelError: the file is missing, is no GGUF, or llama.cpp cannot run it.
        """
        if not path.is_file():
            raise ModelError(f"{path} does not exist; a model needs its decoder as a GGUF file.")
        self._lib = load_library()
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = n_gpu_layers
        with _native_log.collect_errors() as complaints:
            self._model = self._lib.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            why = complaints[-1] if complaints else "it gave no reason"
            raise ModelError(f"llama.cpp cannot load {path}: {why}")
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self.path = path
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
                "decoder; name a model directory made by `streamasr export`."
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


class LlamaContext:
    """One sequence of a model: what it has read so far (`n_past` positions), and what follows.

    Attributes:
        abort: set it from any thread to make the running decode raise `Aborted` soon.
    """

    def __init__(
        self, model: LlamaModel, *, n_ctx: int, n_threads: int, hidden_states: bool = False
    ) -> None:
        """Make room for `n_ctx` positions.

        Args:
            model: stays open as long as this context.
            n_ctx: positions of prompt and answer together.
            n_threads: for prompts and for single tokens alike.
            hidden_states: outputs are the normalised hidden states instead of logits.

        Raises:
            ModelError: llama.cpp has no memory for it, or refuses the model.
        """
        self.model = model
        self.n_ctx = n_ctx
        self.n_past = 0
        self.abort = threading.Event()
        self._lib = load_library()
        self._hidden_states = hidden_states
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = n_ctx
        parameters.n_batch = n_ctx
        parameters.n_ubatch = min(_BATCH_TOKENS, n_ctx)
        parameters.n_threads = n_threads
        parameters.n_threads_batch = n_threads
        parameters.embeddings = hidden_states
        parameters.no_perf = True
        # Flash attention on a CPU adds up in half precision: logits are 17 times further from the
        # reference, for 13 % of the time of a prompt and none of a token's.
        parameters.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        is_aborted = self.abort.is_set
        # The callback object must live as long as the context that calls it.
        self._abort_callback = self._lib.ggml_abort_callback(lambda _: is_aborted())
        parameters.abort_callback = self._abort_callback
        with _native_log.collect_errors() as complaints:
            self._context = self._lib.llama_init_from_model(model._model, parameters)  # noqa: SLF001
        if not self._context:
            why = complaints[-1] if complaints else "it gave no reason"
            raise ModelError(f"llama.cpp cannot make a context of {n_ctx} positions: {why}")
        self._memory = self._lib.llama_get_memory(self._context)

    def read_tokens(self, tokens: Sequence[int], outputs: Outputs) -> Float32Array:
        """Append tokens to the sequence.

        Returns:
            (n_outputs, n_vocab) logits, or (n_outputs, n_embd) hidden states.

        Raises:
            DecodeError: llama.cpp refused, or the sequence is full.
            Aborted: `abort` was set.
        """
        ids = np.asarray(tokens, dtype=np.int32)
        return self._decode(len(ids), outputs, tokens=ids)

    def read_embeddings(self, embeddings: Float32Array, outputs: Outputs) -> Float32Array:
        """Append embeddings, (n, n_embd) float32, to the sequence in place of tokens.

        Returns and raises as `read_tokens` does.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.model.n_embd:
            raise DecodeError(
                f"the encoder gives embeddings of shape {embeddings.shape}, the decoder "
                f"{self.model.path.name} needs rows of {self.model.n_embd}; they are not a pair."
            )
        rows = np.ascontiguousarray(embeddings, dtype=np.float32)
        return self._decode(len(rows), outputs, embeddings=rows)

    def truncate(self, n_past: int) -> None:
        """Forget every position from `n_past` on."""
        if n_past >= self.n_past:
            return
        if not self._lib.llama_memory_seq_rm(self._memory, 0, n_past, -1):
            # A part of the cells cannot be removed: nothing must be believed of the rest.
            self._lib.llama_memory_clear(self._memory, True)
            self.n_past = 0
            raise DecodeError(f"llama.cpp cannot forget the positions from {n_past} on.")
        self.n_past = n_past

    def close(self) -> None:
        """Give the memory back."""
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode(
        self,
        count: int,
        outputs: Outputs,
        *,
        tokens: npt.NDArray[np.int32] | None = None,
        embeddings: Float32Array | None = None,
    ) -> Float32Array:
        if count == 0:
            return np.empty((0, self._output_width), dtype=np.float32)
        if self.n_past + count > self.n_ctx:
            raise DecodeError(
                f"{self.n_past + count} positions do not fit into a context of {self.n_ctx}."
            )
        wanted = np.zeros(count, dtype=np.int8)
        if outputs != "none":
            wanted[slice(None) if outputs == "all" else -1] = 1
        batch, keep = self._batch(count, wanted, tokens, embeddings)
        with _native_log.collect_errors() as complaints:
            code = self._lib.llama_decode(self._context, batch)
        del keep
        if code != 0:
            self._forget_failed_batch()
            if code == _ABORTED:
                raise Aborted
            why = complaints[-1] if complaints else "it gave no reason"
            what = "has no free cells" if code == _NO_SLOT else f"answered {code}"
            raise DecodeError(f"llama.cpp {what} for a batch of {count}: {why}")
        self.n_past += count
        return self._read_outputs(np.flatnonzero(wanted))

    def _batch(
        self,
        count: int,
        wanted: npt.NDArray[np.int8],
        tokens: npt.NDArray[np.int32] | None,
        embeddings: Float32Array | None,
    ) -> tuple[Any, tuple[object, ...]]:
        """A llama.cpp batch over numpy memory, and what must stay alive while it is used.

        Tokens have one position each. Embeddings have one for each plane of a multi-axis rotary
        model, plane after plane; the planes of speech run alike, and the last one stays zero.
        """
        n_planes = 1 if embeddings is None else self.model.n_planes
        positions = np.zeros((n_planes, count), dtype=np.int32)
        positions[: max(1, n_planes - 1)] = np.arange(self.n_past, self.n_past + count)
        n_sequences = np.ones(count, dtype=np.int32)
        sequence = np.zeros(1, dtype=np.int32)
        sequences = np.full(count, sequence.ctypes.data, dtype=np.uintp)
        batch = self._lib.llama_batch(
            n_tokens=count,
            token=_pointer(tokens, ctypes.c_int32),
            embd=_pointer(embeddings, ctypes.c_float),
            pos=_pointer(positions, ctypes.c_int32),
            n_seq_id=_pointer(n_sequences, ctypes.c_int32),
            seq_id=_pointer(sequences, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(wanted, ctypes.c_int8),
        )
        return batch, (tokens, embeddings, positions, n_sequences, sequence, sequences, wanted)

    def _forget_failed_batch(self) -> None:
        """Take out what an interrupted batch may have left behind."""
        if not self._lib.llama_memory_seq_rm(self._memory, 0, self.n_past, -1):
            self._lib.llama_memory_clear(self._memory, True)
            self.n_past = 0

    @property
    def _output_width(self) -> int:
        return self.model.n_embd if self._hidden_states else self.model.n_vocab

    def _read_outputs(self, rows: npt.NDArray[np.intp]) -> Float32Array:
        read = (
            self._lib.llama_get_embeddings_ith
            if self._hidden_states
            else self._lib.llama_get_logits_ith
        )
        width = self._output_width
        result = np.empty((len(rows), width), dtype=np.float32)
        for index, row in enumerate(rows):
            pointer = read(self._context, int(row))
            if not pointer:
                raise DecodeError(f"llama.cpp has no output for row {row} of the batch.")
            result[index] = np.ctypeslib.as_array(pointer, shape=(width,))
        if not np.isfinite(result).all():
            raise DecodeError(
                "the decoder computed numbers that are not finite; this model or this "
                "build of llama.cpp is broken on this machine."
            )
        return result


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
    # llama.cpp's OpenMP threads spin at every barrier by default. Where they share the cores with
    # the encoder, or with anything else, each waits for one that has no core: hundreds of times
    # slower than sleeping, which costs a free machine some milliseconds for an answer.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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
