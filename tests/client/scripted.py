"""A daemon that misbehaves as told, over real gRPC: each call is played the next scene."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from edged.errors import EdgedError
from edged.rpc.status import CallFailure, from_edged_error
from edged.v1 import inference_pb2 as pb
from tests.client.certificates import Certified
from tests.rpc.fakes import GATE_TIMEOUT_S

Context = grpc.aio.ServicerContext[bytes, bytes]
Scene = Callable[["Scripted", Context], Awaitable[None]]
REQUEST_ID = "0123456789abcdef"
LETS_PING = ("grpc.http2.min_ping_interval_without_data_ms", 1)
"""As often as a test likes."""


def admitted(request_id: str = REQUEST_ID) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        admitted=pb.Admitted(request_id=request_id, predicted_ttft_s=0.5, num_prompt_tokens=7)
    )


def token(text: str, index: int = 0) -> pb.GenerateResponse:
    return pb.GenerateResponse(token=pb.TokenDelta(index=index, text=text, token_ids=[index]))


def finished() -> pb.GenerateResponse:
    return pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_STOP))


HEARTBEAT = pb.GenerateResponse(heartbeat=pb.Heartbeat())
WHOLE = (admitted(), token("Par"), token("is", 1), finished())


def says(*messages: pb.GenerateResponse | bytes) -> Scene:
    """Send these, and end with OK."""

    async def play(daemon: "Scripted", context: Context) -> None:
        for message in messages:
            raw = message if isinstance(message, bytes) else message.SerializeToString()
            await context.write(raw)

    return play


def refuses(error: EdgedError) -> Scene:
    return fails(from_edged_error(error))


def fails(failure: CallFailure) -> Scene:
    async def play(daemon: "Scripted", context: Context) -> None:
        await context.abort(failure.code, failure.detail, failure.trailers)

    return play


def ends(code: grpc.StatusCode, detail: str = "as gRPC says it") -> Scene:
    """As something on the way ends a call: without details."""
    return fails(CallFailure(code, detail, ()))


def is_silent() -> Scene:
    """Until the client gives up."""

    async def play(daemon: "Scripted", context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            daemon.given_up.set()

    return play


def dies() -> Scene:
    """The whole daemon, with its connections."""

    async def play(daemon: "Scripted", context: Context) -> None:
        daemon.kill()
        await asyncio.Event().wait()

    return play


def then(*scenes: Scene) -> Scene:
    async def play(daemon: "Scripted", context: Context) -> None:
        for scene in scenes:
            await scene(daemon, context)

    return play


async def within_time(event: asyncio.Event) -> None:
    async with asyncio.timeout(GATE_TIMEOUT_S):
        await event.wait()


@dataclass
class Scripted:
    """What it plays is set before a call, what it was asked is read after one."""

    scenes: list[Scene]
    address: str = ""
    num_calls: int = 0
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    limits_s: list[float | None] = field(default_factory=list)
    """The time that the client left each call."""
    called: asyncio.Event = field(default_factory=asyncio.Event)
    died: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    """A client left a silent call."""
    _server: grpc.aio.Server | None = None
    _stopping: asyncio.Task[None] | None = None

    async def start(self, address: str, certified: Certified | None = None) -> None:
        handler = grpc.unary_stream_rpc_method_handler(self._play)
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0), LETS_PING))
        self._server.add_generic_rpc_handlers((_Everything(handler),))
        if certified is None:
            port = self._server.add_insecure_port(address)
        else:
            keys = [(certified.key_pem, certified.chain_pem)]
            port = self._server.add_secure_port(address, grpc.ssl_server_credentials(keys))
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Once: stopped twice at the same time, gRPC uses what it has freed (1.85.1)."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await self._stopping

    def kill(self) -> None:
        self._stopping = self._stopping or asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
        self.died.set()

    async def wait_until_given_up(self) -> None:
        await within_time(self.given_up)

    async def _play(self, request: bytes, context: Context) -> None:
        scene = self.scenes[min(self.num_calls, len(self.scenes) - 1)]
        self.num_calls += 1
        self.called.set()
        self.requests.append(request)
        self.limits_s.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata() or ()))
        await scene(self, context)


class _Everything(grpc.GenericRpcHandler):
    """Any method of any service."""

    def __init__(self, handler: "grpc.RpcMethodHandler[bytes, bytes]") -> None:
        self._handler = handler

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return self._handler


@asynccontextmanager
async def playing(
    *scenes: Scene, address: str = "127.0.0.1:0", certified: Certified | None = None
) -> AsyncIterator[Scripted]:
    """A daemon that plays a scene for each call, and the last one for all further calls."""
    daemon = Scripted(list(scenes))
    await daemon.start(address, certified)
    try:
        yield daemon
    finally:
        await daemon.stop()


def socket_address(folder: Path) -> str:
    """Where nobody else listens, before and after."""
    return f"unix:{folder / 'e.sock'}"
