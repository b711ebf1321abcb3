"""The limits that gRPC keeps itself, each met by a client that speaks HTTP/2 by hand."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from edged.rpc.doors.connections import ConnectionLimits
from edged.rpc.settings import RpcSettings
from edged.v1 import inference_pb2 as pb
from tests.rpc import wire
from tests.rpc.assault import Target, staying
from tests.rpc.fakes import GATE_TIMEOUT_S, finished
from tests.rpc.front import LOOPBACK, Front, ended, running_front, text_request, told_by
from tests.rpc.wire import GENERATE, Caller, Kind

SHORT_S = 0.2
NO_ERROR, ENHANCE_YOUR_CALM, REFUSED_STREAM = 0, 11, 7


def limited(**limits: float) -> RpcSettings:
    return replace(LOOPBACK, connections=ConnectionLimits(**limits))  # type: ignore[arg-type]


class Talk:
    """One connection, and the frames that the server sends on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def frames(self) -> AsyncIterator[tuple[int, int, bytes]]:
        """Kind, stream and payload of each, until the server closes."""
        while True:
            try:
                header = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(header[:3]))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return
            yield header[3], int.from_bytes(header[5:9]), payload

    async def until(self, kind: int, stream_id: int) -> bytes:
        """Wait for a frame; its payload."""
        async with asyncio.timeout(GATE_TIMEOUT_S):
            async for found, on, payload in self.frames():
                if (found, on) == (kind, stream_id):
                    return payload
        raise AssertionError(f"closed before a frame of kind {kind} came")

    async def closed(self) -> list[int]:
        """Wait for the end; the codes of the GOAWAY frames before it."""
        async with asyncio.timeout(GATE_TIMEOUT_S):
            return [
                int.from_bytes(payload[4:8])
                async for kind, _, payload in self.frames()
                if kind == Kind.GOAWAY
            ]


@asynccontextmanager
async def talking(front: Front) -> AsyncIterator[Talk]:
    reader, writer = await Target.at(front.target).connect()
    try:
        yield Talk(reader, writer)
    finally:
        writer.transport.abort()


async def is_served(front: Front) -> bool:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(finished(stream))
    return await ended(call) == grpc.StatusCode.OK


async def test_a_connection_over_the_limit_is_closed_as_it_comes() -> None:
    async with running_front(limited(max_connections=3)) as front:
        assert await is_served(front), "this is the first of three"
        async with staying(Target.at(front.target), "idle", 2) as held:
            async with staying(Target.at(front.target), "idle", 1) as one_more:
                await one_more.until_closed(1, GATE_TIMEOUT_S)
            assert held.num_closed == 0
            assert await is_served(front)


@pytest.mark.parametrize("kind", ["silent", "slow preface"])
async def test_a_connection_that_does_not_begin_in_time_is_closed(kind: str) -> None:
    async with running_front(limited(handshake_s=SHORT_S)) as front:
        async with staying(Target.at(front.target), kind, 3) as slow:
            await slow.until_closed(3, GATE_TIMEOUT_S)
        assert await is_served(front)


@pytest.mark.parametrize("kind", ["idle", "slow headers"])
async def test_a_connection_without_calls_is_closed(kind: str) -> None:
    async with running_front(limited(idle_s=SHORT_S)) as front:
        async with staying(Target.at(front.target), kind, 3) as idle:
            await idle.until_closed(3, GATE_TIMEOUT_S)
        assert await is_served(front), "a client that behaves connects again"


async def test_calls_over_the_limit_of_a_connection_are_refused_as_they_come() -> None:
    async with running_front(limited(max_streams=2)) as front, talking(front) as talk:
        calls = b"".join(Caller().call(GENERATE, stream_id) for stream_id in (1, 3, 5, 7, 9))
        talk.writer.write(wire.opening())
        await talk.until(Kind.SETTINGS, 0)
        talk.writer.write(calls)
        refused = await talk.until(Kind.RST_STREAM, 9)
        assert int.from_bytes(refused) == REFUSED_STREAM


async def test_a_client_that_pings_too_often_is_disconnected() -> None:
    limits = limited(min_client_ping_s=60.0, max_ping_strikes=3)
    async with running_front(limits) as front, talking(front) as talk:
        ping = wire.frame(Kind.PING, bytes(8))
        talk.writer.write(wire.opening() + ping * 10)
        assert await talk.closed() == [ENHANCE_YOUR_CALM]
        assert await is_served(front)


async def test_a_client_that_pings_as_often_as_it_may_stays() -> None:
    limits = limited(min_client_ping_s=0.0, max_ping_strikes=1)
    async with running_front(limits) as front, talking(front) as talk:
        talk.writer.write(wire.opening())
        for _ in range(10):
            talk.writer.write(wire.frame(Kind.PING, bytes(8)))
            await talk.until(Kind.PING, 0)
        assert await is_served(front)


@pytest.mark.parametrize("num_over", [0, 1])
async def test_metadata_has_a_most_size(num_over: int) -> None:
    limit_bytes = 4096
    others = 700
    """More than what gRPC itself adds to a call."""
    size = limit_bytes + num_over if num_over else limit_bytes - others
    async with running_front(limited(max_metadata_bytes=limit_bytes)) as front:
        call = front.inference.Generate(text_request(), metadata=(("x-note", "n" * size),))
        if num_over:
            told = await told_by(call)
            assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "metadata size exceeds" in told.detail
        else:
            stream = await front.models.next_stream()
            stream.put(finished(stream))
            assert await ended(call) == grpc.StatusCode.OK
        assert await is_served(front)


async def test_calls_that_the_event_loop_has_not_seen_have_a_limit() -> None:
    num_calls, most = 20, 4
    calls = b"".join(Caller().call(GENERATE, 2 * number + 1) for number in range(num_calls))
    async with running_front(limited(max_waiting_calls=most)) as front:
        target = Target.at(front.target)
        # It blocks this thread, and so the event loop: what is answered, gRPC answers itself.
        with socket.create_connection((target.host, target.port), GATE_TIMEOUT_S) as connection:
            connection.sendall(wire.opening() + calls)
            refused: set[int] = set()
            with connection.makefile("rb") as stream:
                while len(refused) < num_calls - most - 1:  # the loop has asked for one
                    header = stream.read(9)
                    stream.read(int.from_bytes(header[:3]))
                    if header[3] == Kind.HEADERS:
                        refused.add(int.from_bytes(header[5:9]))
        async with asyncio.timeout(GATE_TIMEOUT_S):
            # Until the loop has seen those that wait, gRPC refuses who comes.
            while await is_refused_by_grpc(front):
                pass
        assert await is_served(front)


async def is_refused_by_grpc(front: Front) -> bool:
    """The daemon itself would say what is wrong with the request."""
    code = await ended(front.inference.Generate(pb.GenerateRequest()))
    return code != grpc.StatusCode.INVALID_ARGUMENT
