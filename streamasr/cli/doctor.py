"""`streamasr doctor`: gather facts about this machine and installation, and show what they mean.

The judgements are in `streamasr.doctor.diagnosis`. Native libraries are asked in a process of
their own: one that was built for another machine ends the process that loads it.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooLateError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamasr import __version__
from streamasr.catalogue.installed import find_by_source, list_installed, size_on_disk
from streamasr.cli.console import busy, print_table
from streamasr.cli.engine_options import finder_of
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.cli.verify import check_files
from streamasr.config.file import find_config, load_config
from streamasr.config.sections import Settings
from streamasr.core.errors import AudioError, ConfigError, ModelError, StreamASRError
from streamasr.core.text import printable
from streamasr.decoder.placement import MORE, Gpu, place
from streamasr.doctor import diagnosis
from streamasr.doctor.diagnosis import Finding, Level
from streamasr.engine.cores import available_cores, share_cores
from streamasr.importing.origin import given_path
from streamasr.importing.placing import PARTIAL
from streamasr.models import tiny
from streamasr.models.bundle import Bundle, is_bundle, read_bundle
from streamasr.models.family import Role
from streamasr.models.onnx import load_onnxruntime

_TIMEOUT_S: Final = 60.0
_TITLE: Final = b"<title>streamasr"  # of the page that a daemon shows
_ANSWER_S: Final = 2.0

_USUAL_CELL: Final = diagnosis.context_bytes(1, 28, 8, 128)
"""Bytes of a cell of every model that was released."""


def run_doctor(options: argparse.Namespace) -> int:
    """Show what is right and wrong; 1 if there is a problem, else 0.

    Args:
        options: `config`, a file of settings; `deep`, to compare hashes too; `json`.
    """
    with busy("looking at this machine"):
        findings = list(examine(options.config, is_deep=options.deep))
    if options.json:
        shown = [{**asdict(finding), "level": finding.level.value} for finding in findings]
        print(json.dumps({"findings": shown}, ensure_ascii=False, indent=1))
    else:
        show(findings, Console(highlight=False))
    has_problem = any(finding.level is Level.PROBLEM for finding in findings)
    return EXIT_INPUT_FAILED if has_problem else 0


def examine(explicit: Path | None, *, is_deep: bool) -> Iterator[Finding]:
    """All findings, in the order in which they are shown."""
    path, config, trouble = _configuration(explicit)
    native = ask_native(probe_native)
    yield from diagnosis.judge_software(sys.version_info[:3], _packages(), __version__)
    yield from diagnosis.judge_processor(_processor(), native.system_info)
    yield from diagnosis.judge_accelerators(_accelerators(native, config))
    yield diagnosis.judge_configuration(path, trouble)
    yield from diagnosis.judge_sound(_sound(config))
    bundle, aligner, why_not = _bundles(config)
    configured = _configured(config, bundle, aligner, why_not, is_deep=is_deep)
    yield from diagnosis.judge_configured_model(configured, config.live.words)
    yield from diagnosis.judge_installed(_installed(config))
    yield from diagnosis.judge_room(_room(config, bundle, aligner))
    yield diagnosis.judge_models_place(
        str(config.storage.models), _place_trouble(config.storage.models)
    )
    yield from diagnosis.judge_leftovers(_leftovers(config.storage.models))
    yield diagnosis.judge_state(
        str(config.storage.directory), _place_trouble(config.storage.directory)
    )
    yield diagnosis.judge_door(_door(config))
    yield from diagnosis.judge_unit(_unit())


def show(findings: list[Finding], console: Console) -> None:
    """A line for each, what to do below it, and what it comes to."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    styles = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
    for finding in findings:
        text = Text(printable(finding.text))
        if finding.advice:
            text.append(f"\n→ {printable(finding.advice)}", style="cyan")
        mark = Text(finding.level.value, styles[finding.level])
        table.add_row(mark, Text(printable(finding.subject)), text)
    print_table(table, console)
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    console.print(
        f"{_count(counts[Level.PROBLEM], 'problem')}, {_count(counts[Level.WARNING], 'warning')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"


# Settings and software


def _configuration(explicit: Path | None) -> tuple[str | None, Settings, str | None]:
    """The file, what holds, and why the file cannot be used; then defaults are examined."""
    path = None
    try:
        path = find_config(explicit)
        return (None if path is None else str(path)), load_config(path), None
    except ConfigError as error:
        return (None if path is None else str(path)), _default_config(), str(error)


def _default_config() -> Settings:
    try:
        return Settings()
    except ConfigError as error:  # there is no home: nothing can be examined
        raise ConfigError(f"nothing can be examined: {error}") from error


def _packages() -> list[diagnosis.Package]:
    try:
        lines = importlib.metadata.requires("streamasr") or []
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        return []
    found = []
    for name, oldest in diagnosis.requirements(lines):
        try:
            installed: str | None = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = None
        found.append(diagnosis.Package(name, installed, oldest))
    return found


# The machine


def _processor() -> diagnosis.Processor:
    cpuinfo = ""
    with contextlib.suppress(OSError):
        cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    n_cores = available_cores()
    threads = share_cores(n_cores)
    return diagnosis.Processor(
        name=_field(cpuinfo, "model name") or platform.machine(),
        architecture=platform.machine(),
        flags=frozenset(_field(cpuinfo, "flags").split()),
        n_present=os.cpu_count() or n_cores,
        n_allowed=len(os.sched_getaffinity(0)),
        n_usable=n_cores,
        threads=f"encoder {threads.encoder}, decoder {threads.decoder}, aligner {threads.aligner}",
    )


def _field(cpuinfo: str, name: str) -> str:
    """What /proc/cpuinfo says of the first processor; empty if it does not."""
    match = re.search(rf"^{name}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


@dataclass(frozen=True, slots=True)
class Native:
    """What native libraries say."""

    system_info: str | None = None
    gpus: tuple[Gpu, ...] = ()
    llama_trouble: str | None = None
    providers: tuple[str, ...] = ()
    known_providers: tuple[str, ...] = ()


def probe_native() -> Native:
    """In a child: load the native libraries and ask them."""
    ort = load_onnxruntime()

    from streamasr.decoder.library import find_gpus, system_info

    providers = tuple(ort.get_available_providers()), tuple(ort.get_all_providers())
    try:
        return Native(system_info(), tuple(find_gpus()), None, *providers)
    except ModelError as error:
        return Native(None, (), str(error), *providers)


def ask_native(probe: Callable[[], Native]) -> Native:
    """Have a child ask; a crash is an answer too."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn)
    try:
        return pool.submit(probe).result(_TIMEOUT_S)
    except BrokenProcessPool:
        why = "it crashes the process that loads it: it was built for another machine"
        return Native(llama_trouble=why)
    except TooLateError:
        for child in multiprocessing.active_children():
            child.kill()
        return Native(llama_trouble=f"it gives no answer within {_TIMEOUT_S:.0f} s")
    except ImportError as error:
        return Native(llama_trouble=f"a native library cannot be loaded: {error}")
    finally:
        pool.shutdown(cancel_futures=True)


def _accelerators(native: Native, config: Settings) -> diagnosis.Accelerators:
    wanted = config.model.providers
    missing = [name for name in wanted if name not in native.providers]
    _, why = place(config.model.gpu_layers, config.model.gpu, native.gpus)
    gpus = (
        f"{gpu}, {gpu.free / 2**30:.1f} of {gpu.total / 2**30:.1f} GiB free" for gpu in native.gpus
    )
    return diagnosis.Accelerators(
        gpus=tuple(gpus),
        gpu_trouble=why and why.replace(MORE, ""),  # this is where more is said
        llama_trouble=native.llama_trouble,
        providers=native.providers,
        providers_missing=tuple(name for name in missing if name in native.known_providers),
        providers_unknown=tuple(name for name in missing if name not in native.known_providers)
        if native.known_providers
        else (),
    )


def _sound(config: Settings) -> diagnosis.Sound:
    from streamasr.audio.microphone import find_input
    from streamasr.audio.portaudio import PortAudio

    is_wanted = config.microphone.enabled and config.microphone.input is None
    names: tuple[str, ...] = ()
    try:
        inputs = PortAudio().find_inputs()
        names = tuple(device.name for device in inputs)
        if inputs and is_wanted:
            find_input(inputs, config.microphone.device)
    except AudioError as error:
        return diagnosis.Sound(names, str(error), is_wanted)
    return diagnosis.Sound(names, None, is_wanted)


# Models


def _bundles(config: Settings) -> tuple[Bundle | None, Path | None, str | None]:
    """The recogniser, its aligner, and why there is none."""
    finder = finder_of(config)
    try:
        _check_imported(config)
        bundle = read_bundle(finder.model(config.model.name), Role.RECOGNISER)
        bundle.check_files()
        aligner = finder.aligner(config.model.aligner, bundle.directory)
    except StreamASRError as error:
        return None, None, str(error)
    return bundle, aligner, None


def _check_imported(config: Settings) -> None:
    """Finding a source that was never imported would import it, which takes minutes."""
    for name in (config.model.name, config.model.aligner):
        if name is None or os.sep not in name or not os.path.exists(name):  # noqa: PTH110 - Path.exists may raise
            continue
        path = Path(name)
        if not is_bundle(path) and _is_new(config.storage.models, path):
            raise ModelError(
                f"{name} has not been imported yet; `streamasr models import {name}` does it."
            )


def _is_new(models: Path, path: Path) -> bool:
    """Whether a source has never been imported."""
    return find_by_source(models, given_path(path)) is None


def _configured(
    config: Settings,
    bundle: Bundle | None,
    aligner: Path | None,
    why_not: str | None,
    *,
    is_deep: bool,
) -> diagnosis.Model:
    if bundle is None:
        return diagnosis.Model(config.model.name, why_not)
    trouble = hashes = None
    if is_deep:
        checked = check_files(bundle)
        trouble = checked.detail if checked.passed is False else None
        hashes = checked.detail
    return diagnosis.Model(
        name=bundle.name,
        trouble=trouble,
        warning=bundle.warning,
        n_bytes=_files_size(bundle.directory),
        aligner=None if aligner is None else _aligner_name(bundle, aligner),
        is_embedded=bundle.directory == tiny.BUNDLE,
        hashes=hashes,
    )


def _aligner_name(bundle: Bundle, aligner: Path) -> str:
    return "its own aligner" if aligner.parent == bundle.directory else aligner.name


def _installed(config: Settings) -> list[diagnosis.Model]:
    try:
        found = list_installed(config.storage.models)
    except ConfigError as error:
        return [diagnosis.Model(str(config.storage.models), str(error))]
    return [diagnosis.Model(one.name, one.problem, n_bytes=one.n_bytes) for one in found]


def _files_size(directory: Path) -> int:
    """Bytes of a bundle's own files, which are all read when it is loaded."""
    suffixes = (".onnx", ".data", ".gguf", ".npy")
    total = 0
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.suffix in suffixes:
                total += path.stat().st_size
    return total


# Memory and disk


def _room(config: Settings, bundle: Bundle | None, aligner: Path | None) -> diagnosis.Room:
    files = context = 0
    if bundle is not None:
        files = _files_size(bundle.directory)
        if (recognition := bundle.family.recognition) and recognition.decoder:
            n_cells = recognition.decoder.n_cells(config.segmentation.max_segment)
            context = n_cells * _cell_bytes(bundle.decoder)
        if aligner is not None:
            files += _files_size(aligner)
            context += _ALIGNER_CELLS * _cell_bytes(aligner / bundle.decoder.name)
    return diagnosis.Room(
        memory_free=memory_free(),
        model_files=files,
        context=context,
        state_free=_disk_free(config.storage.directory),
        cache_free=_disk_free(config.storage.models),
    )


_ALIGNER_CELLS: Final = 4096


def _cell_bytes(decoder: Path) -> int:
    """What one position takes, from the decoder's own description."""
    from streamasr.importing.gguf_file import read_gguf

    try:
        file = read_gguf(decoder)
        kind = file.text("general.architecture")
        return diagnosis.context_bytes(
            1,
            file.integer(f"{kind}.block_count"),
            file.integer(f"{kind}.attention.head_count_kv"),
            file.integer(f"{kind}.attention.key_length"),
        )
    except StreamASRError:
        return _USUAL_CELL


def memory_free(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be had without swapping, within a control group's limit."""
    free = 0
    with contextlib.suppress(OSError, ValueError):
        match = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text("ascii"), re.MULTILINE)
        free = int(match[1]) * 1024 if match else 0
    with contextlib.suppress(OSError, ValueError):
        limit = int((group / "memory.max").read_text("ascii"))  # `max` is no number
        used = int((group / "memory.current").read_text("ascii"))
        stat = (group / "memory.stat").read_text("ascii")
        cached = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
        free = min(free, limit - used + (int(cached[1]) if cached else 0))
    return max(0, free)


def _disk_free(directory: Path) -> int | None:
    """Bytes free where a directory is, or will be."""
    try:
        return shutil.disk_usage(_existing(directory)).free
    except OSError:
        return None


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))


def _place_trouble(directory: Path) -> str | None:
    try:
        place = _existing(directory)
        if not place.is_dir():
            return f"{place} is no directory"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"{place} cannot be written"
    except OSError as error:
        return f"{directory} cannot be looked at: {error.strerror}"
    return None


def _leftovers(models: Path) -> diagnosis.Leftovers:
    """What imports that were killed have left among the models."""
    sizes = [size_on_disk(path) for path in models.glob(f".*{PARTIAL}") if not _is_held(path)]
    return diagnosis.Leftovers(str(models), len(sizes), sum(sizes))


def _is_held(directory: Path) -> bool:
    """Whether a process is at work in a directory that is being made."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it has got its name meanwhile
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# The daemon


def _door(config: Settings) -> diagnosis.Door:
    server = config.server
    if server.socket is not None:
        return diagnosis.Door(str(server.socket), _ask_socket(server.socket))
    address = f"{server.host}:{server.port}"
    if server.port == 0:
        return diagnosis.Door(address, "free")
    return diagnosis.Door(address, _ask_port(server.host, server.port))


def _ask_port(host: str, port: int) -> str:
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    try:
        with socket.create_connection((reached, port), _ANSWER_S) as connection:
            return _who_answers(connection)
    except ConnectionRefusedError:
        return "free"
    except OSError as error:
        return str(error.strerror or error)


def _ask_socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            connection.connect(os.fspath(path))
            return _who_answers(connection)
        except (FileNotFoundError, ConnectionRefusedError):
            return "free"  # the daemon replaces what another has left behind
        except OSError as error:
            return str(error.strerror or error)


def _who_answers(connection: socket.socket) -> str:
    """Whether it is a daemon of ours, by the page that it shows."""
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


def _unit() -> dict[str, str] | None:
    """What systemd says of the user's service; None where there is no such systemd."""
    program = shutil.which("systemctl")
    if program is None:
        return None
    names = "LoadState,ActiveState,UnitFileState"
    command = [program, "--user", "show", "streamasr.service", f"--property={names}"]
    try:
        answer = subprocess.run(  # noqa: S603 - nothing of it comes from outside
            command, capture_output=True, text=True, timeout=_ANSWER_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
