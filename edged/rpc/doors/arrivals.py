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
        self._all = _Places(limits.max_arriving)
        self._of_connection: dict[str, _Places] = {}
        self._unhurried: dict[asyncio.Timeout, tuple[_Places, float]] = {}
        """What is read, longest first: whose it is, and since when."""

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
            own = self._of_connection[peer] = _Places(self._limits.max_arriving_of_connection)
        own.num_users += 1
        try:
            async with (
                asyncio.timeout(self._limits.message_s) as time,
                self._held(own, own),
                self._held(self._all, None),
            ):
                self._unhurried[time] = own, asyncio.get_running_loop().time()
                if own.num_waiting > 0 or self._all.num_waiting > 0:
                    self._hurry(None if self._all.num_waiting > 0 else own)
                try:
                    yield
                finally:
                    self._unhurried.pop(time, None)
        except TimeoutError:
            raise EdgedError(
                Reason.DEADLINE_EXCEEDED,
                f"the request has not arrived in time: it may take {self._limits.message_s:g} s, "
                f"and {self._limits.hurried_s:g} s while others wait to be read",
            ) from None
        finally:
            own.num_users -= 1
            if own.num_users == 0:
                del self._of_connection[peer]

    @asynccontextmanager
    async def _held(self, places: "_Places", of: "_Places | None") -> AsyncIterator[None]:
        places.num_waiting += 1
        try:
            if places.free.locked():
                self._hurry(of)
            await places.free.acquire()
        finally:
            places.num_waiting -= 1
        try:
            yield
        finally:
            places.free.release()

    def _hurry(self, of: "_Places | None") -> None:
        """The request that has been read longest, of a connection or of all, is to give way."""
        found = (
            (time, since_s)
            for time, (whose, since_s) in self._unhurried.items()
            if of is None or whose is of
        )
        time, since_s = next(found, (None, 0.0))
        if time is None:
            return
        del self._unhurried[time]
        end_s = time.when()
        if not time.expired() and end_s is not None:
            time.reschedule(min(end_s, since_s + self._limits.hurried_s))


class _Places:
    def __init__(self, num_places: int) -> None:
        self.free = asyncio.Semaphore(num_places)
        self.num_waiting = 0
        self.num_users = 0
