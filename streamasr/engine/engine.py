"""Engine: a model at work in child processes and the decoder's thread; its lifecycle and health.

The model is loaded once and serves any number of sessions, in turn and fairly. Each session has a
channel: orders go in, answers come out on threads of the engine.
"""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Self

from streamasr.core.languages import Languages
from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.traits import FamilyTraits
from streamasr.decoder.native import find_gpus
from streamasr.decoder.placement import ON_CPU, Placement, open_where_it_works, place
from streamasr.engine.aligner import AlignerWorker, aligner_worker
from streamasr.engine.config import EngineConfig
from streamasr.engine.decoder_stage import DecoderStage
from streamasr.engine.encoder import EncoderWorker, encoder_worker
from streamasr.engine.gpu_probe import GpuProbe, run_probe
from streamasr.engine.pipeline import PassChannel, Pipeline
from streamasr.engine.ports import Deliver, OnTrouble, Trouble
from streamasr.engine.punctuator import PunctuatorWorker, punctuator_worker
from streamasr.engine.stages import EncoderStage
from streamasr.engine.worker import Timeouts
from streamasr.engine.worker_config import AlignerConfig, EncoderConfig, PunctuatorConfig
from streamasr.models.bundle import read_bundle
from streamasr.models.family import Decoder, DecoderConfig, DecoderPart, Role

logger = logging.getLogger(__name__)


class LocalEngine:
    """An engine of this process and its children; see `ports.Engine`."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        timeouts: Timeouts | None = None,
        on_trouble: OnTrouble | None = None,
    ) -> None:
        """Prepare; entering the context starts the children and loads the decoder.

        Args:
            config: models to load; the options of a session are those of each order.
            timeouts: a child that is silent for longer is treated as dead.
            on_trouble: receives deaths of children, and each difference from the configuration
                once; on threads of the engine.

        Raises:
            ModelError: the model directory cannot be used.
        """
        self._config = config
        self._on_trouble = on_trouble or _ignore
        self._reported: set[str] = set()
        self._lock = threading.Lock()  # guards the one above
        timeouts = timeouts or Timeouts()
        self.bundle = read_bundle(config.model, Role.RECOGNISER)
        self.bundle.check_files()
        recognition = self.bundle.family.recognition
        assert recognition is not None, "follows from the role"
        has_punctuator = config.punctuation is not None and not recognition.traits.punctuates
        self._traits = replace(recognition.traits, has_punctuator=has_punctuator)
        self.encoder: EncoderWorker = encoder_worker(
            recognition.load_encoder, encoder_config(config), timeouts, self._report
        )
        self._decoding: DecoderStage | None = None
        if part := recognition.decoder:
            self._decoding = DecoderStage(lambda: self._load_decoder(part))
        self.aligner: AlignerWorker | None = None
        if config.aligner is not None:
            self.aligner = aligner_worker(
                aligner_config(config, config.aligner),
                timeouts,
                self._report,
                config.aligner_idle_s,
            )
        self.punctuator: PunctuatorWorker | None = None
        if config.punctuation is not None and has_punctuator:
            settings = PunctuatorConfig(config.punctuation, config.hardware.stage_threads.aligner)
            self.punctuator = punctuator_worker(settings, timeouts, self._report)
        encoding = EncoderStage(self.encoder)
        self.pipeline = Pipeline(
            self._traits, encoding, self._decoding, self.aligner, self.punctuator
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def traits(self) -> FamilyTraits:
        """Abilities of the model family."""
        return self._traits

    @property
    def languages(self) -> Languages:
        """Languages that options may name."""
        return self.bundle.family.languages

    @property
    def facts(self) -> ModelFacts:
        """Facts about the model that clients may ask for."""
        family = self.bundle.family
        languages = self.bundle.languages or tuple(family.languages)
        assert family.recognition is not None, "follows from the role"
        ignores = family.recognition.ignores(self.bundle)
        return ModelFacts(self.bundle.name, family.name, languages, ignores)

    @property
    def is_ready(self) -> bool:
        """Tell whether speech becomes text right now; words and punctuation do not count."""
        return self.encoder.is_ready and self._decodes

    @property
    def is_alive(self) -> bool:
        """Tell whether speech will become text. Once false after the start, it stays so."""
        return self.encoder.is_alive and self._decodes

    @property
    def pulse(self) -> int | None:
        """Counter that rises while the decoder works; None while it is idle."""
        return self._decoding.pulse if self._decoding else None

    @property
    def pids(self) -> dict[str, int | None]:
        """Process id of each child, by the child's name."""
        return {name: worker.pid for name, worker in self._workers().items()}

    @property
    def restarts(self) -> dict[str, int]:
        """Number of restarts of each child, by its name."""
        return {name: worker.restarts for name, worker in self._workers().items()}

    def queue_lengths(self) -> dict[str, int]:
        """Return the number of waiting orders of each stage; running ones do not count."""
        return self.pipeline.queue_lengths()

    def start(self) -> None:
        """Start everything at once and wait until all of it is ready, except an idle aligner.

        Raises:
            ModelError: a file of the model is missing or broken.
            ConfigError: the prompt has no room for the configured context and hotwords.
            WorkerError: a child keeps dying.
        """
        if self.bundle.warning:
            self._warn(self.bundle.warning)
        if sentence := self.facts.about_ignored(self._config.options):
            self._warn(sentence)
        for worker in self._workers().values():
            worker.start()
        if self._decoding:
            self._decoding.start()
            self._decoding.wait_ready()
        self.check_options(self._config.options)
        for worker in self._workers().values():
            worker.wait_ready()

    def stop(self) -> None:
        """Stop at once. Nothing is delivered any more once this has returned."""
        self.pipeline.stop()
        for worker in self._workers().values():
            worker.stop()

    def channel(self, deliver: Deliver) -> PassChannel:
        """Open a channel; one that is closed already if the engine was stopped.

        Args:
            deliver: receives each answer, on a thread of the engine or within `perform`. It must
                not block, since other sessions wait meanwhile.
        """
        return self.pipeline.channel(deliver)

    def check_options(self, options: SessionOptions) -> None:
        """Check whether the model can follow options. May be called from any thread.

        Raises:
            ConfigError: the prompt has no room for context and hotwords.
            WorkerError: the engine is not running.
        """
        if self._decoding:
            self._decoding.check_options(options)

    @property
    def _decodes(self) -> bool:
        return self._decoding is None or self._decoding.is_ready

    def _workers(self) -> dict[str, EncoderWorker | AlignerWorker | PunctuatorWorker]:
        workers: dict[str, EncoderWorker | AlignerWorker | PunctuatorWorker]
        workers = {"encoder": self.encoder}
        if self.aligner is not None:
            workers["aligner"] = self.aligner
        if self.punctuator is not None:
            workers["punctuator"] = self.punctuator
        return workers

    def _report(self, trouble: Trouble, sentence: str) -> None:
        """Pass a trouble on; a child that is restarted gives the same warnings again."""
        if trouble == "degraded":
            with self._lock:
                if sentence in self._reported:
                    return
                self._reported.add(sentence)
        self._on_trouble(trouble, sentence)

    def _warn(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self._report("degraded", sentence)

    def _load_decoder(self, part: DecoderPart) -> Decoder:
        """Load the decoder on a GPU if one is wanted and works, otherwise on the CPU."""
        hardware = self._config.hardware
        n_threads = hardware.stage_threads.decoder
        wanted = ON_CPU
        if hardware.gpu_layers:
            wanted, why = place(hardware.gpu_layers, hardware.gpu, find_gpus())
            if why:
                self._warn(why)

        def load(placement: Placement) -> Decoder:
            if placement.is_on_gpu:
                run_probe(GpuProbe(self.bundle.decoder, placement, n_threads))
            config = self._config
            settings = DecoderConfig(n_threads, config.max_segment_s, placement, config.reuse)
            return part.load(self.bundle, settings)

        return open_where_it_works(wanted, load, self._warn)


def encoder_config(config: EngineConfig) -> EncoderConfig:
    """Return the configuration of the encoder process."""
    hardware = config.hardware
    return EncoderConfig(
        config.model,
        hardware.stage_threads.encoder,
        hardware.providers,
        window_s=config.encoder_window_s,
        reuse=config.reuse,
    )


def aligner_config(config: EngineConfig, bundle: Path) -> AlignerConfig:
    """Return the configuration of the aligner process: on the CPU, unless configured otherwise."""
    hardware = config.hardware
    threads = hardware.stage_threads.aligner
    if not hardware.aligner_gpu:
        return AlignerConfig(bundle, threads)
    return AlignerConfig(bundle, threads, hardware.providers, hardware.gpu_layers, hardware.gpu)


def _ignore(_trouble: Trouble, _sentence: str) -> None:
    """Do nothing; the trouble has been logged."""
