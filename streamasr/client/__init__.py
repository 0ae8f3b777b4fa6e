"""Client for programs that use the daemon: audio in, typed messages out, lost connections resumed.

```python
async with connect("ws://127.0.0.1:8765", sample_rate=48_000) as session:
    await session.send(block)       # as often as there is audio; waits while the server is busy
    await session.stop()            # no more audio
    async for event in session:     # v1.Partial, v1.Final, ... until v1.End
        ...

async for event in listen(session="microphone"):    # the events of a session of others
    ...
```

Reading and writing may happen in one task or in two, or only one of them. When the connection is
lost, a new one resumes the session: `Reconnecting` and `Resumed` report it, every durable message
comes exactly once and in order, and the server gets every sample. A failure that cannot be resumed
from is raised as an error whose message is one sentence.
"""

from collections.abc import AsyncGenerator, Iterable
from typing import Literal

from streamasr.client.address import DEFAULT_URL, Address
from streamasr.client.audio_session import Audio, AudioSession
from streamasr.client.resumable import (
    Event,
    Reconnecting,
    Resumed,
    Subscription,
    UnreachableError,
)
from streamasr.client.timeouts import DEFAULT_TIMEOUTS, ENDLESS_TIMEOUTS, Timeouts
from streamasr.core.audio_format import Encoding
from streamasr.core.errors import ProtocolError, StreamASRError
from streamasr.core.notices import NoticeCode
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import SAMPLE_RATE
from streamasr.protocols import v1

__all__ = [
    "DEFAULT_TIMEOUTS",
    "DEFAULT_URL",
    "ENDLESS_TIMEOUTS",
    "MICROPHONE",
    "Audio",
    "AudioSession",
    "Event",
    "NoticeCode",
    "ProtocolError",
    "Reconnecting",
    "RefusalCode",
    "RefusalError",
    "Resumed",
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
    channel: int | Literal["mix"] = "mix",
    language: str | None = None,
    languages: Iterable[str] = (),
    context: str = "",
    hotwords: Iterable[str] = (),
    partials: bool = True,
    words: bool = True,
    session: str | None = None,
    since: int = 0,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
    buffer_s: float = 600.0,
) -> AudioSession:
    """Open a session to send audio to, as an async context manager.

    Args:
        url: `ws://`, `wss://` or, for a Unix socket, `unix:///path`.
        token: if the server needs one.
        encoding: of the bytes given to `AudioSession.send`, and of what goes over the wire.
        sample_rate: samples per second, 8000..48000.
        channels: interleaved.
        channel: the channel to recognise, from 0; `mix` averages all of them.
        language: the language to force, by name or BCP 47 tag; None lets the model detect it.
        languages: the languages that the model may choose among; empty for all.
        context: names and terms that may come up.
        hotwords: words that are likely.
        partials: whether to get them.
        words: whether to get them.
        session: resume this one, begun by an earlier `AudioSession`, at its `next_sample`.
        since: with `session`, the last durable message that is known already.
        timeouts: for the server.
        buffer_s: seconds of sent audio that are kept for a server that asks for it again, and
            seconds that may wait to be sent while there is no connection.

    Raises:
        RefusalError: the protocol does not allow a value.
        ConfigError: the URL or the token cannot be right.
    """
    start = v1.Start(
        encoding=encoding,
        sample_rate=sample_rate,
        channels=channels,
        channel=channel,
        language=language,
        languages=tuple(languages),
        context=context,
        hotwords=tuple(hotwords),
        partials=partials,
        words=words,
        session=session,
        since=since if session is not None else None,
    )
    v1.decode_client(v1.encode(start))  # refuses what the server would refuse
    return AudioSession(Address(url, token), start, timeouts, buffer_s)


async def listen(
    url: str = DEFAULT_URL,
    *,
    session: str = MICROPHONE,
    since: int | None = None,
    token: str | None = None,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> AsyncGenerator[Event, None]:
    """Read the events of a running session.

    Args:
        url: as of `connect`.
        session: its name; the daemon's own is `microphone`.
        since: begin after this durable message; None begins now.
        token: if the server needs one.
        timeouts: for the server.

    Yields:
        `Reconnecting` before each further attempt, also for the first connection; then the server's
        messages, up to `v1.End`.

    Raises:
        UnreachableError: no server answers at the address, or not any more.
        ProtocolError: the server refuses, or breaks the protocol.
        ConfigError: the URL or the token cannot be right.
    """
    async with Subscription(Address(url, token), session, since, timeouts) as subscription:
        async for event in subscription:
            yield event
