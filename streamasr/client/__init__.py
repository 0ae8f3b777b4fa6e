"""For programs that talk to the daemon: audio in, typed messages out, lost connections mended.

```python
async with connect("ws://127.0.0.1:8765", sample_rate=48_000) as stream:
    await stream.send(block)        # as often as there is audio; waits while the server is busy
    await stream.stop()             # no more audio
    async for event in stream:      # v1.Partial, v1.Final, ... until v1.End
        ...

async for event in listen(session="microphone"):    # what others say
    ...
```

Reading and writing may happen in one task or in two, or one of them not at all. When the connection
is lost, a new one resumes the session: `Reconnecting` and `Resumed` tell of it, every durable
message comes exactly once and in order, and the server gets every sample. What cannot be mended is
raised as an error of one sentence.
"""

from collections.abc import AsyncGenerator, Iterable

from streamasr.client.address import DEFAULT_URL, Address
from streamasr.client.conversation import (
    FOREVER,
    PATIENT,
    Event,
    Reconnecting,
    Resumed,
    Subscription,
    Timeouts,
    UnreachableError,
)
from streamasr.client.stream import Audio, Stream
from streamasr.core.audio_format import Encoding
from streamasr.core.errors import ProtocolError, StreamASRError
from streamasr.core.notices import NoticeCode
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import SAMPLE_RATE
from streamasr.protocols import v1

__all__ = [
    "DEFAULT_URL",
    "FOREVER",
    "MICROPHONE",
    "PATIENT",
    "Audio",
    "Event",
    "NoticeCode",
    "ProtocolError",
    "Reconnecting",
    "RefusalCode",
    "RefusalError",
    "Resumed",
    "Stream",
    "StreamASRError",
    "Timeouts",
    "UnreachableError",
    "connect",
    "listen",
    "v1",
]


def connect(
    url: str = DEFAULT_URL,
    *,
    token: str | None = None,
    encoding: Encoding = "pcm_s16le",
    sample_rate: int = SAMPLE_RATE,
    channels: int = 1,
    language: str | None = None,
    context: str = "",
    hotwords: Iterable[str] = (),
    partials: bool = True,
    words: bool = True,
    session: str | None = None,
    since: int = 0,
    timeouts: Timeouts = PATIENT,
    buffer_s: float = 600.0,
) -> "Stream":
    """Open a session to send audio to, as an async context manager.

    Args:
        url: `ws://`, `wss://` or, for a Unix socket, `unix:///path`.
        token: if the server wants one.
        encoding: of the bytes given to `Stream.send`, and of what goes over the wire.
        sample_rate: samples per second, 8000..48000.
        channels: interleaved.
        language: None lets the model detect it.
        context: names and terms that may come up.
        hotwords: words that are likely.
        partials: whether to get them.
        words: whether to get them.
        session: resume this one, begun by an earlier `Stream`; go on at its `next_sample`.
        since: with `session`, the last durable message that is known already.
        timeouts: how long to wait for a server.
        buffer_s: seconds of sent audio that are kept for a server that asks for it again, and
            seconds that may wait to be sent while there is no connection.

    Raises:
        ProtocolError: a value is none that the protocol knows.
        ConfigError: the URL or the token cannot be right.
    """
    start = v1.Start(
        encoding=encoding,
        sample_rate=sample_rate,
        channels=channels,
        language=language,
        context=context,
        hotwords=tuple(hotwords),
        partials=partials,
        words=words,
        session=session,
        since=since if session is not None else None,
    )
    v1.decode_client(v1.encode(start))  # refuses here what the server would refuse there
    return Stream(Address(url, token), start, timeouts, buffer_s)


async def listen(
    url: str = DEFAULT_URL,
    *,
    session: str = MICROPHONE,
    since: int | None = None,
    token: str | None = None,
    timeouts: Timeouts = PATIENT,
) -> AsyncGenerator[Event, None]:
    """Read the events of a running session.

    Args:
        url: as of `connect`.
        session: its name; the daemon's own is `microphone`.
        since: begin after this durable message; None begins now.
        token: if the server wants one.
        timeouts: how long to wait for a server.

    Yields:
        `Reconnecting` before each further try, the first connection included; then what the server
        sends, up to `v1.End`.

    Raises:
        UnreachableError: no server, or none any longer.
        ProtocolError: the server refuses.
        ConfigError: the URL or the token cannot be right.
    """
    async with Subscription(Address(url, token), session, since, timeouts) as subscription:
        async for event in subscription:
            yield event
