"""Requests that take their time to arrive: how many are waited for, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from edged.errors import EdgedError, Reason
from edged.rpc.doors.arrivals import ArrivalLimits, Arrivals
from edged.rpc.doors.receiving import MAX_REFLECTION_CALLS, MAX_SMALL_BYTES
from edged.rpc.settings import RpcSettings
from tests.rpc.assault import Target, staying
from tests.rpc.fakes import GATE_TIMEOUT_S, finished
from tests.rpc.front import LOOPBACK, Front, ended, open_channel, running_front, text_request

LONG_S, SHORT_S = 60.0, 0.1


def limited(**limits: float) -> RpcSettings:
    return replace(LOOPBACK, arrivals=ArrivalLimits(**limits))  # type: ignore[arg-type]


@asynccontextmanager
async def holding(arrivals: Arrivals, peer: str) -> "AsyncIterator[asyncio.Task[None]]":
    """A request that never arrives, once it holds a place."""
    holds = asyncio.Event()

    async def arrive() -> None:
        async with arrivals.place(peer):
            holds.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(arrive())
    await asyncio.wait(
        (asyncio.create_task(holds.wait()), task), return_when=asyncio.FIRST_COMPLETED
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def is_served(front: Front) -> bool:
    async with open_channel(front.target) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        return await call.code() == grpc.StatusCode.OK


async def reason_of(task: "asyncio.Task[None]") -> Reason:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        with pytest.raises(EdgedError) as caught:
            await task
    return caught.value.reason


async def test_a_request_that_does_not_arrive_ends() -> None:
    arrivals = Arrivals(ArrivalLimits(message_s=SHORT_S))
    async with holding(arrivals, "a") as task:
        assert await reason_of(task) == Reason.DEADLINE_EXCEEDED
    assert arrivals.num_connections == 0


async def test_who_waits_makes_the_longest_one_give_way() -> None:
    limits = ArrivalLimits(message_s=LONG_S, hurried_s=SHORT_S, max_arriving=2)
    arrivals = Arrivals(limits)
    async with (
        holding(arrivals, "a") as first,
        holding(arrivals, "b") as second,
        asyncio.timeout(GATE_TIMEOUT_S),
        arrivals.place("c"),
    ):
        assert await reason_of(first) == Reason.DEADLINE_EXCEEDED
        assert not second.done()
    assert arrivals.num_connections == 0


async def test_one_connection_takes_no_more_than_its_places() -> None:
    limits = ArrivalLimits(message_s=LONG_S, hurried_s=LONG_S, max_arriving_of_connection=1)
    arrivals = Arrivals(limits)
    async with holding(arrivals, "a"):
        waits = asyncio.create_task(_once(arrivals, "a"))
        async with asyncio.timeout(GATE_TIMEOUT_S):
            await _once(arrivals, "b")
        assert not waits.done()
        waits.cancel()
    assert arrivals.num_connections == 0


async def _once(arrivals: Arrivals, peer: str) -> None:
    async with arrivals.place(peer):
        pass


async def test_everybody_behind_slow_ones_is_served_in_the_end() -> None:
    limits = ArrivalLimits(message_s=LONG_S, hurried_s=0.01, max_arriving=2)
    arrivals = Arrivals(limits)

    async def never(number: int) -> None:
        async with arrivals.place(f"slow {number}"):
            await asyncio.Event().wait()

    slow = [asyncio.create_task(never(number)) for number in range(20)]
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await asyncio.gather(*(_once(arrivals, "good") for _ in range(20)))
        async with asyncio.timeout(GATE_TIMEOUT_S):
            while sum(task.done() for task in slow) < 18:
                await _once(arrivals, "good")
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    assert arrivals.num_connections == 0


@pytest.mark.parametrize("kind", ["slow message", "slow content", "half-closed"])
async def test_a_call_whose_request_is_slow_ends_and_others_are_served(kind: str) -> None:
    settings = limited(message_s=LONG_S, hurried_s=SHORT_S, max_arriving=2)
    async with running_front(settings) as front, staying(Target.at(front.target), kind, 4):
        async with asyncio.timeout(GATE_TIMEOUT_S):
            assert await is_served(front)
            call = front.inference.Generate(text_request())
            stream = await front.models.next_stream()
            stream.put(finished(stream))
            assert await ended(call) == grpc.StatusCode.OK


async def test_a_request_of_other_services_that_is_none_is_told_so(front: Front) -> None:
    check = front.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await check(b"\xff\xff").code() == grpc.StatusCode.INVALID_ARGUMENT


def reflection(front: Front) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    return front.channel.stream_stream(method)()  # type: ignore[return-value]


async def test_reflection_that_is_sent_garbage_is_told_so(front: Front) -> None:
    call = reflection(front)
    await call.write(b"\xff\xff")
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("grpc.health.v1.Health/Check", grpc.StatusCode.NOT_FOUND),
        ("edged.v1.AdminService/LoadModel", grpc.StatusCode.NOT_FOUND),
    ],
)
async def test_a_request_without_a_prompt_is_small(
    front: Front, method: str, status: grpc.StatusCode
) -> None:
    call = front.channel.unary_unary(f"/{method}")
    assert await call(named(MAX_SMALL_BYTES)).code() == status
    refused = call(named(MAX_SMALL_BYTES + 1))
    assert await refused.code() == grpc.StatusCode.INVALID_ARGUMENT
    told = await refused.details()
    assert told == "the request has 65537 bytes; expected at most 65536 for this method"


async def test_what_reflection_is_asked_is_small(front: Front) -> None:
    call = reflection(front)
    await call.write(named(MAX_SMALL_BYTES, field=4))
    assert await call.read() is not grpc.aio.EOF
    await call.write(named(MAX_SMALL_BYTES + 1, field=4))
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


def named(num_bytes: int, field: int = 1) -> bytes:
    """A message with one text in that field, of so many bytes in all: between 2**14 and 2**21."""
    size = num_bytes - 4
    length = (size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14)
    return bytes((field << 3 | 2, *length)) + b"x" * size


async def test_reflection_calls_have_a_limit_of_their_own(front: Front) -> None:
    list_services = b"\x3a\x00"
    calls = [reflection(front) for _ in range(MAX_REFLECTION_CALLS)]
    for call in calls:
        await call.write(list_services)
        assert await call.read() is not grpc.aio.EOF
    assert await reflection(front).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    calls[0].cancel()
    async with asyncio.timeout(GATE_TIMEOUT_S):
        while await _is_refused(reflection(front), list_services):
            pass
    for call in calls:
        call.cancel()


async def _is_refused(call: "grpc.aio.StreamStreamCall[bytes, bytes]", request: bytes) -> bool:
    try:
        await call.write(request)
        await call.read()
    except grpc.aio.AioRpcError:
        return True
    call.cancel()
    return False
