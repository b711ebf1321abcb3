"""The gRPC server: what it offers, where it listens, its limits, its start and its end."""

from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_reflection.v1alpha import reflection

from edged.clock import Clock
from edged.core.types import SloTier
from edged.errors import ConfigError
from edged.rpc.admin import AdminFront, AdminLimits
from edged.rpc.arrivals import ArrivalLimits
from edged.rpc.connections import ConnectionLimits, options
from edged.rpc.convert import Tiers
from edged.rpc.health import Health
from edged.rpc.inference import InferenceFront, InferenceLimits
from edged.rpc.interceptor import ErrorsBecomeStatus
from edged.rpc.listeners import listen_tcp, listen_unix
from edged.rpc.receiving import RequestsAreReadHere
from edged.rpc.view import DaemonView
from edged.supervise.model import Models
from edged.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from edged.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

SERVICES = ("edged.v1.InferenceService", "edged.v1.AdminService")
HEALTH_SERVICE = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class RpcSettings:
    listen: str | None
    """HOST:PORT, an IPv6 host in brackets; None listens on no TCP port."""
    socket_path: Path | None
    max_message_bytes: int = 16 * 1024 * 1024
    """Of a request and of an answer."""
    max_other_calls: int = 512
    """Calls that are no Generate, and calls that are being refused."""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    arrivals: ArrivalLimits = field(default_factory=ArrivalLimits)
    inference: InferenceLimits = field(default_factory=InferenceLimits)
    admin: AdminLimits = field(default_factory=AdminLimits)

    @property
    def max_calls(self) -> int:
        """What gRPC takes at all: room for everything that the front refuses by itself."""
        return len(SloTier) * self.inference.max_generate_calls + self.max_other_calls


class RpcServer:
    """Serves `Models` over gRPC. Made, started and stopped on one event loop, once."""

    def __init__(
        self, settings: RpcSettings, models: Models, tiers: Tiers, view: DaemonView, clock: Clock
    ) -> None:
        self._settings = settings
        self._health = Health(SERVICES)
        self._listeners: tuple[str, ...] = ()
        self._server = grpc.aio.server(
            interceptors=(RequestsAreReadHere(settings.arrivals), ErrorsBecomeStatus()),
            options=options(settings.connections, settings.max_message_bytes),
            maximum_concurrent_rpcs=settings.max_calls,
        )
        inference = InferenceFront(models, tiers, clock, settings.inference)
        admin = AdminFront(models, tiers, view, clock, settings.admin)
        add_InferenceServiceServicer_to_server(inference, self._server)
        add_AdminServiceServicer_to_server(admin, self._server)
        self._health.add_to(self._server)
        reflection.enable_server_reflection(
            (*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME), self._server
        )

    @property
    def listeners(self) -> tuple[str, ...]:
        """Addresses bound: "127.0.0.1:7411", "unix:/run/edged/edged.sock". Empty before `start`."""
        return self._listeners

    async def start(self) -> None:
        """Bind every address and take calls; health says NOT_SERVING.

        Raises:
            ConfigError: an address cannot be bound; the server cannot be used any more.
        """
        bound: list[str] = []
        if self._settings.listen is not None:
            bound.extend(await listen_tcp(self._server, self._settings.listen))
        if self._settings.socket_path is not None:
            bound.append(listen_unix(self._server, self._settings.socket_path))
        if not bound:
            raise ConfigError("server.listen and server.socket are both off; expected at least one")
        await self._server.start()
        self._listeners = tuple(bound)

    def set_serving(self, serving: bool) -> None:
        """What health says of every service from now on."""
        self._health.set_serving(serving)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for `grace_s`, then cancel them; no socket file
        is left. May be called twice, and on a server that did not start."""
        self._health.close()
        await self._server.stop(grace_s)
