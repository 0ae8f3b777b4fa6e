"""Model families: the facts that the engine needs of one, and the parts that it must provide.

A family is a folder of its own in `models/` and one line in `models.registry`. Its module `family`
holds a `Family` and imports neither onnxruntime nor llama.cpp: the functions in it import the rest
of the folder when they are called, in the process in which the part runs:

    encoder     encoder process      samples -> embeddings for a language model, or a hypothesis
    decoder     decoder thread       embeddings -> hypothesis; only families with a language model
    aligner     aligner process      samples and words -> times
    punctuator  punctuation process  text -> its punctuation

The functions are called in child processes too, so they are defined at the top level of a module.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.languages import Languages
from streamasr.core.options import SessionOptions
from streamasr.core.punctuation import Marks
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import Float32Array

if TYPE_CHECKING:
    from pathlib import Path

    from streamasr.decoder.batching import Answer
    from streamasr.decoder.placement import Placement
    from streamasr.models.bundle import Bundle
    from streamasr.models.onnx import OnnxOptions

DECODER_FILE: Final = "decoder.gguf"
"""Name of the language model's file in a bundle, for families that have one."""


class Role(StrEnum):
    """Task of a model in the program."""

    RECOGNISER = "recogniser"
    ALIGNER = "aligner"
    PUNCTUATION = "punctuation"


# The encoder process


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """Encoding of a growing utterance, as far as it differs from the update before."""

    first: int = 0
    """Rows before this one are those of the update before; all others are in `embeddings`."""
    embeddings: Float32Array = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """(n_rows - first, n_embd); no rows from a family without a language model."""
    result: Any = None
    """Everything else that the family's decoder needs; without a decoder, the `Hypothesis`.
    It must be picklable, and is replaced as a whole by each update."""


class Utterance(Protocol):
    """Audio that grows, with everything that need not be computed again for it."""

    @property
    def n_samples(self) -> int:
        """Number of samples that were appended."""

    def append(self, samples: Float32Array) -> None:
        """Add the samples that follow.

        Args:
            samples: (n,), mono at SAMPLE_RATE, -1..1.

        Raises:
            AudioError: the samples are empty, not one channel, not float32 or not finite.
        """

    def update(self, n_samples: int) -> Update:
        """Encode the first samples as if no others had come.

        Args:
            n_samples: at most the number appended; may be smaller than in the update before.

        Raises:
            AudioError: fewer samples were appended, or none.
        """


class Encoder(Protocol):
    """A model that works in the encoder process."""

    def begin(self, options: SessionOptions) -> Utterance:
        """Begin an utterance without samples.

        Args:
            options: of the session, for families whose encoder depends on language or hotwords.
        """


class LoadEncoder(Protocol):
    """Function of a family, called in the encoder process."""

    def __call__(self, bundle: "Path", options: "OnnxOptions", *, window_s: int | None) -> Encoder:
        """Load the encoder of a model, and test whether it works.

        Args:
            bundle: the model directory.
            options: threads, execution providers, and the receiver of warnings.
            window_s: length of the attention window in seconds; None for the model's own. Families
                whose encoder has no windows ignore it.

        Raises:
            ModelError: a file is missing or broken, or the encoder computes nonsense.
            ConfigError: the model cannot work with this window.
        """


# The decoder thread


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Encoding of an utterance, complete."""

    embeddings: Float32Array
    """(n_rows, n_embd), read-only."""
    result: Any = None
    """As in the last `Update`."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Settings of a decoder."""

    n_threads: int
    """For llama.cpp."""
    max_segment_s: float
    """The longest audio that will be decoded, in seconds."""
    placement: "Placement"
    """Device that computes it."""
    reuse: bool = True
    """False computes each hypothesis from scratch, the baseline of measurements."""


class Decoder(Protocol):
    """A language model that turns encodings into hypotheses, many at once.

    All of it belongs to the decoder thread, except where a method says otherwise.
    """

    @property
    def n_operations(self) -> int:
        """Counter that rises during a `step` on the CPU. May be read from any thread."""

    def begin(
        self,
        key: Hashable,
        encoded: Encoded,
        options: SessionOptions,
        *,
        forced: Sequence[int] = (),
        draft: Sequence[int] = (),
    ) -> "Answer[Hypothesis]":
        """Begin to decode the audio of one segment; `step` continues it.

        Args:
            key: of the segment: whatever was read for it before is reused as far as it is the same.
            encoded: from the family's encoder.
            options: language, context and hotwords; the family makes its prompt of them.
            forced: tokens that the answer begins with; none for families that cannot be forced.
            draft: tokens that the answer probably begins with; they change its speed only.
        """

    def step(
        self, answers: "Sequence[Answer[Hypothesis]]"
    ) -> "list[tuple[Answer[Hypothesis], float]]":
        """Read one batch for some of the answers; see `Batcher.step`."""

    def release(self, key: Hashable) -> None:
        """Discard everything that was read for a segment."""

    def check_options(self, options: SessionOptions) -> None:
        """Check whether a prompt can be made of options. Called under a lock, from any thread.

        Raises:
            ConfigError: context and hotwords are longer than the prompt has room for.
        """

    def abandon(self) -> None:
        """Make a running `step` raise `Aborted` soon. May be called from any thread."""

    def rearm(self) -> None:
        """Undo `abandon` for the next `step`."""

    def close(self) -> None:
        """Free all memory."""


@dataclass(frozen=True, slots=True)
class DecoderPart:
    """Decoder of a family; the engine runs it in the decoder thread of the main process."""

    load: "Callable[[Bundle, DecoderConfig], Decoder]"
    """Load the decoder of a model, and test whether it works. Raises `ModelError`."""
    n_cells: Callable[[float], int]
    """Positions of the decoder's context for segments of so many seconds."""


# The aligner process


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Raw answer of an aligner for n words; its times may run backwards."""

    milliseconds: tuple[int, ...]
    """(2 n,): start and end of each word."""
    probabilities: tuple[float, ...]
    """(2 n,): of each of these times."""


class Aligner(Protocol):
    """A model that finds the times of words that are known."""

    def align(self, samples: Float32Array, words: Sequence[str]) -> Timestamps:
        """Find the times of words.

        Args:
            samples: (n,), mono at SAMPLE_RATE: the speech.
            words: their spoken forms, in order.

        Raises:
            AudioError: the audio is longer than the model can time.
            DecodeError: llama.cpp refused a batch.
        """

    def close(self) -> None:
        """Free all memory."""


class LoadAligner(Protocol):
    """Function of a family, called in the aligner process."""

    def __call__(
        self, bundle: "Path", options: "OnnxOptions", n_threads: int, placement: "Placement"
    ) -> Aligner:
        """Load an aligner, and test whether it works.

        Args:
            bundle: the model directory.
            options: threads, execution providers, and the receiver of warnings, for its graphs.
            n_threads: for llama.cpp.
            placement: device for its language model.

        Raises:
            ModelError: a file is missing or broken, or the aligner computes nonsense.
        """


# The punctuation process


class Punctuator(Protocol):
    """A model that finds the punctuation of a text."""

    def punctuate(self, text: str) -> Marks:
        """Return the marks of a text without punctuation, from the beginning of a sentence."""


class LoadPunctuator(Protocol):
    """Function of a family, called in the punctuation process."""

    def __call__(self, bundle: "Bundle", options: "OnnxOptions") -> Punctuator:
        """Load a punctuation model, and test whether it works.

        Args:
            bundle: the model.
            options: threads, execution providers, and the receiver of warnings, for its graph.

        Raises:
            ModelError: a file is missing or broken, or the model computes nonsense.
        """


# The family


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """Parts of a family that recognises speech."""

    load_encoder: LoadEncoder
    traits: FamilyTraits = FamilyTraits()  # noqa: RUF009 - frozen
    """Abilities that sessions depend on."""
    decoder: DecoderPart | None = None
    """None for a family whose encoder process gives hypotheses."""
    ignores: "Callable[[Bundle], frozenset[str]]" = lambda _: frozenset()
    """Return the options of sessions that have no effect on a bundle: fields of
    `SessionOptions`."""
    aligner: str | None = None
    """Name of the aligner family that suits its texts; None without such a family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Parts of a family that finds the times of words."""

    load: LoadAligner


@dataclass(frozen=True, slots=True, kw_only=True)
class Punctuation:
    """Parts of a family that punctuates the texts of others."""

    load: LoadPunctuator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """Facts of a model family; what it can do follows from its parts."""

    name: str
    """As in the `model.json` of its bundles. Bundles of users hold it, so it never changes."""
    title: str
    """Name for people."""
    languages: Languages
    """All that any model of the family knows; a bundle may say that it knows fewer."""
    files: "Callable[[Bundle], Sequence[str]]"
    """Return the names of the files that a bundle needs."""
    warning: "Callable[[Bundle], str | None]" = lambda _: None
    """Return a sentence about a weakness of a bundle, if it has one."""
    recognition: Recognition | None = None
    alignment: Alignment | None = None
    punctuation: Punctuation | None = None

    @property
    def role(self) -> Role:
        """Task of the family's models."""
        if self.recognition is not None:
            return Role.RECOGNISER
        return Role.ALIGNER if self.punctuation is None else Role.PUNCTUATION
