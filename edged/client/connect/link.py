"""One daemon: connected on whichever of its addresses answers first, and asked.

Theory of operation: a channel of gRPC that has failed once says so until it succeeds, however long
ago that was. So a channel is kept only while it is connected; else a new one is opened, and waited
for. Calls that run on an old one keep it until they end. gRPC itself retries nothing: what is safe
is decided in one place, `edged.client.retry`.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from math import inf
from typing import NoReturn

import grpc

from edged.client.connect import aside
from edged.client.connect.address import UNIX_PREFIX
from edged.client.connect.channel import Options, Pings, open_aio_channel, ping_options
from edged.client.connect.names import NoAddressError, no_address_yet
from edged.client.connect.target import Target
from edged.client.connect.told import error_of_call, told_by_daemon
from edged.client.errors import (
    ClientError,
    ConnectionLostError,
    DeadlineExceededError,
    RequestCancelledError,
    UnreachableError,
    client_error,
)
from edged.clock import Clock, MonotonicClock
from edged.errors import EdgedError, Reason

CHANNEL_OPTIONS: Options = (
    ("grpc.enable_retries", 0),
    # Else channels share the connections, and the failures, of others to the same address.
    ("grpc.use_local_subchannel_pool", 1),
)

PINGS = Pings(after_s=6.0, within_s=6.0)
"""A dead connection is noticed after 12 s at most, and after 6 s where the kernel is told to end
one on which nothing arrives."""
LOOK_S = 2.0
"""Longest look at an address that could not be connected to."""
HEAD_START_S = 0.5
"""Of the known addresses, before others of the same daemon are looked for."""

Find = Callable[[], Awaitable[Sequence[Target]]]
"""Looks for other addresses of the same daemon."""


class Link:
    """Lives on the event loop of its first call."""

    def __init__(
        self,
        ways: Sequence[Target],
        connect_timeout_s: float,
        find: Find | None = None,
        clock: Clock | None = None,
        pings: Pings = PINGS,
    ) -> None:
        assert ways, "a daemon is somewhere"
        self.shown = ways[0].shown
        self._given = tuple(ways)
        self._ways = self._given
        """And the one that worked last, which may have been found, first."""
        self._connect_timeout_s = connect_timeout_s
        self._find = find
        self._clock = clock or MonotonicClock()
        self._pings = pings
        self._metadata = ways[0].metadata
        self._channel: grpc.aio.Channel | None = None
        self._connecting: asyncio.Task[grpc.aio.Channel] | None = None
        self._not_looked = ""
        """Why, for the end of a sentence."""
        self._unnamed: dict[Target, NoAddressError] = {}
        """Ways whose host's name has no address, or none yet."""
        self.lost_s = -inf
        """When it could not be connected to, if it could not be the last time."""
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    async def connect(self, within_s: float) -> None:
        """Raises ClientError: nobody is there, or not within that time. What takes longer goes on,
        for the next call."""
        try:
            await self._connected(within_s)
        except DeadlineExceededError as late:
            raise self.named(UnreachableError(Reason.UNREACHABLE, late.detail)) from None

    async def unary(self, path: str, request: bytes, limit_s: float) -> bytes:
        """One answer, within `limit_s` of the connection. Raises ClientError; ConnectionLostError
        if the connection is an old one, of which nothing came: a new one may do better."""
        known = self._channel
        channel = await self._connected(None)
        try:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            return await method(request, timeout=limit_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if self.doubt(channel, error) and channel is known:
                raise self.silent_for(limit_s) from None
            raise error_of_call(error, self.shown, limit_s) from None
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            self.raise_if_closed(error)

    async def stream(
        self, path: str, request: bytes, *, limit_s: float | None, idle_timeout_s: float
    ) -> "Reading":
        """A stream of answers, of which none has been read; `limit_s` from now on it is over, and
        connecting is a part of that. Raises ClientError."""
        ends_s = None if limit_s is None else self._clock.now_s() + limit_s
        channel = await self._connected(limit_s)
        left_s = None if ends_s is None else max(0.0, ends_s - self._clock.now_s())
        try:
            method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
            call = method(request, timeout=left_s, metadata=self._metadata)
        except grpc.aio.UsageError as error:
            self.raise_if_closed(error)
        return Reading(self, channel, call, limit_s, idle_timeout_s)

    async def close(self) -> None:
        """Calls that run end with RequestCancelledError."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._channel is not None:
            await self._channel.close()

    def renew(self, channel: grpc.aio.Channel) -> None:
        """The next call gets another channel than this one."""
        if self._channel is channel:
            self._channel = None

    def doubt(self, channel: grpc.aio.Channel, error: grpc.aio.AioRpcError) -> bool:
        """Nothing has come of a call on this channel. If its time is over without a word of the
        daemon's, the connection may be dead and not know: a host that went to sleep, a router that
        has forgotten it."""
        is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        may_be_dead = is_late and told_by_daemon(error.trailing_metadata()) is None
        if may_be_dead:
            self.renew(channel)
        return may_be_dead

    def silent_for(self, silence_s: float) -> ClientError:
        return self.named(
            ConnectionLostError(
                Reason.UNREACHABLE,
                f"the daemon at {self.shown} has said nothing for {silence_s:g} s, "
                "not even that it is alive",
            )
        )

    def raise_if_closed(self, error: BaseException) -> NoReturn:
        """A call that nobody cancelled was cancelled with its channel."""
        task = asyncio.current_task()
        if self._is_closed and not (task is not None and task.cancelling()):
            raise self.named(
                RequestCancelledError(Reason.CANCELLED, "the client was closed")
            ) from None
        raise error

    def named(self, error: ClientError) -> ClientError:
        error.daemon = self.shown
        return error

    # ── Connecting ───────────────────────────────────────────────────────────────────────────────

    async def _connected(self, limit_s: float | None) -> grpc.aio.Channel:
        """Callers that come while it connects wait for the same connection."""
        self._check_place()
        channel = self._channel
        if channel is not None and channel.get_state() is grpc.ChannelConnectivity.READY:
            return channel
        if self._is_closed:
            raise self.named(RequestCancelledError(Reason.CANCELLED, "the client was closed"))
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.shield(self._connecting)
        except TimeoutError:
            raise self.named(
                DeadlineExceededError(
                    Reason.DEADLINE_EXCEEDED,
                    f"the daemon at {self.shown} could not be connected to within {limit_s:.3g} s",
                )
            ) from None
        except ClientError as error:
            # Each of those who wait may add to its error.
            raise copy(error) from None
        except asyncio.CancelledError as error:
            self.raise_if_closed(error)

    def _check_place(self) -> None:
        """gRPC works on one event loop of one process; elsewhere it hangs, or worse."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if os.getpid() != self._pid:
            raise RuntimeError("a client does not survive a fork: make another one in the child")
        if self._loop is not loop:
            raise RuntimeError("a client belongs to one event loop: make another one for this")

    def _has_connected(self, task: "asyncio.Task[grpc.aio.Channel]") -> None:
        self._connecting = None
        if task.cancelled():
            return
        if task.exception() is None:
            self._channel, self.lost_s = task.result(), -inf
        elif isinstance(task.exception(), UnreachableError):
            self.lost_s = self._clock.now_s()

    async def _connect(self) -> grpc.aio.Channel:
        self._not_looked = ""
        self._unnamed.clear()
        try:
            channel = await self._here_or_elsewhere()
        except EdgedError as error:
            raise self.named(client_error(error)) from error
        if channel is None and (why := await self._diagnosis()) is not None:
            if self._not_looked and why.reason is Reason.UNREACHABLE:
                why = EdgedError(why.reason, f"{why.detail}{self._not_looked}")
            raise self.named(client_error(why))
        if channel is None:
            where = ", ".join(dict.fromkeys(way.address for way in self._ways))
            tried = "" if where == self.shown else f" ({where})"
            detail = f"no daemon answers at {self.shown}{tried}{self._not_looked}"
            raise self.named(UnreachableError(Reason.UNREACHABLE, detail))
        return channel

    async def _here_or_elsewhere(self) -> grpc.aio.Channel | None:
        """Where it was has a head start; then it is looked for as well."""
        here = asyncio.create_task(self._first_ready(self._ways))
        tasks = {here}
        try:
            await asyncio.wait(tasks, timeout=None if self._find is None else HEAD_START_S)
            if self._find is not None and not (here.done() and here.result() is not None):
                tasks.add(asyncio.create_task(self._elsewhere(self._find)))
            return await _first_of(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _elsewhere(self, find: Find) -> grpc.aio.Channel | None:
        try:
            found = await find()
        except Exception as error:
            # A network that cannot be looked at must not hide a daemon that is there after all.
            self._not_looked = f"; the local network could not be looked at: {error}"
            return None
        return await self._first_ready(found) if found else None

    async def _diagnosis(self) -> EdgedError | None:
        """Why nobody answers, as far as it can be told: above all, that somebody else does."""
        looks = [
            asyncio.wrap_future(aside.begun(partial(_look_at, way, self._connect_timeout_s)))
            for way in self._ways
            if not way.address.startswith(UNIX_PREFIX) and way not in self._unnamed
        ]
        found = [why for why in await asyncio.gather(*looks) if why is not None]
        found += [self._unnamed[way] for way in self._ways if way in self._unnamed]
        others = [why for why in found if why.reason is not Reason.UNREACHABLE]
        return next(iter((*others, *found)), None)

    async def _first_ready(self, ways: Sequence[Target]) -> grpc.aio.Channel | None:
        """The channel that connects first; None if none does in time."""
        channels: dict[grpc.aio.Channel, Target] = {}
        waits = {asyncio.create_task(self._when_open(way, channels)) for way in ways}
        ready: grpc.aio.Channel | None = None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._connect_timeout_s):
                    ready = await _first_of(waits)
            if ready is not None:
                self._ways = tuple(dict.fromkeys((channels[ready], *self._given)))
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            for channel in channels:
                if channel is not ready:
                    await channel.close()
        return ready

    async def _when_open(
        self, way: Target, opened: dict[grpc.aio.Channel, Target]
    ) -> grpc.aio.Channel | None:
        """As `_when_ready`; the channel is put among those that were `opened`."""
        limit_s = self._connect_timeout_s
        self._unnamed[way] = no_address_yet(way.address, limit_s)
        options = (*CHANNEL_OPTIONS, *ping_options(way, self._pings))
        try:
            channel = await open_aio_channel(way, options, limit_s)
        except NoAddressError as error:
            self._unnamed[way] = error
            return None
        self._unnamed.pop(way, None)
        opened[channel] = way
        return await _when_ready(channel)


def _look_at(way: Target, connect_timeout_s: float) -> EdgedError | None:
    """Its name, if it has one, was just looked up, so that it takes no longer than before."""
    from edged.client.connect.trust import diagnose  # noqa: PLC0415  # imports cryptography

    return diagnose(way, min(connect_timeout_s, LOOK_S), connect_timeout_s)


async def _first_of(
    tasks: "set[asyncio.Task[grpc.aio.Channel | None]]",
) -> grpc.aio.Channel | None:
    """The channel of the first task that comes to one; None if none does."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (channel := task.result()) is not None:
                return channel
    return None


async def _when_ready(channel: grpc.aio.Channel) -> grpc.aio.Channel | None:
    """It, when it is connected; None if its first attempt fails."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (
            grpc.ChannelConnectivity.TRANSIENT_FAILURE,
            grpc.ChannelConnectivity.SHUTDOWN,
        ):
            return None
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return channel


class Reading:
    """A stream of answers. Nothing is read ahead, so a program that reads slowly is felt by the
    daemon, whose limits hold."""

    def __init__(
        self,
        link: Link,
        channel: grpc.aio.Channel,
        call: "grpc.aio.UnaryStreamCall[bytes, bytes]",
        limit_s: float | None,
        idle_timeout_s: float,
    ) -> None:
        self.shown = link.shown
        self._link = link
        self._channel = channel
        """Is closed when nothing holds it any more."""
        self._call = call
        self._limit_s = limit_s
        self._idle_timeout_s = idle_timeout_s
        self._has_read = False

    async def next(self) -> bytes | None:
        """The next message; None at the end. Raises ClientError."""
        link = self._link
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                message = await self._call.read()
        except TimeoutError:
            link.renew(self._channel)
            raise link.silent_for(self._idle_timeout_s) from None
        except grpc.aio.AioRpcError as error:
            if not self._has_read:
                link.doubt(self._channel, error)
            raise error_of_call(error, link.shown, self._limit_s) from None
        except asyncio.CancelledError as error:
            link.raise_if_closed(error)
        if message is grpc.aio.EOF:
            return None
        assert isinstance(message, bytes), "nothing parses it"
        self._has_read = True
        return message

    def cancel(self) -> None:
        """The daemon frees what the call holds. Does nothing to a call that has ended."""
        self._call.cancel()
