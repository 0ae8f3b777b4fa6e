"""The one binding to llama.cpp, on the low-level interface of llama-cpp-python.

`LlamaModel` is a GGUF file in memory: weights and vocabulary. `LlamaContext` holds sequences of a
model: the KV cells of the rows that each has read so far. Text goes in as batches of tokens, audio
as batches of embeddings, both into the same sequences; a llama.cpp batch holds one or the other, of
any number of sequences.

Every return code is checked: a model that llama.cpp refuses is a `ModelError`, a refused batch
a `DecodeError`. The calls release the interpreter lock; a context belongs to one thread at a time,
only `abort` may be set from another.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import DecodeError, ModelError
from streamasr.core.units import Float32Array
from streamasr.decoder.native import device_list, load_library, native_log
from streamasr.decoder.placement import ON_CPU, Placement

logger = logging.getLogger(__name__)

_ROPE_TYPES_WITH_PLANES: Final = (8, 40)  # multi-axis and interleaved multi-axis rotary positions
_N_PLANES: Final = 4

_N_TESTED: Final = 16
"""Rows of embeddings in a self-test: enough to reach the kernels for many rows."""

_NO_SLOT = 1
_ABORTED = 2

IntArray = npt.NDArray[np.int32]


class Aborted(Exception):  # noqa: N818 - an outcome that the caller asked for, not an error
    """The running decode was stopped through `LlamaContext.abort`."""


class NoRoomError(DecodeError):
    """All cells of the context are taken; a batch fits once some are freed."""

    default_code = "no_free_cells"


class LlamaModel:
    """A GGUF language model: its weights, memory-mapped and read-only, and its vocabulary."""

    def __init__(self, path: Path, placement: Placement = ON_CPU) -> None:
        """Load `path`.

        Args:
            path: the GGUF file.
            placement: device that computes it.

        Raises:
            ModelError: the file is missing or not a GGUF file, or llama.cpp cannot run it.
        """
        if not path.is_file():
            raise ModelError(
                f"{path} does not exist; a model needs its decoder as a GGUF file.",
                code="model_file_missing",
            )
        self._lib = load_library()
        parameters = self._lib.llama_model_default_params()
        parameters.n_gpu_layers = placement.n_layers
        devices = device_list(placement)
        parameters.devices = ctypes.cast(devices, ctypes.c_void_p)
        with native_log.collect_errors() as reasons:
            self._model = self._lib.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            why = reasons[-1] if reasons else "it gave no reason"
            raise ModelError(f"llama.cpp cannot load {path}: {why}", code="decoder_unloadable")
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
            special: True turns the texts of control tokens into these tokens. False for text that
                comes from people, which must not be able to end a turn of the prompt.

        Raises:
            DecodeError: llama.cpp makes more tokens than the text has bytes.
        """
        data = text.encode(errors="replace")  # an argument of the shell may not be UTF-8
        room = len(data) + 8
        tokens = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(
            self._vocabulary, data, len(data), tokens, room, False, special
        )
        if count < 0:
            message = f"llama.cpp needs {-count} tokens for {len(data)} bytes of text."
            raise DecodeError(message, code="too_many_tokens")
        return list(tokens[:count])

    def special_token(self, text: str) -> int:
        """Find the id of a control token by its text, as `<|im_end|>`.

        Raises:
            ModelError: the vocabulary has no single token with this text.
        """
        tokens = self.tokenize(text, special=True)
        if len(tokens) != 1:
            raise ModelError(
                f"{self.path} has no token {text} in its vocabulary, so it is not the decoder of "
                "this kind of model; import the model again, or get one that `streamasr models "
                "list` shows.",
                code="special_token_missing",
            )
        return tokens[0]

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token: perhaps part of a character, none for a control token."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._lib.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def is_end(self, token: int) -> bool:
        """Tell whether the vocabulary marks this token as the end of an answer."""
        return bool(self._lib.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        """Free the memory. Contexts must be closed before."""
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows that a sequence reads in a batch, behind those that it has read before."""

    sequence: int
    data: IntArray | Float32Array
    """(n,) int32 tokens, or (n, n_embd) float32 embeddings in their place."""
    n_outputs: int = 0
    """Number of rows, the last ones, that give logits or hidden states."""

    @property
    def holds_tokens(self) -> bool:
        """Tell whether the rows are tokens."""
        return self.data.dtype.kind == "i"


class LlamaContext:
    """Sequences of a model, with the cells of the rows that each has read so far.

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
            n_sequences: number of sequences, which are numbered from 0.
            n_batch: the most rows that llama.cpp computes at a time; it takes memory for each.
            hidden_states: True gives the normalised hidden states instead of logits.

        Raises:
            ModelError: llama.cpp has no memory for the context, or refuses the model.
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
        with native_log.collect_errors() as reasons:
            self._context = self._lib.llama_init_from_model(model._model, parameters)  # noqa: SLF001
        if not self._context:
            why = reasons[-1] if reasons else "it gave no reason"
            message = f"llama.cpp cannot make a context of {n_ctx} positions: {why}"
            raise ModelError(message, code="context_unmakeable")
        self._memory = self._lib.llama_get_memory(self._context)

    def length(self, sequence: int) -> int:
        """Return the number of positions that a sequence has read."""
        return self._lengths[sequence]

    def read(self, batch: Sequence[Rows]) -> list[Float32Array]:
        """Let sequences read, all of them tokens or all of them embeddings, each once at most.

        The sequences stay as they were where this raises.

        Returns:
            The outputs in the order of the rows: (n_vocab,) logits, or (n_embd,) hidden states.
            They are llama.cpp's own memory, which the next call overwrites.

        Raises:
            NoRoomError: the context has fewer free cells than the batch has rows.
            DecodeError: llama.cpp refused the batch, or the embeddings are not finite or have
                another width.
            Aborted: `abort` was set during the call.
        """
        batch = [rows for rows in batch if len(rows.data)]
        if not batch:
            return []
        count = sum(len(rows.data) for rows in batch)
        if count > self.n_ctx:
            message = f"{count} positions do not fit into a context of {self.n_ctx}."
            raise NoRoomError(message, code="context_full")
        wanted = np.concatenate([_last(len(rows.data), rows.n_outputs) for rows in batch])
        native, keep = self._native_batch(batch, wanted)
        with native_log.collect_errors() as reasons:
            code = self._lib.llama_decode(self._context, native)
        del keep
        if code != 0:
            for rows in batch:
                self._remove_failed(rows.sequence)
            raise _failure(code, count, reasons)
        for rows in batch:
            self._lengths[rows.sequence] += len(rows.data)
        return [self._output(int(row)) for row in np.flatnonzero(wanted)]

    def truncate(self, sequence: int, length: int) -> None:
        """Remove every position of a sequence from `length` on.

        Raises:
            DecodeError: llama.cpp cannot remove a part of the sequence; all of it is removed.
        """
        if length >= self._lengths[sequence]:
            return
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
            # A part of the cells cannot be removed, so the state of the others is unknown.
            self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            self._lengths[sequence] = 0
            message = f"llama.cpp cannot remove the positions from {length} on."
            raise DecodeError(message, code="cells_not_removed")
        self._lengths[sequence] = length

    def copy(self, source: int, target: int, length: int) -> None:
        """Give a sequence the first `length` positions of another one, without computing.

        Raises:
            DecodeError: llama.cpp copied another number of positions.
        """
        self.truncate(target, 0)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        reached: int = self._lib.llama_memory_seq_pos_max(self._memory, target) + 1
        if reached != length:
            self._lib.llama_memory_seq_rm(self._memory, target, -1, -1)
            message = f"llama.cpp copied {reached} positions instead of {length}."
            raise DecodeError(message, code="cells_not_copied")
        self._lengths[target] = length

    def close(self) -> None:
        """Free the memory."""
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_aborted(self, _: object) -> bool:
        """Tell llama.cpp, which asks before each operation, whether to stop."""
        self.n_operations += 1
        return self.abort.is_set()

    def _native_batch(
        self, batch: Sequence[Rows], wanted: npt.NDArray[np.int8]
    ) -> tuple[Any, tuple[object, ...]]:
        """Make a llama.cpp batch over numpy memory, and the arrays that must outlive it.

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
        """Return all tokens or all embeddings of a batch, one after the other."""
        if batch[0].holds_tokens:
            return np.concatenate([rows.data for rows in batch]).astype(np.int32), None
        for rows in batch:
            if not np.isfinite(rows.data).all():
                raise DecodeError(
                    "the encoder computed numbers that are not finite, as some in fp16 do; use a "
                    "model whose encoder is int8 or fp32.",
                    code="embeddings_not_finite",
                )
            if rows.data.ndim != 2 or rows.data.shape[1] != self.model.n_embd:
                raise DecodeError(
                    f"the encoder gives embeddings of shape {rows.data.shape}, the decoder "
                    f"{self.model.path.name} needs rows of {self.model.n_embd}; they are not a "
                    "pair.",
                    code="embeddings_width",
                )
        return None, np.concatenate([rows.data for rows in batch]).astype(np.float32)

    def _remove_failed(self, sequence: int) -> None:
        """Remove the cells that an interrupted batch may have left behind."""
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
            message = f"llama.cpp has no output for row {row} of the batch."
            raise DecodeError(message, code="output_missing")
        output: Float32Array = np.ctypeslib.as_array(pointer, shape=(width,))
        return output


def _last(count: int, n_outputs: int) -> npt.NDArray[np.int8]:
    """Mark the rows that give outputs."""
    wanted = np.zeros(count, dtype=np.int8)
    wanted[count - n_outputs :] = 1
    return wanted


def _failure(code: int, count: int, reasons: Sequence[str]) -> Exception:
    if code == _ABORTED:
        return Aborted()
    if code == _NO_SLOT:
        return NoRoomError(f"llama.cpp has no free cells for a batch of {count}.")
    why = reasons[-1] if reasons else "it gave no reason"
    message = f"llama.cpp answered {code} for a batch of {count}: {why}"
    return DecodeError(message, code="batch_refused")


def check_finite(output: Float32Array) -> None:
    """Refuse an output that holds infinities or NaN.

    Raises:
        DecodeError: a value is not finite.
    """
    if not np.isfinite(output).all():
        raise DecodeError(
            "the decoder computed numbers that are not finite; this model or this build of "
            "llama.cpp is broken on this machine.",
            code="output_not_finite",
        )


def self_test(context: LlamaContext) -> None:
    """Let a context that is still empty read tokens, embeddings, and tokens behind them.

    Embeddings fail on some GPUs: half precision overflows, or a kernel for many rows at once is
    wrong.

    Raises:
        ModelError: an output is not finite, or the same for every token.
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
        message = f"{model.path} does not run on {model.placement}: {error}"
        raise ModelError(message, code="decoder_does_not_run") from error
    if not all(np.isfinite(output).all() for output in outputs):
        raise _nonsense(model, "numbers that are not finite")
    if not all(np.ptp(output) for output in outputs):
        raise _nonsense(model, "the same number for every token")


def _nonsense(model: LlamaModel, what: str) -> ModelError:
    if model.placement.is_on_gpu:
        causes = (
            "half precision overflows with the Vulkan drivers of some GPUs: set "
            "GGML_VK_DISABLE_F16=1, on AMD GGML_VK_DISABLE_COOPMAT=1 too, or use the CPU with "
            "model.gpu_layers = 0. Else the file is damaged"
        )
    else:
        causes = "the file is damaged, or was quantised too far: get the model again"
    message = f"{model.path}: on {model.placement} the decoder computes {what}; {causes}."
    return ModelError(message, code="decoder_nonsense")


def _pointer(array: npt.NDArray[Any] | None, kind: Any) -> Any:
    return None if array is None else array.ctypes.data_as(ctypes.POINTER(kind))
