"""Every way a call can end reaches the stream, also in the middle of a write."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from edged.errors import Reason
from edged.rpc.inference import InferenceLimits
from edged.v1.admin_pb2 import GetStatusRequest
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.rpc.fakes import PlayedStream, admitted, delta, finished
from tests.rpc.front import (
    LOOPBACK,
    Front,
    ended,
    open_channel,
    read_all,
    running_front,
    text_request,
    told_by,
)

HUGE_TEXT = "x" * (8 * 1024 * 1024)
"""Many times what gRPC buffers for a client that does not read."""


class Between:
    """A connection that can be broken, as when a client's process is killed: no goodbye."""

    def __init__(self) -> None:
        self.target = ""
        self._writers: list[asyncio.StreamWriter] = []

    @classmethod
    @asynccontextmanager
    async def passing_on_to(cls, target: str) -> AsyncIterator["Between"]:
        between = cls()
        host, _, port = target.rpartition(":")

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            between._writers.extend((writer, far_writer))
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

        async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as server:
            address, own_port = server.sockets[0].getsockname()[:2]
            between.target = f"{address}:{own_port}"
            yield between

    def break_off(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def blocked_in_a_write(front: Front) -> tuple[grpc.aio.UnaryStreamCall, PlayedStream]:
    """A call whose handler waits for a client that has read one event and reads no further."""
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(admitted(stream))
    assert (await call.read()).HasField("admitted")
    stream.put(delta(0, HUGE_TEXT))
    await stream.wait_until_taken(2)
    return call, stream


async def test_a_client_that_cancels_cancels_its_request(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(admitted(stream))
    assert (await call.read()).HasField("admitted")
    call.cancel()
    await stream.wait_until_cancelled()


async def test_a_call_is_cancelled_before_its_first_event_too(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    call.cancel()
    await stream.wait_until_cancelled()


async def test_a_client_that_closes_its_channel_cancels_its_request(front: Front) -> None:
    async with open_channel(front.target) as channel:
        call = InferenceServiceStub(channel).Generate(text_request())
        stream = await front.models.next_stream()
        stream.put(admitted(stream))
        assert (await call.read()).HasField("admitted")
    await stream.wait_until_cancelled()


async def test_a_connection_that_breaks_cancels_its_request(front: Front) -> None:
    async with (
        Between.passing_on_to(front.target) as between,
        open_channel(between.target) as channel,
    ):
        call = InferenceServiceStub(channel).Generate(text_request())
        stream = await front.models.next_stream()
        stream.put(admitted(stream))
        assert (await call.read()).HasField("admitted")
        between.break_off()
        await stream.wait_until_cancelled()
        assert await ended(call) == grpc.StatusCode.UNAVAILABLE


async def test_a_connection_that_breaks_in_a_write_is_no_error_of_the_server(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Between.passing_on_to(front.target) as between,
        open_channel(between.target) as channel,
    ):
        front_of_it = replace(front, channel=channel)
        _call, stream = await blocked_in_a_write(front_of_it)
        between.break_off()
        await stream.wait_until_cancelled()
        await front.admin.GetStatus(GetStatusRequest())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_deadline_that_passes_cancels_the_request(front: Front) -> None:
    call = front.inference.Generate(text_request(), timeout=0.3)
    stream = await front.models.next_stream()
    await stream.wait_until_cancelled()
    assert await ended(call) == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_without_end_is_cancelled_when_the_server_stops(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    await front.server.stop(0)
    await stream.wait_until_cancelled()
    assert await ended(call) != grpc.StatusCode.OK


async def test_a_call_that_ends_by_itself_is_not_cancelled(front: Front) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(admitted(stream), finished(stream))
    assert [event.WhichOneof("event") async for event in call] == ["admitted", "finished"]
    assert not stream.cancel_details


async def test_a_reader_that_does_not_read_blocks_nobody_and_can_be_cancelled(
    front: Front,
) -> None:
    call, stream = await blocked_in_a_write(front)
    for index in range(1, 5001):
        stream.put(delta(index))
    assert stream.num_taken == 2, "the write to a client that does not read has returned"
    assert (stream.num_backlog_events, stream.num_backlog_tokens) == (1, 5000)
    call.cancel()
    await stream.wait_until_cancelled()
    assert stream.num_taken == 2


async def test_a_deadline_passes_in_a_write_to_a_reader_that_does_not_read(front: Front) -> None:
    call = front.inference.Generate(text_request(), timeout=1.0)
    stream = await front.models.next_stream()
    stream.put(delta(0, HUGE_TEXT))
    await stream.wait_until_taken(1)
    await stream.wait_until_cancelled()
    assert await ended(call) == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_slow_reader_gets_all_tokens_once_it_reads_again(front: Front) -> None:
    call, stream = await blocked_in_a_write(front)
    stream.put(*(delta(index, "y") for index in range(1, 101)), finished(stream))
    events = await read_all(call)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["token", "token", "finished"], "waiting tokens are sent together"
    assert list(events[1].token.token_ids) == list(range(1, 101))
    assert events[1].token.text == "y" * 100
    assert await ended(call) == grpc.StatusCode.OK


async def test_a_reader_too_slow_for_the_backlog_is_told_so_when_it_reads(front: Front) -> None:
    front.models.max_backlog_tokens = 10
    call, stream = await blocked_in_a_write(front)
    stream.put(*(delta(index) for index in range(1, 12)))
    assert [event.WhichOneof("event") for event in await read_all(call)] == ["token"]
    told = await told_by(call)
    assert told.reason == Reason.SLOW_READER
    assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_write_that_stalls_too_long_ends_the_request() -> None:
    limits = InferenceLimits(max_generate_calls=1, write_stall_s=0.05)
    async with running_front(replace(LOOPBACK, inference=limits)) as front:
        call, stream = await blocked_in_a_write(front)
        await stream.wait_until_cancelled()
        # Its place is free although the client still has not read.
        other = front.inference.Generate(text_request())
        other_stream = await front.models.next_stream()
        other_stream.put(finished(other_stream))
        assert await ended(other) == grpc.StatusCode.OK
        assert [event.WhichOneof("event") for event in await read_all(call)] == ["token"]
        assert (await told_by(call)).reason == Reason.SLOW_READER


@pytest.mark.parametrize("num_rounds", [50])
async def test_calls_cancelled_at_any_moment_leave_no_place_taken(num_rounds: int) -> None:
    limits = InferenceLimits(max_generate_calls=num_rounds)
    async with running_front(replace(LOOPBACK, inference=limits)) as front:
        calls = [front.inference.Generate(text_request()) for _ in range(num_rounds)]
        streams = [await front.models.next_stream() for _ in range(num_rounds)]
        for index, stream in enumerate(streams):
            stream.put(*(delta(number) for number in range(index)))
        for call in calls:
            call.cancel()
        for stream in streams:
            await stream.wait_until_cancelled()
        again = [front.inference.Generate(text_request()) for _ in range(num_rounds)]
        for _ in again:
            stream = await front.models.next_stream()
            stream.put(finished(stream))
        assert {await ended(call) for call in again} == {grpc.StatusCode.OK}
