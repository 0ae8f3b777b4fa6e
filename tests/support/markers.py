"""Kinds of tests: `pure`, `process` or `desktop`, by folder and module; each test has one of them.

A test is of the kind that the closest entry names, unless it carries a marker of its own; in a
module that is listed as pure, some tests may be marked `process`.
"""

import multiprocessing.process
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.support.paths import TESTS

KINDS: Final = {
    "pure": "no process, socket or model; milliseconds",
    "process": "real child processes, loopback sockets, a small model, or seconds of computing",
    "desktop": "X11, Wayland, a sound server, a browser or systemd",
}

BY_PATH: Final = {
    "": "process",
    "alignment": "pure",
    "audio": "pure",
    "audio/test_portaudio.py": "desktop",
    "bench/test_delays.py": "pure",
    "bench/test_update.py": "pure",
    "catalogue/test_known.py": "pure",
    "cli/test_console.py": "pure",
    "cli/test_history.py": "pure",
    "config": "pure",
    "core": "pure",
    "core/test_error_codes.py": "process",  # reads the whole package
    "core/test_memory.py": "process",
    "daemon/test_background.py": "pure",
    "daemon/test_microphone.py": "desktop",
    "daemon/test_reload.py": "pure",
    "daemon/test_signals.py": "pure",
    "decoder/test_content.py": "pure",
    "decoder/test_generate.py": "pure",
    "decoder/test_openings.py": "pure",
    "decoder/test_placement.py": "pure",
    "dictation/test_composer.py": "pure",
    "dictation/test_push_to_talk.py": "pure",
    "dictation/test_windows.py": "desktop",
    "doctor": "pure",
    "engine/test_config.py": "pure",
    "engine/test_cores.py": "pure",
    "engine/test_cpu_fallback.py": "pure",
    "engine/test_fair_queue.py": "pure",
    "engine/test_stages.py": "pure",
    "features": "pure",
    "host": "pure",
    "host/test_recovery.py": "process",
    "host/test_registry.py": "process",
    "importing/test_archive.py": "pure",
    "importing/test_files.py": "pure",
    "importing/test_gguf_file.py": "pure",
    "importing/test_gguf_kind.py": "pure",
    "importing/qwen3/test_gguf_text.py": "pure",
    "importing/qwen3/test_gguf_writer.py": "pure",
    "importing/test_onnx_file.py": "pure",
    "importing/qwen3/test_projector.py": "pure",
    "importing/test_quantize.py": "pure",
    "importing/qwen3/test_safetensors.py": "pure",
    "importing/qwen3/test_tokenizer.py": "pure",
    "models/paraformer/test_cif.py": "pure",
    "models/paraformer/test_division.py": "pure",
    "models/paraformer/test_text.py": "pure",
    "models/paraformer/test_times.py": "pure",
    "models/qwen3/test_answer.py": "pure",
    "models/qwen3/test_languages.py": "pure",
    "models/test_bundle.py": "pure",
    "models/test_registry.py": "pure",
    "pipeline": "pure",
    "protocols": "pure",
    "segmentation": "pure",
    "server/test_web.py": "desktop",
    "service/test_service_dictate.py": "desktop",
    "service/test_supervision.py": "pure",
    "service/test_units.py": "desktop",
    "session": "pure",
    "storage": "pure",
    "storage/test_old_storage.py": "process",
    "support": "pure",
    "writing": "pure",
}
"""Folder or module, relative to `tests/` -> kind."""


def kind_of(path: Path) -> str:
    """Return the kind of the tests in a module."""
    where = path.relative_to(TESTS)
    parents = ["" if each == Path() else each.as_posix() for each in where.parents]
    return next(BY_PATH[each] for each in (where.as_posix(), *parents) if each in BY_PATH)


@contextmanager
def kept_pure(name: str) -> Iterator[None]:
    """Fail a test that starts a process or connects a socket."""

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail(f"{name} is marked pure, but starts a process or uses a socket")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "bind", refuse)
        yield
