"""A real gRPC server over a fake `Models`, and a real client of it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from edged.clock import ManualClock
from edged.core.types import SloTier, TierSpec
from edged.node.identity import IdentitySource
from edged.node.tokens import TokenStore
from edged.rpc.convert import Tiers
from edged.rpc.server import RpcServer
from edged.rpc.settings import RpcSettings
from edged.rpc.trust import Trust
from edged.rpc.view import DaemonState, DaemonView
from edged.v1 import inference_pb2 as pb
from edged.v1.admin_pb2_grpc import AdminServiceStub
from edged.v1.inference_pb2_grpc import InferenceServiceStub
from tests.rpc.fakes import GATE_TIMEOUT_S, PlayedModels, model_status

TIERS = Tiers(
    specs=(
        TierSpec(SloTier.INTERACTIVE, 1.0, 0.1, 64, 16, 30.0, preemptible=False, min_share=0.0),
        TierSpec(SloTier.STANDARD, 5.0, 0.2, 256, 64, None, preemptible=True, min_share=0.1),
        TierSpec(SloTier.BATCH, None, None, 4096, 4096, None, preemptible=True, min_share=0.05),
    ),
    default=SloTier.STANDARD,
)


@dataclass
class Daemon:
    """What the owner of the daemon's life would hand in."""

    state: DaemonState = DaemonState.READY
    asked_drains_s: list[float | None] = field(default_factory=list)

    def view(self, started_s: float) -> DaemonView:
        return DaemonView(
            version="1.2.3",
            policy="strict",
            started_s=started_s,
            state=lambda: self.state,
            listeners=lambda: ("127.0.0.1:7411",),
            request_drain=self.asked_drains_s.append,
        )


@dataclass
class Front:
    server: RpcServer
    models: PlayedModels
    daemon: Daemon
    clock: ManualClock
    target: str
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.inference = InferenceServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)


LOOPBACK = RpcSettings(listen="127.0.0.1:0", socket_path=None, loopback_access="admin")
NOW_S = 1_800_000_000.0
"""The time of day."""


def trust_in(folder: Path) -> Trust:
    """Without tokens, and with a certificate that is made when it is needed."""
    tokens = TokenStore(folder / "tokens.json")
    return Trust(tokens, IdentitySource(folder, "desk"), lambda: NOW_S)


def over_socket(path: Path) -> RpcSettings:
    return RpcSettings(listen=None, socket_path=path)


@asynccontextmanager
async def running_front(settings: RpcSettings = LOOPBACK) -> AsyncIterator[Front]:
    """Serve until the block is left; the client's channel has connections of its own."""
    models, daemon, clock = PlayedModels(model_status()), Daemon(), ManualClock(1000.0)
    view = daemon.view(started_s=900.0)
    with tempfile.TemporaryDirectory() as state:
        trust = trust_in(Path(state))
        server = RpcServer(settings, models, TIERS, view, clock, trust=trust)
        await server.start()
        try:
            target = server.listeners[0]
            async with open_channel(target) as channel:
                yield Front(server, models, daemon, clock, target, channel)
        finally:
            await server.stop(0)


def open_channel(target: str, **options: int) -> grpc.aio.Channel:
    # A channel shares the connections of others with equal options, which tests must not.
    settings = {"grpc.use_local_subchannel_pool": 1, "grpc.max_receive_message_length": -1}
    return grpc.aio.insecure_channel(target, options=tuple((settings | options).items()))


def text_request(text: str = "Hello", **fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=pb.Prompt(text=text), **fields)


@dataclass(frozen=True)
class Told:
    """An error as a client reads it."""

    code: grpc.StatusCode
    detail: str
    reason: str
    domain: str
    metadata: dict[str, str]
    violations: dict[str, str]
    retry_s: float | None
    pushback_ms: str | None


async def read_all(call: grpc.aio.UnaryStreamCall) -> list[Any]:
    """Every message up to the end of a call, however it ends."""
    messages = []
    async with asyncio.timeout(GATE_TIMEOUT_S):
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                messages.append(message)
        except grpc.aio.AioRpcError:
            assert call.done()
    return messages


async def ended(call: grpc.aio.UnaryStreamCall) -> grpc.StatusCode:
    """Reads a stream to its end: before that, it has no code."""
    await read_all(call)
    return await call.code()


async def told_by(call: grpc.aio.Call) -> Told:
    """How a call ended; waits for it, and reads what was sent before."""
    if isinstance(call, grpc.aio.UnaryStreamCall):
        await read_all(call)
    status = await rpc_status.aio.from_call(call)
    trailers = dict(await call.trailing_metadata())
    return _told(await call.code(), await call.details() or "", status, trailers)


def _told(
    code: grpc.StatusCode,
    detail: str,
    status: status_pb2.Status | None,
    trailers: dict[str, str | bytes],
) -> Told:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    has_retry = False
    for packed in status.details if status is not None else ():
        packed.Unpack(info)
        packed.Unpack(bad_request)
        has_retry = packed.Unpack(retry) or has_retry
    return Told(
        code=code,
        detail=detail,
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        violations={one.field: one.description for one in bad_request.field_violations},
        retry_s=retry.retry_delay.ToMilliseconds() / 1000 if has_retry else None,
        pushback_ms=trailers.get("grpc-retry-pushback-ms"),
    )
