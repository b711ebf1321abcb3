"""The front's servers: what they offer, where they listen, their start, their reload, their end.

Theory of operation: each door (`Door` in `edged.rpc.access.caller`) has a gRPC server of its own,
made when it is known to be needed. All of them share the servicers. Whatever can be wrong with an
address, the tokens or the certificate is found before the first address is bound.
"""

import asyncio
import shlex
from dataclasses import dataclass

import grpc
from grpc_reflection.v1alpha import reflection

from edged.clock import Clock
from edged.config.values import listen_addresses
from edged.errors import ConfigError
from edged.log import get_logger
from edged.node.trust.identity import Identity
from edged.rpc.access.caller import Door
from edged.rpc.access.guard import DoorRules, Guard
from edged.rpc.access.own_requests import OwnRequests
from edged.rpc.access.trust import Trust
from edged.rpc.access_front import AccessFront
from edged.rpc.admin import AdminFront
from edged.rpc.convert import Tiers
from edged.rpc.doors.listeners import TcpAddresses, find_addresses, listen_tcp
from edged.rpc.doors.servers import Certificates, make_server
from edged.rpc.doors.unix_door import UnixDoor
from edged.rpc.health import Health
from edged.rpc.inference import InferenceFront
from edged.rpc.settings import RpcSettings
from edged.rpc.view import DaemonView
from edged.supervise.model import Models
from edged.v1.access_pb2_grpc import add_AccessServiceServicer_to_server
from edged.v1.admin_pb2_grpc import add_AdminServiceServicer_to_server
from edged.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server

SERVICES = (
    "edged.v1.InferenceService",
    "edged.v1.AdminService",
    "edged.v1.AccessService",
)
HEALTH_SERVICE = "grpc.health.v1.Health"

_log = get_logger("rpc")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be listened on over TCP, by door."""

    loopback: tuple[TcpAddresses, ...]
    network: tuple[TcpAddresses, ...]


class RpcServer:
    """Serves `Models` over gRPC. Made, started and stopped on one event loop, once."""

    def __init__(
        self,
        settings: RpcSettings,
        models: Models,
        tiers: Tiers,
        view: DaemonView,
        clock: Clock,
        *,
        trust: Trust,
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._clock = clock
        self._health = Health(SERVICES)
        self._listeners: tuple[str, ...] = ()
        self._network_listeners: tuple[str, ...] = ()
        self._servers: dict[Door, grpc.aio.Server] = {}
        self._unix: UnixDoor | None = None
        self._certificates: Certificates | None = None
        self._reminding: asyncio.Task[None] | None = None
        rules = DoorRules(settings.loopback_access, network_needs_token=not settings.insecure)
        self._guard = Guard(trust.tokens, rules, self._user_of, clock, trust.wall)
        own = OwnRequests()
        self._inference = InferenceFront(
            models, tiers, own, clock, limits=settings.inference, network=settings.network
        )
        self._admin = AdminFront(
            models,
            tiers,
            own,
            view,
            clock,
            limits=settings.admin,
            network=settings.network,
            check_still_in=self._guard.check_still_in,
        )
        self._access = AccessFront(trust, self._guard, view, lambda: self.identity, clock)

    @property
    def listeners(self) -> tuple[str, ...]:
        """Addresses bound: "127.0.0.1:7411", "unix:/run/edged/edged.sock". Empty before `start`."""
        return self._listeners

    @property
    def network_listeners(self) -> tuple[str, ...]:
        """Those of them that other hosts can reach."""
        return self._network_listeners

    @property
    def identity(self) -> Identity | None:
        """What the network's door shows; None without TLS."""
        return None if self._certificates is None else self._certificates.identity

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator is to know of this front: sentences."""
        warnings: list[str] = []
        if self._settings.insecure and self._network_listeners:
            warnings.append(
                f"other hosts can use this daemon at {', '.join(self._network_listeners)} without "
                "token, and everybody on the way can read what is said: server.insecure is on"
            )
        if self.identity is not None:
            told = self.identity.warning(self._trust.wall())
            warnings.extend([told] if told else [])
        return tuple(warnings)

    async def start(self) -> None:
        """Bind every address and take calls; health says NOT_SERVING.

        Raises:
            ConfigError: an address cannot be bound, or one that other hosts can reach has no token
                or no certificate; the server cannot be used any more.
        """
        wanted = await self._wanted()
        if wanted.network and not self._settings.insecure:
            self._check_tokens(wanted.network[0])
            identity = self._trust.identity.load(self._trust.wall())
            self._certificates = Certificates(identity)
            _log.info("certificate", fingerprint=identity.fingerprint, made_here=identity.is_own)
        bound = self._listen(Door.LOOPBACK, wanted.loopback)
        self._network_listeners = self._listen(Door.NETWORK, wanted.network)
        bound += self._network_listeners
        if self._settings.socket_path is not None:
            self._unix = UnixDoor(self._settings.socket_path, self._settings.relay, self._clock)
            self._unix.bind(self._server(Door.UNIX))
            bound += (self._unix.address,)
        if not bound:
            raise ConfigError("server.listen and server.socket are both off; expected at least one")
        for server in self._servers.values():
            await server.start()
        if self._unix is not None:
            self._unix.start()
        self._listeners = bound
        self._reminding = asyncio.create_task(self._remind(), name="reminder of warnings")

    def reload_trust(self) -> tuple[str, ...]:
        """Take the tokens and the certificate as their files have them now. Streams go on.

        Returns:
            What has changed, in sentences.

        Raises:
            ConfigError: the tokens or the certificate cannot be used; those before still hold.
        """
        certificates = self._certificates
        now = None if certificates is None else self._trust.identity.load(self._trust.wall())
        self._trust.tokens.reload()
        if certificates is None or now is None:
            return ()
        before, certificates.identity = certificates.identity, now
        if now.fingerprint == before.fingerprint:
            return ()
        return (f"the certificate is another: {now.fingerprint}",)

    def set_serving(self, serving: bool) -> None:
        """What health says of every service from now on."""
        self._health.set_serving(serving)

    def replace_tiers(self, tiers: Tiers) -> None:
        """Others for the calls that come from now on."""
        self._inference.replace_tiers(tiers)
        self._admin.replace_tiers(tiers)

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let running ones end for `grace_s`, then cancel them; no socket file
        is left. May be called again when it has returned, and on a server that did not start."""
        self._health.close()
        if self._reminding is not None:
            self._reminding.cancel()
        if self._unix is not None:
            self._unix.stop_listening()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers.values()))
        if self._unix is not None:
            self._unix.close()

    async def _wanted(self) -> _Wanted:
        found = [
            await find_addresses(listen) for listen in listen_addresses(self._settings.listen or "")
        ]
        given = listen_addresses(self._settings.network_listen or "")
        return _Wanted(
            loopback=tuple(one for one in found if one.is_loopback),
            network=(
                *(one for one in found if not one.is_loopback),
                *[await find_addresses(listen) for listen in given],
            ),
        )

    def _check_tokens(self, first: TcpAddresses) -> None:
        if not self._trust.tokens.has_valid:
            path = shlex.quote(str(self._trust.tokens.path))
            raise ConfigError(
                f"{first.listen} (server.listen) can be reached by other hosts, and there is no "
                f"token to ask them for. Make one: `edgectl token create NAME --file {path}`; or "
                "let everybody in with --insecure (server.insecure)"
            )

    def _listen(self, door: Door, wanted: tuple[TcpAddresses, ...]) -> tuple[str, ...]:
        """The addresses bound."""
        is_secure = door is Door.NETWORK and self._certificates is not None
        bound: tuple[str, ...] = ()
        for one in wanted:
            credentials = None
            if is_secure and self._certificates is not None:
                credentials = self._certificates.credentials()
            bound += listen_tcp(self._server(door), one, credentials)
        return bound

    def _server(self, door: Door) -> grpc.aio.Server:
        if door not in self._servers:
            server = make_server(door, self._guard, self._settings)
            add_InferenceServiceServicer_to_server(self._inference, server)
            add_AdminServiceServicer_to_server(self._admin, server)
            add_AccessServiceServicer_to_server(self._access, server)
            self._health.add_to(server)
            reflection.enable_server_reflection(
                (*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME), server
            )
            self._servers[door] = server
        return self._servers[door]

    def _user_of(self, peer: str) -> int | None:
        return None if self._unix is None else self._unix.user_of(peer)

    async def _remind(self) -> None:
        """What is dangerous is not told once and forgotten."""
        while True:
            for warning in self.warnings:
                _log.warning(warning)
            await asyncio.sleep(self._settings.insecure_reminder_s)
