"""The embedded models, one of each family, so that a promise is tested for all families.

A test that takes the fixture `embedded` runs once for each model. The differences between the
models follow from the parts of their families.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from streamasr.audio.file import open_audio
from streamasr.audio.source import AudioSource
from streamasr.core.messages import Final as FinalText
from streamasr.core.messages import Message
from streamasr.doctor.verification import normalised, word_error_rate
from streamasr.engine.config import EngineConfig, Hardware
from streamasr.engine.engine import LocalEngine
from streamasr.models import tiny
from streamasr.models.bundle import open_bundle
from streamasr.models.embedded import EMBEDDED
from streamasr.models.family import Recognition
from streamasr.pipeline.transcribe import FileSettings, transcribe

DEMO: Final = tiny.DEMO
"""Clip with pauses whose words all embedded models know."""
DEMO_TEXT: Final = tuple(DEMO.with_suffix(".txt").read_text("utf-8").splitlines())
"""Spoken text of the demo, segment by segment."""

MOST_WORD_ERRORS: Final = 0.06
"""Share of words that an embedded model may confuse with others in a clip of ours."""


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """Embedded model, with the abilities of its family."""

    name: str
    bundle: Path

    def __str__(self) -> str:
        """Return the name, for the names of tests."""
        return self.name

    @property
    def recognition(self) -> Recognition:
        """Parts of the family."""
        recognition = open_bundle(self.bundle).family.recognition
        assert recognition is not None
        return recognition

    @property
    def aligner(self) -> Path | None:
        """Directory of its aligner; None for a family that times its words itself."""
        return None if self.recognition.traits.word_method else self.bundle / "aligner"

    @property
    def has_decoder(self) -> bool:
        """True if a language model writes the text, and states its language."""
        return self.recognition.decoder is not None

    @property
    def can_force(self) -> bool:
        """True if live text equals that of a file although a part was committed earlier."""
        return self.recognition.traits.can_force

    @property
    def children(self) -> tuple[str, ...]:
        """Names of its processes."""
        return ("encoder", "aligner") if self.aligner else ("encoder",)

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that take time."""
        decoding = ("prefill", "verify", "decode") if self.has_decoder else ()
        return ("encode", *decoding, *(("align",) if self.aligner else ()))

    @property
    def method(self) -> str:
        """Origin of the times of its words."""
        return self.recognition.traits.word_method or "aligned"

    @property
    def config(self) -> EngineConfig:
        """Configuration of an engine with one thread for each stage."""
        return EngineConfig(self.bundle, self.aligner, Hardware(threads=1))

    @property
    def demo(self) -> tuple[FinalText, ...]:
        """Finals of the demo, which are the same in every way to transcribe it as a file."""
        return _demo_of(self)

    def transcribe(self, source: AudioSource) -> list[Message]:
        """Transcribe audio as a file is."""
        with LocalEngine(self.config) as engine:
            messages = transcribe(engine, source, FileSettings())
            return [message for message in messages if isinstance(message, Message)]


EMBEDDED_MODELS: Final = tuple(EmbeddedModel(name, path) for name, path in EMBEDDED.items())


@cache
def _demo_of(model: EmbeddedModel) -> tuple[FinalText, ...]:
    with open_audio(DEMO) as source:
        messages = model.transcribe(source)
    finals = tuple(m for m in messages if isinstance(m, FinalText) and m.text)
    assert_spoken([final.text for final in finals], DEMO_TEXT)
    return finals


def assert_spoken(found: Sequence[str], expected: Sequence[str]) -> None:
    """Check that a text has almost all words of another one."""
    rate = word_error_rate(normalised(" ".join(expected)), normalised(" ".join(found)))
    assert rate <= MOST_WORD_ERRORS, found
