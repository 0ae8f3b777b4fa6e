"""`streamasr models verify`: load a model, let it hear a clip, and compare."""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamasr.audio.file import open_audio
from streamasr.bench.file import costs_of
from streamasr.bench.processes import usage
from streamasr.cli.console import busy, print_table
from streamasr.cli.engine_options import finder_of
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.config.file import find_config, load_config
from streamasr.config.sections import ModelConfig
from streamasr.core.errors import AudioError, ConfigError, ModelError, WorkerError
from streamasr.core.events import Aligned, Answer
from streamasr.core.messages import Final as FinalText
from streamasr.core.messages import Words
from streamasr.core.orders import Align, Order
from streamasr.core.text import printable
from streamasr.core.traits import FamilyTraits
from streamasr.core.transcript import Word
from streamasr.core.units import Float32Array, Samples, to_seconds
from streamasr.doctor.verification import Check, Report, Span, check_text, check_times, speed
from streamasr.engine.aligner import aligner_worker
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine, aligner_config
from streamasr.engine.ports import Channel, ChannelSource
from streamasr.engine.worker import Timeouts
from streamasr.models import clip
from streamasr.models.bundle import Bundle, open_bundle, read_bundle
from streamasr.models.family import Role
from streamasr.pipeline.transcribe import FileSettings, Progress, transcribe

_Show = Callable[[str], None]

_LONGEST_ALIGNED_S: Final = 300.0

_STAGES: Final = ("encode", "prefill", "verify", "decode", "align")


@dataclass(frozen=True, slots=True)
class Clip:
    """What is heard, and what is known of it."""

    path: Path
    text: str | None
    language: str | None = None
    words: tuple[tuple[str, Span], ...] | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What a model made of a clip."""

    text: str
    words: tuple[Word, ...]
    is_aligned: bool
    audio_s: float
    load_s: float
    work: dict[str, float]
    memory: dict[str, int]


def run_verify(options: argparse.Namespace) -> int:
    """Verify a model; 0 if all is well, else 1.

    Args:
        options: `name` of a model, recogniser or aligner; `clip` and `expect`, in place of the
            built-in clip and its text; `config`, the file of settings, which says what it is to
            run on; `json`.

    Raises:
        ConfigError: there is no text without a clip; the settings cannot be used.
        ModelError: there is no such model.
        AudioError: the clip cannot be read.
    """
    if options.expect is not None and options.clip is None:
        raise ConfigError("--expect says what --clip FILE holds: name the file too.")
    config = load_config(find_config(options.config))
    finder = finder_of(config)
    bundle = open_bundle(finder.model(options.name))
    chosen = Clip(options.clip, options.expect) if options.clip else built_in_clip()
    is_recogniser = bundle.family.role is Role.RECOGNISER
    aligner = finder.aligner(config.model.aligner, bundle.directory) if is_recogniser else None
    with busy("looking at the files") as show:
        report = verify(bundle, aligner, chosen, config.model, show)
    if options.json:
        print(json.dumps({"passed": report.passed, **asdict(report)}, ensure_ascii=False, indent=1))
    else:
        show_report(report, Console(highlight=False))
    return 0 if report.passed else EXIT_INPUT_FAILED


def built_in_clip() -> Clip:
    """The one that ships with the package."""
    facts = json.loads(clip.FACTS.read_text("utf-8"))
    words = tuple((word["text"], (word["start"], word["end"])) for word in facts["words"])
    return Clip(clip.CLIP, facts["text"], facts["language"], words)


def verify(
    bundle: Bundle, aligner: Path | None, chosen: Clip, settings: ModelConfig, show: _Show
) -> Report:
    """Look at everything, as far as one thing does not need another that failed.

    Args:
        bundle: what is verified.
        aligner: the directory of the aligner that comes with a recogniser.
        chosen: what is heard.
        settings: threads, GPU and providers are taken from it.
        show: told what is being done.

    Raises:
        AudioError: the clip cannot be read.
        ConfigError: an aligner is to be verified with a clip of which nobody knows the text.
    """
    show("reading the files")
    files = check_files(bundle)
    if files.passed is False:
        return _report(bundle, [files])
    checks = [files]
    if aligner:
        checks.append(_check_aligner(aligner))
    warnings: list[str] = []
    if bundle.family.role is Role.ALIGNER:
        aligner = bundle.directory
    config = EngineConfig(bundle.directory, aligner, Hardware.of(settings))
    try:
        if bundle.family.role is Role.ALIGNER:
            heard = align_clip(config, chosen, show, warnings)
        else:
            heard = recognise_clip(config, chosen, show, warnings)
    except (ModelError, WorkerError) as error:
        return _report(bundle, [*checks, Check("loading", False, str(error))])
    checks.append(Check("loading", True, f"{heard.load_s:.1f} s"))
    text_check, errors = check_text(chosen.text, heard.text)
    if bundle.family.role is not Role.ALIGNER:
        checks.append(text_check)
    time_error = None
    if heard.is_aligned:
        found = [
            (word.text, (to_seconds(word.start), to_seconds(word.end))) for word in heard.words
        ]
        times_check, time_error = check_times(chosen.words, found)
        checks.append(times_check)
    else:
        checks.append(Check("word times", None, "nothing was aligned"))
    return Report(
        model=bundle.name,
        family=bundle.family.name,
        directory=str(bundle.directory),
        checks=tuple(checks),
        audio_s=round(heard.audio_s, 3),
        load_s=round(heard.load_s, 3),
        text=heard.text,
        expected=chosen.text,
        word_error_rate=None if bundle.family.role is Role.ALIGNER else errors,
        time_error_ms=time_error,
        stages={name: speed(s, heard.audio_s) for name, s in heard.work.items()},
        peak_memory=heard.memory,
        warnings=tuple(warnings),
    )


def _report(bundle: Bundle, checks: list[Check]) -> Report:
    return Report(bundle.name, bundle.family.name, str(bundle.directory), tuple(checks))


def check_files(bundle: Bundle, name: str = "files") -> Check:
    """Compare files with what was noted when the model was stored."""
    try:
        bundle.check_files()
        noted = {name: file.sha256 for name, file in bundle.files.items() if file.sha256}
        for path, sha256 in noted.items():
            with (bundle.directory / path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return Check(name, False, f"{path} is not what was stored: get it again")
    except ModelError as error:
        return Check(name, False, str(error))
    except OSError as error:
        return Check(name, False, f"{error.filename} cannot be read: {error.strerror}")
    if not noted:
        return Check(name, None, "all there; no hashes were noted when it was stored")
    return Check(name, True, f"all there, {len(noted)} hashes as noted")


def _check_aligner(directory: Path) -> Check:
    name = "files of the aligner"
    try:
        return check_files(read_bundle(directory, Role.ALIGNER), name)
    except ModelError as error:
        return Check(name, False, str(error))


@dataclass(slots=True)
class _Timed:
    """A recogniser that notes what its stages cost. The aligner does not say; it is watched."""

    recogniser: ChannelSource
    work: dict[str, float] = field(default_factory=dict)

    @property
    def traits(self) -> FamilyTraits:
        """See `ChannelSource.traits`."""
        return self.recogniser.traits

    def channel(self, deliver: Callable[[Answer], None]) -> Channel:
        """See `ChannelSource.channel`."""
        return _TimedChannel(self, deliver)

    def add(self, stage: str, seconds: float) -> None:
        """Note work."""
        self.work[stage] = self.work.get(stage, 0.0) + seconds


class _TimedChannel:
    def __init__(self, timed: _Timed, deliver: Callable[[Answer], None]) -> None:
        self._timed = timed
        self._deliver = deliver
        self._ordered: dict[int, float] = {}
        self._channel = timed.recogniser.channel(self._receive)

    def perform(self, order: Order) -> None:
        """See `Channel.perform`."""
        if isinstance(order, Align):
            self._ordered[order.segment] = time.perf_counter()
        self._channel.perform(order)

    def close(self) -> None:
        """See `Channel.close`."""
        self._channel.close()

    def _receive(self, answer: Answer) -> None:
        if isinstance(answer, Aligned) and answer.segment in self._ordered:
            self._timed.add("align", time.perf_counter() - self._ordered.pop(answer.segment))
        for stage, seconds in costs_of(answer).items():
            self._timed.add(stage, seconds)
        self._deliver(answer)


def recognise_clip(config: EngineConfig, chosen: Clip, show: _Show, warnings: list[str]) -> Heard:
    """Let a recogniser, and an aligner if there is one, hear a clip."""
    show("loading the model")
    began = time.perf_counter()
    with LocalEngine(config, on_trouble=lambda _, sentence: warnings.append(sentence)) as engine:
        load_s = time.perf_counter() - began
        show("listening")
        timed = _Timed(engine)
        messages = []
        n_samples = Samples(0)
        with open_audio(chosen.path) as source:
            for message in transcribe(timed, source, FileSettings()):
                if isinstance(message, Progress):
                    n_samples = message.read
                else:
                    messages.append(message)
        memory = _peaks({"main": os.getpid(), **engine.pids})
    timings = sorted((m for m in messages if isinstance(m, Words)), key=lambda m: m.segment)
    is_aligned = any(message.method == "aligned" for message in timings)
    stages = _STAGES if is_aligned else _STAGES[:-1]  # without an aligner words are only spread
    return Heard(
        text=" ".join(m.text for m in messages if isinstance(m, FinalText) and m.text),
        words=tuple(word for message in timings for word in message.words),
        is_aligned=is_aligned,
        audio_s=to_seconds(n_samples),
        load_s=load_s,
        work={name: timed.work[name] for name in stages if name in timed.work},
        memory=memory,
    )


def align_clip(config: EngineConfig, chosen: Clip, show: _Show, warnings: list[str]) -> Heard:
    """Let an aligner find the words of a clip whose text is known."""
    if chosen.text is None:
        raise ConfigError("an aligner finds words that are known: say them with --expect TEXT.")
    samples = read_samples(chosen.path)
    show("loading the model")
    worker = aligner_worker(
        aligner_config(config, config.model),
        Timeouts(),
        lambda _, sentence: warnings.append(sentence),
    )
    began = time.perf_counter()
    try:
        worker.start()
        worker.wait_ready()
        load_s = time.perf_counter() - began
        show("aligning")
        order = Align(1, Samples(0), samples, chosen.text, chosen.language)
        began = time.perf_counter()
        aligned = worker.submit(order).result()
        seconds = time.perf_counter() - began
        memory = _peaks({"main": os.getpid(), "aligner": worker.pid})
    finally:
        worker.stop()
    audio_s = to_seconds(len(samples))
    return Heard(chosen.text, aligned.words, True, audio_s, load_s, {"align": seconds}, memory)


def _peaks(processes: dict[str, int | None]) -> dict[str, int]:
    found = {name: usage(process) for name, process in processes.items() if process}
    return {name: used.peak for name, used in found.items() if used}


def read_samples(path: Path) -> Float32Array:
    """All of a clip, no longer than any aligner reaches.

    Raises:
        AudioError: it cannot be read, or there is nothing in it.
    """
    with open_audio(path, duration=_LONGEST_ALIGNED_S) as source:
        blocks = list(source.blocks())
    if not blocks:
        raise AudioError(f"{path}: there is nothing to hear in it.")
    return np.concatenate(blocks)


# What a person sees.


def show_report(report: Report, console: Console) -> None:
    """Print a report as tables."""
    title = f"{report.model}, a {report.family}: {report.directory}"
    console.print(printable(title), soft_wrap=True, markup=False)
    print_table(_check_table(report), console)
    for warning in report.warnings:
        console.print(Text(printable(f"warning: {warning}"), style="yellow"), soft_wrap=True)
    if report.text or report.expected:
        print_table(_text_table(report), console)
    if report.stages:
        print_table(_stage_table(report), console)
        console.print(_memory_line(report.peak_memory), soft_wrap=True)
    verdict = Text("passed", style="bold green") if report.passed else Text("failed", "bold red")
    console.print(Text(printable(f"{report.model}: ")) + verdict)


_MARKS: Final = {True: ("ok", "green"), False: ("failed", "bold red"), None: ("-", "dim")}


def _check_table(report: Report) -> Table:
    table = _table("", "", "")
    for check in report.checks:
        mark, style = _MARKS[check.passed]
        table.add_row(check.name, Text(mark, style), Text(printable(check.detail)))
    return table


def _text_table(report: Report) -> Table:
    table = _table("", "")
    if report.expected is not None:
        table.add_row("said", Text(printable(report.expected)))
    if report.word_error_rate is not None or report.expected is None:
        table.add_row("heard", Text(printable(report.text) or "(nothing)"))
    return table


def _stage_table(report: Report) -> Table:
    table = _table("stage", "s", "x real time")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, stage in report.stages.items():
        rate = "" if stage.times_real_time is None else f"{stage.times_real_time:.1f}"
        table.add_row(name, f"{stage.seconds:.3f}", rate)
    total = sum(stage.seconds for stage in report.stages.values())
    rate = f"{report.audio_s / total:.1f}" if total else ""
    table.add_row(f"all of {report.audio_s:.1f} s", f"{total:.3f}", rate, style="bold")
    return table


def _memory_line(peaks: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {size / 2**20:.0f}" for name, size in peaks.items())
    return f"peak memory: {sum(peaks.values()) / 2**20:.0f} MiB ({parts})"


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=any(names), header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    return table
