"""Opens gRPC channels to a target, for blocking and for asynchronous callers."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import grpc

from edged.client.connect.address import UNIX_PREFIX
from edged.client.connect.names import LOOK_UP_LIMIT_S, uri_of, uri_of_async
from edged.client.connect.target import Pinned, Plaintext, Target, Trusted
from edged.errors import ConfigError

CONNECT_TIMEOUT_S = 5.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
Options = Sequence[tuple[str, int | str]]


@dataclass(frozen=True, slots=True)
class Pings:
    """When a daemon is asked whether it lives: not every stream has heartbeats."""

    after_s: float = 30.0
    """Of silence on a connection that has calls. A daemon allows it every 5 s."""
    within_s: float = 60.0
    """Without an answer for so long, the connection is lost."""


PINGS = Pings()


def open_channel(
    target: Target, pings: Pings = PINGS, within_s: float = LOOK_UP_LIMIT_S
) -> grpc.Channel:
    """For blocking callers. Looks a host's name up at once, and connects when the first call is
    made.

    Raises:
        ConfigError: the certificate that is kept for it is damaged, or for no name at all.
        NoAddressError: the host's name has no address, or is not looked up in time.
    """
    options = [*_options(target), *ping_options(target, pings)]
    credentials = _credentials(target)
    uri = uri_of(target.address, within_s)
    if credentials is None:
        return grpc.insecure_channel(uri, options)
    return grpc.secure_channel(uri, credentials, options)


async def open_aio_channel(
    target: Target, further: Options = (), within_s: float = LOOK_UP_LIMIT_S
) -> grpc.aio.Channel:
    """For callers on an event loop. As `open_channel`; `further` options beat the usual ones."""
    # Of one that is given twice gRPC takes the first.
    options = [*further, *_options(target)]
    credentials = _credentials(target)
    uri = await uri_of_async(target.address, within_s)
    if credentials is None:
        return grpc.aio.insecure_channel(uri, options)
    return grpc.aio.secure_channel(uri, credentials, options)


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    match target.security:
        case Plaintext():
            return None
        case Pinned(certificate_pem=pem):
            return grpc.ssl_channel_credentials(root_certificates=pem)
        case Trusted(authorities_pem):
            return grpc.ssl_channel_credentials(root_certificates=authorities_pem)


def _options(target: Target) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        # A proxy for the web has no business between two processes of a LAN.
        ("grpc.enable_http_proxy", 0),
        # Also the longest wait for a connection to be made.
        ("grpc.min_reconnect_backoff_ms", int(CONNECT_TIMEOUT_S * 1000)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ]
    if isinstance(target.security, Pinned):
        # The certificate itself is what is trusted; under which name and address it was reached
        # may change with every lease of an address.
        options.append(("grpc.ssl_target_name_override", _name_in(target)))
    elif not target.address.startswith(UNIX_PREFIX):
        # As it is known to the user, and to who vouches for it: gRPC sees addresses alone.
        options.append(("grpc.default_authority", quote(target.address, safe="[]:")))
    return options


def ping_options(target: Target, pings: Pings) -> Options:
    """None for a unix socket: that its other end is gone the system tells at once. And a daemon
    carries what comes over it on its event loop, so that a busy one would be taken for lost."""
    if target.address.startswith(UNIX_PREFIX):
        return ()
    within_ms = int(pings.within_s * 1000)
    return (
        ("grpc.keepalive_time_ms", int(pings.after_s * 1000)),
        ("grpc.keepalive_timeout_ms", within_ms),
        # Of all pings; gRPC measures its connections with some.
        ("grpc.http2.ping_timeout_ms", within_ms),
        # Else there are two, and no more until the client sends something.
        ("grpc.http2.max_pings_without_data", 0),
    )


def _name_in(target: Target) -> str:
    """A name that the certificate is for, which TLS asks for whatever else it is told."""
    from edged.client.connect.certificate import read_pem  # noqa: PLC0415  # imports cryptography

    assert isinstance(target.security, Pinned)
    try:
        name = read_pem(target.security.certificate_pem).name
    except ValueError as error:
        raise ConfigError(f"the certificate kept for {target.shown} is damaged: {error}") from error
    if name is None:
        raise ConfigError(f"the certificate of {target.shown} is for no name and no address")
    return name
