"""What one connection may do, and how many there may be: everything of it that gRPC decides itself.

Theory of operation: what arrives is first met by gRPC's own threads, which refuse cheaply and
answer without details. What they let through costs the event loop a hundred times as much, and that
loop also carries everybody's tokens. So these limits are such that a client that behaves never
meets them, and that one that does not is stopped before the event loop hears of it.
"""

from dataclasses import dataclass

Options = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    max_connections: int = 2048
    """To each address that is listened on; more are closed as they come."""
    max_streams: int = 1024
    """Calls of one connection. A call counts until the event loop has done with it, even one that
    was reset, so that a client cannot pile up more; further ones wait at a client that behaves.
    gRPC may refuse one of those with UNAVAILABLE, when the client knows of an end before it does
    itself: so there are more than an honest client needs."""
    max_waiting_calls: int = 6000
    """Calls of each method that the event loop has not seen yet; more are refused as CANCELLED.
    From half of them on, some are."""
    max_metadata_bytes: int = 16 * 1024
    """Of a call's headers as they are after decoding, with 32 bytes for each."""
    handshake_s: float = 10.0
    """From the connection to the client's first settings, TLS included."""
    idle_s: float = 300.0
    """A connection without calls is closed after that; clients open it again when they need it."""
    keepalive_s: float = 30.0
    """Silence after which a connection is asked whether its client lives."""
    keepalive_timeout_s: float = 10.0
    min_client_ping_s: float = 5.0
    """How often a client may ask that."""
    max_ping_strikes: int = 2
    """A client that has asked oftener so many times is disconnected at the next."""
    max_read_bytes: int = 64 * 1024
    """What is taken from a connection at a time."""


def options(limits: ConnectionLimits, max_message_bytes: int) -> Options:
    """As gRPC names them. All are for both kinds of connections, with TLS and without."""
    return (
        # Two daemons on one port would share its calls without anybody noticing.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.http.overload_protection", 1),
        ("grpc.server.max_pending_requests", limits.max_waiting_calls // 2),
        ("grpc.server.max_pending_requests_hard_limit", limits.max_waiting_calls),
        # Between a lower first and a higher second limit, gRPC would refuse at random.
        ("grpc.max_metadata_size", limits.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", _ms(limits.handshake_s)),
        ("grpc.max_connection_idle_ms", _ms(limits.idle_s)),
        ("grpc.keepalive_time_ms", _ms(limits.keepalive_s)),
        ("grpc.keepalive_timeout_ms", _ms(limits.keepalive_timeout_s)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(limits.min_client_ping_s)),
        ("grpc.http2.max_ping_strikes", limits.max_ping_strikes),
        # Else the window of a fast connection grows to megabytes that nobody has asked for.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.experimental.tcp_max_read_chunk_size", limits.max_read_bytes),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
