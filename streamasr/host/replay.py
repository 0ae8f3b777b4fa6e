"""Replay of what is on disk of a session, to bring it to where it was before a restart."""

import asyncio

from streamasr.core.units import Samples
from streamasr.host.intake import SLICE
from streamasr.host.live_session import LiveSession
from streamasr.host.recovery import Recovered


async def replay(live: LiveSession, recovered: Recovered, max_lag: Samples) -> None:
    """Recognise once more what was received before a restart and is not final.

    Args:
        live: opened with the beginning of `recovered`; nothing was fed yet.
        recovered: as read from journal and spool.
        max_lag: audio that may wait for recognition.
    """
    for final, samples in recovered.wordless:
        live.restore(final, samples)
    live.warm_up(recovered.warm_up)
    for start, samples in recovered.audio:
        if start > live.intake.position:
            live.intake.skip(Samples(start - live.intake.position), "restart")
        for begin in range(0, len(samples), SLICE):
            await live.intake.wait_for_room(max_lag)
            live.intake.feed_spooled(samples[begin : begin + SLICE])
            await asyncio.sleep(0)
