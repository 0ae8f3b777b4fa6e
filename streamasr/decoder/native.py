"""Loading llama.cpp through llama-cpp-python: its version, its log, and the devices it can use."""

import contextlib
import ctypes
import functools
import importlib.metadata
import logging
import os
import re
import threading
from collections.abc import Iterator
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.decoder.placement import Gpu, Placement

logger = logging.getLogger(__name__)

OLDEST_LLAMA_CPP_PYTHON: Final = (0, 3, 36)
"""Older releases have other parameter structs, or cannot run the decoders of some models."""

_GGML_LOG_ERROR: Final = 4
_DEDICATED_GPU, _INTEGRATED_GPU = 1, 2  # of ggml_backend_dev_type


def find_gpus() -> list[Gpu]:
    """Return the GPUs that this build of llama.cpp can use, in its order.

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
    """Return llama.cpp's description of the processor, and of its own build for it.

    Raises:
        ModelError: llama-cpp-python cannot be loaded.
    """
    info: bytes = load_library().llama_print_system_info()
    return info.decode(errors="replace").strip(" |")


def device_list(placement: Placement) -> Any:
    """Return llama.cpp's list of devices for a placement, ended by a null; None lets it choose.

    For the CPU the list is empty: llama.cpp would use a GPU for long batches even without layers on
    it.
    """
    if not placement.is_on_gpu:
        return (ctypes.c_void_p * 1)(None)
    if placement.gpu is None:
        return None
    return (ctypes.c_void_p * 2)(_ggml().ggml_backend_dev_get(placement.gpu.device), None)


@functools.cache
def _ggml() -> Any:
    """Return the library below llama.cpp with functions for devices, not bound by the package."""
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
        ModelError: llama-cpp-python is missing, cannot be loaded, or is too old.
    """
    try:
        check_version(importlib.metadata.version("llama-cpp-python"))
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            "llama-cpp-python is not installed; run `make` or `pip install -r requirements.txt`.",
            code="llama_cpp_missing",
        ) from error
    # llama.cpp's OpenMP threads wait at hundreds of barriers for each token, spinning for 3 ms by
    # default: where other programs need the cores, each waits for a thread that has no core.
    # Sleeping at once is slow, too: 71 ms a token instead of 42 at full size on 2 free cores.
    # Spinning for some 30 us first costs little on either.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # of GNU's library
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # of LLVM's, which knows milliseconds only
    try:
        from llama_cpp import llama_cpp as library
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"llama-cpp-python is installed but cannot be loaded ({error}); install it again "
            "with `make` or `pip install --force-reinstall -r requirements.txt`.",
            code="llama_cpp_unloadable",
        ) from error
    library.llama_log_set(native_log.callback(library), None)
    library.llama_backend_init()
    return library


def check_version(installed: str) -> None:
    """Refuse a llama-cpp-python older than `OLDEST_LLAMA_CPP_PYTHON`.

    Raises:
        ModelError: the installed version is too old or has no number.
    """
    numbers = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", installed)
    if numbers is None or tuple(map(int, numbers.groups("0"))) < OLDEST_LLAMA_CPP_PYTHON:
        oldest = ".".join(map(str, OLDEST_LLAMA_CPP_PYTHON))
        raise ModelError(
            f"llama-cpp-python {installed} is too old, streamasr needs {oldest} or later; "
            f"run `pip install 'llama-cpp-python>={oldest}'`.",
            code="llama_cpp_too_old",
        )


class _NativeLog:
    """Receives llama.cpp's log lines, logs them, and collects errors on request."""

    def __init__(self) -> None:
        self._callback: Any = None
        self._local = threading.local()
        self._part = ""

    def callback(self, library: Any) -> Any:
        self._callback = library.llama_log_callback(self._receive)
        return self._callback

    @contextlib.contextmanager
    def collect_errors(self) -> Iterator[list[str]]:
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


native_log = _NativeLog()
