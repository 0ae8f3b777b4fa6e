"""The measurements of `streamasr bench`: run them and print their results."""

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from streamasr.bench import report
from streamasr.bench.daemon import ScratchDaemon, settings_for
from streamasr.bench.delays import Endpointing
from streamasr.bench.file import measure_file
from streamasr.bench.latency import LatencyResult, Run, Server, measure, result_of, warm_up
from streamasr.bench.machine import ModelFacts, model_facts, this_machine
from streamasr.bench.plot import check_plot, plot_run, plot_update
from streamasr.bench.soak import result_of_soak
from streamasr.bench.speech import Speech, load_speech
from streamasr.bench.telemetry import Telemetry
from streamasr.bench.throughput import DecodeRow, Stages, measure_decoding
from streamasr.bench.update import Plan
from streamasr.bench.update import measure as measure_update
from streamasr.bench.update import result_of as update_result
from streamasr.catalogue.find import Finder
from streamasr.catalogue.known import NOTHING
from streamasr.cli import bench_tables
from streamasr.cli.console import busy
from streamasr.cli.engine_options import finder_of, model_overrides
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.config.endpoint import read_token
from streamasr.config.file import find_config, load_config
from streamasr.config.sections import ModelConfig
from streamasr.core.errors import ConfigError
from streamasr.core.units import to_seconds
from streamasr.engine.build import engine_config
from streamasr.engine.config import EngineConfig
from streamasr.engine.engine import LocalEngine
from streamasr.models import tiny
from streamasr.models.embedded import EMBEDDED
from streamasr.pipeline.transcribe import FileSettings
from streamasr.segmentation.settings import ChunkerConfig

_BUILT_IN_S: Final = 60.0
"""Seconds for which the built-in clip is played by default."""

_MOST_GROWTH: Final = 0.03
"""Share by which memory may grow in a long run."""

_PROGRESS_EVERY_S: Final = 1.0

_Show = Callable[[str], None]


def run_benchmark(options: argparse.Namespace) -> int:
    """Measure; return the exit code: 1 if stable text changed or memory grew.

    Raises:
        ConfigError: the options or the settings cannot be used.
        ModelError: the model cannot be used.
        AudioError: a file cannot be read.
        StreamASRError: the measured daemon or engine failed.
    """
    if plot := getattr(options, "plot", None):
        check_plot(plot)
    match options.bench:
        case "latency":
            return _run_latency(options)
        case "update":
            return _run_update(options)
        case "throughput":
            return _run_throughput(options)
        case "file":
            return _run_file(options)
        case "soak":
            return _run_soak(options)
        case other:
            raise AssertionError(other)


def _run_latency(options: argparse.Namespace) -> int:
    seconds = options.seconds or (None if options.files else _BUILT_IN_S)
    speech = load_speech(options.files, pause_s=options.pause, seconds=seconds)
    run = asyncio.run(_play(options, speech))
    result = result_of(run, _rules(options))
    setting = _setting(options, speech, "pace", "sessions")
    _print(options, setting, result, *_latency_tables(result))
    if options.plot:
        plot_run(run, _rules(options), _title(setting), options.plot)
    return EXIT_INPUT_FAILED if result.summary.stability.violations else 0


def _run_soak(options: argparse.Namespace) -> int:
    speech = load_speech(options.files, pause_s=options.pause, seconds=options.minutes * 60)
    run = asyncio.run(_play(options, speech))
    result = result_of_soak(run, _rules(options))
    summary = result.latency.summary
    setting = _setting(options, speech, "pace", "sessions", "minutes")
    tables = [*_latency_tables(result.latency), bench_tables.soak_table(result)]
    _print(options, setting, result, *tables)
    if options.plot:
        plot_run(run, _rules(options), _title(setting), options.plot)
    has_grown = (result.growth.share or 0.0) > _MOST_GROWTH
    return EXIT_INPUT_FAILED if has_grown or summary.gaps or summary.stability.violations else 0


def _run_update(options: argparse.Namespace) -> int:
    speech = load_speech(options.files, pause_s=0.0)
    plan = Plan(options.seconds, options.final, options.repeat)
    # Room for all of the utterance in one segment.
    longest = max(plan.longest + 1, ChunkerConfig().max_segment)
    engine = _engine(options, max_segment_s=longest, words=False)
    with busy("starting") as show:
        measured = measure_update(
            lambda: LocalEngine(engine),
            lambda: LocalEngine(replace(engine, reuse=False)),
            speech,
            plan,
            report=show,
        )
    result = update_result(measured, plan)
    setting = _setting(options, speech, "repeat")
    _print(
        options,
        setting,
        result,
        bench_tables.update_table(result),
        bench_tables.ratio_table(result),
    )
    if options.plot:
        plot_update(result, _title(setting), options.plot)
    return 0


def _run_throughput(options: argparse.Namespace) -> int:
    speech = load_speech(options.files, pause_s=1.0)
    with busy("starting") as show:
        decoding = _decode(options, speech, show)
        live = asyncio.run(_play_live(options, show)) if options.seconds else []
    result = report.ThroughputResult(decoding, live)
    setting = _setting(options, speech, "sessions", "repeat")
    tables = [bench_tables.decoding_table(decoding)]
    tables += [bench_tables.live_table(live)] if live else []
    _print(options, setting, result, *tables)
    return 0


def _decode(options: argparse.Namespace, speech: Speech, show: _Show) -> list[DecodeRow]:
    with LocalEngine(_engine(options, words=False)) as engine:
        decoding = engine.pipeline.decoding
        if decoding is None:
            raise ConfigError(
                f"{engine.facts.name} has no language model, so its answers are not decoded in "
                "batches; measure it with `streamasr bench update`.",
                code="no_decoder",
            )
        stages = Stages(engine.pipeline.encoding, decoding)
        return measure_decoding(
            stages, speech, options.sessions, repetitions=options.repeat, report=show
        )


def _run_file(options: argparse.Namespace) -> int:
    config = _engine(options)
    settings = FileSettings(config.options)
    results = []
    with busy("starting") as show, LocalEngine(config) as engine:
        show("warming up")
        measure_file(engine, settings, tiny.DEMO)
        for path in options.files or [tiny.DEMO]:
            show(path.name)
            results.append(measure_file(engine, settings, path))
    _print(options, _setting(options, None), results, bench_tables.file_table(results))
    return 0


async def _play(options: argparse.Namespace, speech: Speech) -> Run:
    """Play to sessions of a daemon that we start, or of one that is already running."""
    with busy("starting") as show:
        show("starting")
        async with _daemon(options, options.sessions) as (server, telemetry):
            show("warming up")
            await warm_up(server, load_speech([], pause_s=1.0))
            return await measure(
                server,
                speech,
                pace=options.pace,
                n_sessions=options.sessions,
                telemetry=telemetry,
                report=_now_and_then(show, speech.duration),
            )


async def _play_live(options: argparse.Namespace, show: _Show) -> list[report.LiveRow]:
    speech = load_speech(options.files, pause_s=1.0, seconds=options.seconds)
    rows = []
    show("starting")
    async with _daemon(options, max(options.sessions)) as (server, telemetry):
        await warm_up(server, load_speech([], pause_s=1.0))
        for n_sessions in options.sessions:
            show(f"{n_sessions} live sessions")
            telemetry.looks.clear()
            run = await measure(
                server, speech, pace=1.0, n_sessions=n_sessions, telemetry=telemetry
            )
            rows.append(report.LiveRow(n_sessions, result_of(run, _rules(options))))
    return rows


@contextlib.asynccontextmanager
async def _daemon(
    options: argparse.Namespace, n_sessions: int
) -> AsyncIterator[tuple[Server, Telemetry]]:
    if url := getattr(options, "server", None):
        token = read_token(options.token_file) if options.token_file else None
        yield Server(url, token), Telemetry(url, token)
        return
    settings = settings_for(
        model=_model_name(options),
        threads=options.threads,
        encoder_window_s=options.encoder_window,
        n_sessions=n_sessions,
    )
    given = ["--no-reuse"] if options.no_reuse else []
    if options.punctuation is not None:
        given += ["--punctuation", options.punctuation]
    with ScratchDaemon(settings, given) as daemon:
        yield Server(daemon.url), Telemetry(daemon.url, processes=lambda: daemon.processes)


def _engine(options: argparse.Namespace, **others: Any) -> EngineConfig:
    """Return the configuration of an engine of our own, with nothing of the user's settings."""
    model = msgspec.structs.replace(ModelConfig(), **model_overrides(options))
    config = engine_config(model, _finder(), partials=False, **others)
    return replace(config, encoder_window_s=options.encoder_window)


def _finder() -> Finder:
    """Return a finder of the user's models."""
    return finder_of(load_config(find_config()))


def _model_name(options: argparse.Namespace) -> str:
    """Return the model's name, or its absolute path, for the settings of a daemon."""
    name = options.model or tiny.NAME
    return name if name in EMBEDDED else str(_finder().model(name).absolute())


def _rules(options: argparse.Namespace) -> Endpointing:
    """Return the rules of segmentation of the daemon, which has the defaults."""
    chunker, model = ChunkerConfig(), _facts(options)
    return Endpointing(
        pre_roll=chunker.pre_roll,
        hangover=chunker.hangover,
        trailing_silence=chunker.trailing_silence,
        max_segment=chunker.max_segment,
        has_word_times=model is None or model.scripted is None,
    )


def _facts(options: argparse.Namespace) -> ModelFacts | None:
    """Return facts about the model; None where we did not start the daemon."""
    if getattr(options, "server", None):
        return None
    return model_facts(_finder().model(options.model or tiny.NAME))


def _setting(options: argparse.Namespace, speech: Speech | None, *names: str) -> report.Setting:
    """Return the circumstances that a reader needs to repeat the measurement."""
    settings: dict[str, Any] = {
        "threads": options.threads,
        "encoder window": options.encoder_window,
        "punctuation": _punctuation_name(options),
        "reuse": not options.no_reuse,
        **{name: getattr(options, name) for name in names},
        "audio": [path.name for path in options.files] or "the built-in clip",
    }
    if speech is not None:
        settings["audio_s"] = round(to_seconds(speech.n_samples), 3)
    if server := getattr(options, "server", None):
        settings["server"] = server
    return report.Setting(options.bench, this_machine(), _facts(options), settings)


def _punctuation_name(options: argparse.Namespace) -> str | None:
    """Return the name of the model that punctuates; None where we did not start the daemon."""
    if getattr(options, "server", None):
        return None
    finder = _finder()
    directory = finder.punctuation(options.punctuation, finder.model(options.model or tiny.NAME))
    return NOTHING if directory is None else directory.name


def _latency_tables(result: LatencyResult) -> list[Table]:
    tables = [bench_tables.delay_table(result.summary), bench_tables.latency_table(result)]
    return tables + [bench_tables.process_table(result)] * bool(result.consumption.cpu)


def _title(setting: report.Setting) -> str:
    model = setting.model.name if setting.model else setting.settings["server"]
    window = setting.settings["encoder window"]
    model += f", encoder window {window} s," if window else ""
    return f"{setting.bench}: {model} on {setting.machine.processor}, {setting.machine.cores} cores"


def _print(
    options: argparse.Namespace, setting: report.Setting, result: object, *tables: Table
) -> None:
    if options.json:
        print(report.to_json(setting, result))
        return
    console = Console(highlight=False)
    for line in report.describe(setting):
        console.print(line, soft_wrap=True, markup=False)
    for table in tables:
        console.print()
        console.print(table)


def _now_and_then(show: _Show, duration: float) -> Callable[[float], None]:
    """Show how much audio has been played, about once in a second of audio."""
    shown = -_PROGRESS_EVERY_S

    def tell(seconds: float) -> None:
        nonlocal shown
        if seconds - shown >= _PROGRESS_EVERY_S:
            shown = seconds
            show(f"{seconds:.0f} of {duration:.0f} s")

    return tell
