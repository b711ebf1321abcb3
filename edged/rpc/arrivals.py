"""Decides how long a request may take to arrive, and how many may be arriving at once.

Theory of operation: a call takes a place as soon as its headers are there; its message may come
byte by byte, or for the most part and never whole. Until somebody reads it, gRPC holds no more of
it than the stream's window; who reads it lets all of it come. So the reading has places: a few for
each connection, and some for all together. While nobody waits for a place, a message has
`message_s`; who waits makes the one that has arrived longest give way, once it has had `hurried_s`.
A message that is there already needs its place for no time at all.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edged.errors import EdgedError, Reason


@dataclass(frozen=True, slots=True)
class ArrivalLimits:
    message_s: float = 20.0
    """Longest time that a request takes to arrive."""
    hurried_s: float = 1.0
    """The same while others wait to be read."""
    max_arriving: int = 32
    """Requests that are read at once. Each may be as long as a message may be."""
    max_arriving_of_connection: int = 4


class Arrivals:
    """The places of one server. Used on one event loop."""

    def __init__(self, limits: ArrivalLimits) -> None:
        self._limits = limits
        self._places = _Places(limits.max_arriving, limits.hurried_s)
        self._of_connection: dict[str, _Places] = {}

    @property
    def num_connections(self) -> int:
        """Connections of which a request arrives or waits to."""
        return len(self._of_connection)

    @asynccontextmanager
    async def place(self, peer: str) -> AsyncIterator[None]:
        """Hold a place while a request of that connection is read.

        Raises:
            EdgedError: DEADLINE_EXCEEDED; it did not arrive in time.
        """
        own = self._of_connection.get(peer)
        if own is None:
            own = _Places(self._limits.max_arriving_of_connection, self._limits.hurried_s)
            self._of_connection[peer] = own
        try:
            async with (
                asyncio.timeout(self._limits.message_s) as time,
                own.held(time),
                self._places.held(time),
            ):
                yield
        except TimeoutError:
            raise EdgedError(
                Reason.DEADLINE_EXCEEDED,
                f"the request has not arrived in time: it may take {self._limits.message_s:g} s, "
                f"and {self._limits.hurried_s:g} s while others wait to be read",
            ) from None
        finally:
            if own.is_empty:
                self._of_connection.pop(peer, None)


class _Places:
    def __init__(self, num_places: int, hurried_s: float) -> None:
        self._free = asyncio.Semaphore(num_places)
        self._hurried_s = hurried_s
        self._num_waiting = 0
        self._unhurried: dict[asyncio.Timeout, float] = {}
        """Who holds a place, longest first, and since when."""
        self._num_held = 0

    @property
    def is_empty(self) -> bool:
        return self._num_held == 0 and self._num_waiting == 0

    @asynccontextmanager
    async def held(self, time: asyncio.Timeout) -> AsyncIterator[None]:
        """Whoever holds a place has until `time`, which becomes shorter when others wait."""
        self._num_waiting += 1
        try:
            if self._free.locked():
                self._hurry()
            await self._free.acquire()
        finally:
            self._num_waiting -= 1
        self._num_held += 1
        self._unhurried[time] = asyncio.get_running_loop().time()
        try:
            if self._num_waiting > 0:
                self._hurry()
            yield
        finally:
            self._unhurried.pop(time, None)
            self._num_held -= 1
            self._free.release()

    def _hurry(self) -> None:
        """The one that has held a place longest is to give way, if none has been told for this."""
        for time, since_s in list(self._unhurried.items())[:1]:
            del self._unhurried[time]
            end_s = time.when()
            if not time.expired() and end_s is not None:
                time.reschedule(min(end_s, since_s + self._hurried_s))
