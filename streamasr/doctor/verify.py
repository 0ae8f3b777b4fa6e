"""Verification of a model: check its files, run it on a known clip, and measure it."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from streamasr.audio.file import open_audio
from streamasr.core.errors import AudioError, ConfigError, ModelError, WorkerError
from streamasr.core.events import Aligned, Answer, Recognised
from streamasr.core.messages import Final as FinalText
from streamasr.core.messages import Words
from streamasr.core.orders import Align, Order
from streamasr.core.processes import usage
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

Show: TypeAlias = Callable[[str], None]

_LONGEST_ALIGNED_S: Final = 300.0

_STAGES: Final = ("encode", "prefill", "verify", "decode", "align")


@dataclass(frozen=True, slots=True)
class Clip:
    """Audio, and the facts that are known about it."""

    path: Path
    text: str | None
    language: str | None = None
    words: tuple[tuple[str, Span], ...] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of running a model on a clip."""

    text: str
    words: tuple[Word, ...]
    has_times: bool
    """False if the words were only spread evenly over their segments."""
    audio_s: float
    load_s: float
    work: dict[str, float]
    memory: dict[str, int]


def built_in_clip() -> Clip:
    """Return the clip that comes with the package."""
    facts = json.loads(clip.FACTS.read_text("utf-8"))
    words = tuple((word["text"], (word["start"], word["end"])) for word in facts["words"])
    return Clip(clip.CLIP, facts["text"], facts["language"], words)


def verify(
    bundle: Bundle, aligner: Path | None, chosen: Clip, hardware: Hardware, show: Show
) -> Report:
    """Check the files of a model, run it on a clip, and compare the result.

    A check that needs another one which failed is left out.

    Args:
        bundle: the model.
        aligner: the directory of the aligner that comes with a recogniser.
        chosen: the clip.
        hardware: processors that the model runs on.
        show: receives a description of each step.

    Raises:
        AudioError: the clip cannot be read.
        ConfigError: the model is an aligner, and the text of the clip is not known.
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
    config = EngineConfig(bundle.directory, aligner, hardware)
    try:
        if bundle.family.role is Role.ALIGNER:
            outcome = align_clip(config, chosen, show, warnings)
        else:
            outcome = recognise_clip(config, chosen, show, warnings)
    except (ModelError, WorkerError) as error:
        failed = Check("loading", False, str(error), error.code)
        return _report(bundle, [*checks, failed])
    checks.append(Check("loading", True, f"{outcome.load_s:.1f} s"))
    text_check, errors = check_text(chosen.text, outcome.text)
    if bundle.family.role is not Role.ALIGNER:
        checks.append(text_check)
    time_error = None
    if outcome.has_times:
        found = [
            (word.text, (to_seconds(word.start), to_seconds(word.end))) for word in outcome.words
        ]
        times_check, time_error = check_times(chosen.words, found)
        checks.append(times_check)
    else:
        checks.append(Check("word times", None, "the model gives none, and no aligner is used"))
    return Report(
        model=bundle.name,
        family=bundle.family.name,
        directory=str(bundle.directory),
        checks=tuple(checks),
        audio_s=round(outcome.audio_s, 3),
        load_s=round(outcome.load_s, 3),
        text=outcome.text,
        expected=chosen.text,
        word_error_rate=None if bundle.family.role is Role.ALIGNER else errors,
        time_error_ms=time_error,
        stages={name: speed(s, outcome.audio_s) for name, s in outcome.work.items()},
        peak_memory=outcome.memory,
        warnings=tuple(warnings),
    )


def _report(bundle: Bundle, checks: list[Check]) -> Report:
    return Report(bundle.name, bundle.family.name, str(bundle.directory), tuple(checks))


def check_files(bundle: Bundle, name: str = "files") -> Check:
    """Compare files with the sizes and hashes that were noted when the model was stored."""
    try:
        bundle.check_files()
        noted = {name: file.sha256 for name, file in bundle.files.items() if file.sha256}
        for path, sha256 in noted.items():
            with (bundle.directory / path).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    sentence = f"{path} has changed since it was stored; get the model again"
                    return Check(name, False, sentence, "hash_differs")
    except ModelError as error:
        return Check(name, False, str(error), error.code)
    except OSError as error:
        sentence = f"{error.filename} cannot be read: {error.strerror}"
        return Check(name, False, sentence, "file_unreadable")
    if not noted:
        return Check(name, None, "complete; no hashes were noted when it was stored")
    return Check(name, True, f"complete, {len(noted)} hashes as noted")


def _check_aligner(directory: Path) -> Check:
    name = "files of the aligner"
    try:
        return check_files(read_bundle(directory, Role.ALIGNER), name)
    except ModelError as error:
        return Check(name, False, str(error), error.code)


@dataclass(slots=True)
class _Timed:
    """ChannelSource that adds up the costs of its stages; the aligner reports none and is timed."""

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
        """Add the cost of a stage."""
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
        if isinstance(answer, Recognised):
            for stage, seconds in asdict(answer.costs).items():
                self._timed.add(stage, seconds)
        self._deliver(answer)


def recognise_clip(config: EngineConfig, chosen: Clip, show: Show, warnings: list[str]) -> Outcome:
    """Recognise a clip, and align its words if there is an aligner."""
    show("loading the model")
    began = time.perf_counter()
    with LocalEngine(config, on_trouble=lambda _, sentence: warnings.append(sentence)) as engine:
        load_s = time.perf_counter() - began
        show("recognising the clip")
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
    methods = {message.method for message in timings}
    return Outcome(
        text=" ".join(m.text for m in messages if isinstance(m, FinalText) and m.text),
        words=tuple(word for message in timings for word in message.words),
        has_times=bool(methods - {"spread"}),
        audio_s=to_seconds(n_samples),
        load_s=load_s,
        work={name: timed.work[name] for name in _stages(config, methods) if name in timed.work},
        memory=memory,
    )


def _stages(config: EngineConfig, methods: Collection[str]) -> Iterator[str]:
    """Yield the stages that took part: not all families have a language model or an aligner."""
    recognition = open_bundle(config.model).family.recognition
    for name in _STAGES:
        if name == "align":
            is_used = "aligned" in methods
        else:
            is_used = name == "encode" or bool(recognition and recognition.decoder)
        if is_used:
            yield name


def align_clip(config: EngineConfig, chosen: Clip, show: Show, warnings: list[str]) -> Outcome:
    """Find the times of the words of a clip whose text is known."""
    if chosen.text is None:
        raise ConfigError(
            "an aligner finds the times of known words: give them with --expect TEXT.",
            code="text_missing",
        )
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
    return Outcome(chosen.text, aligned.words, True, audio_s, load_s, {"align": seconds}, memory)


def _peaks(processes: dict[str, int | None]) -> dict[str, int]:
    found = {name: usage(process) for name, process in processes.items() if process}
    return {name: used.peak for name, used in found.items() if used}


def read_samples(path: Path) -> Float32Array:
    """Return the samples of a clip, up to the greatest length that an aligner takes.

    Raises:
        AudioError: the clip cannot be read, or holds no audio.
    """
    with open_audio(path, duration=_LONGEST_ALIGNED_S) as source:
        blocks = list(source.blocks())
    if not blocks:
        raise AudioError(f"{path} holds no audio.", code="no_audio")
    return np.concatenate(blocks)
