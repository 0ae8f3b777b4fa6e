"""Work of the daemon besides its sessions: notices of lag, and housekeeping."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from streamasr.core.memory import return_freed_memory
from streamasr.core.notices import NoticeCode
from streamasr.host.intake import LIVE_PACE
from streamasr.host.live_session import LiveSession
from streamasr.storage.store import Store

logger = logging.getLogger(__name__)

_LAGGING_S: Final = 5.0
_LAG_CHECK_S: Final = 1.0
_LAG_NOTICES_S: Final = 10.0

_HOUSEKEEPING_S: Final = 3600.0


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines until the context is left; their failures are logged."""
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def watch_lag(sessions: Iterable[LiveSession]) -> None:
    """Give a notice to the readers of live sessions whose text is late."""
    loop = asyncio.get_running_loop()
    noticed: dict[str, float] = {}
    while True:
        await asyncio.sleep(_LAG_CHECK_S)
        now = loop.time()
        for live in sessions:
            if live.lag_s < _LAGGING_S or live.intake.pace > LIVE_PACE:
                continue
            if now - noticed.get(live.name, -_LAG_NOTICES_S) >= _LAG_NOTICES_S:
                noticed[live.name] = now
                live.notify(NoticeCode.LAGGING, f"the text is {live.lag_s:.0f} s behind the speech")


async def clean_up(store: Store, history_days: Callable[[], int]) -> None:
    """Remove old messages, and return the memory of earlier sessions to the system."""
    while True:
        store.prune(history_days())
        await asyncio.to_thread(return_freed_memory)
        await asyncio.sleep(_HOUSEKEEPING_S)


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s failed", task.get_coro(), exc_info=error)
