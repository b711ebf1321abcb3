"""`deadline_s` covers all that an answer takes: connecting and looking around too."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from edged.client.calling import Caller
from edged.client.connect.link import Link
from edged.client.connect.target import Plaintext, Target
from edged.client.errors import ConnectionLostError, DeadlineExceededError, UnreachableError
from edged.client.route import Given, Route
from edged.client.stream import AsyncStream, Call
from edged.clock import ManualClock
from tests.client.scripted import WHOLE, admitted, ends, is_silent, playing, says, then
from tests.client.servers import free_port
from tests.rpc.fakes import GATE_TIMEOUT_S

LIMIT_S = 30.0
ALMOST_S = LIMIT_S - 0.05


def at(address: str) -> Target:
    return Target(address, address, Plaintext())


def nobody() -> Target:
    return at(f"127.0.0.1:{free_port()}")


def link_to(address: str, after_s: float, clock: ManualClock) -> Link:
    """To a daemon that has moved, and is found after that time."""

    async def find() -> Sequence[Target]:
        clock.advance(after_s)
        return [at(address)]

    return Link([nobody()], GATE_TIMEOUT_S, find, clock)


async def first_of(link: Link, limit_s: float | None) -> bytes | None:
    """The first message of a stream."""
    reading = await link.stream("/a/B", b"", limit_s=limit_s, idle_timeout_s=GATE_TIMEOUT_S)
    return await reading.next()


async def test_a_call_gets_the_time_that_connecting_has_left() -> None:
    async with playing(says(*WHOLE)) as daemon:
        link = link_to(daemon.address, 20.0, ManualClock())
        assert await first_of(link, LIMIT_S) == WHOLE[0].SerializeToString()
        await link.close()
    [limit_s] = daemon.limits_s
    assert limit_s is not None
    assert 0 < limit_s < LIMIT_S - 19.0


async def test_a_call_for_which_connecting_has_left_no_time_is_told_the_whole_limit() -> None:
    async with playing(is_silent()) as daemon:
        link = link_to(daemon.address, LIMIT_S, ManualClock())
        with pytest.raises(DeadlineExceededError, match="did not answer within 30 s"):
            await asyncio.wait_for(first_of(link, LIMIT_S), GATE_TIMEOUT_S)
        await link.close()


async def test_a_call_without_a_limit_gets_none() -> None:
    async with playing(says(*WHOLE)) as daemon:
        link = link_to(daemon.address, 20.0, ManualClock())
        await first_of(link, None)
        await link.close()
    assert daemon.limits_s == [None]


@asynccontextmanager
async def asking(link: Link, clock: ManualClock) -> AsyncIterator[AsyncStream]:
    """Looking for others than the daemon of the link has no end."""

    async def find_others() -> Sequence[Given]:
        await asyncio.Event().wait()
        return []

    route = Route([Given((at(link.shown),))], lambda _: link, clock, find_others)
    call = Call(b"", LIMIT_S, GATE_TIMEOUT_S)
    async with asyncio.timeout(GATE_TIMEOUT_S):
        yield AsyncStream(Caller(route, None, clock), call, clock)
    await route.close()


async def test_others_are_looked_for_no_longer_than_it_may_take() -> None:
    clock = ManualClock()
    async with asking(link_to(nobody().address, ALMOST_S, clock), clock) as stream:
        with pytest.raises(UnreachableError):
            await stream.answer()


async def test_nor_are_those_that_might_take_over() -> None:
    lost = then(says(admitted()), ends(grpc.StatusCode.UNAVAILABLE))
    clock = ManualClock()
    async with playing(lost) as daemon:
        link = Link([at(daemon.address)], GATE_TIMEOUT_S, clock=clock)
        async with asking(link, clock) as stream:
            await anext(stream)
            clock.advance(ALMOST_S)
            with pytest.raises(ConnectionLostError):
                await stream.answer()
