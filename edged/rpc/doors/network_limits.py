"""Decides how much callers from other hosts may take: less than those of this host, and before they
have shown a token, little.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    max_generate_calls: int = 1024
    """Of each tier."""
    max_tokenize_calls: int = 32
    max_watch_calls: int = 32
    """WatchStatus and LoadModel together."""
    max_other_calls: int = 256
    """Calls that are no Generate, and calls that are being refused."""
    max_streams_per_connection: int = 256
    """Further calls of one connection wait at the client."""
    max_connections: int = 1024
    handshake_timeout_s: float = 10.0
    """For TLS and the first frames of HTTP/2."""
    max_idle_s: float = 120.0
    """A connection without calls is closed after this, at the latest after twice as long."""
    max_metadata_bytes: int = 8192
    """Of one call."""
