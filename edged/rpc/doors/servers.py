"""Makes the servers: one for each door, with the limits of that door.

What the options are is `edged.rpc.doors.connections`'.
"""

from collections.abc import Callable
from dataclasses import replace

import grpc

from edged.node.trust.identity import Identity
from edged.rpc.access.caller import Door
from edged.rpc.access.gatekeeper import Gatekeeper
from edged.rpc.access.guard import Guard
from edged.rpc.doors.connections import ConnectionLimits, options
from edged.rpc.doors.receiving import RequestsAreReadHere
from edged.rpc.doors.steady import steady_server
from edged.rpc.interceptor import ErrorsBecomeStatus
from edged.rpc.settings import RpcSettings


def make_server(door: Door, guard: Guard, settings: RpcSettings) -> grpc.aio.Server:
    is_network = door is Door.NETWORK
    interceptors = (
        RequestsAreReadHere(settings.arrivals),
        Gatekeeper(guard, door),
        ErrorsBecomeStatus(),
    )
    return steady_server(
        interceptors,
        options(_connection_limits(door, settings), settings.max_message_bytes),
        settings.max_network_calls if is_network else settings.max_calls,
    )


class Certificates:
    """What the network's door shows. Connections that are made after a change see the new one."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def credentials(self) -> grpc.ServerCredentials:
        """TLS 1.2 or 1.3: gRPC speaks nothing older."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.identity),
            self.changes(),  # type: ignore[arg-type]  # the stubs know of no None: as before
            require_client_authentication=False,
        )

    def changes(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        """What gRPC asks at each connection, on any of its threads: the identity where it is
        another than the last time, else None.

        Whatever it is told takes the place of what another thread may be using at that moment,
        which is freed (1.85.1): a daemon that told the same each time was ended by a few thousand
        connections.
        """
        shown = self.identity

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            if self.identity == shown:
                return None
            shown = self.identity
            return _configuration(shown)

        return changed


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key_pem, identity.certificate_pem)])


def _connection_limits(door: Door, settings: RpcSettings) -> ConnectionLimits:
    limits, network = settings.connections, settings.network
    if door is not Door.NETWORK:
        return limits
    return replace(
        limits,
        max_streams=network.max_streams_per_connection,
        max_connections=network.max_connections,
        handshake_s=network.handshake_timeout_s,
        idle_s=network.max_idle_s,
        max_metadata_bytes=network.max_metadata_bytes,
    )
