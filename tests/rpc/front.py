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
from edged.node.trust.grant import Grant
from edged.node.trust.identity import Identity, IdentitySource
from edged.node.trust.tokens import TokenStore
from edged.rpc.access.trust import Trust
from edged.rpc.convert import Tiers
from edged.rpc.server import RpcServer
from edged.rpc.settings import RpcSettings
from edged.rpc.view import DaemonState, DaemonView, ReloadReport
from edged.v1 import inference_pb2 as pb
from edged.v1.access_pb2_grpc import AccessServiceStub
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


Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


@dataclass
class Daemon:
    """What the owner of the daemon's life would hand in."""

    state: DaemonState = DaemonState.READY
    asked_drains_s: list[float | None] = field(default_factory=list)
    reload_report: ReloadReport = field(default_factory=ReloadReport)
    num_reloads: int = 0
    warnings: tuple[str, ...] = ()

    async def reload(self) -> ReloadReport:
        self.num_reloads += 1
        return self.reload_report

    def view(self, started_s: float) -> DaemonView:
        return DaemonView(
            version="1.2.3",
            policy="strict",
            started_s=started_s,
            state=lambda: self.state,
            listeners=lambda: ("127.0.0.1:7411",),
            request_drain=self.asked_drains_s.append,
            reload=self.reload,
            name=lambda: "desk",
            warnings=lambda: self.warnings,
        )


@dataclass
class Front:
    server: RpcServer
    models: PlayedModels
    daemon: Daemon
    clock: ManualClock
    target: str
    channel: grpc.aio.Channel
    trust: Trust
    secrets: dict[str, str]
    """Tokens by the name of their grant."""

    def __post_init__(self) -> None:
        self.inference = InferenceServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.access = AccessServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def bearer(self, name: str) -> Metadata:
        """What a call with that token carries."""
        return bearer(self.secrets[name])

    def open(self, target: str | None = None, **options: int) -> grpc.aio.Channel:
        """Another channel, with connections of its own."""
        target = target or self.target
        is_secure = target in self.server.network_listeners and self.server.identity is not None
        identity = self.server.identity if is_secure else None
        return open_channel(target, identity, **options)


LOOPBACK = RpcSettings(listen="127.0.0.1:0", socket_path=None, loopback_access="admin")
NETWORK = RpcSettings(listen=None, socket_path=None, network_listen="127.0.0.1:0")
NOW_S = 1_780_000_000.0
"""The time of day."""


def trust_in(folder: Path) -> Trust:
    """Without tokens, and with a certificate that is made when it is needed."""
    tokens = TokenStore(folder / "tokens.json")
    return Trust(tokens, IdentitySource(folder, "desk"), lambda: NOW_S)


def over_socket(path: Path) -> RpcSettings:
    return RpcSettings(listen=None, socket_path=path)


@asynccontextmanager
async def running_front(settings: RpcSettings = LOOPBACK, *grants: Grant) -> AsyncIterator[Front]:
    """Serve until the block is left; the client's channel has connections of its own. A token is
    made for each grant."""
    models, daemon, clock = PlayedModels(model_status()), Daemon(), ManualClock(1000.0)
    view = daemon.view(started_s=900.0)
    with tempfile.TemporaryDirectory() as state:
        trust = trust_in(Path(state))
        secrets = {grant.name: trust.tokens.create(grant, NOW_S)[0] for grant in grants}
        server = RpcServer(settings, models, TIERS, view, clock, trust=trust)
        await server.start()
        try:
            target = server.listeners[0]
            identity = server.identity if target in server.network_listeners else None
            async with open_channel(target, identity) as channel:
                yield Front(server, models, daemon, clock, target, channel, trust, secrets)
        finally:
            await server.stop(0)


def open_channel(target: str, identity: Identity | None = None, **options: int) -> grpc.aio.Channel:
    """With an identity, over TLS and to that certificate alone."""
    # A channel shares the connections of others with equal options, which tests must not.
    settings = {"grpc.use_local_subchannel_pool": 1, "grpc.max_receive_message_length": -1}
    given = tuple((settings | options).items())
    if identity is None:
        return grpc.aio.insecure_channel(target, options=given)
    credentials = grpc.ssl_channel_credentials(identity.certificate_pem)
    named = (("grpc.ssl_target_name_override", "edged"),)
    return grpc.aio.secure_channel(target, credentials, options=given + named)


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
