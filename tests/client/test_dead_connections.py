"""A connection dies and nobody is told: the first call after that succeeds all the same."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edged.client import RetryPolicy, Timeouts
from edged.client.calling import Caller
from edged.client.connect.channel import Pings, ping_options
from edged.client.connect.link import PINGS, Link
from edged.client.errors import ConnectionLostError
from edged.client.route import Given, Route
from edged.client.stream import AsyncStream, Call
from edged.clock import MonotonicClock
from edged.rpc.doors.connections import ConnectionLimits
from edged.v1 import inference_pb2 as pb
from tests.client.scripted import WHOLE, playing, says
from tests.client.test_link import Router, at, routed
from tests.rpc.fakes import GATE_TIMEOUT_S

OFTEN = Pings(after_s=0.2, within_s=0.5)
NEVER = Pings(after_s=1000.0, within_s=1000.0)
SHORT_S = 0.2
RETRIES = RetryPolicy(max_attempts=3, first_backoff_s=0.01)
FIRST = WHOLE[0].SerializeToString()


class Program:
    """It asks a daemon that is behind a router."""

    def __init__(self, router: Router, pings: Pings) -> None:
        self.router = router
        target = at(router.address)
        clock = MonotonicClock()
        self.link = Link([target], GATE_TIMEOUT_S, clock=clock, pings=pings)
        self.route = Route([Given((target,))], lambda _: self.link, clock)
        self.caller = Caller(self.route, RETRIES, clock, draw=random.Random(1))
        self.clock = clock

    async def generate(self) -> str:
        stream = AsyncStream(self.caller, Call(b"", None, GATE_TIMEOUT_S), self.clock)
        async with asyncio.timeout(GATE_TIMEOUT_S):
            return (await stream.answer()).text

    async def method(self, *limits_s: float, is_repeatable: bool = True) -> bytes:
        """Each attempt has the next limit."""
        limits = iter(limits_s)

        async def ask(link: Link, _: float | None) -> bytes:
            return await link.unary("/a/B", b"", next(limits))

        async with asyncio.timeout(GATE_TIMEOUT_S):
            _, answer = await self.caller.anywhere(ask, is_repeatable=is_repeatable)
        return answer


@asynccontextmanager
async def connected(pings: Pings, *answer: pb.GenerateResponse) -> AsyncIterator[Program]:
    """The connection that it has is dead; on another one there is this answer."""
    async with playing(says(*WHOLE), says(*answer)) as daemon, routed(daemon.address) as router:
        program = Program(router, pings)
        assert await program.generate() == "Paris"
        router.num_forgotten = router.num_connections
        yield program
        await program.route.close()


async def test_an_answer_is_asked_for_again_when_no_ping_comes_back() -> None:
    async with connected(OFTEN, *WHOLE) as program:
        assert await program.generate() == "Paris"
        assert program.router.num_connections == 2


async def test_so_is_a_method() -> None:
    async with connected(OFTEN, WHOLE[0]) as program:
        assert await program.method(GATE_TIMEOUT_S, GATE_TIMEOUT_S) == FIRST
        assert program.router.num_connections == 2


async def test_a_method_whose_time_is_over_before_that_is_asked_again_too() -> None:
    async with connected(NEVER, WHOLE[0]) as program:
        assert await program.method(SHORT_S, GATE_TIMEOUT_S) == FIRST
        assert program.router.num_connections == 2


async def test_what_may_have_been_done_is_not() -> None:
    async with connected(OFTEN, WHOLE[0]) as program:
        with pytest.raises(ConnectionLostError):
            await program.method(GATE_TIMEOUT_S, is_repeatable=False)
        assert program.router.num_connections == 1


def test_a_daemon_allows_the_pings_and_they_leave_time_for_another_attempt() -> None:
    assert PINGS.after_s > ConnectionLimits().min_client_ping_s
    assert PINGS.after_s + PINGS.within_s < min(Timeouts().idle_s, RetryPolicy().max_wait_s)


@pytest.mark.parametrize(("address", "has_pings"), [("unix:/e.sock", False), ("[::1]:7411", True)])
def test_a_unix_socket_needs_no_pings(address: str, has_pings: bool) -> None:
    assert bool(ping_options(at(address), PINGS)) is has_pings
