"""Commands of one connection: frames from the transport, decoded by its codec."""

import asyncio
from collections.abc import Iterator

from streamasr.core.refusal import RefusalError
from streamasr.protocols.dialect import Close, Codec, Command, Disconnect
from streamasr.server.transport import Transport


class CloseRequestedError(Exception):
    """The codec asks to close the connection."""

    def __init__(self, close: Close) -> None:
        """Keep how to close it."""
        super().__init__(close)
        self.close = close


class CommandReader:
    """Reads the commands of a client, one after the other."""

    def __init__(self, transport: Transport, codec: Codec) -> None:
        """Begin with the commands of the request itself."""
        self.n_frames = 0
        """Frames received so far."""
        self._transport = transport
        self._codec = codec
        self._decoded: Iterator[Command] | None = None

    async def next(self, timeout_s: float | None = None) -> Command:
        """Wait for the next command. Cancelling it loses nothing.

        Args:
            timeout_s: the longest wait for each frame.

        Raises:
            TimeoutError: a frame did not come in time.
            DisconnectedError: the connection is closed, and all frames were read.
            CloseRequestedError: the next command is to close it.
            RefusalError: the dialect does not allow a frame.
        """
        if self._decoded is None:
            self._decoded = iter(())
            self._decoded = iter(self._codec.begin())
        while (command := next(self._decoded, None)) is None:
            if timeout_s is None:
                frame = await self._transport.receive()
            else:
                async with asyncio.timeout(timeout_s):
                    frame = await self._transport.receive()
            self.n_frames += 1
            self._decoded = iter(self._codec.decode(frame))
        if isinstance(command, Disconnect):
            raise CloseRequestedError(command.close)
        return command

    def goes_on_after(self, refusal: RefusalError) -> bool:
        """Tell whether the dialect keeps the connection open after a refusal."""
        return self._codec.close_after(refusal) is None
