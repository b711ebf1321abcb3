"""Calls that gRPC's own loop must not see."""

import asyncio
import logging

import grpc
import pytest

from tests.rpc import wire
from tests.rpc.assault import Target
from tests.rpc.fakes import GATE_TIMEOUT_S, finished
from tests.rpc.front import Front, ended, text_request
from tests.rpc.wire import Caller, Kind

NOT_UTF8 = "/\xff\xfe"


async def answer_to(front: Front, headers: bytes) -> bytes:
    """What the server sends on a call that is only its headers."""
    reader, writer = await Target.at(front.target).connect()
    flags = wire.END_HEADERS | wire.END_STREAM
    writer.write(wire.opening() + wire.frame(Kind.HEADERS, headers, flags=flags, stream_id=1))
    try:
        async with asyncio.timeout(GATE_TIMEOUT_S):
            while True:
                header = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(header[:3]))
                if header[3] == Kind.HEADERS:
                    return payload
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("method", [NOT_UTF8, "/no/such", ""])
async def test_a_call_of_an_unknown_method_is_refused_and_streams_go_on(
    front: Front, method: str
) -> None:
    call = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    assert b"Method not found" in await answer_to(front, Caller().block(method))
    stream.put(finished(stream))
    assert await ended(call) == grpc.StatusCode.OK
    again = front.inference.Generate(text_request())
    stream = await front.models.next_stream()
    stream.put(finished(stream))
    assert await ended(again) == grpc.StatusCode.OK


async def test_headers_that_are_no_utf8_are_not_logged(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "grpc")
    block = Caller().block("/grpc.health.v1.Health/Check", ("x-note", "\xff\xfe"))
    assert await answer_to(front, block)
    assert not [record for record in caplog.records if record.name.startswith("grpc")]
