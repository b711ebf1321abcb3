"""Opens gRPC channels to a target, for blocking and for asynchronous callers."""

from collections.abc import Sequence

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from edged.client.target import Pinned, Plaintext, Target, Trusted

CONNECT_TIMEOUT_S = 5.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
Options = Sequence[tuple[str, int | str]]


def open_channel(target: Target) -> grpc.Channel:
    """For blocking callers. Connects when the first call is made."""
    options = _options(target)
    credentials = _credentials(target)
    if credentials is None:
        return grpc.insecure_channel(target.address, options)
    return grpc.secure_channel(target.address, credentials, options)


def open_aio_channel(target: Target, further: Options = ()) -> grpc.aio.Channel:
    """For callers on an event loop. Connects when the first call is made."""
    options = [*_options(target), *further]
    credentials = _credentials(target)
    if credentials is None:
        return grpc.aio.insecure_channel(target.address, options)
    return grpc.aio.secure_channel(target.address, credentials, options)


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    match target.security:
        case Plaintext():
            return None
        case Pinned(certificate_pem):
            return grpc.ssl_channel_credentials(root_certificates=certificate_pem)
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
        name = _name_in(target.security.certificate_pem)
        options.append(("grpc.ssl_target_name_override", name))
    return options


def _name_in(certificate_pem: bytes) -> str:
    """A name that the certificate is for."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(common[0].value) if common else ""
    dns = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    return dns[0].replace("*", "host", 1) if dns else str(addresses[0]) if addresses else ""
