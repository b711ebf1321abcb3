"""A client that does not read costs nobody else anything, and the daemon only a bounded memory."""

import asyncio
from pathlib import Path

import grpc

from edged.v1 import inference_pb2 as pb
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.e2e.daemon import CHANNEL_OPTIONS, serving, socket_of
from tests.e2e.settings import sim_tables
from tests.e2e.streams import WAIT_S, ask, reason_of

NUM_SLOW = 4
MAX_BACKLOG_TOKENS = 200
MAX_GROWTH_BYTES = 40 * 2**20
SMALL_WINDOW = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
)
"""Else gRPC lets megabytes come that nobody reads; the client's own memory, but it takes time."""


def wordy() -> pb.GenerateRequest:
    """About 0.4 KiB of log-probabilities a token, and more tokens than anybody may let wait."""
    return ask("endless", max_tokens=None, logprobs=20)


async def unread_call(
    inference: InferenceServiceStub,
) -> "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]":
    """A call of which only the first event is read."""
    call = inference.Generate(wordy(), timeout=WAIT_S)
    first = await call.read()
    assert isinstance(first, pb.GenerateResponse)
    assert first.HasField("admitted")
    return call


async def error_of(
    call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]",
) -> grpc.aio.AioRpcError:
    """Read the rest; how it ended."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call ended well")


async def test_slow_readers_are_cancelled_while_another_stream_goes_on(tmp_path: Path) -> None:
    server = {"max_backlog_tokens": MAX_BACKLOG_TOKENS}
    target = f"unix:{socket_of(tmp_path)}"
    options = (*CHANNEL_OPTIONS, *SMALL_WINDOW)
    async with (
        serving(tmp_path, sim_tables(server=server)) as daemon,
        grpc.aio.insecure_channel(target, options=options) as channel,
    ):
        await daemon.generate(ask("warm up")).end()
        before = await daemon.status()
        slow = InferenceServiceStub(channel)
        calls = await asyncio.gather(*(unread_call(slow) for _ in range(NUM_SLOW)))
        reader = daemon.generate(ask("read at once", max_tokens=None))
        # Each slow one has its part of the connection's window, then a backlog, then it is over.
        await daemon.model_until(lambda model: model.kv.used_slots == NUM_SLOW + 1)
        await daemon.model_until(lambda model: model.kv.used_slots == 1)
        (only,) = await daemon.requests()
        assert only.request_id == reader.answer.request_id
        grown_bytes = (await daemon.status()).resident_bytes - before.resident_bytes
        assert grown_bytes < MAX_GROWTH_BYTES
        await reader.tokens(len(reader.answer.token_ids) + 100)
        for error in await asyncio.gather(*(error_of(call) for call in calls)):
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert reason_of(error) == "SLOW_READER"
        await reader.leave()
