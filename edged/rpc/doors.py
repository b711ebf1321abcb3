"""Makes the servers: one for each door, with the limits of that door.

Each option was found in gRPC's sources and seen to work; the tests of the doors hold them to it.
"""

import grpc

from edged.node.identity import Identity
from edged.rpc.caller import Door
from edged.rpc.gatekeeper import Gatekeeper
from edged.rpc.guard import Guard
from edged.rpc.interceptor import ErrorsBecomeStatus
from edged.rpc.settings import RpcSettings

_Options = tuple[tuple[str, int], ...]


def make_server(door: Door, guard: Guard, settings: RpcSettings) -> grpc.aio.Server:
    is_network = door is Door.NETWORK
    return grpc.aio.server(
        interceptors=(Gatekeeper(guard, door), ErrorsBecomeStatus()),
        options=_options(settings) + (_network_options(settings) if is_network else ()),
        maximum_concurrent_rpcs=settings.max_network_calls if is_network else settings.max_calls,
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


def _options(settings: RpcSettings) -> _Options:
    min_client_ping_ms = round(settings.min_client_ping_s * 1000)
    return (
        # Two daemons on one port would share its calls without anybody noticing.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", min_client_ping_ms),
    )


def _network_options(settings: RpcSettings) -> _Options:
    """A later option stands before an earlier one of its name."""
    limits = settings.network
    return (
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", round(limits.max_idle_s * 1000)),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
    )
