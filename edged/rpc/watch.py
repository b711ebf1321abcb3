"""Decides when a watcher of the daemon's status is told again."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from edged.rpc.view import DaemonState
from edged.supervise.model import Models

Pause = Callable[[float], Awaitable[None]]
"""Returns after that many seconds."""


async def moments_to_tell(
    models: Models, daemon_state: Callable[[], DaemonState], interval_s: float, pause: Pause
) -> AsyncGenerator[None, None]:
    """Yields at once, then after each change, at most once per `interval_s`.

    Changes while the last message is being sent, or sooner than `interval_s` after it, are told
    together by the next one; nothing is queued. The daemon's own state is looked at once per
    interval, because it follows that of the models a little later and wakes nobody. Close it
    (`aclosing`) where it is left early.
    """
    while True:
        changed = asyncio.create_task(models.wait_for_change())
        try:
            # Begins the wait before the status is read, so that no change falls between the two.
            await asyncio.sleep(0)
            told_state = daemon_state()
            yield
            await pause(interval_s)
            while not changed.done() and daemon_state() == told_state:
                await asyncio.wait({changed}, timeout=interval_s)
            if changed.done():
                changed.result()
        finally:
            changed.cancel()
