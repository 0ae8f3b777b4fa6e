"""Dictation engine that runs on your own machine.

    from streamasr import transcribe

    for segment in transcribe("talk.mp3"):
        print(segment.start, segment.end, segment.text)

A sample travels one way: audio **blocks** -> VAD **frames** -> **chunks** of a **segment** ->
features -> encoder **embeddings** -> decoder **tokens** -> **hypothesis** -> **partial** or
**final** -> reader; the aligner adds word times to a final afterwards. Three processes: encoder,
main (session, decoder), aligner.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamasr.api import Segment, Transcriber, Word, transcribe
    from streamasr.core.errors import (
        AudioError,
        ConfigError,
        ModelError,
        StreamASRError,
        WorkerError,
    )

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "ConfigError",
    "ModelError",
    "Segment",
    "StreamASRError",
    "Transcriber",
    "Word",
    "WorkerError",
    "__version__",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    """Load the interface for Python programs when it is used: commands do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from streamasr import api
    from streamasr.core import errors

    return getattr(api, name, None) or getattr(errors, name)
