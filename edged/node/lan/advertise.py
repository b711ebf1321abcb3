"""Tells the local network where the daemon is, as long as it is there.

Theory of operation: one task owns an `Announcer`, which does it until it fails or is stopped. What
fails (no permission for a socket, a port that others hold alone) is a warning, and is tried again:
nothing here ends the daemon. A daemon that drains says goodbye; one that was killed is forgotten
within TTL_S.
"""

import asyncio
from collections.abc import Callable, Sequence

from edged.clock import Clock
from edged.log import get_logger
from edged.node.lan.announcer import Advertised, Announcer
from edged.node.lan.dns_sd import ServiceText
from edged.node.lan.interfaces import network_listeners

TTL_S = 60
"""How long others believe a record that they hear nothing more of."""
STOP_TIMEOUT_S = 2.0
"""Longest time for a goodbye."""
_RETRY_S = 2.0
_MAX_RETRY_S = 60.0


class Advertiser:
    """Made, started and stopped on one event loop, once."""

    def __init__(
        self,
        name: str,
        listeners: Sequence[str],
        text: Callable[[], ServiceText],
        clock: Clock,
        *,
        ttl_s: int = TTL_S,
    ) -> None:
        """`listeners` are the addresses bound, as "192.168.1.5:7411"; those that no other host
        reaches are not told. `text` is asked again and again: a certificate may be renewed."""
        self._name = name
        self._listeners = network_listeners(listeners)
        self._text = text
        self._clock = clock
        self._ttl_s = ttl_s
        self._log = get_logger("advertise")
        self._announcer: Announcer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def told(self) -> Advertised | None:
        """What others are told now; None before the first announcement and after the goodbye."""
        return None if self._announcer is None else self._announcer.told

    def start(self) -> None:
        """Begin; returns at once."""
        if self._listeners:
            self._task = asyncio.create_task(self._run(), name="advertise")
        else:
            self._log.warning(
                "nothing to advertise: server.listen has no address that other hosts can reach"
            )

    async def stop(self) -> None:
        """Say goodbye, within STOP_TIMEOUT_S, and be silent from then on. May be called twice."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait((task,), timeout=STOP_TIMEOUT_S)

    async def _run(self) -> None:
        pause_s = _RETRY_S
        while True:
            began_s = self._clock.now_s()
            announcer = Announcer(
                self._name, self._listeners, self._text, self._clock, ttl_s=self._ttl_s
            )
            self._announcer = announcer
            try:
                await announcer.run()
            except Exception as error:
                if self._clock.now_s() - began_s > _MAX_RETRY_S:
                    pause_s = _RETRY_S
                self._log.warning(
                    "cannot advertise",
                    error=f"{type(error).__name__}: {error}",
                    retry_after_s=pause_s,
                )
            finally:
                await announcer.close()
            await asyncio.sleep(pause_s)
            pause_s = min(_MAX_RETRY_S, pause_s * 2)
