"""The daemon's own session: a microphone, or a file that is played in its place."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from streamasr.audio.capture import Capture, Captured, CaptureEvent, Missed, Troubled
from streamasr.core.errors import AudioError
from streamasr.core.notices import NoticeCode
from streamasr.core.refusal import RefusalError
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import to_samples
from streamasr.host.live_session import LiveSession
from streamasr.host.local_host import LocalSessionHost
from streamasr.host.recovery import Recovered

logger = logging.getLogger(__name__)

_LEAST_BEFORE_LOSS: Final = to_samples(30.0)
"""Lag before audio of a microphone is dropped, since it cannot wait. A shorter lag often ends by
itself, and the segment behind a cut may have begun seconds ago."""


class MicrophoneSession:
    """Feeds captured audio to the session called `microphone`."""

    def __init__(
        self,
        host: LocalSessionHost,
        open_capture: Callable[[], Capture] | None,
        *,
        can_wait: bool = False,
    ) -> None:
        """Prepare.

        Args:
            host: has the session.
            open_capture: opens the source of audio; None if there is none.
            can_wait: the source waits when its audio cannot be taken: a file.
        """
        self._host = host
        self._open_capture = open_capture
        self._can_wait = can_wait
        self._is_on = asyncio.Event()  # not paused
        self._is_on.set()
        self._capturing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Begin the session, if there is a source and `resume` has not continued it."""
        if not self._open_capture:
            return
        if live := self._find():
            if not live.intake.is_finishing:
                return
            await self._host.sessions.drop(MICROPHONE)
        self._host.begin_own()

    async def resume(self, recovered: Recovered) -> None:
        """Continue the session from before a restart; the time in between becomes a gap.

        After a long time, or without a source, the session is finished.
        """
        live = await self._host.resume(recovered)
        if recovered.is_over:
            return
        away_s = time.time() - recovered.last_written
        if self._open_capture and 0 <= away_s <= self._host.resume_s:
            live.intake.skip(to_samples(max(away_s, 0.01)), "restart")
        else:
            live.intake.finish()
            await live.is_over.wait()

    def pause(self) -> None:
        """Close the microphone until `unpause`, and finish the open segment."""
        if self._is_on.is_set():
            self._is_on.clear()
            if self._capturing:
                self._capturing.cancel()
            self._notify(NoticeCode.PAUSED, "the microphone is closed")

    def unpause(self) -> None:
        """Open the microphone again."""
        if not self._is_on.is_set():
            self._is_on.set()
            self._notify(NoticeCode.RESUMED, "the microphone is open again")

    async def run(self) -> None:
        """Feed the session until it ends, or the source does."""
        live = self._find()
        if live is None or self._open_capture is None:
            return
        capture = self._open_capture()
        while not live.intake.is_finishing:
            await self._is_on.wait()
            await self._capture_until_paused(capture, live)

    async def _capture_until_paused(self, capture: Capture, live: LiveSession) -> None:
        self._capturing = asyncio.create_task(self._take_all(capture, live))
        try:
            await asyncio.wait([self._capturing])
        finally:
            self._capturing.cancel()
            await asyncio.gather(self._capturing, return_exceptions=True)  # closes the device
        if self._capturing.cancelled():
            live.intake.flush()
            return
        if error := self._capturing.exception():
            logger.error("the microphone's session failed", exc_info=error)
        else:  # the file is over, or the device cannot be used at all
            logger.info("the audio source has ended")
        live.intake.finish()

    async def _take_all(self, capture: Capture, live: LiveSession) -> None:
        try:
            async with aclosing(capture.events()) as events:
                async for event in events:
                    await self._take(event, live)
        except AudioError as error:
            logger.warning("%s", error)
            live.notify(NoticeCode.AUDIO, str(error))

    async def _take(self, event: CaptureEvent, live: LiveSession) -> None:
        max_lag = self._host.max_lag
        match event:
            case Captured(samples=samples):
                if self._can_wait:
                    await live.intake.wait_for_room(max_lag)
                live.intake.feed_or_drop(samples, max(max_lag, _LEAST_BEFORE_LOSS))
            case Missed(duration=duration, reason=reason):
                live.intake.skip(duration, reason)
            case Troubled(code=code, message=message):
                logger.warning("%s", message)
                live.notify(code, message)

    def _notify(self, code: NoticeCode, message: str) -> None:
        logger.info("%s", message)
        if live := self._find():
            live.notify(code, message)

    def _find(self) -> LiveSession | None:
        with contextlib.suppress(RefusalError):
            return self._host.sessions.find(MICROPHONE)
        return None
