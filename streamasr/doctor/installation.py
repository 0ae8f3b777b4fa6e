"""Facts about the configured and the installed models, and about the daemon."""

import contextlib
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamasr.catalogue.find import Finder, is_imported
from streamasr.catalogue.installed import find_unfinished, list_installed, size_on_disk
from streamasr.catalogue.known import NOTHING
from streamasr.catalogue.memory import cell_bytes
from streamasr.config.sections import ModelConfig, ServerConfig, Settings
from streamasr.core.errors import ConfigError, ModelError, StreamASRError
from streamasr.doctor.judge_installation import Endpoint, Leftovers, Model, Room, context_bytes
from streamasr.doctor.machine import disk_free, memory_free
from streamasr.doctor.verify import check_files
from streamasr.engine.config import Hardware
from streamasr.models.bundle import Bundle, is_bundle, read_bundle
from streamasr.models.embedded import EMBEDDED
from streamasr.models.family import Role

_TITLE: Final = b"<title>streamasr"  # of the page that a daemon shows
_ANSWER_S: Final = 2.0
_ALIGNER_CELLS: Final = 4096

_USUAL_CELL: Final = context_bytes(1, 28, 8, 128)
"""Bytes of a cell of the released models, where the decoder cannot be read."""


# Models


@dataclass(frozen=True, slots=True)
class Configured:
    """The configured models."""

    recogniser: Bundle
    aligner: Path | None
    """Its directory."""
    punctuation: Path | None
    wants_punctuation: bool = True

    @property
    def has_decoder(self) -> bool:
        """Tell whether a part of the recogniser runs in llama.cpp."""
        recognition = self.recogniser.family.recognition
        return recognition is not None and recognition.decoder is not None


def configured_models(settings: Settings, finder: Finder) -> Configured:
    """Return the configured recogniser, and the directories of the models beside it.

    Raises:
        StreamASRError: one of them cannot be used.
    """
    _check_imported(settings)
    bundle = read_bundle(finder.model(settings.model.name), Role.RECOGNISER)
    bundle.check_files()
    aligner = finder.aligner(settings.model.aligner, bundle.directory)
    punctuation = finder.punctuation(settings.model.punctuation, bundle.directory)
    if punctuation is not None:
        read_bundle(punctuation, Role.PUNCTUATION).check_files()
    return Configured(bundle, aligner, punctuation, settings.model.punctuation != NOTHING)


def _check_imported(settings: Settings) -> None:
    """Refuse a source that was never imported: finding it would import it, which takes minutes."""
    for name in (settings.model.name, settings.model.aligner, settings.model.punctuation):
        if name is None or os.sep not in name or not os.path.exists(name):  # noqa: PTH110 - Path.exists may raise
            continue
        path = Path(name)
        if not is_bundle(path) and not is_imported(settings.storage.models, path):
            raise ModelError(
                f"{name} has not been imported yet; `streamasr models import {name}` does it.",
                code="model_not_imported",
            )


def describe_configured(models: Configured, *, is_deep: bool) -> Model:
    """Return facts about the configured recogniser.

    Args:
        models: the recogniser, and the models beside it.
        is_deep: whether the hashes of its files are compared.
    """
    bundle, aligner = models.recogniser, models.aligner
    recognition = bundle.family.recognition
    trouble = code = hashes = None
    if is_deep:
        checked = check_files(bundle)
        trouble = checked.detail if checked.passed is False else None
        code, hashes = checked.code, checked.detail
    return Model(
        name=bundle.name,
        trouble=trouble,
        code=code,
        warning=bundle.warning,
        n_bytes=_files_size(bundle.directory),
        aligner=None if aligner is None else _aligner_name(bundle, aligner),
        has_word_times=bool(recognition and recognition.traits.word_method),
        punctuates=recognition is None or recognition.traits.punctuates,
        punctuation=None if models.punctuation is None else models.punctuation.name,
        wants_punctuation=models.wants_punctuation,
        is_embedded=bundle.directory in EMBEDDED.values(),
        hashes=hashes,
    )


def describe_threads(settings: ModelConfig, models: Configured | None) -> str:
    """Return the threads of each stage of the configured models, for people.

    Args:
        settings: of the models.
        models: None if they cannot be used.
    """
    threads = Hardware.of(settings).stage_threads
    stages = {"encoder": threads.encoder}
    if models is None or models.has_decoder:
        stages["decoder"] = threads.decoder
    if models is not None and models.punctuation is not None:
        stages["punctuation"] = threads.aligner
    if models is None or models.aligner is not None:
        stages["aligner"] = threads.aligner
    return ", ".join(f"{stage} {number}" for stage, number in stages.items())


def _aligner_name(bundle: Bundle, aligner: Path) -> str:
    return "its own aligner" if aligner.parent == bundle.directory else aligner.name


def describe_installed(models: Path) -> list[Model]:
    """Return facts about all installed models."""
    try:
        found = list_installed(models)
    except ConfigError as error:
        return [Model(str(models), str(error), error.code)]
    return [Model(one.name, one.problem, one.code, n_bytes=one.n_bytes) for one in found]


def _files_size(directory: Path) -> int:
    """Return the bytes of a bundle's own files, which are all read when it is loaded."""
    suffixes = (".onnx", ".data", ".gguf", ".npy")
    total = 0
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.suffix in suffixes:
                total += path.stat().st_size
    return total


def unfinished(models: Path) -> Leftovers:
    """Return the unfinished models of imports that were killed."""
    sizes = [size_on_disk(path) for path in find_unfinished(models)]
    return Leftovers(str(models), len(sizes), sum(sizes))


# Memory and disk


def find_room(settings: Settings, models: Configured | None) -> Room:
    """Return the memory and disk that are free, and the memory that the models take."""
    files = context = 0
    if models is not None:
        bundle, aligner = models.recogniser, models.aligner
        files = _files_size(bundle.directory)
        if (recognition := bundle.family.recognition) and recognition.decoder:
            n_cells = recognition.decoder.n_cells(settings.segmentation.max_segment)
            context = n_cells * _cell_bytes(bundle.decoder)
        if aligner is not None:
            files += _files_size(aligner)
            context += _ALIGNER_CELLS * _cell_bytes(aligner / bundle.decoder.name)
        if models.punctuation is not None:
            files += _files_size(models.punctuation)
    return Room(
        memory_free=memory_free(),
        model_files=files,
        context=context,
        state_free=disk_free(settings.storage.directory),
        cache_free=disk_free(settings.storage.models),
    )


def _cell_bytes(decoder: Path) -> int:
    try:
        return cell_bytes(decoder)
    except StreamASRError:
        return _USUAL_CELL


# The daemon


def find_endpoint(server: ServerConfig) -> Endpoint:
    """Return the address of the daemon, and who answers there."""
    if server.socket is not None:
        return Endpoint(str(server.socket), _ask_socket(server.socket))
    address = f"{server.host}:{server.port}"
    if server.port == 0:
        return Endpoint(address, "free")
    return Endpoint(address, _ask_port(server.host, server.port))


def _ask_port(host: str, port: int) -> str:
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    try:
        with socket.create_connection((reached, port), _ANSWER_S) as connection:
            return _state_of(connection)
    except ConnectionRefusedError:
        return "free"
    except OSError as error:
        return str(error.strerror or error)


def _ask_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            connection.connect(os.fspath(path))
            return _state_of(connection)
        except (FileNotFoundError, ConnectionRefusedError):
            return "free"  # the daemon replaces a stale socket
        except OSError as error:
            return str(error.strerror or error)


def _state_of(connection: socket.socket) -> str:
    """Return `ours` if a daemon of streamasr answers, by its page, else `taken`."""
    try:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while _TITLE not in answer and len(answer) < 4096:
            received = connection.recv(4096)
            if not received:
                return "taken"
            answer += received
    except OSError:
        return "taken"
    return "ours" if _TITLE in answer else "taken"


def find_unit() -> dict[str, str] | None:
    """Return the state of the user's service in systemd; None without a systemd of the user."""
    program = shutil.which("systemctl")
    if program is None:
        return None
    names = "LoadState,ActiveState,UnitFileState"
    command = [program, "--user", "show", "streamasr.service", f"--property={names}"]
    try:
        answer = subprocess.run(  # noqa: S603 - no part comes from outside
            command, capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
