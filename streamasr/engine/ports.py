"""Interface of an engine to sessions: an engine of this process, or one elsewhere.

`pipeline`, `host` and `daemon` depend on these Protocols only.
"""

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from streamasr.core.events import Answer
from streamasr.core.languages import Languages
from streamasr.core.model_facts import ModelFacts
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Order
from streamasr.core.traits import FamilyTraits

Deliver: TypeAlias = Callable[[Answer], None]
"""Receiver of answers. It may be called on any thread of the engine, or within `perform`, and must
not block."""

Trouble: TypeAlias = Literal["worker_died", "worker_lost", "degraded"]
"""State of a child process: it is being replaced; it has ended for good; it works, but not as
configured."""

OnTrouble: TypeAlias = Callable[[Trouble, str], None]
"""Receiver of troubles, each with a sentence for people. Called on a thread of the engine; it must
not block."""


class Channel(Protocol):
    """One session's connection to an engine. `perform` and `close` belong to one thread.

    Every `Recognise` is answered by exactly one of `Recognised`, `PassFailed` and `PassAbandoned`,
    every `Punctuate` by one of `Punctuated` and `PassAbandoned`, every `Align` by one `Aligned`,
    until the channel is closed. Answers come in any order.
    """

    def perform(self, order: Order) -> None:
        """Begin to execute an order; do nothing if the channel is closed."""

    def close(self) -> None:
        """Drop all orders. Nothing is delivered any more once this has returned."""


class ChannelSource(Protocol):
    """Part of an engine that a stream needs."""

    @property
    def traits(self) -> FamilyTraits:
        """Abilities of the model family."""

    def channel(self, deliver: Deliver) -> Channel:
        """Open a channel; one that is closed already if the engine was stopped.

        Args:
            deliver: receives each answer.
        """


class Engine(ChannelSource, Protocol):
    """A model at work, for any number of sessions."""

    @property
    def facts(self) -> ModelFacts:
        """Facts about the model that clients may ask for."""

    @property
    def languages(self) -> Languages:
        """Languages that options may name."""

    @property
    def is_ready(self) -> bool:
        """Tell whether speech becomes text right now; words and punctuation do not count."""

    @property
    def is_alive(self) -> bool:
        """Tell whether speech will become text. Once false after the start, it stays so."""

    @property
    def pulse(self) -> int | None:
        """Counter that rises while the engine works in this process; None while it does not."""

    @property
    def restarts(self) -> dict[str, int]:
        """Number of restarts of each child process, by its name."""

    def queue_lengths(self) -> dict[str, int]:
        """Return the number of waiting orders of each stage, by its name."""

    def check_options(self, options: SessionOptions) -> None:
        """Check whether the model can follow options. May be called from any thread.

        Raises:
            ConfigError: the prompt has no room for context and hotwords.
            WorkerError: the engine is not running.
        """

    def start(self) -> None:
        """Start, and wait until the engine is ready.

        Raises:
            ModelError: a file of the model is missing or broken.
            ConfigError: the model cannot follow the configured options.
            WorkerError: a child process keeps dying.
        """

    def stop(self) -> None:
        """Stop at once. Nothing is delivered any more once this has returned."""
