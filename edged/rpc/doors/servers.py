"""Makes the servers: one for each door, with the limits of that door.

What the options are is `edged.rpc.doors.connections`'.
"""

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
            self._configuration(), self._configuration, require_client_authentication=False
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        identity = self.identity
        return grpc.ssl_server_certificate_configuration(
            [(identity.key_pem, identity.certificate_pem)]
        )


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
